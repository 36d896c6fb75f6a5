from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom.errors import BadScan
from custom.inflate import bytes_held, voxels_of
from custom.transforms import LoadScand
from custom.transforms.load_bold import load_nifti

VOXELS = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6, 7)).astype(np.int16)


def save(path: Path, voxels: np.ndarray = VOXELS) -> Path:
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    return path


def flip_checksum(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # CRC-32 and length, four bytes each, end a gzip file
    path.write_bytes(bytes(content))
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ", "a.img.gz"])
def test_voxels_are_those_of_nibabel(tmp_path: Path, name: str):
    image = nib.load(save(tmp_path / name))
    with voxels_of(image) as voxels:
        np.testing.assert_array_equal(voxels[..., 2:5], VOXELS[..., 2:5])
        np.testing.assert_array_equal(voxels, image.dataobj)


def test_scaled_voxels_are_those_of_nibabel(tmp_path: Path):
    image = nib.Nifti1Image(VOXELS, np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "a.nii.gz")
    loaded = nib.load(tmp_path / "a.nii.gz")
    with voxels_of(loaded) as voxels:
        np.testing.assert_array_equal(voxels, loaded.get_fdata())


@pytest.mark.parametrize("name", ["a.nii.gz", "a.img.gz"])
def test_a_wrong_checksum_is_refused(tmp_path: Path, name: str):
    """nibabel, which reads up to the last voxel and no further, takes the file."""
    path = flip_checksum(save(tmp_path / name))
    np.testing.assert_array_equal(nib.load(path).dataobj, VOXELS)
    with pytest.raises(BadScan, match=f"{name}: damaged"):
        load_nifti(str(path))
    with pytest.raises(BadScan, match=f"{name}: damaged.*CRC check failed"):
        LoadScand(keys="image", reader="NibabelReader")({"image": path})


def test_the_checksum_of_a_file_larger_than_a_buffer(tmp_path: Path):
    """Of a small one the checksum is in memory, and compared, as soon as the voxels are."""
    noise = np.random.default_rng(0).integers(-30000, 30000, (32, 32, 32, 32)).astype(np.int16)
    path = save(tmp_path / "a.nii.gz", noise)
    assert path.stat().st_size > 1 << 20
    content = bytearray(path.read_bytes())
    path.write_bytes(bytes(content[:-8]) + b"1234" + bytes(content[-4:]))
    with pytest.raises(BadScan, match=r"a\.nii\.gz: damaged.*CRC check failed"):
        load_nifti(str(path))


def test_some_frames_do_not_spare_the_checksum(tmp_path: Path):
    with pytest.raises(BadScan, match="CRC check failed"):
        load_nifti(str(flip_checksum(save(tmp_path / "a.nii.gz"))), frames=(0, 2))


def test_a_broken_stream_is_refused(tmp_path: Path):
    path = save(tmp_path / "a.nii.gz", np.zeros((9, 9, 9, 9), np.int16))
    content = path.read_bytes()
    path.write_bytes(content[:-9] + b"\xff" * 9)
    with pytest.raises(BadScan, match=r"a\.nii\.gz: damaged"):
        load_nifti(str(path))
    path.write_bytes(content[:-9])
    with pytest.raises(BadScan, match=r"a\.nii\.gz: damaged"):
        load_nifti(str(path))


def test_a_mask_whose_file_is_smaller_than_a_head(tmp_path: Path):
    """A block of ones packs into less than the 352 bytes in front of its voxels."""
    image = save(tmp_path / "a.nii.gz")
    mask = save(tmp_path / "mask.nii.gz", np.ones((4, 5, 6), np.uint8))
    assert mask.stat().st_size < 352
    assert load_nifti(str(image), str(mask))[1].shape == (1, 4, 5, 6)


def test_a_usual_claim_costs_no_pass_through_the_file(tmp_path: Path):
    """It is broken in the middle, which nobody notices here: the reader of the voxels will."""
    path = save(tmp_path / "a.nii.gz")
    content = path.read_bytes()
    path.write_bytes(content[:300] + bytes(300) + content[600:])
    claimed = 352 + VOXELS.nbytes
    assert bytes_held(path, claimed) == claimed
    with pytest.raises((zlib.error, OSError)):
        bytes_held(path, claimed + 1)


def test_any_other_claim_is_counted(tmp_path: Path):
    path = save(tmp_path / "a.nii.gz")
    held = 352 + VOXELS.nbytes
    assert bytes_held(path, 4 * held) == held
    assert bytes_held(path, 2**32 + held) == held  # which the length at the end of the file does not contradict
    plain = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(plain[:500]) + gzip.compress(plain[500:]))  # whose last length is of a part
    assert bytes_held(path, held) == held
    path.write_bytes(path.read_bytes() + bytes(512))  # a tape's blocks
    assert bytes_held(path, held) == held
