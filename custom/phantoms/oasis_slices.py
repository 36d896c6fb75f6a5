"""Synthetic coronal slices with known atrophy, to pre-train a 2D network on what dementia does to a brain.

In contrast to the study in :py:mod:`.oasis`, where one severity moves both, ventricles and cortex change here independently and
uniformly, so that a network has to tell the two apart; and the contrast is drawn at random, since the template's is not that
of a scanner. The targets are numbers, not classes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from monai.data import MetaTensor
from monai.transforms import Compose, Resize, ResizeWithPadOrCrop

from ..data.datalist import digest
from ..data.prepare_record import save_image
from ..paths import written_whole
from ..transforms import ScaleBrainPercentiles
from .head import EXTENT, Anatomy, scan_head

__all__ = ["TARGETS", "read_slices", "write_slices"]

TARGETS = ("ventricle growth", "cortical thinning")
VOXEL_SIZE = 2.0  # mm
POSTERIOR = (104, 106, 108, 110, 112)  # mm from the back of the field of view: the hippocampi, where OASIS's coronal slices lie
GAMMA = (1.0, 2.0)  # the template is flatter than a scan
LOWERED = 10  # mm by which OASIS's pictures show the brain lower than its volumes


def write_slices(
    dataset_dir: str,
    n_heads: int = 400,
    field_of_view: float = 144.0,
    slice_size: int = 64,
    validation: float = 0.125,
    seed: int = 0,
    num_workers: int = 2,
) -> str:
    """Write ``images/*.nii`` (slice_size, slice_size, 1), in [0, 1], and ``datalist.json`` with two targets per slice.

    Args:
        dataset_dir: folder to write.
        n_heads: heads, five neighbouring slices each.
        field_of_view: side of the slice in mm.
        slice_size: side of the slice in pixels.
        validation: fraction of the heads in the validation part.
        seed: of the study; head i does not depend on their number.
        num_workers: processes.

    Returns:
        The path of the list.
    """
    folder = Path(dataset_dir)
    jobs = (delayed(_write_head)(folder, seed, i, field_of_view, slice_size) for i in range(n_heads))
    heads = Parallel(n_jobs=num_workers)(jobs)
    held_out = round(n_heads * validation)
    parts = {"training": heads[held_out:], "validation": heads[:held_out], "test": []}
    content: dict[str, Any] = {part: [row for rows in members for row in rows] for part, members in parts.items()}
    digests = {part: digest({row["subject"] for row in content[part]}) for part in parts}
    content |= {
        "study": "OASIS-1 phantom slices",
        "synthetic": True,
        "class_names": list(TARGETS),
        "split": {"digest": digests},
    }
    with written_whole(folder / "datalist.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1))
    return str(folder / "datalist.json")


def read_slices(path: str, class_names: list[str]) -> dict[str, Any]:
    """Read the list; image paths come back absolute, labels as (2,) float32 arrays.

    Raises:
        ValueError: if the outputs of the network are not the targets of the list.
    """
    content = json.loads(Path(path).read_text())
    if content["class_names"] != class_names:
        raise ValueError(f"{path} has the targets {content['class_names']}, the configuration {class_names}.")
    folder = Path(path).parent.absolute()
    for part in ("training", "validation"):
        content[part] = [
            {**row, "image": str(folder / row["image"]), "label": np.float32(row["label"])} for row in content[part]
        ]
    return content


def _write_head(folder: Path, seed: int, number: int, field_of_view: float, slice_size: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng([seed, number])
    growth, thinning = rng.uniform(-0.1, 1.1, 2)
    anatomy = Anatomy(max(5.0 * growth, -1.0), 1.3 * thinning, rng.normal(0.15, 0.08), int(rng.integers(2**32)))
    volume = ScaleBrainPercentiles()(torch.as_tensor(scan_head(rng, anatomy, VOXEL_SIZE).image)[None])
    volume = volume ** rng.uniform(*GAMMA)
    rows = []
    for position in POSTERIOR:
        name = f"images/head-{number:05d}_{position}.nii"
        save_image(folder / name, _coronal(volume, position, field_of_view, slice_size))
        target = [(growth - 0.5) / 0.35, (thinning - 0.5) / 0.35]  # mean 0, standard deviation 1
        rows.append({"image": name, "label": target, "subject": f"head-{number:05d}"})
    return rows


def _coronal(volume: torch.Tensor, position: int, field_of_view: float, slice_size: int) -> MetaTensor:
    """Cut (1, X, Y, Z) at ``position`` mm and frame it as OASIS's pictures are framed: (1, slice_size, slice_size, 1)."""
    plane = volume[:, :, round(position / EXTENT[1] * volume.shape[2])]
    lowered = torch.roll(plane, -round(LOWERED / VOXEL_SIZE), dims=-1)[..., None]
    side = round(field_of_view / VOXEL_SIZE)
    frame = Compose([ResizeWithPadOrCrop([side, side, 1]), Resize([slice_size, slice_size, 1], anti_aliasing=True)])
    pixel = field_of_view / slice_size
    return MetaTensor(frame(lowered).as_tensor(), affine=torch.diag(torch.tensor([pixel, pixel, pixel, 1.0])))
