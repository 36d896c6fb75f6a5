from __future__ import annotations

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle import run as run_bundle
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from custom.config import refuse_unread_keys, unread_keys

CONFIG = {
    "imports": ["$import os"],
    "bundle_root": ".",
    "epochs": 2,
    "learning_rate": 0.1,
    "patience": "$@epochs + 1",
    "train": {"steps": "$list(range(@epochs))", "note": "rate @learning_rate is no reference"},
    "validate": {"steps": "%train::steps"},
    "outcome": "$(@validate::steps, @patience, @learning_rate)",
    "run": [{"_target_": "custom.config.refuse_unread_keys"}, "@outcome"],
}


def test_every_key_that_something_refers_to_is_read():
    assert unread_keys(CONFIG) == []


@pytest.mark.parametrize("key", ["epoch", "Epochs", "resume", "initial-weights"])
def test_a_key_that_nothing_refers_to_is_found(key: str):
    assert unread_keys(CONFIG | {key: 1}) == [key]


def test_a_key_that_only_refers_to_itself_is_not_read():
    assert unread_keys(CONFIG | {"loop": "$@loop + 1"}) == ["loop"]


def test_a_macro_is_a_reference_too():
    assert unread_keys({"steps": [1], "run": ["%steps"]}) == []


def test_a_name_within_a_longer_name_is_no_reference():
    assert unread_keys({"epoch": 1, "epochs": 2, "run": ["$print(@epochs)"]}) == ["epoch"]


def test_what_monai_looks_up_by_name_is_read():
    names = ("bundle_root", "device", "dataset_dir", "output_dir", "network_def", "initialize", "finalize", "val_interval")
    of_tracking = ("tracking_uri", "experiment_name", "run_name", "is_not_rank0", "save_execute_config")
    assert unread_keys(dict.fromkeys((*names, *of_tracking, "_meta_"), 1)) == []


def test_values_that_are_no_json_are_looked_through():
    assert unread_keys({"a": 1, "run": [{"path": Path("@a"), "numbers": (1, 2)}]}) == []


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps({"version": "0"}))
    (tmp_path / "configs" / "train.json").write_text(json.dumps(CONFIG | {"bundle_root": str(tmp_path)}))
    return str(tmp_path / "configs" / "train.json")


def workflow(config_file: str, **override) -> ConfigWorkflow:
    made = ConfigWorkflow(config_file=config_file, workflow_type="train", logging_file=False, **override)
    made.initialize()
    return made


def cause_of(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def test_known_keys_pass_from_python(config_file: str):
    assert workflow(config_file, epochs=3, learning_rate=0.5).run()[-1] == ([0, 1, 2], 4, 0.5)


def test_a_misspelt_key_is_refused_and_the_nearest_named(config_file: str):
    with pytest.raises((RuntimeError, ValueError)) as error:
        workflow(config_file, epoch=1, lerning_rate=0.5).run()
    message = str(cause_of(error.value))
    assert "nothing in this configuration reads 'epoch': did you mean 'epochs'?" in message
    assert "nothing in this configuration reads 'lerning_rate': did you mean 'learning_rate'?" in message


def test_where_none_is_near_the_known_keys_are_listed(config_file: str):
    with pytest.raises((RuntimeError, ValueError)) as error:
        workflow(config_file, xyzzy=1).run()
    message = str(cause_of(error.value))
    assert "'xyzzy': known keys are " in message
    assert "epochs, imports, learning_rate" in message


def test_the_command_lines_verb_refuses_too(config_file: str):
    run_bundle(config_file=config_file, epochs=1)
    with pytest.raises((RuntimeError, ValueError)) as error:
        run_bundle(config_file=config_file, epoch=1)
    assert "did you mean 'epochs'?" in str(cause_of(error.value))


def test_what_monais_tracking_adds_passes(config_file: str):
    parser = ConfigParser()
    parser.read_config(config_file)
    ConfigWorkflow.patch_bundle_tracking(parser, DEFAULT_EXP_MGMT_SETTINGS["mlflow"])
    assert "tracking_uri" in parser
    assert unread_keys(parser.get()) == []
    assert unread_keys(parser.get() | {"trackin_uri": 1}) == ["trackin_uri"]


def test_it_belongs_into_a_configuration():
    with pytest.raises(RuntimeError, match="from within a MONAI configuration"):
        refuse_unread_keys()
