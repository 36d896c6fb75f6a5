from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from generation_cases import CLASSES, FRAMES, GRID, brain, data, process, write_samples, write_study

from custom.metrics.window_set import WindowSet, brain_of, halves, matched, read_generation, read_real, read_samples


def labelled(labels: list[int], runs: list[str] | None = None) -> WindowSet:
    """Windows of one voxel that holds their number."""
    values = np.arange(len(labels), dtype=np.float32).reshape(-1, 1, 1, 1, 1)
    return WindowSet(values, np.array(labels), np.array(runs or ["a"] * len(labels)))


def test_what_is_read_is_what_was_written(tmp_path: Path):
    fake, train, test = process(2, 0), process(3, 1), process(1, 2)
    datalist = write_study(tmp_path, train, test)
    found = read_generation(write_samples(tmp_path / "samples", fake), datalist, FRAMES)
    for name, written in (("fake", fake), ("train", train), ("test", test)):
        read = getattr(found, name)
        np.testing.assert_array_equal(read.values, written.values)
        np.testing.assert_array_equal(read.labels, written.labels)
    assert (found.mask == brain()).all()
    assert set(found.test.runs) == {"test"}
    assert found.classes == [0, 1, 2, 3]


def test_classes_are_those_that_all_three_sets_have():
    assert data(process(2, 0).of([0, 1, 3]), test=process(1, 2).of([1, 2, 3])).classes == [1, 3]
    unlabelled = WindowSet(process(2, 0).values, np.full(8, -1), np.full(8, ""))
    assert data(unlabelled).classes == []
    assert data(unlabelled, unlabelled, unlabelled).classes == []  # rest is no class


def test_brain_is_every_voxel_that_varies_in_one_of_the_runs(tmp_path: Path):
    for name, voxel in (("a", 0), ("b", 2)):
        run = np.zeros((3, 1, 1, 5), np.float32)
        run[voxel, ..., 4] = 1
        nib.save(nib.Nifti1Image(run, np.eye(4)), tmp_path / f"{name}.nii")
    paths = [str(tmp_path / f"{name}.nii") for name in "ab"]
    assert brain_of(paths).ravel().tolist() == [True, False, True]
    nib.save(nib.Nifti1Image(np.ones((3, 2, 1, 5), np.float32), np.eye(4)), tmp_path / "c.nii")
    with pytest.raises(ValueError, match="c.nii: grid"):
        brain_of([*paths, str(tmp_path / "c.nii")])
    nib.save(nib.Nifti1Image(np.zeros((3, 1, 1, 5), np.float32), np.eye(4)), tmp_path / "d.nii")
    with pytest.raises(ValueError, match="no voxel"):
        brain_of([str(tmp_path / "d.nii")])


def test_matched_sets_have_the_same_labels_in_the_same_numbers():
    a, b = matched(labelled([0, 0, 0, 1, 2]), labelled([1, 1, 0, 0, 3]), seed=1)
    assert a.labels.tolist() == b.labels.tolist() == [0, 0, 1]
    assert len(np.unique(a.values)) == 3
    assert len({tuple(matched(labelled([0] * 9), labelled([0]), seed=s)[0].values.ravel()) for s in range(20)}) > 3


def test_halves_are_of_runs_or_of_the_windows_of_one_run():
    for first, second in halves(labelled([0, 1, 0, 1, 0, 1], ["a", "a", "b", "b", "c", "c"])):
        assert not set(first.runs) & set(second.runs)
        assert sorted([*first.values.ravel(), *second.values.ravel()]) == list(range(6))
    pairs = list(halves(labelled([0, 1, 2, 3]), repeats=8))
    assert {(len(a), len(b)) for a, b in pairs} == {(2, 2)}
    assert len({tuple(a.values.ravel()) for a, _ in pairs}) > 2
    assert list(halves(labelled([0]))) == []


def test_one_label_and_run_per_window():
    with pytest.raises(ValueError, match="2 windows, 1 labels"):
        WindowSet(np.zeros((2, 1, 1, 1, 1)), np.zeros(1, int), np.zeros(2, str))


def test_missing_samples_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="samples.json does not exist: run generate.json"):
        read_samples(tmp_path, CLASSES, FRAMES)
    folder = write_samples(tmp_path / "s", process(1, 0))
    (folder / "z/s2.npy").unlink()
    with pytest.raises(FileNotFoundError, match="s2.npy"):
        read_samples(folder, CLASSES, FRAMES)


@pytest.mark.parametrize("changes", [{"class_names": ["a"]}, {"space": "signal"}, {"samples": []}])
def test_samples_of_another_model_or_space_are_refused(tmp_path: Path, changes: dict):
    folder = write_samples(tmp_path / "s", process(1, 0), **changes)
    with pytest.raises(ValueError, match="samples.json: .* generate again"):
        read_samples(folder, CLASSES, FRAMES)


def test_samples_of_another_length_grid_or_class_are_named(tmp_path: Path):
    folder = write_samples(tmp_path / "s", process(1, 0))
    with pytest.raises(ValueError, match=r"s0.npy: a window of shape \(6, 9, 8, 1\), \(5, 9, 8, 1\)"):
        read_samples(folder, CLASSES, 5)
    np.save(folder / "z/s1.npy", np.zeros((FRAMES, 9, 7, 1)))
    with pytest.raises(ValueError, match="s1.npy"):
        read_samples(folder, CLASSES, FRAMES)
    content = json.loads((folder / "samples.json").read_text())
    content["samples"][0]["label"] = 4
    (folder / "samples.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="s0.npy: label 4"):
        read_samples(folder, CLASSES, FRAMES)


def test_a_window_beyond_its_run_is_named(tmp_path: Path):
    rows = write_study(tmp_path, process(2, 0), process(1, 1))["training"]
    with pytest.raises(ValueError, match=r"6 of the 7 frames from frame \d+ on were measured"):
        read_real(rows, FRAMES + 1)


def test_samples_with_nan_and_an_empty_part_are_refused(tmp_path: Path):
    fake = process(1, 0)
    fake.values[2] = np.nan
    datalist = write_study(tmp_path, process(2, 1), process(1, 2))
    folder = write_samples(tmp_path / "samples", fake)
    with pytest.raises(ValueError, match="samples: NaN or infinite voxels in 1 windows, first in window 2"):
        read_generation(folder, datalist, FRAMES)
    with pytest.raises(ValueError, match="no rows in test"):
        read_generation(folder, datalist | {"test": []}, FRAMES)


def test_samples_on_another_grid_than_the_runs_are_refused(tmp_path: Path):
    fake = process(1, 0)
    datalist = write_study(tmp_path, process(2, 1), process(1, 2))
    folder = write_samples(tmp_path / "samples", WindowSet(fake.values[:, :, :5], fake.labels, fake.runs))
    with pytest.raises(ValueError, match=f"samples: .*{GRID[0]}, {GRID[1]}.* does not fit"):
        read_generation(folder, datalist, FRAMES)
