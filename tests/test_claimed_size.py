from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom.claimed_size import refuse_claims
from custom.errors import BadScan

NOISE = np.random.default_rng(0).integers(-9999, 9999, (16, 16, 8, 20), dtype=np.int16)


def claiming(path: Path, frames: int) -> Path:
    """Write a scan of 20 frames whose header speaks of others."""
    content = bytearray(nib.Nifti1Image(NOISE, np.eye(4)).to_bytes())
    content[48:50] = struct.pack("<h", frames)
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else bytes(content))
    return path


@pytest.mark.parametrize("frames", [21, 148, 20 + 2**14])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_frames_that_are_not_there_are_refused_before_they_are_read(tmp_path: Path, name: str, frames: int):
    """Within what deflating may reach, too."""
    path = claiming(tmp_path / name, frames)
    expected = 352 + frames * NOISE[..., 0].nbytes
    with pytest.raises(BadScan, match=rf"{name}: damaged. Expected {expected} bytes, got {352 + NOISE.nbytes}: copy or fetch"):
        refuse_claims(nib.load(path), path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("frames", [20, 3])
def test_frames_that_are_there_are_not_refused(tmp_path: Path, name: str, frames: int):
    path = claiming(tmp_path / name, frames)
    refuse_claims(nib.load(path), path)


def test_a_file_of_no_voxels_is_refused(tmp_path: Path):
    image = nib.gifti.GiftiImage()
    with pytest.raises(BadScan, match=r"a\.gii: holds a GiftiImage, an image of voxels is wanted"):
        refuse_claims(image, tmp_path / "a.gii")
