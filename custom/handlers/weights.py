"""Weights in and out of an engine, and who they were trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from monai.data.utils import affine_to_spacing
from monai.handlers import CheckpointLoader

from ..data.datalist import hashed, kept_apart, names
from ..data.windows import Windows
from ..networks import load_initial_weights
from ..own_files import load_tensors, read_json
from ..paths import file_digest, refuse_other_file, written_whole
from ..versions import versions

__all__ = ["BestModel", "InitialWeights", "SameGrid", "VerifiedCheckpointLoader", "load_verified"]

AGAIN = "copy it once more from where the weights come from, or run train.json again."

Network = TypeVar("Network", bound=torch.nn.Module)


class BestModel:
    """Save a network's state dict whenever the evaluator finds a new best key metric, and beside it who trained it.

    It goes by ``best_metric_epoch`` of the engine, hence follows its ``metric_cmp_fn`` and the value restored by
    :py:class:`TrainingState`, whereas ``monai.handlers.CheckpointSaver`` forgets the best value when training resumes.

    Args:
        network: to save.
        path: of ``model.pt``, a plain state dict. ``model.json`` beside it holds its SHA-256, the split's digest and
            hashes of the subjects, by which :py:class:`VerifiedCheckpointLoader` knows whom the network has seen.
        datalist: what the network is trained on.
    """

    def __init__(self, network: torch.nn.Module, path: str, datalist: Mapping[str, Any]) -> None:
        self.network, self.path, self.datalist = network, Path(path), datalist

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.best_metric_epoch != engine.state.epoch:
            return
        if idist.get_rank() == 0:
            with written_whole(self.path) as temporary:
                torch.save(self.network.state_dict(), temporary)
            with written_whole(self.path.with_suffix(".json")) as temporary:
                temporary.write_text(json.dumps(self._provenance(engine), indent=1))
        idist.barrier()  # a stage that follows reads the file in every process

    def _provenance(self, engine: Engine) -> dict[str, Any]:
        seen = [*self.datalist["training"], *self.datalist["validation"]]
        return {
            "class_names": self.datalist["class_names"],
            "key_metric": {"name": engine.state.key_metric_name, "value": float(engine.state.best_metric)},
            "epoch": engine.state.epoch,
            "weights_sha256": file_digest(self.path),
            "grid": grid_of(self.datalist["training"][0]["image"]),
            "split_digest": self.datalist["split"]["digest"],
            "seen_subjects": [hashed(s) for s in names(seen)],
            **({"seen_scans": [hashed(s) for s in names(seen, "scan")]} if "scan" in seen[0] else {}),
            "windows": self.datalist.get("windows"),
            "permuted": self.datalist.get("permuted"),
            "versions": versions(),
        }


def grid_of(path: str) -> dict[str, list[float]]:
    """Return voxels per axis and their size in mm of a prepared image."""
    image = nib.load(path)
    return {"shape": list(image.shape[:3]), "spacing": [round(float(size), 3) for size in image.header.get_zooms()[:3]]}


class SameGrid:
    """Refuse scans that were prepared to another grid than the network was trained on: it would predict all the same.

    Args:
        ckpt_path: of ``model.pt``, beside whose ``model.json`` says the grid; without it the log says that nothing is checked.
    """

    def __init__(self, ckpt_path: str) -> None:
        self.provenance = Path(ckpt_path).with_suffix(".json")

    def attach(self, engine: Engine) -> None:
        if not self.provenance.is_file():
            engine.logger.warning(f"{self.provenance} is missing: whether scans have the grid of the training is not checked.")
            return
        known = read_json(self.provenance, AGAIN)
        if "grid" not in known:
            raise ValueError(f"{self.provenance} is damaged, it does not say the grid of the training: {AGAIN}")
        engine.add_event_handler(Events.ITERATION_COMPLETED, self, known["grid"])

    def __call__(self, engine: Engine, trained: dict[str, list[float]]) -> None:
        """Raise ValueError naming the scan and both grids."""
        for item in engine.state.batch:
            image = item["image"]
            spacing = [round(float(size), 3) for size in affine_to_spacing(image.affine)[:3]]
            found = {"shape": list(image.shape[-3:]), "spacing": spacing}
            if found != trained:
                name = image.meta.get("filename_or_obj")
                raise ValueError(
                    f"{name} was prepared to the grid {found}, the network was trained on {trained}: give the settings of its "
                    "preprocess.json."
                )


class VerifiedCheckpointLoader(CheckpointLoader):
    """MONAI's loader for one network, which refuses weights of another network or weights that have seen the test subjects.

    Args:
        path: of the plain state dict ``model.pt``.
        network: to load.
        map_location: device.
        datalist: whose test subjects are about to be predicted; ``None`` in inference, where nothing is being claimed.
        class_names: that the predictions will bear; by default those of the datalist.
        windows: by which the scans' events are cut; by default as the datalist says.
    """

    def __init__(
        self,
        path: str,
        network: torch.nn.Module,
        map_location: Any = None,
        datalist: Mapping[str, Any] | None = None,
        class_names: Sequence[str] | None = None,
        windows: Windows | None = None,
    ) -> None:
        super().__init__(path, {"model": network}, map_location=map_location)
        self.datalist = datalist
        told = datalist or {}
        self.wanted = {
            "class_names": told.get("class_names") if class_names is None else list(class_names),
            "windows": told.get("windows") if windows is None else windows.describe(),
        } | ({"permuted": told.get("permuted")} if datalist is not None else {})

    def __call__(self, engine: Engine) -> None:
        """Load the weights.

        Raises:
            FileNotFoundError: if the weights, or for an evaluation their ``model.json``, are absent.
            ValueError: if they are damaged, belong to another network or another training than ``model.json``, or have seen a
                test subject; the message names it.
        """
        if not Path(self.load_path).is_file():
            raise FileNotFoundError(f"there are no weights at {self.load_path}: run train.json first, or name the file.")
        if self.datalist is not None:
            self._refuse_seen(Path(self.load_path).with_suffix(".json"), self.datalist)
        refuse_other_training(self.load_path, self.wanted)
        _refuse_other_weights(Path(self.load_path))
        load_tensors(self.load_path, AGAIN)  # MONAI's loader compares no checksums, and its errors name no file
        try:
            super().__call__(engine)
        except RuntimeError as error:
            raise ValueError(
                f"{self.load_path} belongs to another network than the configured one; name the overlay it was trained "
                f"with. {error}"
            ) from error

    def _refuse_seen(self, provenance: Path, datalist: Mapping[str, Any]) -> None:
        column = kept_apart(datalist["split"])
        if not provenance.is_file():
            raise FileNotFoundError(
                f"{provenance} is missing, so nothing says which subjects {self.load_path} was trained on, and its figures "
                "would mean nothing: copy it from where the weights come from."
            )
        known = read_json(provenance, AGAIN)
        if f"seen_{column}s" not in known:
            raise ValueError(f"{provenance} does not say which {column}s {self.load_path} was trained on: train it again.")
        seen = set(known[f"seen_{column}s"])
        both = [s for s in names(datalist["test"], column) if hashed(s) in seen]
        if both:
            raise ValueError(
                f"{self.load_path} was trained or selected on {len(both)} {column}s of the test part ({', '.join(both[:5])}): "
                "evaluate with the datalist it was trained with."
            )


def _refuse_other_weights(path: Path) -> None:
    """Raise ValueError if the ``.json`` beside the weights tells of other weights; see :py:func:`.refuse_other_file`."""
    provenance = path.with_suffix(".json")
    if provenance.is_file():
        refuse_other_file(path, read_json(provenance, AGAIN), provenance)


def refuse_other_training(path: str, wanted: Mapping[str, Any]) -> None:
    """Raise ValueError if the ``.json`` beside the weights tells another training than is wanted.

    Weights of the same classes in another order would fit, and predict something else, and so on. ``None`` asks for nothing,
    but of ``permuted`` (a test of labels that mean nothing).
    """
    provenance = Path(path).with_suffix(".json")
    known = read_json(provenance, AGAIN) if provenance.is_file() else {}
    for key, value in wanted.items():
        if (value is not None or key == "permuted") and known.get(key, value) != value:
            raise ValueError(
                f"{path} was trained with {key} {known.get(key)}, now they are {value}: give the overlay or the "
                "settings that it was trained with."
            )


def load_verified(path: str, network: Network, **options: Any) -> Network:
    """Load weights outside an engine and return the network; arguments and errors as :py:class:`VerifiedCheckpointLoader`."""
    VerifiedCheckpointLoader(path, network, **options)(Engine(lambda engine, batch: None))
    return network


class InitialWeights:
    """Start a training from given weights, see :py:func:`custom.networks.load_initial_weights`."""

    def __init__(self, network: torch.nn.Module, weights: str) -> None:
        self.network, self.weights = network, weights

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        left = load_initial_weights(self.network, self.weights)
        engine.logger.info(f"Initial weights from {self.weights}; not among them: {', '.join(left) or 'nothing'}.")
