from __future__ import annotations

import bz2
import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImaged
from PIL import Image

from custom.errors import BadScan
from custom.transforms import LoadScand


def analyze(path: Path) -> str:
    nib.save(nib.AnalyzeImage(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)), path)
    return str(path)


def test_loads_as_monai_does(tmp_path: Path) -> None:
    scan = {"image": analyze(tmp_path / "scan.img")}
    ours, monais = (load("image", reader="NibabelReader")(scan)["image"] for load in (LoadScand, LoadImaged))
    np.testing.assert_array_equal(ours, monais)
    np.testing.assert_array_equal(ours.affine, monais.affine)


def test_no_other_reader_is_tried(tmp_path: Path) -> None:
    """ITK reads the emptied file as zeros; nibabel, which is named, refuses it."""
    scan = {"image": analyze(tmp_path / "scan.img")}
    (tmp_path / "scan.img").write_bytes(b"")
    with pytest.raises(BadScan, match=r"scan\.img: damaged.*Empty file"):
        LoadScand("image", reader="NibabelReader")(scan)


def test_missing_header_says_so(tmp_path: Path) -> None:
    scan = {"image": analyze(tmp_path / "scan.img")}
    (tmp_path / "scan.hdr").unlink()
    with pytest.raises(BadScan, match=r"scan\.img: damaged, or no image"):
        LoadScand("image", reader="NibabelReader")(scan)


# damaged or unsuitable files


def volume(voxels: np.ndarray) -> bytes:
    return nib.Nifti1Image(voxels, np.diag([3.0, 3, 3, 1])).to_bytes()


MASK = volume(np.pad(np.ones((9, 9, 9), np.uint8), 40))
PACK = {".gz": gzip.compress, ".bz2": bz2.compress}


def read(path: Path) -> np.ndarray:
    reader = "PILReader" if path.suffix in (".png", ".jpg") else "NibabelReader"
    return LoadScand("image", reader=reader)({"image": path})["image"].numpy()


@pytest.mark.parametrize("name", ["a.nii.gz", "A.NII.GZ", "a.nii.Gz", "a.nii.bz2", "A.NII.BZ2"])
def test_a_compressed_mask_however_its_suffix_is_written(tmp_path: Path, name: str) -> None:
    """It is packed by more than what deflating reaches."""
    (tmp_path / name).write_bytes(PACK[Path(name.lower()).suffix](MASK))
    assert read(tmp_path / name).sum() == 9**3


@pytest.mark.parametrize("name", ["a.mgz", "A.MGZ"])
def test_a_flipped_bit_of_an_mgz(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    voxels = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    (tmp_path / "b.mgz").write_bytes(nib.MGHImage(voxels, np.eye(4)).to_bytes())
    path.write_bytes(gzip.compress((tmp_path / "b.mgz").read_bytes()))
    np.testing.assert_array_equal(read(path), voxels)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(BadScan, match=rf"{name}: damaged"):
        read(path)


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_an_mgz_of_an_unknown_type(tmp_path: Path, pack: type) -> None:
    content = bytearray(nib.MGHImage(np.zeros((5, 6, 7), np.float32), np.eye(4)).to_bytes())
    content[20:24] = struct.pack(">i", 77)
    path = tmp_path / ("a.mgz" if pack is gzip.compress else "a.mgh")
    path.write_bytes(pack(bytes(content)))
    with pytest.raises(BadScan, match=r"a\.mg.: damaged.*KeyError: 77"):
        read(path)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e30, -5.0])
def test_voxels_that_begin_nowhere(tmp_path: Path, value: float) -> None:
    content = bytearray(MASK)
    content[108:112] = struct.pack("<f", value)
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(BadScan, match=r"a\.nii: damaged"):
        read(tmp_path / "a.nii")


@pytest.mark.parametrize("dtype", ["complex64", [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_voxels_that_are_no_real_numbers(tmp_path: Path, dtype: object) -> None:
    (tmp_path / "a.nii").write_bytes(volume(np.zeros((3, 4, 5), dtype)))
    with pytest.raises(BadScan, match=r"a\.nii: holds .* real numbers are wanted"):
        read(tmp_path / "a.nii")


def picture(path: Path) -> bytearray:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8)).save(path)
    assert read(path).shape == (30, 40)
    return bytearray(path.read_bytes())


def test_every_flipped_bit_of_a_png(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    content = picture(path)
    for position in range(8, len(content) - 12, 11):  # behind it stands its end, which nothing needs
        content[position] ^= 1 << position % 8
        path.write_bytes(content)
        with pytest.raises(BadScan, match=r"a\.png: damaged"):
            read(path)
        content[position] ^= 1 << position % 8


def test_a_jpeg_that_claims_a_billion_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    content = picture(path)
    size = content.index(b"\xff\xc0") + 5
    content[size] |= 0x80
    content[size + 2] |= 0x80
    path.write_bytes(content)
    with pytest.raises(BadScan, match=r"a\.jpg: damaged.*DecompressionBomb"):
        read(path)
