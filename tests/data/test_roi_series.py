from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from custom.data.roi_series import find_roi_series, read_roi_series

SERIES = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_real_series(real_data: Path):
    folder = real_data / "abide" / "roi_ts_aal116"
    found = find_roi_series(folder)
    assert len(found) == 50
    assert Path(found["0050102"]) == folder.absolute() / "OLIN_0050102_aal116.npz"
    shapes = {read_roi_series(path).shape for path in found.values()}
    assert shapes <= {(t, 116) for t in range(100, 300)}
    assert read_roi_series(found["0050102"]).shape == (205, 116)


def test_1d_with_the_header_of_the_pcp(tmp_path: Path):
    path = tmp_path / "Pitt_0050003_rois_aal.1D"
    path.write_text("#2001\t#2002\t#2101\n" + "\n".join("\t".join(map(str, row)) for row in SERIES))
    series = read_roi_series(path)
    np.testing.assert_array_equal(series, SERIES)
    assert series.dtype == np.float32


def npz(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": SERIES, "b": SERIES}, r"holds the arrays \['a', 'b'\]"),
        ({"a": SERIES[0]}, r"shape \(3,\)"),
        ({"a": SERIES[:0]}, r"shape \(0, 3\)"),
        ({"a": SERIES.astype(str)}, "array of <U"),
        ({"a": SERIES.astype(object)}, "Object arrays cannot be loaded"),
        ({"a": np.where(SERIES == 5, np.nan, SERIES)}, "1 values are NaN"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, arrays: dict, message: str):
    with pytest.raises(ValueError, match=rf"a\.npz: .*{message}"):
        read_roi_series(npz(tmp_path, **arrays))


def test_damaged_files_are_named(tmp_path: Path):
    path = npz(tmp_path, a=SERIES)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"a\.npz: not a table of ROI series"):
        read_roi_series(path)
    (tmp_path / "a.1D").write_text("#1 #2\n1 2\n1 x\n")
    with pytest.raises(ValueError, match=r"a\.1D: not a table of ROI series"):
        read_roi_series(tmp_path / "a.1D")


def test_two_atlases_of_one_subject(tmp_path: Path):
    for name in ("Pitt_0050003_rois_aal.1D", "Pitt_0050003_rois_cc200.1D"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"rois_aal.1D and .*rois_cc200.1D are both of subject 0050003"):
        find_roi_series(tmp_path)
    with pytest.raises(FileNotFoundError, match="give --roi_dir"):
        find_roi_series(tmp_path / "absent")
