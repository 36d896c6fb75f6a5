from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from custom.errors import BadScan
from custom.mat_file import dataset, fmri_data

FRAMES = np.random.default_rng(0).integers(0, 255, (40, 8, 16, 16), dtype=np.uint8)


def write(path: Path, claimed: int, compression: str | None = "gzip") -> str:
    """Write 40 frames where the header speaks of others."""
    with h5py.File(path, "w") as file:
        shape, chunks = (claimed, *FRAMES.shape[1:]), (1, *FRAMES.shape[1:])
        made = file.create_dataset("fMRIdata/orig", shape, np.uint8, chunks=chunks, compression=compression)
        made[:40] = FRAMES
    return str(path)


def read(path: str) -> np.ndarray:
    with fmri_data(path) as group:
        return dataset(group, "orig")[()]


@pytest.mark.parametrize("compression", ["gzip", None])
def test_frames_that_were_never_written_are_refused(tmp_path: Path, compression: str | None):
    """HDF5 would read them as zeros."""
    np.testing.assert_array_equal(read(write(tmp_path / "a.mat", 40, compression)), FRAMES)
    with pytest.raises(BadScan, match=rf"b\.mat: damaged, or not written to its end. .* claims .* {FRAMES.nbytes} are there"):
        read(write(tmp_path / "b.mat", 50, compression))


def test_zeros_that_were_written_are_read(tmp_path: Path):
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file.create_dataset("fMRIdata/orig", data=np.zeros((100, 64, 64, 8), np.uint8), compression="gzip")
    assert (tmp_path / "a.mat").stat().st_size < 100 * 64 * 64 * 8 / 100
    assert read(str(tmp_path / "a.mat")).shape == (100, 64, 64, 8)


def test_an_array_without_storage_is_refused(tmp_path: Path):
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file.create_dataset("fMRIdata/orig", (40, 8, 16, 16), np.uint8)
    with pytest.raises(BadScan, match=r"a\.mat: damaged, or not written .* 0 are there at most"):
        read(str(tmp_path / "a.mat"))
