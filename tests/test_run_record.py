from __future__ import annotations

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow

from custom.run_record import record_run


def run(folder: Path, config: dict, **override) -> dict:
    (folder / "config.json").write_text(json.dumps(config))
    workflow = ConfigWorkflow(config_file=str(folder / "config.json"), workflow_type="train", logging_file=False, **override)
    workflow.initialize()
    workflow.run()
    return json.loads((folder / "record.json").read_text())


def test_the_record_is_what_was_run_and_runs_again(tmp_path: Path) -> None:
    written = str(tmp_path / "written")
    config = {
        "epochs": 3,
        "run": [
            {"_target_": "custom.run_record.record_run", "path": str(tmp_path / "record.json")},
            f"$open('{written}', 'w').write(str(@epochs))",
        ],
    }
    first = run(tmp_path, config, epochs=7)
    assert first["config"] == {**config, "epochs": 7}
    assert first["versions"].keys() >= {"custom", "python", "monai", "torch", "numpy"}
    Path(written).unlink()
    assert run(tmp_path, first["config"]) == first
    assert Path(written).read_text() == "7"


def test_outside_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="within a MONAI configuration"):
        record_run(str(tmp_path / "record.json"))
