from __future__ import annotations

from pathlib import Path

import download
import pytest


def test_the_command_line_hands_its_options_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    calls = []

    def fetch(data_dir: str, n_subjects: int | None = None) -> str:
        calls.append((data_dir, n_subjects))
        return f"{data_dir}/ABIDE_pcp"

    monkeypatch.setattr(download, "abide", fetch)
    monkeypatch.setattr("sys.argv", ["download.py", "abide", "raw", "--n_subjects", "10"])
    download.main()
    assert calls == [("raw", 10)]
    assert Path(capsys.readouterr().out.strip()) == Path("raw/ABIDE_pcp")


def test_names_of_datasets_and_patterns_reach_openneuro(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    calls = []

    def fetch(raw_dir: str, datasets: list[str], subjects: list[str], include: list[str]) -> str:
        calls.append((raw_dir, datasets, subjects, include))
        return raw_dir

    monkeypatch.setattr(download, "openneuro", fetch)
    options = ["--datasets", "['ds000002']", "--subjects", "sub-01", "--include", "['*_task-probabilistic*']"]
    monkeypatch.setattr("sys.argv", ["download.py", "openneuro", "raw", *options])
    download.main()
    assert calls == [("raw", ["ds000002"], "sub-01", ["*_task-probabilistic*"])]
    assert capsys.readouterr().out.strip() == "raw"


def test_an_unknown_study_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["download.py", "adni", "raw"])
    with pytest.raises(SystemExit):
        download.main()
