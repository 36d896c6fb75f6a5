"""The time course of evidence: what every frame of a 4D scan contributes to its prediction.

Evidence is the predicted class' logit minus the mean of the others. The network's head is affine and its feature the mean of
the frames' states, so the mean over frames is the scan's own difference of logits, exactly up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

from ..paths import written_whole
from .displays import COLOURS, new_figure

__all__ = ["evidence_figure", "evidence_table", "margin", "write_evidence"]


def margin(logits: torch.Tensor, target: int) -> torch.Tensor:
    """Return the target's logit minus the mean of the others, (..., C) → (...)."""
    others = [c for c in range(logits.shape[-1]) if c != target]
    return logits[..., target] - logits[..., others].mean(-1)


def write_evidence(
    logits: torch.Tensor,
    target: int,
    class_names: Sequence[str],
    repetition_time: float | None,
    stem: Path,
    first_frame: int = 0,
) -> dict[str, str]:
    """Write the time course as ``<stem>_evidence.csv`` and ``<stem>_evidence.png``.

    Args:
        logits: of consecutive frames, (T, C).
        target: class index.
        class_names: in the order of the logits.
        repetition_time: in seconds, ``None`` where it is not known.
        stem: path of the scan's explanation, without suffix.
        first_frame: number of the first of these frames in the scan.

    Returns:
        The files' names, for ``maps.json``.
    """
    table = evidence_table(logits, target, repetition_time, first_frame)
    csv, png = (stem.with_name(f"{stem.name}_evidence{suffix}") for suffix in (".csv", ".png"))
    with written_whole(csv) as temporary:
        table.to_csv(temporary, index=False)
    with written_whole(png) as temporary:
        evidence_figure(table, class_names[target]).savefig(temporary, dpi=110)
    return {"evidence_csv": csv.name, "evidence_png": png.name}


def evidence_table(logits: torch.Tensor, target: int, repetition_time: float | None, first_frame: int = 0) -> pd.DataFrame:
    """Return ``frame``, ``seconds`` (the frame's start, where known), ``evidence`` and its ``cumulative_mean``.

    The cumulative mean is what the network would say had the scan ended there: its last value is the prediction's.
    """
    evidence = margin(logits.double(), target).cpu().numpy()
    table = pd.DataFrame({"frame": range(first_frame, first_frame + len(evidence)), "evidence": evidence})
    table["cumulative_mean"] = table["evidence"].expanding().mean()
    if repetition_time is not None:
        table.insert(1, "seconds", table["frame"] * repetition_time)
    return table


def evidence_figure(table: pd.DataFrame, class_name: str) -> Figure:
    """Evidence per frame and its cumulative mean; above 0 speaks for the class, below against it."""
    figure, (ax,) = new_figure(width=8, height=2.6)
    time = "seconds" if "seconds" in table else "frame"
    ax.axhline(0, color="grey", linewidth=0.8, linestyle=":")
    ax.plot(table[time], table["evidence"], color=COLOURS[5], linewidth=1, label="frame")
    ax.plot(table[time], table["cumulative_mean"], color=COLOURS[0], linewidth=2.2, label="mean so far")
    ax.set(xlabel=time, ylabel="difference of logits", title=f"Evidence for {class_name}")
    ax.margins(x=0.01)
    ax.legend(fontsize=8, frameon=False, ncols=2)
    return figure
