from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler

from custom.data import PARTS, Windows
from custom.data.datalist import hashed
from custom.handlers import BestModel, InitialWeights, SameGrid, TrainingState, VerifiedCheckpointLoader, load_verified

CPU = torch.device("cpu")
DATALIST = {
    "class_names": ["healthy", "ill"],
    "split": {"digest": {"training": "a", "validation": "b", "test": "c"}},
    "training": [{"subject": "s1"}, {"subject": "s1"}, {"subject": "s2"}],
    "validation": [{"subject": "s3"}],
    "test": [{"subject": "s4"}, {"subject": "s5"}],
}
BATCH = {"image": torch.ones(1, 2), "label": torch.ones(1, 1)}


class Scripted(Metric):
    """A metric that takes its values from a list, by the epoch."""

    def __init__(self, scores: Sequence[float]) -> None:
        self.scores = scores
        super().__init__()

    def reset(self) -> None: ...

    def update(self, output: Any) -> None: ...

    def iteration_completed(self, engine: Engine) -> None:
        self.epoch = engine.state.epoch

    def compute(self) -> float:
        return self.scores[self.epoch - 1]


def _with_image(folder: Path) -> dict[str, Any]:
    """The datalist, whose images are all the same one."""
    image = folder.parent / "image.nii"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.diag([2, 2, 3, 1])), image)
    rows = {part: [{**row, "image": str(image)} for row in DATALIST[part]] for part in PARTS}
    return DATALIST | rows


def train(folder: Path, scores: Sequence[float], epochs: int, resume: bool = False) -> torch.nn.Module:
    """Train a small network whose validations score as listed; write model.pt, model.json and last.pt."""
    torch.manual_seed(0)
    network = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    evaluator = SupervisedEvaluator(
        device=CPU,
        val_data_loader=[BATCH],
        network=network,
        key_val_metric={"score": Scripted(scores)},
        val_handlers=[BestModel(network, str(folder / "model.pt"), _with_image(folder))],
        decollate=False,
    )
    objects = {"model": network, "optimizer": optimizer}
    trainer = SupervisedTrainer(
        device=CPU,
        max_epochs=epochs,
        train_data_loader=[BATCH],
        network=network,
        optimizer=optimizer,
        loss_function=torch.nn.MSELoss(),
        train_handlers=[
            ValidationHandler(1, evaluator),
            TrainingState(str(folder / "last.pt"), objects, evaluator, DATALIST, resume),
        ],
        decollate=False,
    )
    trainer.run()
    return network


def saved_epoch(folder: Path) -> int:
    return json.loads((folder / "model.json").read_text())["epoch"]


def test_the_best_epoch_is_kept_with_who_trained_it(tmp_path: Path):
    network = train(tmp_path, [0.5, 0.9, 0.7], epochs=3)
    provenance = json.loads((tmp_path / "model.json").read_text())
    assert provenance["epoch"] == 2
    assert provenance["key_metric"] == {"name": "score", "value": 0.9}
    assert provenance["class_names"] == ["healthy", "ill"]
    assert provenance["split_digest"] == DATALIST["split"]["digest"]
    assert provenance["seen_subjects"] == [hashed(s) for s in ("s1", "s2", "s3")]
    assert provenance["versions"]["torch"] == torch.__version__
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert state.keys() == network.state_dict().keys()
    assert not torch.equal(state["weight"], network.weight)


def test_the_weights_are_those_of_the_best_epoch(tmp_path: Path):
    train(tmp_path / "best", [0.5, 0.9, 0.7], epochs=3)
    network = train(tmp_path / "stopped", [0.5, 0.9], epochs=2)
    torch.testing.assert_close(torch.load(tmp_path / "best" / "model.pt"), network.state_dict(), rtol=0, atol=0)


def test_a_worse_epoch_after_a_resume_does_not_overwrite_the_best(tmp_path: Path):
    train(tmp_path, [0.5, 0.9], epochs=2)
    best = (tmp_path / "model.pt").read_bytes()
    train(tmp_path, [0.5, 0.9, 0.6], epochs=3, resume=True)
    assert saved_epoch(tmp_path) == 2
    assert (tmp_path / "model.pt").read_bytes() == best
    train(tmp_path, [0.5, 0.9, 0.6, 0.95], epochs=4, resume=True)
    assert saved_epoch(tmp_path) == 4
    assert (tmp_path / "model.pt").read_bytes() != best


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(idist, "get_rank", lambda: 1)
    train(tmp_path, [0.5], epochs=1)
    assert list(tmp_path.iterdir()) == []


def load(path: Path, network: torch.nn.Module, datalist: dict | None = None) -> None:
    engine = Engine(lambda engine, batch: None)
    VerifiedCheckpointLoader(str(path), network, CPU, datalist).attach(engine)
    engine.run([0])


@pytest.mark.parametrize("datalist", [None, DATALIST])
def test_weights_are_loaded_before_the_first_batch(tmp_path: Path, datalist: dict | None):
    train(tmp_path, [0.5], epochs=1)
    network = torch.nn.Linear(2, 1)
    load(tmp_path / "model.pt", network, datalist)
    torch.testing.assert_close(network.state_dict(), torch.load(tmp_path / "model.pt"), rtol=0, atol=0)


@pytest.mark.parametrize("seen", ["s1", "s3"])
def test_weights_that_have_seen_a_test_subject_are_refused(tmp_path: Path, seen: str):
    train(tmp_path, [0.5], epochs=1)
    network = torch.nn.Linear(2, 1)
    before = network.weight.clone()
    leaky = DATALIST | {"test": [{"subject": "s4"}, {"subject": seen}]}
    with pytest.raises(ValueError, match=rf"model\.pt was trained or selected on 1 subjects of the test part \({seen}\)"):
        load(tmp_path / "model.pt", network, leaky)
    assert torch.equal(network.weight, before)


def test_weights_of_unknown_origin_are_refused_in_an_evaluation(tmp_path: Path):
    train(tmp_path, [0.5], epochs=1)
    (tmp_path / "model.json").unlink()
    load(tmp_path / "model.pt", torch.nn.Linear(2, 1))
    with pytest.raises(FileNotFoundError, match=r"model\.json is missing, so nothing says which subjects"):
        load(tmp_path / "model.pt", torch.nn.Linear(2, 1), DATALIST)


@pytest.mark.parametrize("network", [torch.nn.Linear(3, 1), torch.nn.Conv1d(2, 1, 1), torch.nn.Linear(2, 1, bias=False)])
def test_weights_of_another_network_are_refused(tmp_path: Path, network: torch.nn.Module):
    train(tmp_path, [0.5], epochs=1)
    with pytest.raises(ValueError, match=r"model\.pt belongs to another network than the configured one; name the overlay"):
        load(tmp_path / "model.pt", network)


def test_no_weights(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=rf"there are no weights at {tmp_path / 'model.pt'}: run train\.json first"):
        load(tmp_path / "model.pt", torch.nn.Linear(2, 1))


def test_initial_weights_are_in_place_when_training_starts(tmp_path: Path):
    train(tmp_path, [0.5], epochs=1)
    network = torch.nn.Linear(2, 1)
    engine = Engine(lambda engine, batch: None)
    InitialWeights(network, str(tmp_path / "model.pt")).attach(engine)
    engine.run([0])
    torch.testing.assert_close(network.state_dict(), torch.load(tmp_path / "model.pt"), rtol=0, atol=0)


def test_a_resumed_run_goes_on_from_its_state_not_from_the_initial_weights(tmp_path: Path):
    """In the order of the configuration, the initial weights first."""
    engine = Engine(lambda engine, batch: None)
    engine.state.device = CPU
    engine.state.best_metric, engine.state.best_metric_epoch = 0.0, 0
    network, state = torch.nn.Linear(2, 1), tmp_path / "last.pt"
    TrainingState(str(state), {"model": network}, engine, DATALIST).save(engine)
    trained = network.weight.detach().clone()
    torch.save(torch.nn.Linear(2, 1).state_dict(), tmp_path / "initial.pt")
    InitialWeights(network, str(tmp_path / "initial.pt")).attach(engine)
    TrainingState(str(state), {"model": network}, engine, DATALIST, resume=True).attach(engine)
    engine.run([0])
    assert torch.equal(network.weight, trained)


def test_the_grid_of_the_training_is_kept_and_another_is_refused(tmp_path: Path):
    train(tmp_path, [0.5], 1)
    assert json.loads((tmp_path / "model.json").read_text())["grid"] == {"shape": [4, 5, 6], "spacing": [2, 2, 3]}
    engine = Engine(lambda engine, batch: None)
    SameGrid(str(tmp_path / "model.pt")).attach(engine)
    for shape, spacing in (((1, 4, 5, 6), (2, 2, 3)), ((7, 4, 5, 6), (2, 2, 3))):
        engine.state.batch = [{"image": MetaTensor(torch.zeros(shape), affine=torch.diag(torch.tensor([*spacing, 1.0])))}]
        engine.fire_event(Events.ITERATION_COMPLETED)
    for shape, spacing in (((1, 4, 5, 7), (2, 2, 3)), ((1, 4, 5, 6), (2, 2, 2))):
        engine.state.batch = [{"image": MetaTensor(torch.zeros(shape), affine=torch.diag(torch.tensor([*spacing, 1.0])))}]
        with pytest.raises(ValueError, match="trained on"):
            engine.fire_event(Events.ITERATION_COMPLETED)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class_names": ["ill", "healthy"]}, "trained with class_names .'healthy', 'ill'., now they are .'ill', 'healthy'."),
        ({"class_names": ["healthy", "ill"], "windows": Windows(shift=4)}, None),  # windows were none of the training's
        ({"datalist": DATALIST | {"permuted": 3}}, "trained with permuted None, now they are 3"),
        ({"datalist": DATALIST | {"class_names": ["ill", "healthy"]}}, "trained with class_names"),
    ],
)
def test_weights_of_another_training_are_refused(tmp_path: Path, given: dict, message: str | None):
    """They would fit: the same classes in another order, true labels for permuted ones."""
    network = train(tmp_path / "run", [0.5], 1)
    provenance = tmp_path / "run/model.json"
    content = json.loads(provenance.read_text())
    del content["windows"]
    provenance.write_text(json.dumps(content))
    load = VerifiedCheckpointLoader(str(tmp_path / "run/model.pt"), network, CPU, **given)
    if message is None:
        load(Engine(lambda engine, batch: None))
        return
    with pytest.raises(ValueError, match=message):
        load(Engine(lambda engine, batch: None))


def test_other_windows_than_those_of_the_training_are_refused(tmp_path: Path):
    network = train(tmp_path / "run", [0.5], 1)
    provenance = tmp_path / "run/model.json"
    provenance.write_text(json.dumps(json.loads(provenance.read_text()) | {"windows": Windows(shift=4).describe()}))
    VerifiedCheckpointLoader(str(tmp_path / "run/model.pt"), network, CPU, windows=Windows(shift=4))(Engine(lambda e, b: None))
    with pytest.raises(ValueError, match="trained with windows .*'shift': 4.*now they are .*'shift': 0"):
        VerifiedCheckpointLoader(str(tmp_path / "run/model.pt"), network, CPU, windows=Windows())(Engine(lambda e, b: None))


def test_weights_are_loaded_without_an_engine_and_as_strictly(tmp_path: Path):
    train(tmp_path, [0.5], 1)
    path, network = str(tmp_path / "model.pt"), torch.nn.Linear(2, 1)
    assert load_verified(path, network, map_location=CPU, datalist=DATALIST) is network
    torch.testing.assert_close(network.state_dict(), torch.load(path), rtol=0, atol=0)
    with pytest.raises(ValueError, match="trained with class_names"):
        load_verified(path, network, class_names=["ill", "healthy"])
    with pytest.raises(ValueError, match=r"1 subjects of the test part \(s1\)"):
        load_verified(path, network, datalist=DATALIST | {"test": [{"subject": "s1"}]})
    with pytest.raises(ValueError, match="belongs to another network"):
        load_verified(path, torch.nn.Linear(3, 1))
    with pytest.raises(FileNotFoundError, match="there are no weights"):
        load_verified(str(tmp_path / "none.pt"), network)


def test_weights_of_another_training_than_is_told_of_are_refused(tmp_path: Path):
    """``model.json`` of split A would let weights of split B be tested on what they have seen."""
    train(tmp_path, [0.5], 1)
    path, network = tmp_path / "model.pt", torch.nn.Linear(2, 1)
    before = network.weight.clone()
    torch.save(torch.nn.Linear(2, 1).state_dict(), path)
    for datalist in (DATALIST, None):
        with pytest.raises(ValueError, match=r"model\.pt is not the file that .*model\.json tells of .*--resume True"):
            load(path, network, datalist)
    assert torch.equal(network.weight, before)
    told = json.loads((tmp_path / "model.json").read_text())
    del told["weights_sha256"]
    (tmp_path / "model.json").write_text(json.dumps(told))
    load(path, network, DATALIST)


def test_a_training_killed_between_weights_and_what_tells_of_them_is_refused_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train(tmp_path / "whole", [0.5, 0.9, 0.7], 3)
    train(tmp_path / "killed", [0.5], 1)

    def kill(self: BestModel, engine: Engine) -> dict:
        raise KeyboardInterrupt

    monkeypatch.setattr(BestModel, "_provenance", kill)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", [0.5, 0.9, 0.7], 3, resume=True)
    monkeypatch.undo()
    assert saved_epoch(tmp_path / "killed") == 1
    with pytest.raises(ValueError, match="is not the file that"):
        load(tmp_path / "killed/model.pt", torch.nn.Linear(2, 1), DATALIST)
    train(tmp_path / "killed", [0.5, 0.9, 0.7], 3, resume=True)
    one, other = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "killed"))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    load(tmp_path / "killed/model.pt", torch.nn.Linear(2, 1), DATALIST)
