"""Where in the brain and when after an onset a :py:class:`~custom.networks.slice_vit.SliceViT` looked: attention rollout.

References: Abnar and Zuidema, Quantifying Attention Flow in Transformers (ACL 2020), equation 1; Kobayashi et al., Attention Is
Not Only a Weight (EMNLP 2020): where a pooling ends the blocks, how much each element adds to its result stands for attention.

A run is explained by its windows together, as it is predicted by their mean probability. Within a window, the rollout over
frames says how much each frame counts, that over the slices of a frame how much each slice, and the shares of the patches where
in the slice. Attention knows no classes and no sign: the map shows where information was taken from, not for which class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from ..networks.slice_vit import Attention, SliceViT
from ..paths import written_whole
from .background import prepared, run_and_windows
from .displays import COLOURS, new_figure
from .explanation import explanation_of, randomised
from .maps import file_stem, write_explanations
from .window_saliency import time_course

__all__ = ["attention_rollout", "frame_weights", "spatial_weights", "write_rollout"]

Item = Mapping[Any, Any]


def attention_rollout(matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return how much each token of the last block holds of each token of the input.

    ``A_l = (W_l + I) / 2`` with the mean W over heads, for the residual connection; ``Ã_l = A_l Ã_{l-1}`` (equation 1).

    Args:
        matrices: of the blocks from the input on, (..., heads, N, N), rows sum up to 1.

    Returns:
        (..., N, N), rows sum up to 1.

    Raises:
        ValueError: if there is no block.
    """
    if not matrices:
        raise ValueError("there is no block of attention to roll out.")
    identity = torch.eye(matrices[0].shape[-1], dtype=matrices[0].dtype, device=matrices[0].device)
    rollout = identity
    for weights in matrices:
        rollout = (0.5 * weights.mean(-3) + 0.5 * identity) @ rollout
    return rollout


def frame_weights(attention: Attention) -> torch.Tensor:
    """Return how much each frame of a window counts, (B, F), 0 where it is not valid; they sum up to 1."""
    return _through(attention.frame_shares, attention.frames)


def spatial_weights(attention: Attention) -> torch.Tensor:
    """Return where each frame was looked at, (B, F, X', Y', Z); over a frame they sum up to 1, less what blank slices hold."""
    slices = _through(attention.slice_shares, attention.slices)
    return (slices[..., None, None] * attention.patch_shares).permute(0, 1, 3, 4, 2)


def write_rollout(
    network: SliceViT,
    scans: Sequence[Item],
    scan_transforms: Sequence[Callable],
    class_names: Sequence[str],
    output_dir: str,
    device: torch.device,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Explain the prediction of every run; write NIfTI maps, pictures, time courses and ``maps.json``.

    The map is the mean over windows of the frames' maps weighted by the frames.

    Args:
        network: with its weights loaded.
        scans: ``{"image": raw file, "mask": its mask or absent, "events": …, "scan": …, "subject": …, "label": …}``.
        scan_transforms: raw run → prepared run → list of its windows. The first one loads image and mask, the last one is
            :py:class:`~custom.transforms.event_window.SplitEventsd`; those between that can be inverted bring the map back onto
            the run's grid.
        class_names: in the order of the logits.
        output_dir: receives the files.
        device: to work on.
        seed: of the random weights; each run gets other ones.

    Returns:
        The entries of ``maps.json``.

    Raises:
        BadScan: if no event of a run has a window.
        ValueError: if the last transform does not split.
    """
    network, (prepare, split) = network.to(device).eval(), run_and_windows(scan_transforms)
    explanations = []
    for number, scan in enumerate(scans):
        item, background = prepared(scan, prepare)
        windows = split(item)
        found, control = (
            [_look(one, window, device) for window in windows] for one in (network, randomised(network, seed + number))
        )
        probabilities = torch.stack([look.probabilities for look in found])
        predicted = int(probabilities.mean(0).argmax())
        course = time_course([look.frames for look in found], windows, item["image"].meta["repetition_time"])
        files = _write_tables(
            course.rename(columns={"attribution": "weight"}),
            _votes(probabilities[:, predicted], windows),
            class_names[predicted],
            Path(output_dir) / file_stem(number, str(scan["scan"])),
        )
        maps = _map(found)
        further = {**files, "windows": len(windows)}
        inside = (item["image"].as_tensor() != 0).any(0, keepdim=True)
        explanations.append(
            explanation_of(
                scan,
                predicted,
                maps[None],
                _map(control)[None],
                inside[None],
                [item],
                prepare,
                background,
                further=further,
                title=str(scan["scan"]),
            )
        )
    return write_explanations(explanations, class_names, output_dir, method="Attention rollout")


@dataclass(frozen=True)
class _Look:
    """What is kept of a window: its map (1, X, Y, Z), the weight of its frames (F,), its probabilities (C,)."""

    volume: torch.Tensor
    frames: np.ndarray
    probabilities: torch.Tensor


def _through(shares: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Take the shares (..., N) of the last block's tokens back to the tokens of the input."""
    return (shares[..., None, :] @ attention_rollout(matrices))[..., 0, :] if matrices else shares


def _look(network: nn.Module, window: Item, device: torch.device) -> _Look:
    image = window["image"].as_tensor()
    attention: Attention = network.attention(image[None].to(device), window["frame_mask"][None].to(device))  # type: ignore[operator]
    frames = frame_weights(attention)[0]
    coarse = torch.einsum("f,fxyz->xyz", frames, spatial_weights(attention)[0])
    brain = (image != 0).any(0)  # an interpolated map reaches beyond it
    volume = _upsampled(coarse, int(network.patch_size), image.shape[1:3]).cpu() * brain  # type: ignore[arg-type]
    return _Look(volume[None], frames.cpu().numpy(), attention.logits[0].softmax(0).cpu())


def _upsampled(coarse: torch.Tensor, patch_size: int, size: torch.Size) -> torch.Tensor:
    """(X', Y', Z) → (X, Y, Z): every patch where it lies; the last ones may reach over the edge."""
    fine = nn.functional.interpolate(coarse[None, None], scale_factor=(patch_size, patch_size, 1), mode="trilinear")
    return fine[0, 0, : size[0], : size[1]]


def _map(looks: Sequence[_Look]) -> torch.Tensor:
    return torch.stack([look.volume for look in looks]).mean(0)


def _votes(probability: torch.Tensor, windows: Sequence[Item]) -> pd.DataFrame:
    """What each window says; their mean is the probability of the run."""
    columns = {"block": [w["block"] for w in windows], "onset": [w["onset"] for w in windows]}
    return pd.DataFrame({**columns, "probability": probability.double().numpy()})


def _write_tables(course: pd.DataFrame, votes: pd.DataFrame, class_name: str, stem: Path) -> dict[str, str]:
    """Write ``<stem>_time.csv``, ``<stem>_windows.csv`` and ``<stem>_time.png``; return their names for ``maps.json``."""
    names = {"time_csv": "_time.csv", "windows_csv": "_windows.csv", "time_png": "_time.png"}
    paths = {key: stem.with_name(stem.name + ending) for key, ending in names.items()}
    for key, table in (("time_csv", course), ("windows_csv", votes)):
        with written_whole(paths[key]) as temporary:
            table.to_csv(temporary, index=False)
    with written_whole(paths["time_png"]) as temporary:
        _time_figure(course, votes, class_name).savefig(temporary, dpi=110)
    return {key: path.name for key, path in paths.items()}


def _time_figure(course: pd.DataFrame, votes: pd.DataFrame, class_name: str) -> Figure:
    """How much the frames after an onset count, and what the windows say across the run."""
    figure, (within, across) = new_figure(panels=2, width=4, height=2.6)
    within.plot(course["seconds"], course["weight"], color=COLOURS[0], marker="o", linewidth=2)
    within.axhline(1 / len(course), color="grey", linewidth=0.8, linestyle=":")
    within.set(xlabel="seconds after the event's onset", ylabel="weight of the frame", ylim=(0, None))
    across.plot(votes["onset"], votes["probability"], color=COLOURS[5], marker=".", linewidth=1)
    across.axhline(votes["probability"].mean(), color=COLOURS[0], linewidth=2)
    across.set(xlabel="onset in the run (s)", ylabel=f"probability of {class_name}", ylim=(0, 1))
    return figure
