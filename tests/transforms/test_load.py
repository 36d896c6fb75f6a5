from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImaged
from nibabel.filebasedimages import ImageFileError

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
    with pytest.raises(ImageFileError, match="Empty file"):
        LoadScand("image", reader="NibabelReader")(scan)


def test_missing_header_says_so(tmp_path: Path) -> None:
    scan = {"image": analyze(tmp_path / "scan.img")}
    (tmp_path / "scan.hdr").unlink()
    with pytest.raises((OSError, ImageFileError), match="scan"):
        LoadScand("image", reader="NibabelReader")(scan)
