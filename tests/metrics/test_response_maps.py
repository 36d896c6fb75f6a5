from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.stats import gamma

from custom.metrics import Baseline, LinearSVM, Unavailable
from custom.metrics.response_maps import EventResponse, GLMMaps, WindowMeans, event_design

TR, SHAPE = 2.0, (3, 4, 2)


def run_file(path: Path, series: np.ndarray, repetition_time: float = TR) -> str:
    """Write (T, X, Y, Z) as preparation does."""
    image = nib.Nifti1Image(np.moveaxis(series, 0, -1).astype(np.float32), np.eye(4))
    image.header.set_zooms((1, 1, 1, repetition_time))
    nib.save(image, path)
    return str(path)


def window(image: str, onset: float, frames: int = 4, **columns) -> dict:
    start = round(onset / TR)
    return {"image": image, "onset": onset, "duration": 6.0, "start": start, "frames": frames, **columns}


def noise(seed: int, frames: int = 80, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, *shape)).astype(np.float32)


def glover(onsets: list[float], duration: float, frames: int) -> np.ndarray:
    """Return the response to boxcars at the frames, by a sum over hundredths of a second."""
    t = np.arange(0, 32, 0.01)
    kernel = gamma.pdf(t, 6 / 0.9, scale=0.9) - 0.48 * gamma.pdf(t, 12 / 0.9, scale=0.9)
    box = np.zeros(int(frames * TR * 100))
    for onset in onsets:
        box[int(onset * 100) : int((onset + duration) * 100)] = 1
    return np.convolve(box, kernel / kernel.sum())[: len(box) : int(TR * 100)]


# WindowMeans


def test_window_means_are_over_the_frames_that_were_measured(tmp_path: Path):
    series = noise(0)
    path = run_file(tmp_path / "a.nii", series)
    units = {"block": [window(path, 10.0)], "end": [window(path, 156.0)], "run": [window(path, 10.0), window(path, 12.0)]}
    block, end, run = WindowMeans()(units)
    np.testing.assert_allclose(block, series[5:9].astype(float).mean(0).ravel(), atol=1e-6)
    np.testing.assert_allclose(end, series[78:].astype(float).mean(0).ravel(), atol=1e-6)
    np.testing.assert_allclose(run, (series[5:9].mean(0) + series[6:10].mean(0)).ravel() / 2, atol=1e-6)


@pytest.mark.parametrize(("size", "features"), [(1, 1), (2, 8), (9, 24)])
def test_block_means_are_at_most_as_many_as_voxels(tmp_path: Path, size: int, features: int):
    series = noise(1)
    (found,) = WindowMeans(size)({"a": [window(run_file(tmp_path / "a.nii", series), 0.0)]})
    assert found.shape == (features,)
    assert found.mean() == pytest.approx(series[:4].mean(), abs=0.2)
    if size == 1:
        assert found[0] == pytest.approx(series[:4].mean(), abs=1e-6)


def test_other_grids_and_nan_are_named(tmp_path: Path):
    a, b = run_file(tmp_path / "a.nii", noise(0)), run_file(tmp_path / "b.nii", noise(0, shape=(2, 2, 2)))
    with pytest.raises(ValueError, match="^b: another grid than a, 8 features for 24"):
        WindowMeans()({"a": [window(a, 0.0)], "b": [window(b, 0.0)]})
    broken = run_file(tmp_path / "n.nii", noise(0) * np.nan)
    for features in (WindowMeans(), EventResponse(2), GLMMaps()):
        with pytest.raises(ValueError, match=r"n.nii: NaN"):
            features({"n": [window(broken, 0.0)]})


# EventResponse


def test_event_response_is_the_mean_window_frame_by_frame(tmp_path: Path):
    series = noise(2)
    path = run_file(tmp_path / "a.nii", series)
    (found,) = EventResponse(6)({"run": [window(path, onset) for onset in (8.0, 30.0, 154.0)]})
    expected = (series[4:10].astype(float) + series[15:21]) / 2
    expected[:3] = (series[4:7].astype(float) + series[15:18] + series[77:]) / 3  # the third trial meets the run's end
    np.testing.assert_allclose(found, expected.ravel(), atol=1e-6)


def test_a_frame_that_no_window_has_is_not_filled(tmp_path: Path):
    path = run_file(tmp_path / "a.nii", noise(2))
    with pytest.raises(Unavailable, match="run of late ends before frame 6"):
        EventResponse(6)({"late": [window(path, 154.0)]})
    with pytest.raises(ValueError, match="one frame"):
        EventResponse(0)


# GLMMaps


def test_t_is_that_of_the_normal_equations(tmp_path: Path):
    series, onsets = noise(3), [10.0, 50.0, 101.0]
    series[:, :, :, 1] = 0
    path = run_file(tmp_path / "a.nii", series)
    (found,) = GLMMaps()({"run": [window(path, onset) for onset in onsets]})
    design = np.stack([glover(onsets, 6.0, 80), np.ones(80)], 1)
    beta, (residual, *_), *_ = np.linalg.lstsq(design, series[:, 1, 2, 0].astype(float), rcond=None)
    error = np.sqrt(residual / 78 * np.linalg.inv(design.T @ design)[0, 0])
    t = found.reshape(SHAPE)
    assert t[1, 2, 0] == pytest.approx(beta[0] / error, abs=0.03)
    assert (t[:, :, 1] == 0).all()
    assert (t[:, :, 0] != 0).all()


def test_blocks_of_a_run_are_told_apart_though_their_responses_overlap(tmp_path: Path):
    series, onsets = noise(4, 120), [10.0, 20.0, 120.0]
    series[:, 0, 0, 0] += 8 * glover(onsets[:1], 6.0, 120)
    series[:, 1, 1, 1] += 8 * glover(onsets[1:2], 6.0, 120)
    path = run_file(tmp_path / "a.nii", series)
    first, second, third = GLMMaps()({f"b{i}": [window(path, onset)] for i, onset in enumerate(onsets)}).reshape(3, *SHAPE)
    assert first[0, 0, 0] > 5 > abs(first[1, 1, 1])
    assert second[1, 1, 1] > 5 > abs(second[0, 0, 0])
    assert np.abs(third).max() < 5


def test_a_unit_of_two_runs_has_the_mean_of_their_maps(tmp_path: Path):
    rows = [window(run_file(tmp_path / f"{i}.nii", noise(i)), 20.0) for i in range(2)]
    (both,), apart = GLMMaps(2)({"both": rows}), GLMMaps(2)({"first": rows[:1], "second": rows[1:]})
    np.testing.assert_allclose(both, apart.mean(0), rtol=1e-5)


def test_every_run_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from custom.metrics import response_maps

    read, map_bold = [], response_maps.map_bold
    monkeypatch.setattr(response_maps, "map_bold", lambda path: read.append(path) or map_bold(path))
    paths = [run_file(tmp_path / f"{i}.nii", noise(i)) for i in range(2)]
    GLMMaps()({f"{path}{onset}": [window(path, onset)] for onset in (10.0, 60.0) for path in paths})
    assert sorted(read) == sorted(paths)


def test_runs_without_repetition_time_or_with_too_few_frames_are_named(tmp_path: Path):
    path = run_file(tmp_path / "a.nii", noise(0), repetition_time=0)
    with pytest.raises(ValueError, match=r"a.nii: the time between two frames .* --repetition_time"):
        GLMMaps()({"a": [window(path, 0.0)]})
    with pytest.raises(ValueError, match="run 1: 3 frames are too few for 3 regressors"):
        event_design([window("", 0.0), window("", 2.0)], ["a", "b"], 3, TR, "run 1")


# as baselines


def study(folder: Path, effect: float) -> list[dict]:
    """Two blocks of either class in each of eight runs; class 1 has its response in other voxels."""
    rows = []
    for i in range(8):
        series = noise(10 + i, 160)
        for k, onset in enumerate((20.0, 90.0, 160.0, 230.0)):
            series[:, :, :2, k % 2] += effect * glover([onset], 6.0, 160)[:, None, None]
        path = run_file(folder / f"{effect}_{i}.nii", series)
        columns = {"subject": f"s{i}", "scan": f"r{i}", "dataset": "d" if i % 2 else "e", "task": "motor", "run_length": 320.0}
        for k, onset in enumerate((20.0, 90.0, 160.0, 230.0)):
            row = window(path, onset, frames=6, label=k % 2, block=f"r{i}_{k}", **columns)
            rows.append({**row, "start": row["start"] + 2})
    return rows


@pytest.mark.parametrize("features", [WindowMeans(), EventResponse(6), GLMMaps()], ids=lambda f: type(f).__name__)
def test_a_planted_response_is_learnt_across_subjects_and_nothing_without_it(tmp_path: Path, features):
    accuracy = {}
    for effect in (3.0, 0.0):
        rows = study(tmp_path, effect)
        model = Baseline(features=features, estimator=LinearSVM()).fit(rows[:20], ["left", "right"], unit="block")
        table = model.predict_proba(rows[20:])
        accuracy[effect] = (table["predicted"] == table["label"]).mean()
    assert accuracy[3.0] == 1
    assert 0.1 < accuracy[0.0] < 0.9


@pytest.mark.parametrize("columns", [["dataset"], ["task"], ["run_length"], ["onset"]])
@pytest.mark.parametrize("unit", ["block", "scan"])
def test_image_free_rows_work_for_blocks_and_runs(tmp_path: Path, columns: list[str], unit: str):
    rows = study(tmp_path, 0.0)
    rows = [{**row, "label": int(row["scan"][1:]) // 2 % 2} for row in rows] if unit == "scan" else rows
    table = Baseline(columns).fit(rows[:20], ["a", "b"], unit).predict_proba(rows[20:])
    assert table.columns[:3].tolist() == [unit, "subject", "label"]
    assert len(table) == (12 if unit == "block" else 3)
