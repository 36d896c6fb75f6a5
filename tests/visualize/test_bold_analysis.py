from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import gamma, sem, ttest_1samp
from scipy.stats import t as student

from custom.transforms import LoadBOLDd, MaskBOLDd, TemporalZScored
from custom.visualize.bold_analysis import _Moments, _over_subjects, analyse_bold

TR, SHAPE, FRAMES, DURATION = 2.0, (8, 7, 6), 110, 6.0
NAMES = ["rest foot", "hand", "tongue"]  # the first occurs nowhere
PLANTED = {1: (slice(2, 4), slice(2, 4), slice(1, 5)), 2: (slice(4, 6), slice(3, 5), slice(1, 5))}
PERCENT = {1: 2.0, 2: -1.5}


def response(onsets: np.ndarray) -> np.ndarray:
    """Return the response to blocks, each from trough to peak 1, every hundredth of a second of a run."""
    t = np.arange(0, 40, 0.01)
    kernel = gamma.pdf(t, 6 / 0.9, scale=0.9) - 0.48 * gamma.pdf(t, 12 / 0.9, scale=0.9)
    block = np.convolve(kernel, np.ones(int(DURATION * 100)))
    found = np.zeros(int(FRAMES * TR * 100))
    for onset in (100 * onsets).astype(int):
        piece = block[: len(found) - onset]
        found[onset : onset + len(piece)] += piece / np.ptp(block)
    return found


def write_run(folder: Path, subject: int, run: int) -> list[dict]:
    """Write a raw run with its mask; return the rows of its windows."""
    rng = np.random.default_rng(10 * subject + run)
    onsets = {label: np.array([8.0, 52.0, 96.0, 140.0, 184.0]) + 22 * (label - 1) + run for label in PLANTED}
    level = 1000 * (1 + 0.2 * rng.random(SHAPE)) * (1 + subject)
    change = 0.3 * rng.normal(size=(FRAMES, *SHAPE)) + np.linspace(-1, 1, FRAMES)[:, None, None, None]
    for label, where in PLANTED.items():
        curve = response(onsets[label])[:: int(TR * 100)]
        change[(slice(None), *where)] += (PERCENT[label] * curve)[:, None, None, None]
    image = nib.Nifti1Image(np.moveaxis(level * (1 + change / 100), 0, -1).astype(np.float32), np.diag([3.0, 3, 3, 1]))
    image.header.set_zooms((3, 3, 3, TR))
    image.header.set_xyzt_units("mm", "sec")
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:-1, 1:-1, 1:-1] = 1
    name = f"sub-{subject}_run-{run}"
    nib.save(image, folder / f"{name}_bold.nii")
    nib.save(nib.Nifti1Image(mask, image.affine), folder / f"{name}_mask.nii")
    common = {"scan": name, "subject": f"sub-{subject}", "source": str(folder / f"{name}_bold.nii")}
    common |= {"inputs": {"mask": str(folder / f"{name}_mask.nii")}, "duration": DURATION}
    return [{**common, "label": label, "onset": float(onset)} for label, times in onsets.items() for onset in times]


LOAD = [LoadBOLDd(["image", "mask"]), MaskBOLDd("image")]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("raw")
    rows = [row for subject in range(3) for run in range(2) for row in write_run(folder, subject, run)]
    for subject in range(2):
        table = folder / f"sub-{subject}_run-0_desc-confounds_timeseries.tsv"
        table.write_text(f"framewise_displacement\nn/a\n0.1\n{0.3 + 0.2 * subject}\n")
    return rows


@pytest.fixture(scope="module")
def analysed(rows: list[dict], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("explore")
    return folder, analyse_bold(rows, LOAD, NAMES, str(folder), frames=14)


def volume(folder: Path, name: str) -> np.ndarray:
    return nib.load(folder / name).get_fdata()


def brain() -> np.ndarray:
    inside = np.zeros(SHAPE, bool)
    inside[1:-1, 1:-1, 1:-1] = True
    return inside


@pytest.mark.parametrize("label", PLANTED)
def test_planted_per_cent_signal_change_is_recovered(analysed, label: int):
    folder, _ = analysed
    change = volume(folder, f"psc_{NAMES[label]}.nii.gz")
    assert change[PLANTED[label]].mean() == pytest.approx(PERCENT[label], abs=0.1)
    planted = np.zeros(SHAPE, bool)
    for where in PLANTED.values():
        planted[where] = True
    assert np.abs(change[brain() & ~planted].mean()) < 0.05
    assert (change[~brain()] == 0).all()


def test_difference_of_two_classes(analysed):
    folder, found = analysed
    hand, tongue = (volume(folder, f"psc_{name}.nii.gz") for name in NAMES[1:])
    np.testing.assert_allclose(volume(folder, "psc_tongue-minus-hand.nii.gz"), tongue - hand, atol=1e-5)
    assert [entry["map"] for entry in found["maps"]] == ["hand", "tongue", "tongue minus hand"]


def test_t_is_scipys():
    maps = np.random.default_rng(0).normal(1.0, 1.0, size=(5, *SHAPE))
    maps[:, 0] = 0  # air
    moments = _Moments()
    for one in maps:
        moments.add(one)
    np.testing.assert_allclose(moments.t[1:], ttest_1samp(maps[:, 1:], 0).statistic, rtol=1e-9)
    assert (moments.t[0] == 0).all()
    np.testing.assert_allclose(moments.mean, maps.mean(0), rtol=1e-12)


def test_band_is_the_t_interval_over_subjects():
    values = np.random.default_rng(1).normal(size=(4, 2))  # subjects, runs
    rows = [(f"s{i}", "a", "hand", 2.0, values[i, run]) for i in range(4) for run in range(2)]
    rows += [("s0", "a", "hand", 4.0, 1.0), ("s1", "a", "hand", 4.0, np.nan)]  # beyond the run's end of all but one
    found = _over_subjects(pd.DataFrame(rows, columns=["subject", "voxels_of", "class", "seconds", "percent"]))
    means = values.mean(1)
    assert len(found) == 1
    assert found["subjects"].item() == 4
    assert found["percent"].item() == pytest.approx(means.mean())
    assert (found["low"].item(), found["high"].item()) == pytest.approx(student.interval(0.95, 3, means.mean(), sem(means)))


def test_only_what_is_brain_in_every_run_is_mapped(rows, tmp_path):
    few = two_subjects(rows)
    mask = nib.load(few[0]["inputs"]["mask"])
    smaller = np.asarray(mask.dataobj).copy()
    smaller[1] = 0
    nib.save(nib.Nifti1Image(smaller, mask.affine), tmp_path / "mask.nii")
    few = [{**row, "inputs": {"mask": str(tmp_path / "mask.nii")}} if row["subject"] == "sub-1" else row for row in few]
    found = analyse_bold(few, LOAD, NAMES, str(tmp_path / "out"), frames=1)
    assert found["brain_voxels"] == smaller.sum() == brain().sum() - brain()[1].sum()
    for name in ("psc_hand.nii.gz", "tsnr.nii.gz"):
        np.testing.assert_array_equal(volume(tmp_path / "out", name) != 0, smaller != 0)


def test_time_courses_peak_when_the_response_does(analysed):
    folder, found = analysed
    table = pd.read_csv(folder / "time_courses.csv")
    isolated = response(np.array([0.0]))
    for label, extreme in ((1, "idxmax"), (2, "idxmin")):
        own = table[(table["voxels_of"] == NAMES[label]) & (table["class"] == NAMES[label])]
        at = own.loc[getattr(own["percent"], extreme)()]
        assert at["seconds"] == pytest.approx(isolated.argmax() / 100, abs=1.5)
        assert at["percent"] == pytest.approx(PERCENT[label] * isolated.max(), abs=0.25)
        assert at["low"] < at["percent"] < at["high"]
        assert (own["subjects"] == 3).all()
        assert own["seconds"].tolist() == [TR * k for k in range(-2, 14)]
    other = table[(table["voxels_of"] == "hand") & (table["class"] == "tongue")]
    assert other["percent"].abs().max() < 1
    assert found["time_courses"]["share_of_voxels"] == 0.01


def test_temporal_snr_is_mean_over_standard_deviation(analysed, rows):
    folder, found = analysed
    runs, expected = pd.read_csv(folder / "runs.csv").set_index("scan"), []
    for source, scan in dict.fromkeys((row["source"], row["scan"]) for row in rows):
        series = nib.load(source).get_fdata()
        expected.append(series.mean(-1) / series.std(-1))
        assert runs.loc[scan, "tsnr"] == pytest.approx(np.median(expected[-1][brain()]), rel=1e-6)
    np.testing.assert_allclose(volume(folder, "tsnr.nii.gz")[brain()], np.mean(expected, axis=0)[brain()], rtol=1e-6)
    assert found["tsnr"]["median"] == pytest.approx(runs["tsnr"].median())


def test_motion_of_the_runs_that_have_it(analysed):
    folder, found = analysed
    runs = pd.read_csv(folder / "runs.csv").set_index("scan")
    assert runs["mean_framewise_displacement_mm"].dropna().to_dict() == pytest.approx({"sub-0_run-0": 0.2, "sub-1_run-0": 0.3})
    assert found["motion"] == {"median_mm": pytest.approx(0.25), "runs": 2}


def test_analysis_lists_files_that_exist(analysed):
    folder, found = analysed
    assert json.loads((folder / "analysis.json").read_text()) == found
    listed = {entry[key] for entry in found["maps"] for key in ("psc", "t", "png")}
    listed |= {
        found[key][kind] for key in ("time_courses", "tsnr", "runs") for kind in ("csv", "nifti", "png") if kind in found[key]
    }
    assert {path.name for path in folder.iterdir()} == listed | {"analysis.json"}
    assert found["subjects"] == ["sub-0", "sub-1", "sub-2"]
    assert found["one_space"] is True
    peak = found["maps"][0]["peak"]
    voxel = tuple(round(x / 3) for x in peak["mm"])
    assert abs(peak["t"]) == pytest.approx(np.abs(volume(folder, "t_hand.nii.gz")).max(), rel=1e-5)
    assert peak["percent"] == pytest.approx(volume(folder, "psc_hand.nii.gz")[voxel], rel=1e-5)


def two_subjects(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["scan"] in ("sub-0_run-1", "sub-1_run-1")]


def test_without_motion_and_in_different_spaces(rows, tmp_path):
    few = two_subjects(rows)
    image = nib.load(few[0]["source"])
    for kind in ("bold", "mask"):
        moved = nib.load(few[0]["source"].replace("bold", kind))
        affine = moved.affine.copy()
        affine[0, 3] = 10
        copy = nib.Nifti1Image(moved.get_fdata(dtype=np.float32), affine, moved.header)
        nib.save(copy, tmp_path / f"{kind}.nii")
    changed = {"source": str(tmp_path / "bold.nii"), "inputs": {"mask": str(tmp_path / "mask.nii")}}
    few = [{**row, **changed} if row["subject"] == "sub-0" else row for row in few]
    found = analyse_bold(few, LOAD, NAMES, str(tmp_path / "out"), frames=2)
    assert image.affine[0, 3] == 0
    assert found["one_space"] is False
    assert found["motion"] is None
    assert "mean_framewise_displacement_mm" not in pd.read_csv(tmp_path / "out" / "runs.csv")


def test_refuses(rows, tmp_path):
    few = two_subjects(rows)
    with pytest.raises(ValueError, match="only one subject has events of tongue"):
        analyse_bold([r for r in few if r["label"] == 1 or r["subject"] == "sub-0"], LOAD, NAMES, str(tmp_path))
    with pytest.raises(ValueError, match="one frame"):
        analyse_bold(few, LOAD, NAMES, str(tmp_path), frames=0)
    with pytest.raises(FileNotFoundError, match=r"gone.nii is no longer there \(1 raw scans"):
        analyse_bold([*few, {**few[0], "scan": "x", "source": "gone.nii"}], LOAD, NAMES, str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no run with events"):
        analyse_bold([], LOAD, NAMES, str(tmp_path))
    with pytest.raises(ValueError, match="sub-0_run-1_bold.nii: NaN, or no baseline"):
        analyse_bold(few, [*LOAD, TemporalZScored("image")], NAMES, str(tmp_path))
    assert list(tmp_path.iterdir()) == []
