"""How good generated windows are → ``generation.json``: statistics, class maps, memorisation, training on synthetic windows.

Every figure stands beside its ceiling, what real runs reach among themselves: a correlation of 0.6 is poor where two real runs
have 0.9, and all that can be had where they have 0.6.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.other_windows import NO_CLASS
from ..paths import written_whole
from .class_maps import class_mean_maps, compare_class_maps
from .memorisation import nearest_neighbour_ratio
from .synthetic_training import synthetic_training_accuracy
from .window_set import GenerationData, WindowSet, halves, matched, read_generation
from .window_statistics import compare_statistics, window_statistics

__all__ = ["compare_generation", "evaluate_generation", "generation_figures"]

NOTES = {
    "real": "windows of the test runs, which the generator was not trained on.",
    "statistics": (
        "generated: generated windows against the test runs. ceiling: windows of the training runs against the test runs, what "
        "another real run reaches; as many windows of every class as of generated ones. halves: random halves of the test runs "
        "(of their windows, where there is one run) against each other, mean of ten; they are smaller, so noisier, "
        "and of a run with one block per class either half has other classes."
    ),
    "class_maps": (
        "mean maps of the classes against those of the test runs; all windows are used, and the generated ones may be many, "
        "whose mean has less noise than that of a few real ones. specific: after the mean over all classes was taken off."
    ),
    "memorisation": (
        "ratio: nearest training over nearest held-out distance, among as many of both; reference: that of held-out windows. "
        "copies: nearer to a training window than half of the smallest distance of any held-out window. suspect: by distance "
        "and by ratio below every held-out window; the verdict allows three times the share expected of new runs. "
        "Held-out windows of one run resemble each other, which raises the reference of the ratio."
    ),
    "synthetic_training": "linear SVM over frames, tested on the test runs; intervals resample blocks.",
    "null": "not defined: a constant map, windows of fewer than 3 frames (autocorrelation), one class or block (an interval).",
}


def evaluate_generation(samples_dir: str, datalist: dict, output_dir: str, frames: int, seed: int = 0) -> dict[str, Any]:
    """Evaluate generated windows and write ``generation.json``.

    Args:
        samples_dir: folder with ``samples.json``, see :py:func:`.window_set.read_samples`.
        datalist: with windows of runs in ``training`` and ``test``.
        output_dir: receives the file.
        frames: of a window.
        seed: of subsamples and resamples.

    Returns:
        What the file holds; a part that cannot be computed is ``{"unavailable": reason}``.

    Raises:
        FileNotFoundError: if samples are missing.
        ValueError: if windows do not fit each other, or no generated class is among the test runs' classes.
    """
    data = read_generation(samples_dir, datalist, frames)
    results = {
        "study": datalist.get("study"),
        "synthetic_study": datalist.get("synthetic"),
        "training_runs": sorted(set(data.train.runs.tolist())),
        "test_runs": sorted(set(data.test.runs.tolist())),
        **generation_figures(data, seed),
    }
    with written_whole(Path(output_dir) / "generation.json") as temporary:
        temporary.write_text(json.dumps(results, indent=1, allow_nan=False))
    return results


def generation_figures(data: GenerationData, seed: int = 0) -> dict[str, Any]:
    """Return the figures of generated windows, JSON-safe.

    Raises:
        ValueError: if generated windows have classes, but none that is also among the training and the test windows.
    """
    return {
        "frames": int(data.fake.values.shape[1]),
        "voxels": int(data.mask.sum()),
        "windows": {
            name: _counts(windows, data.class_names)
            for name, windows in (("generated", data.fake), ("training", data.train), ("test", data.test))
        },
        "statistics": compare_generation(data, seed),
        "class_maps": _class_maps(data, seed),
        "memorisation": _memorisation(data, seed),
        "synthetic_training": _synthetic_training(data, seed),
        "seed": seed,
        "notes": NOTES,
    }


def compare_generation(data: GenerationData, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Compare voxel statistics of generated windows with the test runs', beside what real runs reach.

    Compared are classes that were generated, trained on and held out, with as many training windows as generated ones of each
    class; where no window was generated for a class, all of them.

    Returns:
        ``generated``, ``ceiling``, ``halves`` → the figures of :py:func:`.window_statistics.compare_statistics`, and
        ``windows``, the number on both sides. See ``NOTES``.

    Raises:
        ValueError: as :py:func:`generation_figures`.
    """
    fake, train, test = comparable(data, seed)
    real = window_statistics(test.values, data.mask, seed)
    rows: dict[str, dict[str, Any]] = {}
    for name, windows in (("generated", fake), ("ceiling", train)):
        found = compare_statistics(window_statistics(windows.values, data.mask, seed), real)
        rows[name] = {"windows": [len(windows), len(test)], **found}
    rows["halves"] = _halves(test, data.mask, seed)
    return rows


def comparable(data: GenerationData, seed: int = 0) -> tuple[WindowSet, WindowSet, WindowSet]:
    """Return generated, training and test windows of the same classes, the first two in equal numbers of each."""
    if (data.fake.labels == NO_CLASS).all():
        unlabelled = WindowSet(data.train.values, np.full(len(data.train), NO_CLASS), data.train.runs)
        fake, train = matched(data.fake, unlabelled, seed)
        return fake, train, data.test
    if not data.classes:
        raise ValueError(
            f"generated are the classes {sorted(set(data.fake.labels.tolist()))}, held out "
            f"{sorted(set(data.test.labels.tolist()))}: nothing to compare, generate classes that the test runs have."
        )
    fake, train = matched(data.fake.of(data.classes), data.train.of(data.classes), seed)
    return fake, train, data.test.of(data.classes)


def _halves(test: WindowSet, mask: np.ndarray, seed: int) -> dict[str, Any]:
    pairs = list(halves(test, seed=seed))
    if not pairs:
        return {"unavailable": "one test window has no halves"}
    rows = [
        compare_statistics(window_statistics(a.values, mask, seed), window_statistics(b.values, mask, seed)) for a, b in pairs
    ]
    means = {key: [row[key] for row in rows] for key in rows[0]}
    return {
        "windows": [len(pairs[0][0]), len(pairs[0][1])],
        **{
            key: None if None in values else float(np.mean([v for v in values if v is not None]))
            for key, values in means.items()
        },
    }


def _class_maps(data: GenerationData, seed: int) -> dict[str, Any]:
    if len(data.classes) < 2:
        return {"unavailable": "fewer than 2 classes are generated, trained on and held out"}
    fake, train, test = (class_mean_maps(s.values, s.labels, data.classes) for s in (data.fake, data.train, data.test))
    return compare_class_maps(fake, train, test, data.mask, [data.class_names[c] for c in data.classes], seed)


def _memorisation(data: GenerationData, seed: int) -> dict[str, Any]:
    if len(data.test) < 2:
        return {"unavailable": "one test window: held-out windows are the reference, at least 2 are needed"}
    sets = (data.fake.values, data.train.values, data.test.values)
    return {
        "windows": nearest_neighbour_ratio(*sets, data.mask, "window", seed=seed).summary(),
        "frames": nearest_neighbour_ratio(*sets, data.mask, "frame", seed=seed).summary(),
    }


def _synthetic_training(data: GenerationData, seed: int) -> dict[str, Any]:
    if len(data.classes) < 2:
        return {"unavailable": "fewer than 2 classes are generated, trained on and held out"}
    fake, train, test = (s.of(data.classes) for s in (data.fake, data.train, data.test))
    return synthetic_training_accuracy(fake, train, test, data.mask, data.class_names, seed=seed)


def _counts(windows: WindowSet, class_names: Sequence[str]) -> dict[str, int]:
    names = {**dict(enumerate(class_names)), NO_CLASS: "no class"}
    return {names[int(c)]: int((windows.labels == c).sum()) for c in np.unique(windows.labels)}
