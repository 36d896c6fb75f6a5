"""Training history from TensorBoard's event files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from .displays import COLOURS, STYLES, new_figure

__all__ = ["read_scalars", "training_history"]


def read_scalars(output_dir: str | Path) -> dict[str, pd.Series]:
    """Scalars of all event files of a folder.

    A run that was killed and resumed writes some steps twice: the later writing counts, since the weights come from it.

    Returns:
        Tag -> values, indexed by step in ascending order. Empty if the folder has no event files.
    """
    files = sorted(Path(output_dir).glob("*tfevents*"))
    if not files:
        return {}
    events = EventAccumulator(str(output_dir), {"scalars": 0, "images": 1, "tensors": 1}, purge_orphaned_data=True)
    events.Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        table = pd.DataFrame(events.Scalars(tag)).sort_values("wall_time", kind="stable")
        found[tag] = table.drop_duplicates("step", keep="last").set_index("step")["value"].sort_index()
    return found


def training_history(scalars: dict[str, pd.Series]) -> Figure:
    """One panel per kind of scalar: loss, validation figures, learning rate.

    Scalars of one kind share a panel only if they end at the same step, since some count iterations and some epochs.
    """
    groups: dict[tuple[int, str, int], dict[str, pd.Series]] = {}
    for tag, values in sorted(scalars.items()):
        if "_timestep_" in tag:  # the loss of single noise levels has a picture of its own in TensorBoard
            continue
        order, kind = _kind(tag)
        groups.setdefault((order, kind, int(values.index[-1])), {})[tag] = values
    if not groups:
        raise ValueError("no scalars to draw: the event files hold none")
    figure, axes = new_figure(len(groups), width=3.6, height=3.3, columns=2)
    for ax, ((_, kind, _), curves) in zip(axes, sorted(groups.items(), key=lambda g: g[0]), strict=True):
        for k, (tag, values) in enumerate(curves.items()):
            _draw(ax, tag, values, COLOURS[k % 7], STYLES[k % 7])
        ax.set(xlabel="step", title=kind, yscale="log" if kind == "learning rate" else "linear")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        ax.legend(fontsize=7, frameon=False)
    return figure


def _kind(tag: str) -> tuple[int, str]:
    if "loss" in tag.lower():
        return 0, "loss"
    if tag.lower().split("/")[-1].startswith(("lr", "learning")):
        return 2, "learning rate"
    return 1, "validation figures" if tag.startswith("val") else "other figures"


def _draw(ax, tag: str, values: pd.Series, colour: str, style) -> None:
    """Long series get a running mean over their noise."""
    long = len(values) > 100
    ax.plot(values.index, values, color=colour, alpha=0.25 if long else 1, linestyle="-" if long else style,
            marker="." if len(values) < 30 else None, label=None if long else tag)  # fmt: skip
    if long:
        window = max(5, len(values) // 30)
        mean = values.rolling(window, center=True).mean()
        ax.plot(mean.index, mean, color=colour, linestyle=style, label=f"{tag}, mean of {window}")
