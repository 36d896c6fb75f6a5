"""What README.md says holds: its figures are those of the bundles, its files and targets exist, its code and commands run."""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from bundle_cases import ROOT
from monai.bundle import ConfigWorkflow

import custom.data
from custom.phantoms import oasis

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "RUNNING.md", *sorted(ROOT.glob("bundles/*/docs/README.md"))]
README = (ROOT / "README.md").read_text()
page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(text: str, language: str = "") -> list[str]:
    """The fenced blocks of a language; commands have none."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [body for name, body in fenced if name == language]


# ---- what it names exists


@page
def test_links_and_pictures_exist(path: Path) -> None:
    text = path.read_text()
    targets = [*re.findall(r"\]\(([^)#]+)\)", text), *re.findall(r'src="([^"]+)"', text)]
    absent = [t for t in targets if not t.startswith("http") and not (path.parent / t).exists()]
    assert absent == []


@page
def test_scripts_modules_and_tests_exist(path: Path) -> None:
    named = re.findall(r"(?<![\w/])((?:scripts|tests|custom)/[\w/]+\.(?:py|sh|json))", path.read_text())
    assert [name for name in named if not (ROOT / name).is_file() and "my_" not in name] == []


@page
def test_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([\w-]+)", path.read_text(), re.MULTILINE)) <= targets


def test_the_command_of_make_test_is_told_by_hand() -> None:
    (command,) = re.findall(r"^test:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert command.replace("$(BIN)/", "") in README


@page
def test_configs_exist(path: Path) -> None:
    """Every ``name.json`` that stands alone or behind ``$C/`` is a config of some bundle, or something that a run writes."""
    written = {
        "datalist",
        "model_info",
        "metrics",
        "model",
        "maps",
        "harmonization",
        "decoder",
        "samples",
        "my_study",
        "my_network",
    }
    known = {p.stem for p in ROOT.glob("bundles/*/configs/*.json")} | written
    assert set(re.findall(r"(?<![\w/.…<>-])(?:\$C/)?(\w+)\.json", path.read_text())) - known == set()


def test_every_bundle_has_a_picture_a_notebook_and_a_row_of_figures() -> None:
    bundles, figures = section("The bundles"), section("Honest figures")
    for folder in (p.parent for p in ROOT.glob("bundles/*/configs")):
        (row,) = [line for line in bundles.splitlines() if line.startswith(f"| [`{folder.name}`]")]
        assert "<img" in row
        assert ".ipynb" in row
        assert "synthetic" in row
        assert rows_of(figures, folder.name)
    pictures = list(ROOT.glob("bundles/*/docs/*.png"))
    assert max(p.stat().st_size for p in pictures) < 150_000


def rows_of(table: str, bundle: str) -> list[str]:
    """Rows whose first cell is part of the bundle's name, such as ``motor_task``."""
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    return [row for row in rows if re.match(r"\| ([\w]+)", row)[1] in bundle]  # type: ignore[index]


def test_figures_are_those_of_the_bundles() -> None:
    """Every figure of the front page's table stands in the README of its bundle."""
    table = section("Honest figures").split("\nWhat they stand on")[0]
    compared = 0
    for folder in (p.parent for p in ROOT.glob("bundles/*/configs")):
        own = set(re.findall(r"\d+\.\d+", (folder / "docs/README.md").read_text()))
        for row in rows_of(table, folder.name):
            found = re.findall(r"\d+\.\d+", re.sub(r"chance 0\.\d+", "", row))
            assert set(found) <= own, row
            compared += len(found)
    assert compared > 40


def test_front_page_stays_readable() -> None:
    assert len(README.splitlines()) <= 300


# ---- what it shows runs


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block after the other, in one namespace."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, block in enumerate(blocks(section("From Python"), "python")):
        exec(compile(block, f"README.md, block {number}", "exec"), namespace)
    assert (tmp_path / "models/model.pt").is_file()
    assert namespace["filled"].isfinite().all()
    assert not namespace["scan"].isfinite().all()
    gap = namespace["harmonized"].mean() - namespace["features"][:5].mean()
    assert gap > 0.5, "site A was not moved towards B"
    assert namespace["sample"].isfinite().all()


@pytest.fixture
def third_layout(tmp_path: Path) -> Path:
    """The phantom of OASIS as ``site-XX/sub-XXX/anat.nii.gz``, turned to LAS, with a table of its own."""
    raw, root = oasis.write_study(tmp_path / "raw", 24, voxel_size=6.0, with_cdr_only=True, age_min=60), tmp_path / "study"
    table = pd.read_csv(raw / "oasis_cross-sectional.csv").set_index("ID")
    people = []
    for number, image in enumerate(sorted(raw.rglob("*_MR1_*.img"))):
        subject, site, row = f"sub-{number:03d}", f"site-{number % 2:02d}", table.loc[image.name[:13]]
        volume = nib.load(image)
        (root / site / subject).mkdir(parents=True)
        voxels = np.squeeze(np.asanyarray(volume.dataobj))
        nib.save(nib.Nifti1Image(voxels, np.diag([-6.0, 6, 6, 1])), root / site / subject / "anat.nii.gz")
        diagnosis = "patient" if row["CDR"] else "control"
        people.append({"participant_id": subject, "age": row["Age"], "sex": row["M/F"], "diagnosis": diagnosis})
    pd.DataFrame(people).to_csv(root / "participants.tsv", sep="\t", index=False)
    return root


@pytest.fixture
def study_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The README's module, found as if it lay in ``custom/data``."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package/my_study.py").write_text(blocks(section("Your own study"), "python")[0])
    monkeypatch.setattr(custom.data, "__path__", [*custom.data.__path__, str(tmp_path / "package")])
    yield
    sys.modules.pop("custom.data.my_study", None)
    vars(custom.data).pop("my_study", None)


def commands(text: str) -> list[tuple[list[str], dict[str, Any]]]:
    """The configs and overrides of the ``monai.bundle run`` commands in a block, its shell variables filled in."""
    variables = dict(re.findall(r'^(\w)="?(.*?)"?$', text, re.MULTILINE))
    found = []
    for line in re.findall(r"^python -m monai\.bundle run (.*)$", text.replace("\\\n", " "), re.MULTILINE):
        words = shlex.split(re.sub(r"\$(\w)", lambda m: variables[m[1]], line))
        pairs = {key.removeprefix("--"): value for key, value in zip(words[::2], words[1::2], strict=True)}
        configs = ast.literal_eval(pairs.pop("config_file"))
        found.append((configs, {k: ast.literal_eval(v) if v[0] in "[{" else v for k, v in pairs.items()}))
    return found


@pytest.mark.usefixtures("study_module")
def test_own_study_and_own_network(tmp_path: Path, third_layout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's commands on a study in a third layout, with the README's other network, down to report and predictions."""
    own = section("Your own study")
    (tmp_path / "my_study.json").write_text(blocks(own, "json")[0])
    (tmp_path / "my_network.json").write_text(blocks(section("Another network"), "json")[0])
    monkeypatch.chdir(tmp_path)
    Path("bundles").symlink_to(ROOT / "bundles")
    small = {"spacing": 6, "spatial_size": 32}
    changes = [{**small, "num_workers": 1}, {"epochs": 1, "batch_size": 5}, {}, small]
    for (configs, override), change in zip(commands(blocks(own)[0]), changes, strict=True):
        override = {k: str(third_layout) if v == "/path/to/study" else v for k, v in override.items()}
        with_network = configs if "preprocess" in configs[0] else [*configs, "my_network.json"]
        workflow = ConfigWorkflow(config_file=with_network, logging_file=False, **override, **change)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    datalist = json.loads(Path("my_data/datalist.json").read_text())
    sites = {row["site"] for row in datalist["test"]}
    assert (datalist["study"], datalist["class_names"], sites) == ("My study", ["control", "patient"], {"site-00", "site-01"})
    assert "age + sex" in json.loads(Path("my_eval/metrics.json").read_text())["models"]
    assert "no row of the datalist has the column" in Path("my_eval/report.html").read_text()
    assert len(pd.read_csv("my_eval/inference/predictions.csv")) == 24
