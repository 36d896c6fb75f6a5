"""Generated windows as files: NIfTI in the scanner's units for people, z scores for figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite import distributed as idist
from monai.networks.schedulers import Scheduler

from ..networks.residual_denoiser import ResidualDenoiser
from ..networks.signal_scale import SignalScale
from ..paths import written_whole
from ..processes import share, together
from .generate import generate

__all__ = ["write_samples"]

NO_CLASS = "unconditional"


def write_samples(
    network: ResidualDenoiser,
    scheduler: Scheduler,
    num_steps: int,
    class_names: Sequence[str],
    classes: Sequence[str],
    per_class: int,
    frames: int,
    output_dir: str,
    seed: int = 0,
    guidance: float | None = None,
    film: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
) -> dict[str, Any]:
    """Generate windows of the wanted classes and write them.

    ``<class>_0000.nii.gz`` (X, Y, Z, F) is a sample in the scanner's units with affine and TR of the training runs,
    ``<class>_mean.nii.gz`` the mean of a class, ``z/<class>_0000.npy`` (F, X, Y, Z) a sample in z scores. ``samples.json``
    lists them, and the first sample of every class as a film. Processes under torchrun share the drawing, the first writes.

    Args:
        network: with its weights loaded.
        scheduler: of MONAI or :py:class:`.DPMSolverScheduler`.
        num_steps: evaluations per sample.
        class_names: that the network was trained on, in order.
        classes: to generate; ``unconditional`` is that of no class.
        per_class: number of samples of each.
        frames: F.
        output_dir: receives the files.
        seed: of the first sample; sample i of all has seed + i.
        guidance: None or 1 takes the conditional network as it is, 0 the unconditional one, more exaggerates.
        film: pictures of the denoising of the first sample of every class; 0 keeps none.
        device: to compute on.
        batch_size: samples at a time.

    Returns:
        What ``samples.json`` holds; nothing in other processes than the first.

    Raises:
        ValueError: for a class that the network has not seen, or no sample.
    """
    labels = _labels(classes, class_names, per_class)
    scheduler.set_timesteps(num_steps)
    shape = (frames, *network.scale.mean.shape)
    seeds = [seed + i for i in range(len(labels))]
    filmed = [i for i in range(len(labels)) if film and i % per_class == 0]  # films of all samples would fill the memory
    samples, films = torch.empty(len(labels), *shape), None
    for indices, pictures in ((filmed, film), ([i for i in range(len(labels)) if i not in filmed], 0)):
        if indices:
            wanted = [(labels[i], seeds[i]) for i in indices]
            samples[indices], *rest = _drawn(network, scheduler, shape, wanted, guidance, batch_size, device, pictures)
            films = rest[0] if rest else films
    if idist.get_rank() > 0:
        return {}
    scale, folder = network.scale.cpu(), Path(output_dir)
    inside = scale.std > 0
    names = [_name(label, class_names) for label in labels]
    content: dict[str, Any] = {
        "space": "z",
        "class_names": list(class_names),
        "samples": _write_windows(folder, samples * inside, labels, names, seeds, per_class, scale),
        "num_steps": num_steps,
        "scheduler": type(scheduler).__name__,
        "guidance": guidance,
    }
    if films is not None:
        content["film"] = _write_film(folder, films * inside, names[::per_class])
    with written_whole(folder / "samples.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1))
    network.to(device)
    return content


def _drawn(
    network: ResidualDenoiser,
    scheduler: Scheduler,
    shape: Sequence[int],
    wanted: Sequence[tuple[int, int]],
    guidance: float | None,
    batch_size: int,
    device: torch.device | str,
    film: int,
) -> list[torch.Tensor]:
    """Return samples (N, F, X, Y, Z) of labels and seeds, and their films if there are any: each process draws its share."""
    mine: list[tuple[torch.Tensor, ...]] = []
    if share(wanted):
        labels, seeds = zip(*share(wanted), strict=True)
        drawn = generate(network, scheduler, shape, labels, seeds, guidance, batch_size, device, film)
        parts = drawn if isinstance(drawn, tuple) else (drawn,)
        mine = [tuple(x.clone() for x in sample) for sample in zip(*parts, strict=True)]
    return [torch.stack(part) for part in zip(*together(mine), strict=True)]


def _write_windows(
    folder: Path,
    samples: torch.Tensor,
    labels: Sequence[int],
    names: Sequence[str],
    seeds: Sequence[int],
    per_class: int,
    scale: SignalScale,
) -> list[dict[str, Any]]:
    """Write samples and the mean of every class; return the samples' entries."""
    listed = []
    for i, (sample, label, seed) in enumerate(zip(samples, labels, seeds, strict=True)):
        name = f"{names[i]}_{i % per_class:04d}"
        _write_nifti(folder / f"{name}.nii.gz", scale.to_signal(sample), scale)
        with written_whole(folder / "z" / f"{name}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, sample.numpy())
        listed.append({"image": f"{name}.nii.gz", "z": f"z/{name}.npy", "label": label, "seed": seed})
    for name, of_class in zip(names[::per_class], samples.split(per_class), strict=True):
        _write_nifti(folder / f"{name}_mean.nii.gz", scale.to_signal(of_class.mean((0, 1))[None]), scale)
    return listed


def _labels(classes: Sequence[str], class_names: Sequence[str], per_class: int) -> list[int]:
    known = [*class_names, NO_CLASS]
    wanted = [classes] if isinstance(classes, str) else list(classes)  # one on the command line
    strange = [name for name in wanted if name not in known]
    if strange or per_class < 1 or not wanted:
        raise ValueError(
            f"{per_class} samples of {wanted} are wanted; the network was trained on {list(class_names)}, and "
            f"'{NO_CLASS}' is that of no class: give --classes and --per_class of at least 1."
        )
    return [known.index(name) if name != NO_CLASS else -1 for name in dict.fromkeys(wanted) for _ in range(per_class)]


def _name(label: int, class_names: Sequence[str]) -> str:
    return NO_CLASS if label < 0 else class_names[label].replace(" ", "-")


def _write_nifti(path: Path, windows: torch.Tensor, scale: SignalScale) -> None:
    """Write (F, X, Y, Z) with the scale's affine and TR; one frame as a volume without time."""
    array = np.moveaxis(windows.numpy().astype(np.float32), 0, -1)
    picture = nib.Nifti1Image(array[..., 0] if array.shape[-1] == 1 else array, scale.affine.numpy())
    picture.header.set_xyzt_units("mm", "sec")
    if picture.ndim == 4:
        picture.header.set_zooms((*picture.header.get_zooms()[:3], float(scale.repetition_time)))
    with written_whole(path) as temporary:
        nib.save(picture, temporary)


def _write_film(folder: Path, films: torch.Tensor, titles: Sequence[str]) -> dict[str, Any]:
    with written_whole(folder / "film.npy") as temporary, temporary.open("wb") as file:
        np.save(file, films.numpy())
    return {"z": "film.npy", "titles": list(titles)}
