from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from monai.data import MetaTensor

from custom.visualize.maps import Explanation, write_explanations

AFFINE = np.array([[-2.0, 0, 0, 12], [0, 2, 0, -10], [0, 0, 3, 5], [0, 0, 0, 1]])
CLASSES = ["healthy", "ill"]


def explanation(shape: tuple[int, ...] = (12, 10, 8), **changes) -> Explanation:
    volume = torch.zeros(1, *shape)
    volume[0, 3, 4, -1] = 1.0
    background = torch.zeros(1, *shape)
    background[:, 2:-2, 2:-2] = 0.5
    given = {
        "subject": "s1",
        "source": "/raw/s1.img",
        "label": 1,
        "predicted": 0,
        "volume": MetaTensor(volume, affine=AFFINE),
        "background": MetaTensor(background, affine=AFFINE),
        "correlation": 0.25,
    }
    return Explanation(**(given | changes))


def summary_of(folder: Path, *explanations: Explanation) -> dict:
    write_explanations(explanations, CLASSES, str(folder), method="Grad-CAM")
    return json.loads((folder / "maps.json").read_text())


@pytest.mark.parametrize("shape", [(12, 10, 8), (12, 10, 1)])
def test_a_map_is_written_as_it_is_with_a_picture(tmp_path: Path, shape: tuple[int, ...]):
    given = explanation(shape)
    (entry,) = summary_of(tmp_path, given)["maps"]
    written = nib.load(tmp_path / entry["nifti"])
    np.testing.assert_array_equal(np.asarray(written.dataobj), given.volume[0].numpy())
    np.testing.assert_array_equal(written.affine, AFFINE)
    assert imread(tmp_path / entry["png"])[..., :3].std() > 0.01
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([entry["nifti"], entry["png"], "maps.json"])


def test_an_entry_names_the_classes_and_no_place_of_this_machine(tmp_path: Path):
    (entry,) = summary_of(tmp_path, explanation())["maps"]
    assert entry == {
        "subject": "s1", "title": "s1", "source": "s1.img", "label": "ill", "predicted": "healthy",
        "png": "00_s1.png", "nifti": "00_s1.nii.gz", "randomised_weights_correlation": 0.25,
    }  # fmt: skip


def test_an_unknown_label_is_null(tmp_path: Path):
    assert summary_of(tmp_path, explanation(label=None))["maps"][0]["label"] is None


def test_two_scans_of_a_subject_and_odd_names_get_files_of_their_own(tmp_path: Path):
    maps = summary_of(tmp_path, explanation(subject="a/b ü.jpg"), explanation(subject="a/b ü.jpg"))["maps"]
    files = [entry[kind] for entry in maps for kind in ("png", "nifti")]
    assert len(set(files)) == 4
    assert all((tmp_path / name).is_file() and "/" not in name and " " not in name for name in files)


def test_the_mean_correlation_has_an_interval(tmp_path: Path):
    values = [0.1, 0.3, 0.2, 0.6]
    summary = summary_of(tmp_path, *(explanation((6, 6, 1), correlation=v) for v in values))["randomised_weights_correlation"]
    assert summary["mean"] == pytest.approx(0.3)
    assert 0.1 <= summary["low"] < 0.3 < summary["high"] <= 0.6
    assert summary["undefined"] == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5, None, 0.5], {"mean": 0.5, "low": None, "high": None, "undefined": 1}),
        ([0.5], {"mean": 0.5, "low": None, "high": None, "undefined": 0}),
        ([None, None], {"mean": None, "low": None, "high": None, "undefined": 2}),
    ],
)
def test_undefined_correlations_are_counted_not_averaged(tmp_path: Path, values: list[float | None], expected: dict):
    summary = summary_of(tmp_path, *(explanation((6, 6, 1), correlation=v) for v in values))
    assert summary["randomised_weights_correlation"] == expected


@pytest.mark.parametrize("shape", [(12, 10, 8), (12, 10, 1)])
def test_a_map_of_zeros_is_written_too(tmp_path: Path, shape: tuple[int, ...]):
    zeros = MetaTensor(torch.zeros(1, *shape), affine=AFFINE)
    (entry,) = summary_of(tmp_path, explanation(shape, volume=zeros, correlation=None))["maps"]
    assert entry["randomised_weights_correlation"] is None
    assert not nib.load(tmp_path / entry["nifti"]).get_fdata().any()
    assert (tmp_path / entry["png"]).stat().st_size > 2000
