"""Pictures of the voxel-wise BOLD analysis, see :py:mod:`.bold_analysis`."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from nilearn.plotting import plot_stat_map

from ..paths import written_whole
from .displays import COLOURS, STYLES, new_figure

__all__ = ["run_figure", "time_course_figure", "write_volume_picture"]

CUTS = 7


def write_volume_picture(
    volume: nib.Nifti1Image, background: nib.Nifti1Image, path: Path, title: str, threshold: float | None = None
) -> None:
    """Write axial slices of a map on a background; with a threshold both signs are coloured, without one it is a magnitude."""
    signed = {"threshold": threshold, "cmap": "RdBu_r", "symmetric_cbar": True}
    display = plot_stat_map(
        volume,
        bg_img=background,
        figure=Figure(figsize=(11, 2.6)),
        display_mode="z",
        cut_coords=min(CUTS, volume.shape[2]),
        title=title,
        draw_cross=False,
        cbar_tick_format="%.3g",
        **({"cmap": "viridis", "threshold": 1e-6, "vmin": 0} if threshold is None else signed),
    )
    with written_whole(path) as temporary:
        display.savefig(str(temporary), dpi=110)


def time_course_figure(courses: pd.DataFrame) -> Figure:
    """Draw a panel per map, of its voxels: the mean response to every class, with its 95 % band over subjects."""
    panels = list(courses.groupby("voxels_of", sort=False))
    figure, axes = new_figure(len(panels), width=4.2, height=3.2, columns=4)
    for ax, (voxels, panel) in zip(axes, panels, strict=True):
        for k, (name, course) in enumerate(panel.groupby("class", sort=False)):
            colour = COLOURS[k % len(COLOURS)]
            ax.fill_between(course["seconds"], course["low"], course["high"], color=colour, alpha=0.15, linewidth=0)
            ax.plot(course["seconds"], course["percent"], color=colour, linestyle=STYLES[k % len(STYLES)], label=str(name))
        ax.axhline(0, color="grey", linewidth=0.8, linestyle=":")
        ax.axvline(0, color="grey", linewidth=0.8, linestyle=":")
        ax.set_title(f"voxels of {voxels}", fontsize=10)
        ax.set(xlabel="seconds after the onset", ylabel="signal change (%)")
    axes[0].legend(fontsize=8, frameon=False)
    return figure


def run_figure(table: pd.DataFrame) -> Figure:
    """Draw every run's temporal SNR, and its head motion where that is given, in order of the subjects."""
    shown = {"tsnr": "median temporal SNR", "mean_framewise_displacement_mm": "mean framewise displacement (mm)"}
    shown = {column: label for column, label in shown.items() if column in table}
    figure, axes = new_figure(len(shown), width=5.5, height=3)
    number = table.groupby("subject", sort=False).ngroup()
    for ax, (column, label) in zip(axes, shown.items(), strict=True):
        ax.scatter(number, table[column], s=16, alpha=0.65, color=COLOURS[0])
        ax.set(xlabel="subject, in sorted order", ylabel=label, ylim=(0, 1.1 * table[column].max()))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
