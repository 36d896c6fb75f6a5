"""Functional connectivity of a unit: mean series of regions → correlation → Fisher z, as features for a linear baseline.

Which regions there are depends on the grid or on the atlas, never on the subjects, so training and test rows agree. A region
without signal (a block outside the brain, a constant column) correlates with nothing: its edges are 0.

Reference: Varoquaux and Craddock, Learning and comparing functional connectomes across subjects, NeuroImage 80 (2013) 405-415.
"""

from __future__ import annotations

import nibabel as nib
import numpy as np

from ..data.roi_series import read_roi_series
from .features import Units, column_table

__all__ = ["Connectivity", "block_series", "fisher_z"]

LIMIT = 1 - 1e-6  # of |r|: two equal series would have an infinite z


class Connectivity:
    """Function from {unit: rows} to (n_units, n_regions (n_regions - 1) / 2), what ``Baseline(features=...)`` takes.

    A unit with several scans has the mean of their z.

    Args:
        blocks: the regions are this many blocks per axis of the prepared image.
        series: column with the path of an ROI series, whose columns are the regions instead.
    """

    def __init__(self, blocks: int = 4, series: str | None = None) -> None:
        self.blocks, self.series = blocks, series

    def __call__(self, units: Units) -> np.ndarray:
        """Return the features, one line per unit.

        Raises:
            Unavailable: no row has a value of the column ``series``.
            ValueError: naming units without it, or with other regions than the first.
        """
        if self.series:
            paths = column_table(units, [self.series])[self.series]
            features = {name: fisher_z(read_roi_series(path)) for name, path in paths.items()}
        else:
            features = {name: np.mean([self._of_image(row["image"]) for row in rows], axis=0) for name, rows in units.items()}
        first = next(iter(features))
        odd = [name for name, z in features.items() if z.shape != features[first].shape]
        if odd:
            raise ValueError(f"{odd[0]}: other regions than {first}, {len(features[odd[0]])} edges for {len(features[first])}")
        return np.stack(list(features.values()))

    def _of_image(self, path: str) -> np.ndarray:
        series = block_series(np.asarray(nib.load(path).dataobj, dtype=np.float32), self.blocks)
        if not np.isfinite(series).all():
            raise ValueError(f"{path}: NaN or infinite voxels, prepare it again")
        return fisher_z(series)


def block_series(image: np.ndarray, blocks: int) -> np.ndarray:
    """Return the mean series of a regular grid of blocks, (T, blocks³), of a scan (X, Y, Z, T) that is 0 outside the brain.

    The mean is over the block's brain voxels; a block without any is 0 throughout. An axis of fewer voxels than blocks has a
    block per voxel.

    Raises:
        ValueError: if the scan is not 4D.
    """
    if image.ndim != 4:
        raise ValueError(f"a scan (X, Y, Z, T) is wanted, this one has shape {image.shape}")
    total, voxels = image, (image != 0).any(-1).astype(np.float32)
    for axis, extent in enumerate(image.shape[:3]):
        count = min(blocks, extent)
        starts = np.arange(count) * extent // count
        total, voxels = (np.add.reduceat(x, starts, axis=axis) for x in (total, voxels))
    return (total / np.maximum(voxels, 1)[..., None]).reshape(-1, image.shape[-1]).T


def fisher_z(series: np.ndarray) -> np.ndarray:
    """Return z = arctanh(r) of every pair of columns of (T, R), (R (R - 1) / 2,) float32, nilearn's order of pairs.

    r is nilearn's shrunk correlation (Ledoit-Wolf), its absolute value limited to 1 - 1e-6; 0 with a constant column.
    """
    from nilearn.connectome import ConnectivityMeasure, sym_matrix_to_vec

    spread = series.std(0, dtype=np.float64)  # in float32 the mean of a long constant series is not that constant
    varying = np.flatnonzero(spread > 1e-6 * np.abs(series).max(0, initial=0))
    r = np.eye(series.shape[1])
    if len(varying) > 1:
        measure = ConnectivityMeasure(kind="correlation")
        r[np.ix_(varying, varying)] = measure.fit_transform([series[:, varying]])[0]
    return np.arctanh(np.clip(sym_matrix_to_vec(r, discard_diagonal=True), -LIMIT, LIMIT)).astype(np.float32)
