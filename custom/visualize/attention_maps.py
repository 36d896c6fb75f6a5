"""Which places and frames a :py:class:`~custom.networks.spatiotemporal_unet.SpatioTemporalDiffusionUNet` attends to, by class.

The windows of a class are noised as a decoder noises them and given without their class: what the map of a class has of its own
comes from the data. Every window meets the same noise and its opposite. Attention knows no sign, and that a place gets it is no
proof that the place matters. So beside each map stands how it correlates with that of random weights, and with those of the
other classes: maps that hardly differ between classes tell where the network looks, not what tells the classes apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from monai.data import MetaTensor
from torch import nn

from ..data.prepare_record import scale_path
from ..errors import BadScan
from ..networks.noise_level import NoiseLevels
from ..networks.spatiotemporal_unet import SpatioTemporalDiffusionUNet
from ..paths import written_whole
from ..transforms.temporal_window import map_bold
from ..transforms.window_rows import read_windows
from .displays import COLOURS, new_figure
from .explanation import randomised, rank_correlation
from .maps import Explanation, file_stem, write_explanations

__all__ = ["write_attention_maps"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class _Attention:
    """Mean over windows: of the spatial blocks together (1, X, Y, Z), of each temporal block (F, F)."""

    volume: torch.Tensor
    frames: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Group:
    """The windows (N, F, X, Y, Z) of one subject and class."""

    rows: Sequence[Row]
    windows: torch.Tensor

    @property
    def image(self) -> str:
        return str(self.rows[0]["image"])


def write_attention_maps(
    network: SpatioTemporalDiffusionUNet,
    rows: Sequence[Row],
    class_names: Sequence[str],
    output_dir: str,
    device: torch.device,
    levels: NoiseLevels,
    timestep: float = 50,
    blocks: Sequence[str] = ("spatial_2", "temporal_2"),
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Write, for every subject and class, a NIfTI map and its picture, the frames' attention, and ``maps.json``.

    The map is the attention that places get, the mean over windows, frames, heads, places that ask and spatial blocks; 1 is an
    equal share of the field of view, 0 is outside the brain. ``<map>_time.csv`` has, for every temporal block, how much each
    frame attends to each, the mean over windows, heads and places, and ``<map>_time.png`` shows it.

    Args:
        network: with its weights loaded; of a :py:class:`~custom.networks.residual_denoiser.ResidualDenoiser` its ``unet``.
        rows: windows of prepared runs, as a datalist has them; those without a class (label -1) are left out.
        class_names: in the order of the labels.
        output_dir: receives the files.
        device: to work on.
        levels: of the network's schedule.
        timestep: how noisy the windows are.
        blocks: names in ``network.attention_blocks``, one "spatial_<level>" and one "temporal_<level>" at least.
        seed: of the noise, and of the random weights, of which each map gets other ones.

    Returns:
        The entries of ``maps.json``. ``other_classes_correlation`` is that with the mean map of the subject's other classes,
        None where there is none.

    Raises:
        BadScan: if windows of a subject differ in shape or affine, hold nothing but 0, or reach beyond their run.
        FileNotFoundError: if a run is missing.
        ValueError: if no row has a class, or a block of either kind is missing or unknown.
    """
    for kind in ("spatial", "temporal"):
        if not any(name.startswith(kind) for name in blocks):
            raise ValueError(
                f"blocks {list(blocks)} name no {kind} one: the network has {', '.join(network.attention_blocks)}."
            )
    network, groups = network.to(device).eval(), _groups(rows)
    found = {key: _attention(network, group, levels, timestep, blocks, seed) for key, group in groups.items()}
    explanations = []
    for number, ((subject, label), group) in enumerate(groups.items()):
        attention, brain = found[subject, label], _brain(group)
        control = _attention(randomised(network, seed + number), group, levels, timestep, blocks, seed)
        others = [a.volume for (who, c), a in found.items() if who == subject and c != label]
        name = f"{subject} {class_names[label]}"
        files = _write_frames(attention.frames, Path(output_dir) / file_stem(number, name))
        affine = torch.from_numpy(map_bold(group.image).affine)
        explanations.append(
            Explanation(
                subject=subject,
                source=group.image,
                label=label,
                predicted=label,
                volume=MetaTensor(attention.volume * brain, affine=affine),
                background=MetaTensor(_background(group.image, brain), affine=affine),
                correlation=rank_correlation(attention.volume, control.volume, brain),
                further={
                    **files,
                    "windows": len(group.rows),
                    "other_classes_correlation": _correlation(attention.volume, others, brain),
                },
                title=name,
            )
        )
    return write_explanations(explanations, class_names, output_dir, method="Attention of the diffusion network")


def _groups(rows: Sequence[Row]) -> dict[tuple[str, int], _Group]:
    """Return the windows by subject and label, in order."""
    labelled = [row for row in rows if int(row["label"]) >= 0]
    if not labelled:
        raise ValueError("no window has a class: attention maps are made of labelled blocks.")
    groups = {}
    for subject in sorted({str(row["subject"]) for row in labelled}):
        members = [row for row in labelled if str(row["subject"]) == subject]
        windows, labels = read_windows(members), np.array([int(row["label"]) for row in members])
        for label in sorted(set(labels.tolist())):
            chosen = np.flatnonzero(labels == label).tolist()
            groups[subject, label] = _Group([members[i] for i in chosen], windows[chosen])
    return groups


def _attention(
    network: nn.Module, group: _Group, levels: NoiseLevels, timestep: float, blocks: Sequence[str], seed: int
) -> _Attention:
    """Window by window, since attention of one window may be large."""
    device, t = next(network.parameters()).device, torch.tensor([float(timestep)])
    noise = torch.randn(1, *group.windows.shape[1:], generator=torch.Generator().manual_seed(seed))
    sums: dict[str, torch.Tensor] = {}
    for window in group.windows.split(1):
        for epsilon in (noise, -noise):
            noisy = levels.noisy(window, epsilon, t).to(device)
            for name, weights in network.attention(noisy, t, None, blocks).items():  # type: ignore[operator]
                mean = (weights.mean((1, 2)) if name.startswith("spatial") else weights.mean(1)).double().cpu()
                sums[name] = sums.get(name, torch.zeros(())) + mean[0] / (2 * len(group.windows))
    spatial = torch.stack([value for name, value in sums.items() if name.startswith("spatial")]).mean(0, keepdim=True)
    return _Attention(spatial.float(), {n: value.numpy() for n, value in sums.items() if n.startswith("temporal")})


def _brain(group: _Group) -> torch.Tensor:
    """Return where the windows hold anything, (1, X, Y, Z)."""
    brain = (group.windows != 0).flatten(0, 1).any(0, keepdim=True)
    if not brain.any():
        raise BadScan(f"{group.image}: its windows hold nothing but 0: prepare the scan with a mask that fits.")
    return brain


def _background(image: str, brain: torch.Tensor) -> torch.Tensor:
    """Return the run's mean signal if preparation kept it beside the image, the brain's shape if not; above 0 in the brain."""
    path = scale_path(image)
    if not path.is_file():
        return brain.float()
    mean = torch.from_numpy(nib.load(path).get_fdata(dtype=np.float32)[..., 0])[None]
    return torch.where(brain, mean - mean[brain].min().clamp(max=0) + 1e-6, 0)


def _correlation(volume: torch.Tensor, others: Sequence[torch.Tensor], brain: torch.Tensor) -> float | None:
    return rank_correlation(volume, torch.stack(list(others)).mean(0), brain) if others else None


def _write_frames(frames: Mapping[str, np.ndarray], stem: Path) -> dict[str, str]:
    """Write ``<stem>_time.csv`` and ``<stem>_time.png``; return their names for ``maps.json``."""
    csv, png = (stem.with_name(f"{stem.name}_time{suffix}") for suffix in (".csv", ".png"))
    tables = [
        pd.DataFrame({"block": name, "frame": row, "attended": column, "weight": matrix.ravel()})
        for name, matrix in frames.items()
        for row, column in [(axis.ravel() for axis in np.indices(matrix.shape))]
    ]
    with written_whole(csv) as temporary:
        pd.concat(tables).to_csv(temporary, index=False)
    with written_whole(png) as temporary:
        _frames_figure(frames).savefig(temporary, dpi=110)
    return {"time_csv": csv.name, "time_png": png.name}


def _frames_figure(frames: Mapping[str, np.ndarray]) -> Figure:
    """A matrix for every block, and how much each frame gets in all."""
    figure, axes = new_figure(len(frames) + 1, width=3.4, height=2.8)
    *matrices, received = axes
    for k, (ax, (name, matrix)) in enumerate(zip(matrices, frames.items(), strict=True)):
        figure.colorbar(ax.imshow(matrix, cmap="inferno", vmin=0), ax=ax, shrink=0.8)
        ax.set(xlabel="frame attended to", ylabel="frame that attends", title=name)
        received.plot(matrix.mean(0), color=COLOURS[k % len(COLOURS)], marker="o", linewidth=2, label=name)
    received.axhline(1 / len(matrix), color="grey", linewidth=0.8, linestyle=":")
    received.set(xlabel="frame of the window", ylabel="share of attention", ylim=(0, None))
    received.legend(fontsize=8, frameon=False)
    return figure
