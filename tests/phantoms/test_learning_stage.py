from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.signal import detrend
from sklearn.model_selection import GroupKFold, KFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from custom.metrics import LinearSVM
from custom.phantoms import learning_stage
from custom.phantoms.bold import brain_mask
from custom.phantoms.learning_stage import (
    REGIONS,
    VISUAL,
    WIDTH,
    _read_designs,
    draw_people,
    draw_trials,
    simulate_person,
    write_study,
)
from custom.phantoms.task_bold import TR, focus

SHAPE, FRAMES = (8, 10, 6), 40
SMALL = {"n_subjects": 2, "shape": SHAPE, "n_frames": FRAMES}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("learning"), **SMALL)


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def windows(effect: float, n_subjects: int, seed: int = 0) -> list[tuple[int, int, np.ndarray]]:
    """Subject, stage and event-locked windows (n, 8, V) of every run, detrended and standardised."""
    runs, shape = [], (12, 14, 10)
    for person in draw_people(1, n_subjects, seed):
        for stage, (scan, events) in enumerate(simulate_person(person, effect, shape, 150, seed)):
            series = detrend(scan[:, brain_mask(shape)], axis=0)
            series /= series.std(0)
            start = np.rint(events["onset"].to_numpy() / TR).astype(int)
            runs.append((person.number, stage, np.stack([series[s : s + 8] for s in start])))
    return runs


def test_files_are_named_as_in_the_real_datasets(raw: Path):
    names = sorted(str(p.relative_to(raw)) for p in raw.rglob("sub-01*"))
    a, b = "sub-01_task-probabilisticclassification_run-0", "sub-01_task-weatherprediction_run-"
    kinds = ("bold.nii.gz", "events.tsv")
    assert names == [
        "synthA/sub-01",
        *(f"synthA/sub-01/func/{a}{r}_{kind}" for r in (1, 2) for kind in kinds),
        "synthB/sub-01",
        *(f"synthB/sub-01/func/{b}{r}_{kind}" for r in (1, 2) for kind in kinds),
    ]
    assert (raw / "SYNTHETIC").read_text().startswith("Synthetic study")


@pytest.mark.parametrize(("dataset", "task"), [("synthA", "probabilisticclassification"), ("synthB", "weatherprediction")])
def test_the_root_of_a_dataset_holds_what_its_runs_inherit(raw: Path, dataset: str, task: str):
    assert json.loads((raw / dataset / "dataset_description.json").read_text())["BIDSVersion"]
    assert json.loads((raw / dataset / f"task-{task}_bold.json").read_text())["RepetitionTime"] == TR
    people = pd.read_csv(raw / dataset / "participants.tsv", sep="\t")
    assert list(people["participant_id"]) == ["sub-01", "sub-02"]
    assert people["age"].between(18, 40).all()
    image = nib.load(next(raw.glob(f"{dataset}/sub-02/func/*_bold.nii.gz")))
    assert image.shape == (*SHAPE, FRAMES)
    assert image.header.get_zooms()[3] == TR


def test_the_same_seed_writes_the_same_bytes_another_seed_others(raw: Path, tmp_path: Path):
    same, other = hashes(write_study(tmp_path / "a", **SMALL)), hashes(write_study(tmp_path / "b", **SMALL, seed=1))
    assert same == hashes(raw)
    assert not {same[k] for k in same if "sub-" in k} & set(other.values())


def test_a_study_begins_with_the_smaller_one(raw: Path, tmp_path: Path):
    smaller = hashes(write_study(tmp_path / "raw", n_datasets=1, **SMALL | {"n_subjects": 1}))
    runs = {k: v for k, v in smaller.items() if "sub-01" in k}
    assert len(runs) == 4
    assert runs.items() <= hashes(raw).items()


def test_a_smaller_study_leaves_nothing_of_the_larger(tmp_path: Path):
    for n_datasets in (2, 1):
        write_study(tmp_path / "raw", n_datasets=n_datasets, **SMALL | {"n_subjects": 1})
    assert sorted(p.name for p in (tmp_path / "raw").iterdir()) == ["SYNTHETIC", "synthA", "truth", "truth.csv"]


def test_trials_are_jittered_and_recorded_to_the_end_of_their_response():
    for seed in range(5):
        trials = draw_trials(np.random.default_rng(seed), 150, 0, "weatherprediction")
        assert trials["onset"].diff().dropna().between(6.49, 16.01).all()
        assert 1 <= trials["onset"].iloc[0] <= 3
        assert 250 < trials["onset"].iloc[-1] < 150 * TR - 16
        assert set(trials["trial_type"]) <= {"positive", "negative"}
    assert set(draw_trials(np.random.default_rng(0), 150, 0, "probabilisticclassification")["trial_type"]) == {"feedback"}


def test_people_answer_better_and_better():
    correct = [draw_trials(np.random.default_rng(s), 150, run, "x")["Correct"].to_numpy() for s in range(100) for run in (0, 1)]
    assert set(np.concatenate(correct)) == {-1, 0, 1}
    share = [np.mean([c[-8:] == 1 if late else c[:8] == 1 for c in correct[run::2]]) for run in (0, 1) for late in (0, 1)]
    assert 0.4 < share[0] < share[1] < share[3] < 0.9
    assert share[0] < share[2] < share[3]


@pytest.mark.parametrize("effect", [1.0, 2.0])
def test_the_effect_is_the_response_of_the_stage_s_region_and_nothing_else(effect: float):
    person = next(draw_people(1, 1))
    with_effect, without = (simulate_person(person, e, SHAPE, 60) for e in (effect, 0.0))
    for name, (scan, events), (null, same) in zip(("mtl", "striatum"), with_effect, without, strict=True):
        pd.testing.assert_frame_equal(events, same)
        inside = brain_mask(SHAPE)
        scan, null = scan.astype(float), null.astype(float)
        np.testing.assert_array_equal(scan[:, ~inside], null[:, ~inside])
        percent = 100 * np.ptp(scan - null, axis=0)[inside] / null.mean(0)[inside]
        expected = effect * person.amplitude * focus(SHAPE, [REGIONS[name]], WIDTH, person.shift, mirrored=True)
        np.testing.assert_allclose(percent, expected[inside], atol=0.06)
        assert percent.max() > 0.6 * effect


def test_the_visual_region_responds_equally_in_both_runs_at_any_effect(monkeypatch: pytest.MonkeyPatch):
    person = next(draw_people(1, 1))
    runs = list(simulate_person(person, 0.0, SHAPE, 60))
    monkeypatch.setattr(learning_stage, "VISUAL", 0.0)
    weights = focus(SHAPE, [REGIONS["visual"]], WIDTH, person.shift, mirrored=True)
    inside = brain_mask(SHAPE)
    for (scan, _), (blind, _) in zip(runs, simulate_person(person, 0.0, SHAPE, 60), strict=True):
        percent = 100 * np.ptp(scan.astype(float) - blind, axis=0) / np.maximum(blind.mean(0), 1)
        np.testing.assert_allclose(percent[inside], VISUAL * person.amplitude * weights[inside], atol=0.06)


def test_the_truth_is_written_for_tests(raw: Path):
    truth = pd.read_csv(raw / "truth.csv")
    assert list(truth["dataset"] + truth["subject"]) == ["synthAsub-01", "synthAsub-02", "synthBsub-01", "synthBsub-02"]
    assert truth[["x", "y", "z"]].abs().max(axis=None) <= 1
    assert truth["amplitude"].between(0.5, 1.5).all()
    centres = {}
    for name in REGIONS:
        image = nib.load(raw / "truth" / f"{name}.nii.gz")
        weights = image.get_fdata()
        np.testing.assert_allclose(weights, weights[::-1], atol=1e-6)  # on both sides
        voxels = np.argwhere(weights > 0)
        centres[name] = np.average(nib.affines.apply_affine(image.affine, voxels), axis=0, weights=weights[weights > 0])
    assert centres["mtl"][2] < centres["striatum"][2] - 20  # mm
    assert centres["visual"][1] < centres["mtl"][1] - 20 < centres["striatum"][1] - 40


@pytest.mark.parametrize("dataset", ["ds000002", "ds000052"])
def test_real_events_are_replayed_as_far_as_the_runs_last(real_data: Path, tmp_path: Path, dataset: str):
    folder = real_data / "openfmri" / dataset
    write_study(tmp_path, **SMALL, events_dir=folder)
    for subject in ("sub-01", "sub-02"):
        for synthetic in ("synthA", "synthB"):
            tables = [pd.read_csv(f, sep="\t") for f in (tmp_path / synthetic / subject).rglob("*_events.tsv")]
            real = _read_designs(folder)[int(subject[-1]) - 1]
            recorded = [r[r["onset"] < FRAMES * TR - 16] for r in real]
            assert all(len(r) > 5 for r in recorded)
            assert {tuple(t["onset"].astype(float)) for t in tables} == {tuple(r["onset"]) for r in recorded}


def test_which_real_run_comes_first_is_drawn(real_data: Path):
    designs = _read_designs(real_data / "openfmri" / "ds000052")
    assert len(designs) == 6
    first = [next(simulate_person(p, 0.0, SHAPE, FRAMES, designs=designs))[1]["onset"].to_numpy() for p in draw_people(1, 24)]
    early = np.array([np.array_equal(o, designs[i % 6][0]["onset"].head(len(o))) for i, o in enumerate(first)])
    assert 5 < early.sum() < 19


@pytest.mark.parametrize(("effect", "low", "high"), [(2.0, 0.85, 1.0), (0.0, 0.25, 0.65)])
def test_the_stage_of_unseen_subjects_is_known_from_the_effect_alone(effect: float, low: float, high: float):
    runs = windows(effect, n_subjects=12)
    x = np.stack([w.mean(0).ravel() for *_, w in runs])
    model = make_pipeline(StandardScaler(), LinearSVM())
    scores = cross_val_score(model, x, [r[1] for r in runs], groups=[r[0] for r in runs], cv=GroupKFold(4))
    assert low <= scores.mean() <= high


def test_windows_of_one_run_on_both_sides_of_a_split_tell_the_run():
    """The leak that a split by subject closes: at effect 0 the nearest training window is mostly of the same run."""
    runs = windows(0.0, n_subjects=8)
    x = np.concatenate([w.mean(1) for *_, w in runs])
    stage = np.concatenate([[r[1]] * len(r[2]) for r in runs])
    subject = np.concatenate([[r[0]] * len(r[2]) for r in runs])
    nearest = KNeighborsClassifier(1, metric="cosine", algorithm="brute")
    leaky = cross_val_score(nearest, x, stage, cv=KFold(5, shuffle=True, random_state=0)).mean()
    honest = cross_val_score(nearest, x, stage, groups=subject, cv=GroupKFold(4)).mean()
    assert leaky > 0.88
    assert 0.35 < honest < 0.65


def test_real_data_are_not_overwritten(tmp_path: Path):
    (tmp_path / "ds000002").mkdir()
    with pytest.raises(FileExistsError, match="may be real scans"):
        write_study(tmp_path)


def test_runs_without_room_for_a_trial_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="9 frames of 2 s .* above 9.5"):
        write_study(tmp_path, n_frames=9)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_the_tasks_has_nothing_to_replay(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"weatherprediction in .*nothing: give --events_dir"):
        write_study(tmp_path, events_dir=tmp_path / "nothing")
