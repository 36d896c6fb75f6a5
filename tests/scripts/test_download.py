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


def test_an_unknown_study_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["download.py", "adni", "raw"])
    with pytest.raises(SystemExit):
        download.main()
