"""Windows of a known process: class means, spatially smooth noise, AR(1) over the frames."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from custom.metrics.window_set import GenerationData, WindowSet

GRID, FRAMES, AR, CLASSES = (9, 8, 1), 6, 0.6, ["face", "house", "cat", "shoe"]


def brain() -> np.ndarray:
    mask = np.ones(GRID, bool)
    mask[0], mask[:, 0] = False, False
    return mask


def patterns(grid: tuple[int, ...] = GRID) -> np.ndarray:
    """Return the mean maps of the classes, (C, X, Y, Z), smooth, of standard deviation 1."""
    maps = gaussian_filter(np.random.default_rng(99).normal(size=(len(CLASSES), *grid)), (0, 1, 1, 0))
    return maps / maps.std()


def process(per_class: int, seed: int, ar: float = AR, smooth: float = 1.0, effect: float = 0.7) -> WindowSet:
    """Draw windows of every class; the noise has standard deviation 1."""
    rng, labels = np.random.default_rng(seed), np.repeat(np.arange(len(CLASSES)), per_class)
    noise = gaussian_filter(rng.normal(size=(len(labels), FRAMES, *GRID)), (0, 0, smooth, smooth, 0))
    noise /= noise.std()
    for t in range(1, FRAMES):
        noise[:, t] = ar * noise[:, t - 1] + np.sqrt(1 - ar**2) * noise[:, t]
    values = (effect * patterns()[labels][:, None] + noise) * brain()
    return WindowSet(values.astype(np.float32), labels, np.array([f"run{i % 2}" for i in range(len(labels))]))


def data(fake: WindowSet, train: WindowSet | None = None, test: WindowSet | None = None) -> GenerationData:
    return GenerationData(fake, train or process(8, 1), test or process(4, 2), brain(), CLASSES)


def write_study(folder: Path, train: WindowSet, test: WindowSet) -> dict:
    """Write every set's windows, one after the other, as a prepared run; return the datalist."""
    content: dict = {"class_names": CLASSES, "study": "known process", "synthetic": True, "validation": []}
    for part, windows in (("training", train), ("test", test)):
        path = folder / f"{part}.nii"
        nib.save(nib.Nifti1Image(np.moveaxis(np.concatenate(windows.values), 0, -1), np.eye(4)), path)
        content[part] = [
            {"image": str(path), "label": int(c), "scan": part, "block": f"{part}_{i}", "start": i * FRAMES, "frames": FRAMES}
            for i, c in enumerate(windows.labels)
        ]
    return content


def write_samples(folder: Path, fake: WindowSet, **changes) -> Path:
    (folder / "z").mkdir(parents=True)
    samples = []
    for i, (window, label) in enumerate(zip(fake.values, fake.labels, strict=True)):
        np.save(folder / f"z/s{i}.npy", window)
        samples.append({"image": f"s{i}.nii", "label": int(label), "seed": i, "z": f"z/s{i}.npy"})
    content = {"samples": samples, "class_names": CLASSES, "space": "z"}
    (folder / "samples.json").write_text(json.dumps(content | changes))
    return folder
