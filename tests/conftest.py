"""What tests share: the real data if they are there, a prepared phantom study and a trained network per bundle."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]
os.environ["MONAI_FAIL_ON_DUPLICATE_CONFIG"] = "1"
os.environ.setdefault("PYTHONWARNINGS", "ignore")

from bundle_cases import CASES, Case, Paths, run_workflow  # noqa: E402

REAL_DATA = ROOT.parent / "shared" / "data"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What shares a study stays on one worker (``--dist loadgroup``): a bundle's part of the contracts, or else a file."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        case = parameters.params.get("case") if parameters else None
        item.add_marker(pytest.mark.xdist_group(case.name if case else f"{item.path.parent.stem}-{item.path.stem}"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data, which lie beside the repository and are no part of it."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real data are not beside this repository (../shared/data)")
    return REAL_DATA


@pytest.fixture(scope="session", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="session")
def prepared(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A phantom study of the bundle, prepared."""
    paths = Paths(tmp_path_factory.mktemp(case.name))
    case.write_study(paths.raw)
    run_workflow(case, "preprocess", **paths.preprocess, **case.preprocess)
    return paths


@pytest.fixture(scope="session")
def trained(case: Case, prepared: Paths) -> Paths:
    """The bundle's network trained on it for three epochs without interruption."""
    run_workflow(case, "train", epochs=3, **prepared.train, **case.train)
    return prepared
