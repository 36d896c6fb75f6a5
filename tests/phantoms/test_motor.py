from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.signal import detrend
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from custom.metrics import LinearSVM
from custom.phantoms.bold import brain_mask
from custom.phantoms.motor import CODES, activation, draw_design, draw_people, region, simulate_person, write_study
from custom.phantoms.task_bold import TR

SHAPE = (10, 12, 8)
LIMBS = (3, 4, 5, 6)
SMALL = {"n_subjects": 2, "n_runs": 2, "shape": SHAPE, "conditions": LIMBS}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("motor"), **SMALL)


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def accuracies(effect: float, delays: tuple[float, ...]) -> list[float]:
    """Of a linear SVM on run-centred block means that begin so many seconds after the block; leave one subject out."""
    runs, shape = [], (18, 20, 14)
    for person in draw_people(5):
        for scan, events in simulate_person(person, 2, effect, shape, conditions=LIMBS):
            series = detrend(scan[:, brain_mask(shape)], axis=0)
            runs.append((person.number, series / series.std(0), events[events["trial_type"] > 0]))
    labels = [code for *_, blocks in runs for code in blocks["trial_type"]]
    subjects = [number for number, _, blocks in runs for _ in range(len(blocks))]
    model = make_pipeline(StandardScaler(), LinearSVM())
    scores = []
    for delay in delays:
        x = np.concatenate([block_means(series, blocks["onset"] + delay) for _, series, blocks in runs])
        scores.append(cross_val_score(model, x, labels, groups=subjects, cv=LeaveOneGroupOut()).mean())
    return scores


def block_means(series: np.ndarray, starts: pd.Series) -> np.ndarray:
    means = np.stack([series[s : s + 8].mean(0) for s in np.rint(starts / TR).astype(int)])
    return means - means.mean(0)


def test_files_are_named_as_in_the_real_dataset(raw: Path):
    names = sorted(p.name for p in (raw / "sub-02" / "ses-1" / "func").iterdir())
    stems = ("sub-02_ses-1_task-motor_run-01", "sub-02_ses-1_task-motor_run-02")
    assert names == [f"{stem}_{kind}" for stem in stems for kind in ("bold.nii.gz", "events.tsv")]
    assert sorted(p.name for p in raw.iterdir()) == [
        "SYNTHETIC",
        "dataset_description.json",
        "participants.tsv",
        "sub-01",
        "sub-02",
        "task-motor_bold.json",
        "truth",
        "truth.csv",
    ]


def test_headers_and_tables_read_like_the_real_ones(raw: Path):
    assert json.loads((raw / "task-motor_bold.json").read_text())["RepetitionTime"] == TR
    people = pd.read_csv(raw / "participants.tsv", sep="\t")
    assert list(people.columns) == ["participant_id", "age", "sex", "group"]
    run = raw / "sub-01" / "ses-1" / "func" / "sub-01_ses-1_task-motor_run-01_bold.nii.gz"
    image = nib.load(run)
    assert image.shape == (*SHAPE, 88)  # 4 conditions twice and 3 rests, 16 s each
    assert image.header.get_zooms()[3] == TR
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    lines = run.with_name(run.name.replace("bold.nii.gz", "events.tsv")).read_text().splitlines()
    assert lines[:2] == ["onset\tduration\ttrial_type", "0\t16\t0"]
    assert len(lines) == 12


def test_the_same_seed_writes_the_same_bytes_another_seed_others(raw: Path, tmp_path: Path):
    same, other = hashes(write_study(tmp_path / "a", **SMALL)), hashes(write_study(tmp_path / "b", **SMALL, seed=1))
    assert same == hashes(raw)
    assert not {same[k] for k in same if "bold.nii" in k} & set(other.values())


def test_a_study_begins_with_the_smaller_one(raw: Path, tmp_path: Path):
    smaller = hashes(write_study(tmp_path / "raw", **SMALL | {"n_subjects": 1, "n_runs": 1}))
    runs = {k: v for k, v in smaller.items() if "sub-01" in k}
    assert len(runs) == 2
    assert runs.items() <= hashes(raw).items()


def test_a_smaller_study_leaves_nothing_of_the_larger(tmp_path: Path):
    for n_subjects in (2, 1):
        write_study(tmp_path / "raw", **SMALL | {"n_subjects": n_subjects, "n_runs": 1})
    assert [p.name for p in (tmp_path / "raw").glob("sub-*")] == ["sub-01"]


def structure(codes: list[int]) -> None:
    """Assert what all 108 real runs have in common."""
    assert codes == codes[::-1]
    assert [i for i, code in enumerate(codes) if code == 0] == [0, 7, 14, 21, 28]
    assert sorted(codes[:14]) == [0, 0, *CODES]
    assert len({code % 2 for code in codes[1:7]}) == 1


def test_designs_are_mirrored_like_the_real_ones(real_data: Path):
    files = sorted((real_data / "somatotopy" / "ds004044").glob("sub-*/ses-1/func/*_events.tsv"))
    assert len(files) == 108
    drawn = [draw_design(CODES, np.random.default_rng(seed)) for seed in range(20)]
    for table in [*(pd.read_csv(f, sep="\t") for f in files), *drawn]:
        structure(list(table["trial_type"]))
        np.testing.assert_array_equal(table["onset"], 16 * np.arange(29))
        assert set(table["duration"]) == {16}
    assert len({tuple(table["trial_type"]) for table in drawn}) == 20


def test_few_conditions_make_a_short_run_with_each_of_them_twice():
    codes = list(draw_design(LIMBS, np.random.default_rng(0))["trial_type"])
    assert codes == codes[::-1]
    assert sorted(codes) == [0, 0, 0, 3, 3, 4, 4, 5, 5, 6, 6]
    assert [codes[i] for i in (0, 5, 10)] == [0, 0, 0]


@pytest.mark.parametrize("shape", [SHAPE, (18, 20, 14)])
def test_a_left_right_flip_swaps_the_legs_and_nothing_else(shape: tuple[int, int, int]):
    np.testing.assert_allclose(region(3, shape), region(4, shape)[::-1], atol=1e-6)
    right_half = region(3, shape)[shape[0] // 2 :]
    assert right_half.sum() > 2 * region(4, shape)[shape[0] // 2 :].sum()  # the left leg is moved from the right
    for code in set(CODES) - {3, 4}:
        np.testing.assert_allclose(region(code, shape), region(code, shape)[::-1], atol=1e-6)


def test_codes_follow_each_other_along_the_strip_and_neighbours_overlap():
    maps = {code: region(code, (18, 20, 14)) for code in CODES}
    order = [1, 2, 3, 6, 5, 7, 8, 9, 10, 11, 12]
    height = [np.average(np.arange(14), weights=maps[code].sum((0, 1))) for code in order]
    assert (np.diff(height) < 0).all()
    overlap = {code: (maps[5] * maps[code]).sum() / (maps[5] ** 2).sum() for code in (6, 4, 12)}
    assert overlap[6] > 0.4 > overlap[4] > overlap[12]
    assert min(m.max() for m in maps.values()) > 0.7


def test_the_effect_is_the_response_at_each_code_s_focus_and_nothing_else():
    person = next(draw_people(1))
    (scan, events), (null, _) = (next(simulate_person(person, 1, e, SHAPE, conditions=LIMBS)) for e in (3.0, 0.0))
    inside = brain_mask(SHAPE)
    np.testing.assert_array_equal(scan[:, ~inside], null[:, ~inside])
    percent = 100 * (scan - null)[:, inside] / null[:, inside].mean(0)
    expected = 3 * person.amplitude * activation(events, SHAPE, person.shift)[:, inside]
    np.testing.assert_allclose(percent, expected, atol=0.15)


def test_the_response_peaks_at_the_shifted_focus_within_a_block_s_delay():
    events, shift = draw_design(LIMBS, np.random.default_rng(0)), (0.5, -0.5, 0.5)
    for code in LIMBS:
        blocks = events[events["trial_type"] == code]
        response = activation(blocks, SHAPE, shift)
        np.testing.assert_allclose(np.ptp(response, 0), region(code, SHAPE, shift), atol=1e-5)
        course, onset = response.max((1, 2, 3)), blocks["onset"].iloc[0]
        assert 6 <= TR * course[: round(onset / TR) + 12].argmax() - onset <= 22


def test_the_truth_is_written_for_tests(raw: Path):
    truth = pd.read_csv(raw / "truth.csv")
    assert list(truth["subject"]) == ["sub-01", "sub-02"]
    assert truth[["x", "y", "z"]].abs().max(axis=None) <= 0.5
    assert len(list((raw / "truth").iterdir())) == 12
    left_leg = nib.load(raw / "truth" / "code03.nii.gz")
    peak = np.unravel_index(left_leg.get_fdata().argmax(), SHAPE)
    assert nib.affines.apply_affine(left_leg.affine, peak)[0] > 5  # mm to the right


def test_real_events_are_replayed(real_data: Path, tmp_path: Path):
    folder = real_data / "somatotopy" / "ds004044"
    write_study(tmp_path, n_subjects=1, n_runs=7, shape=(6, 6, 5), events_dir=folder)
    for run, real in ((1, 1), (6, 6), (7, 1)):
        written = next(tmp_path.rglob(f"sub-01_*_run-{run:02d}_events.tsv"))
        expected = folder / "sub-01" / "ses-1" / "func" / f"sub-01_ses-1_task-motor_run-{real:02d}_events.tsv"
        pd.testing.assert_frame_equal(pd.read_csv(written, sep="\t"), pd.read_csv(expected, sep="\t"))
        assert nib.load(str(written).replace("events.tsv", "bold.nii.gz")).shape[3] == 232


def test_movements_of_unseen_subjects_are_known_from_the_effect_alone():
    unshifted, shifted = accuracies(3.0, delays=(0.0, 4.0))
    assert 0.75 < shifted < 0.97
    assert shifted - unshifted > 0.1  # what a label without the haemodynamic delay costs
    assert 0.1 < accuracies(0.0, delays=(4.0,))[0] < 0.4


@pytest.mark.parametrize("conditions", [(), (3, 13), (0, 3)])
def test_only_the_twelve_codes_are_conditions(tmp_path: Path, conditions: tuple[int, ...]):
    with pytest.raises(ValueError, match="some of the codes"):
        write_study(tmp_path, conditions=conditions)


def test_real_data_are_not_overwritten(tmp_path: Path):
    (tmp_path / "sub-01").mkdir()
    with pytest.raises(FileExistsError, match="may be real scans"):
        write_study(tmp_path)


def test_a_folder_without_events_has_nothing_to_replay(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="give --events_dir ds004044"):
        write_study(tmp_path, events_dir=tmp_path / "nothing")
