import nibabel as nib
import numpy as np
import pytest

from custom.metrics import BlockMeans, StoredFeatures, Unavailable
from custom.metrics.features import column_table


def image(path, array) -> str:
    nib.save(nib.Nifti1Image(np.asarray(array, np.float32), np.eye(4)), path)
    return str(path)


def test_numbers_are_averaged_over_rescans_and_texts_kept():
    units = {"a": [{"Age": 70, "Sex": "F"}, {"Age": 72, "Sex": "F"}], "b": [{"Age": 65, "Sex": "M"}]}
    table = column_table(units, ["Age", "Sex"])
    assert table.loc["a"].tolist() == [71.0, "F"]
    assert table.loc["b"].tolist() == [65.0, "M"]


def test_column_that_nobody_has():
    with pytest.raises(Unavailable, match="nWBV"):
        column_table({"a": [{"Age": 70, "nWBV": None}], "b": [{"Age": 71}]}, ["Age", "nWBV"])


@pytest.mark.parametrize("missing", [None, float("nan"), ""])
def test_value_that_some_lack_names_them(missing):
    with pytest.raises(ValueError, match="'Age' for b"):
        column_table({"a": [{"Age": 70}], "b": [{"Age": missing}]}, ["Age"])


def test_text_that_differs_within_a_unit():
    with pytest.raises(ValueError, match="a has several values of 'Sex'"):
        column_table({"a": [{"Sex": "F"}, {"Sex": "M"}]}, ["Sex"])


def test_block_means_of_a_known_slice(tmp_path):
    path = image(tmp_path / "x.nii", np.kron([[1, 2], [3, 4]], np.ones((3, 5)))[..., None])
    assert BlockMeans(2)([{"image": path}])[""].tolist() == [1, 2, 3, 4]


def test_volume(tmp_path):
    path = image(tmp_path / "x.nii", np.kron(np.arange(8).reshape(2, 2, 2), np.ones((4, 4, 4))))
    assert BlockMeans(2)([{"image": path}])[""].tolist() == list(range(8))


def test_views_are_concatenated_and_rescans_averaged(tmp_path):
    paths = [image(tmp_path / f"{i}.nii", np.full((4, 4), float(i))) for i in range(4)]
    planes = ["sagittal", "axial", "axial", "sagittal"]
    rows = [{"image": p, "plane": plane} for p, plane in zip(paths, planes, strict=True)]
    assert BlockMeans(1).table({"a": rows}).tolist() == [[1.5, 1.5]]
    assert BlockMeans(1).table({"a": rows[:2], "b": rows[2:]}).tolist() == [[1, 0], [2, 3]]


def test_units_with_other_views_are_named(tmp_path):
    path = image(tmp_path / "x.nii", np.zeros((4, 4)))
    units = {"a": [{"image": path, "plane": "axial"}], "b": [{"image": path, "plane": "coronal"}]}
    with pytest.raises(ValueError, match="^b: other views"):
        BlockMeans(2).table(units)


def test_nan_image_is_named(tmp_path):
    with pytest.raises(ValueError, match="x.nii: needs a finite"):
        BlockMeans(2)([{"image": image(tmp_path / "x.nii", np.full((4, 4), np.nan))}])


@pytest.mark.parametrize("line", ["a,0,much", ",0,0.5"])
def test_a_damaged_table_of_features_is_named(tmp_path, line):
    (tmp_path / "features.csv").write_text(f"subject,label,f0\n{line}\n")
    with pytest.raises(ValueError, match=r"features\.csv is damaged .*: run the training's stages again"):
        StoredFeatures([str(tmp_path / "features.csv")])({"a": []})
