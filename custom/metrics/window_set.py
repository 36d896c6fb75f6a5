"""Windows with their labels and runs: read from disc, drawn in equal numbers, split into halves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.other_windows import NO_CLASS
from ..transforms.temporal_window import map_bold
from ..transforms.window_rows import read_windows, signal_mask
from .window_statistics import check_windows

__all__ = ["GenerationData", "WindowSet", "halves", "matched", "read_generation", "read_real", "read_samples"]


@dataclass(frozen=True)
class WindowSet:
    """Windows of BOLD, z-scored.

    Args:
        values: (N, F, X, Y, Z) float32.
        labels: (N,) int, -1 without a class.
        runs: (N,) name of the run that each was cut from; of generated ones the file.
    """

    values: np.ndarray
    labels: np.ndarray
    runs: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.values) == len(self.labels) == len(self.runs):
            raise ValueError(f"{len(self.values)} windows, {len(self.labels)} labels and {len(self.runs)} runs: one of each.")

    def __len__(self) -> int:
        return len(self.values)

    def at(self, index: np.ndarray) -> WindowSet:
        """Return the windows of some indices, or where a boolean array is true."""
        return WindowSet(self.values[index], self.labels[index], self.runs[index])

    def of(self, classes: Sequence[int]) -> WindowSet:
        """Return the windows of some classes."""
        return self.at(np.isin(self.labels, classes))


@dataclass(frozen=True)
class GenerationData:
    """What an evaluation of a generator is made of: windows of one shape, and the brain (X, Y, Z) that they share."""

    fake: WindowSet
    train: WindowSet
    test: WindowSet
    mask: np.ndarray
    class_names: list[str]

    @property
    def classes(self) -> list[int]:
        """Classes that were generated, trained on and held out."""
        common = set.intersection(*(set(s.labels.tolist()) for s in (self.fake, self.train, self.test)))
        return sorted(common - {NO_CLASS})


def read_generation(samples_dir: str | Path, datalist: Mapping[str, Any], frames: int) -> GenerationData:
    """Read generated windows, and the real ones of the training and the test part.

    Args:
        samples_dir: folder with ``samples.json``, see :py:func:`read_samples`.
        datalist: with the rows of windows in ``training`` and ``test``.
        frames: of a window.

    Raises:
        FileNotFoundError: if the samples, or one of them, are not there.
        ValueError: naming the file or block that has another shape, class or length, or is not finite.
    """
    names = list(datalist["class_names"])
    for part in ("training", "test"):
        if not datalist[part]:
            raise ValueError(
                f"the datalist has no rows in {part}: generated windows are compared with real ones of both parts."
            )
    fake = read_samples(samples_dir, names, frames)
    train, test = (read_real(datalist[part], frames) for part in ("training", "test"))
    mask = brain_of([row["image"] for row in datalist["training"]])
    for name, windows in ((str(samples_dir), fake), ("the training runs", train), ("the test runs", test)):
        check_windows(windows.values, mask, name)
    return GenerationData(fake, train, test, mask, names)


def read_samples(samples_dir: str | Path, class_names: Sequence[str], frames: int) -> WindowSet:
    """Read the generated windows that ``samples.json`` lists: ``samples``, each with ``z``, the path of a .npy file
    (F, X, Y, Z) relative to the folder, and ``label`` (-1: no class); ``class_names``; ``space``, which is ``"z"``.

    Raises:
        FileNotFoundError: naming the missing file.
        ValueError: other classes or another space, no samples, or a window of another shape.
    """
    folder = Path(samples_dir)
    listed = folder / "samples.json"
    if not listed.is_file():
        raise FileNotFoundError(f"{listed} does not exist: run generate.json first, or give the folder of its samples.")
    content = json.loads(listed.read_text())
    if content["class_names"] != list(class_names) or content["space"] != "z" or not content["samples"]:
        raise ValueError(
            f"{listed}: {len(content['samples'])} samples of {content['class_names']} in space {content['space']!r}; wanted "
            f"are samples of {list(class_names)} in space 'z': generate again with the datalist's model."
        )
    windows: list[np.ndarray] = []
    labels: list[int] = []
    for sample in content["samples"]:
        path = folder / sample["z"]
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist, though {listed} lists it: generate again.")
        window = np.load(path).astype(np.float32)
        wanted = (frames, *(windows[0].shape[1:] if windows else window.shape[1:]))
        if window.ndim != 4 or window.shape != wanted:
            raise ValueError(f"{path}: a window of shape {window.shape}, {wanted} is wanted: generate again, or set frames.")
        if sample["label"] not in range(NO_CLASS, len(class_names)):
            raise ValueError(f"{path}: label {sample['label']} is no class of {list(class_names)}, nor -1: generate again.")
        windows.append(window)
        labels.append(sample["label"])
    return WindowSet(np.stack(windows), np.array(labels), np.array([sample["z"] for sample in content["samples"]]))


def read_real(rows: Sequence[Mapping[str, Any]], frames: int) -> WindowSet:
    """Read the windows of a datalist's rows; errors as of :py:func:`custom.transforms.window_rows.read_windows`."""
    windows = read_windows(rows, frames).numpy()
    return WindowSet(windows, np.array([row["label"] for row in rows]), np.array([row["scan"] for row in rows]))


def brain_of(images: Sequence[str]) -> np.ndarray:
    """Return the voxels (X, Y, Z) that are not 0 throughout in every one of the runs, bool."""
    inside = None
    for path in dict.fromkeys(images):
        varying = signal_mask(map_bold(path)).numpy()
        if inside is not None and varying.shape != inside.shape:
            raise ValueError(f"{path}: grid {varying.shape} for {inside.shape}: prepare all runs to one grid.")
        inside = varying if inside is None else inside | varying
    if inside is None or not inside.any():
        raise ValueError(f"{len(set(images))} training runs, and no voxel that is not 0: prepare the study again.")
    return inside


def matched(a: WindowSet, b: WindowSet, seed: int = 0) -> tuple[WindowSet, WindowSet]:
    """Draw from two sets as many windows of every label, the number that both have; they are in the order of the labels."""
    rng, chosen_a, chosen_b = np.random.default_rng(seed), [], []
    for label in np.intersect1d(a.labels, b.labels):
        of_a, of_b = (np.flatnonzero(s.labels == label) for s in (a, b))
        size = min(len(of_a), len(of_b))
        chosen_a.append(rng.permutation(of_a)[:size])
        chosen_b.append(rng.permutation(of_b)[:size])
    return a.at(np.concatenate(chosen_a)), b.at(np.concatenate(chosen_b))


def halves(windows: WindowSet, repeats: int = 10, seed: int = 0) -> Iterator[tuple[WindowSet, WindowSet]]:
    """Yield random halves: of the runs where there are several, else of the windows; nothing of a single window."""
    _, unit = np.unique(windows.runs, return_inverse=True)
    if unit.max() == 0:
        unit = np.arange(len(windows))
    rng, count = np.random.default_rng(seed), unit.max() + 1
    for _ in range(repeats if count > 1 else 0):
        first = np.isin(unit, rng.permutation(count)[: count // 2])
        yield windows.at(first), windows.at(~first)
