"""Maps of a unit's response (block, run), as features for a linear baseline: window means, mean event-locked windows, GLM maps.

Rows are windows of prepared runs: ``image``, ``start`` and ``frames`` (in frames), ``onset`` and ``duration`` of the event (in
seconds). Every class here is a function from {unit: rows} to (n_units, n_features), what ``Baseline(features=...)`` takes, and
looks at no label. All voxels of the grid are features: those outside the brain are constant, which standardising makes 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import adaptive_avg_pool3d

from ..transforms.temporal_window import map_bold, temporal_window
from .features import Unavailable, Units

__all__ = ["EventResponse", "GLMMaps", "WindowMeans", "event_design"]


class WindowMeans:
    """Mean over a unit's windows of each window's mean frame.

    Args:
        size: block means per axis, at most the grid's, where all voxels of a large grid would not fit into memory; None takes
            the voxels.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size

    def __call__(self, units: Units) -> np.ndarray:
        """Return (n_units, voxels), float32."""
        return _stacked({name: self._of_unit(rows) for name, rows in units.items()})

    def _of_unit(self, rows: Sequence[dict]) -> np.ndarray:
        means = [window.mean(0) for window in _windows(rows)]
        return _features(torch.stack(means).mean(0, keepdim=True), self.size)


class EventResponse:
    """Mean event-locked window of a unit: the response's shape over time in every voxel.

    It is the estimate of a finite impulse response model where responses do not overlap; where they do, it mixes them.

    Args:
        frames: from a window's start on, whatever length the datalist's windows have.
        size: as in :class:`WindowMeans`.
    """

    def __init__(self, frames: int, size: int | None = None) -> None:
        if frames < 1:
            raise ValueError(f"frames is {frames}: a response has one frame at least.")
        self.frames, self.size = frames, size

    def __call__(self, units: Units) -> np.ndarray:
        """Return (n_units, frames * voxels), float32.

        Raises:
            Unavailable: a unit's runs end before one of the frames was measured.
        """
        return _stacked({name: self._of_unit(name, rows) for name, rows in units.items()})

    def _of_unit(self, name: str, rows: Sequence[dict]) -> np.ndarray:
        total, measured = torch.zeros(()), torch.zeros(self.frames, 1, 1, 1)
        for window in _windows(rows, self.frames):
            missing = self.frames - len(window)
            total = total + torch.nn.functional.pad(window, (0, 0, 0, 0, 0, 0, 0, missing))
            measured[: len(window)] += 1
        if (measured == 0).any():
            raise Unavailable(f"the run of {name} ends before frame {self.frames} of its window: ask for fewer frames")
        return _features(total / measured, self.size)


class GLMMaps:
    """t map of a unit's events in the general linear model of its run, by nilearn.

    All units of a run are regressors of one model: of a block of a run this is the least-squares-all estimate (Mumford et al.,
    NeuroImage 59 (2012) 2636-2643), of a whole run the response to its pooled events. A regressor is the events' boxcar,
    convolved with Glover's haemodynamic response. t instead of the effect keeps voxels of much noise small (Misaki et al.,
    NeuroImage 53 (2010) 103-118). Prepared runs are detrended, so the model has no drift. A unit's runs are averaged.

    Args:
        size: as in :class:`WindowMeans`.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size

    def __call__(self, units: Units) -> np.ndarray:
        """Return (n_units, voxels), float32; every run is read once.

        Raises:
            ValueError: a run does not tell its repetition time, or is too short for its regressors.
        """
        maps: dict[str, list[np.ndarray]] = {name: [] for name in units}
        rows = [{**row, "unit": name} for name, members in units.items() for row in members]
        for path, members in _by_image(rows).items():
            for name, t in self._of_run(path, members).items():
                maps[name].append(t)
        return _stacked({name: np.mean(found, axis=0) for name, found in maps.items()})

    def _of_run(self, path: str, rows: Sequence[dict]) -> dict[str, np.ndarray]:
        from nilearn.glm import OLSModel

        scan = map_bold(path)
        run = _finite(scan.frames(0, scan.shape[0]).as_tensor(), path)
        inside = (run != 0).any(0)
        design = event_design(rows, [row["unit"] for row in rows], len(run), scan.repetition_time, path)
        # the estimate is the same with autocorrelated noise; its t are too large, in all maps alike
        model = OLSModel(design.to_numpy()).fit(run[:, inside].double().numpy())
        maps = {}
        for name in dict.fromkeys(row["unit"] for row in rows):
            t = torch.zeros(1, *run.shape[1:])
            t[0, inside] = torch.from_numpy(model.Tcontrast((design.columns == name).astype(float)).t).float()
            maps[name] = _features(t, self.size)
        return maps


def event_design(
    rows: Sequence[Mapping],
    conditions: Sequence[str],
    num_frames: int,
    repetition_time: float | None,
    name: str,
    high_pass: float | None = None,
) -> pd.DataFrame:
    """Return nilearn's design matrix of a run, (frames, conditions + drifts + 1), each condition a column of its name.

    Args:
        rows: events with ``onset`` and ``duration``, in seconds after the first frame.
        conditions: of each event.
        num_frames: of the run.
        repetition_time: seconds from frame to frame.
        name: of the run, for messages.
        high_pass: cosine drifts below this frequency, in Hz; None: a constant only.

    Raises:
        ValueError: the repetition time is not known, or there are no more frames than columns.
    """
    from nilearn.glm.first_level import make_first_level_design_matrix

    if not repetition_time:
        raise ValueError(f"{name}: the time between two frames is not known: prepare again with --repetition_time.")
    moments = {key: [float(row[key]) for row in rows] for key in ("onset", "duration")}
    design = make_first_level_design_matrix(
        np.arange(num_frames) * repetition_time,
        pd.DataFrame({**moments, "trial_type": list(conditions)}),
        hrf_model="glover",
        drift_model=None if high_pass is None else "cosine",
        high_pass=high_pass or 0.01,
    )
    if len(design) <= design.shape[1]:
        raise Unavailable(f"{name}: {num_frames} frames are too few for {design.shape[1]} regressors: leave the run out.")
    return design


def _windows(rows: Sequence[dict], frames: int | None = None) -> Iterator[torch.Tensor]:
    """Yield the measured frames of every window, (frames, X, Y, Z) or less at a run's end."""
    for path, members in _by_image(rows).items():
        scan = map_bold(path)
        for row in members:
            window, measured = temporal_window(scan, frames or row["frames"], row["start"])
            yield _finite(window.as_tensor()[measured], path)


def _by_image(rows: Sequence[dict]) -> dict[str, list[dict]]:
    images: dict[str, list[dict]] = {}
    for row in rows:
        images.setdefault(row["image"], []).append(row)
    return images


def _finite(frames: torch.Tensor, path: str) -> torch.Tensor:
    if not torch.isfinite(frames).all():
        raise ValueError(f"{path}: NaN or infinite voxels, prepare it again")
    return frames


def _features(maps: torch.Tensor, size: int | None) -> np.ndarray:
    """Maps (n, X, Y, Z) → one vector, of voxels or of block means."""
    if size is not None:
        x, y, z = (min(size, extent) for extent in maps.shape[1:])
        maps = adaptive_avg_pool3d(maps, (x, y, z))
    return maps.flatten().numpy()


def _stacked(features: Mapping[str, np.ndarray]) -> np.ndarray:
    first = next(iter(features))
    odd = [name for name, x in features.items() if x.shape != features[first].shape]
    if odd:
        raise ValueError(f"{odd[0]}: another grid than {first}, {len(features[odd[0]])} features for {len(features[first])}")
    return np.stack(list(features.values()))
