from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.signal import detrend
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from custom.data.haxby import CLASSES, read_study
from custom.metrics import LinearSVM
from custom.phantoms.bold import brain_mask
from custom.phantoms.haxby import STARTS, TR, activation, draw_patterns, region, simulate_subject, write_study
from custom.transforms.load_bold import LoadBOLDd

SHAPE = (10, 12, 6)
SMALL = {"n_subjects": 2, "n_runs": 2, "shape": SHAPE}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("haxby"), **SMALL)


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def accuracy(effect: float, n_runs: int) -> float:
    """Of a linear SVM per frame; leave one run out. Every run is detrended and z-scored."""
    shape = (12, 14, 6)
    scan, labels = simulate_subject(1, n_runs, effect, shape)
    runs = [detrend(run, axis=0) for run in np.split(scan[:, brain_mask(shape)], n_runs)]
    x, y, groups = np.concatenate([r / r.std(0) for r in runs]), np.array(labels), np.repeat(np.arange(n_runs), 121)
    shown = y != "rest"
    model = make_pipeline(StandardScaler(), LinearSVM())
    return cross_val_score(model, x[shown], y[shown], groups=groups[shown], cv=LeaveOneGroupOut()).mean()


def test_files_are_named_as_nilearn_fetches_them(raw: Path):
    study = raw / "haxby2001"
    assert sorted(p.name for p in study.iterdir()) == ["mask.nii.gz", "subj1", "subj2"]
    assert sorted(p.name for p in (study / "subj2").iterdir()) == ["bold.nii.gz", "labels.txt", "mask4_vt.nii.gz"]
    image = nib.load(study / "subj1" / "bold.nii.gz")
    assert (image.shape, image.get_data_dtype()) == ((*SHAPE, 242), np.int16)
    assert (image.header.get_zooms()[3], image.header.get_xyzt_units()) == (2.5, ("mm", "sec"))
    for mask in (study / "mask.nii.gz", study / "subj1" / "mask4_vt.nii.gz"):
        assert set(np.unique(nib.load(mask).get_fdata())) == {0, 1}
    lines = (study / "subj1" / "labels.txt").read_text().splitlines()
    assert lines[:2] == ["labels chunks", "rest 0"]
    assert Counter(line.split()[0] for line in lines[1:]) == {"rest": 98, **dict.fromkeys(CLASSES, 18)}


def test_it_is_read_as_a_synthetic_study(raw: Path):
    study = read_study(str(raw))
    assert study.synthetic
    assert [r.name for r in study.records] == [f"sub-{s}_run-0{r}" for s in (1, 2) for r in (1, 2)]
    assert study.records[3].inputs["frame_range"] == "121:242"
    assert len({tuple(e.label for e in r.events) for r in study.records}) == 4  # another order in each run
    data = LoadBOLDd()({"image": study.records[3].image, **study.records[3].inputs})
    assert data["image"].shape == (121, *SHAPE)
    np.testing.assert_array_equal(data["mask"][0], brain_mask(SHAPE))


def test_blocks_begin_as_in_the_real_runs(raw: Path, real_data: Path):
    real = read_study(str(real_data / "haxby"), image="bold_25mm.nii.gz").records
    ours = read_study(str(raw)).records
    moments = [(e.onset, e.duration) for e in ours[0].events]
    assert moments == [(TR * start, 22.5) for start in STARTS]
    assert all([(e.onset, e.duration) for e in r.events] == moments for r in [*real, *ours])


def test_the_same_seed_writes_the_same_bytes_another_seed_others(raw: Path, tmp_path: Path):
    same, other = hashes(write_study(tmp_path / "a", **SMALL)), hashes(write_study(tmp_path / "b", **SMALL, seed=1))
    assert same == hashes(raw)
    assert not {same[k] for k in same if "bold.nii" in k} & set(other.values())


def test_a_study_begins_with_the_smaller_one(raw: Path, tmp_path: Path):
    smaller = write_study(tmp_path / "raw", **SMALL | {"n_subjects": 1, "n_runs": 1})
    assert not (smaller / "haxby2001" / "subj2").exists()
    first, both = (nib.load(r / "haxby2001" / "subj1" / "bold.nii.gz").get_fdata() for r in (smaller, raw))
    np.testing.assert_array_equal(first, both[..., :121])


def test_patterns_overlap_and_those_of_faces_and_houses_are_stronger():
    shape = (12, 14, 6)
    patterns, inside = draw_patterns(1, shape), region(shape)
    assert inside.sum() >= 20
    assert not (inside & ~brain_mask(shape)).any()
    np.testing.assert_array_equal(inside, inside[::-1])
    for kind, pattern in patterns.items():
        assert not pattern[~inside].any()
        np.testing.assert_allclose(pattern[inside].mean(), 1, atol=1e-5)
        np.testing.assert_allclose(pattern[inside].std(), 1.5 if kind in ("face", "house") else 1, rtol=1e-5)
    correlations = np.corrcoef([p[inside] for p in patterns.values()])[np.triu_indices(8, 1)]
    assert np.abs(correlations).max() < 0.8
    assert np.abs(draw_patterns(2, shape)["cat"] - patterns["cat"]).max() > 0.5  # another subject, another pattern


def test_the_effect_is_the_response_and_nothing_else():
    (scan, labels), (null, same) = (simulate_subject(1, 1, effect, SHAPE) for effect in (2.0, 0.0))
    assert labels == same
    order = [labels[start] for start in STARTS]
    percent = 100 * (scan - null) / null.mean(0)
    inside = brain_mask(SHAPE)
    expected = 2 * activation(order, draw_patterns(1, SHAPE))[:, inside]
    np.testing.assert_allclose(percent[:, inside], expected, atol=0.5)
    np.testing.assert_array_equal(scan[:, ~inside], null[:, ~inside])


def test_labels_need_no_delay():
    """Frame by frame, what a label says agrees best with the response when it is not moved."""
    order, one = list(CLASSES), np.ones((1, 1, 1), np.float32)
    course = activation(order, dict.fromkeys(order, one))[:, 0, 0, 0]
    boxes = np.zeros(121)
    for start in STARTS:
        boxes[start : start + 9] = 1
    fits = {delay: np.corrcoef(np.roll(boxes, delay), course)[0, 1] for delay in range(-4, 5)}
    assert max(fits, key=fits.__getitem__) == 0
    assert fits[0] > 0.9


def test_the_truth_is_written_for_tests(raw: Path):
    assert len(list((raw / "truth").iterdir())) == 16
    cat = nib.load(raw / "truth" / "sub-2_cat.nii.gz")
    np.testing.assert_allclose(cat.get_fdata(), 0.6 * draw_patterns(2, SHAPE)["cat"], rtol=1e-5)
    np.testing.assert_allclose(cat.affine, nib.load(raw / "haxby2001" / "subj2" / "bold.nii.gz").affine, rtol=1e-6)


def test_objects_are_known_from_the_effect_alone():
    assert 0.5 < accuracy(0.6, n_runs=8) < 0.7  # of eight real runs 0.56-0.62
    assert 0.05 < accuracy(0.0, n_runs=5) < 0.2  # chance is 0.125


def test_nobody_and_nothing_are_refused(tmp_path: Path):
    for options in ({"n_subjects": 0}, {"n_runs": 0}):
        with pytest.raises(ValueError, match="are no study: give 1 or more"):
            write_study(tmp_path, **options)


def test_real_data_are_not_overwritten(tmp_path: Path):
    (tmp_path / "haxby2001").mkdir()
    with pytest.raises(FileExistsError, match="may be real scans"):
        write_study(tmp_path)
