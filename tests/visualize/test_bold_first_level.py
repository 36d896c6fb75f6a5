from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose
from scipy.stats import gamma

from custom.metrics.response_maps import event_design
from custom.transforms import LoadBOLDd
from custom.visualize.bold_first_level import Run, framewise_displacement, load, response_height, responses

TR, SHAPE = 2.0, (5, 4, 3)


def run_of(path: Path, series: np.ndarray, *events: dict) -> Run:
    """Write (T, X, Y, Z) as a raw scan with a mask of everything."""
    image = nib.Nifti1Image(np.moveaxis(series, 0, -1).astype(np.float32), np.eye(4))
    image.header.set_zooms((1, 1, 1, TR))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    mask = path.with_name(f"mask_{path.name}")
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4)), mask)
    return Run(path.name, "01", str(path), {"mask": str(mask)}, events)


def raw(frames: int = 60) -> np.ndarray:
    return 1000 + 20 * np.random.default_rng(0).normal(size=(frames, *SHAPE))


LOAD = Compose([LoadBOLDd(["image", "mask"])])


@pytest.mark.filterwarnings("ignore:.*null duration")
@pytest.mark.parametrize(("duration", "repetition_time"), [(16.0, 2.0), (2.5, 2.0), (4.0, 0.7), (0.0, 2.0)])
def test_height_is_that_of_the_regressor_of_one_event(duration: float, repetition_time: float):
    frames = round(80 / repetition_time)
    design = event_design([{"onset": 10.0, "duration": duration}], ["0"], frames, repetition_time, "run")
    finest = [np.ptp(design["0"])]
    for shift in np.arange(0.1, 0.9, 0.1) * repetition_time:  # frames meet the peak only by chance
        moved = event_design([{"onset": 10.0 + shift, "duration": duration}], ["0"], frames, repetition_time, "run")
        finest.append(np.ptp(moved["0"]))
    assert response_height(duration, repetition_time) == pytest.approx(max(finest), rel=0.02)


@pytest.mark.parametrize("duration", [2.0, 16.0, 60.0])
def test_height_is_trough_to_peak_of_glovers_response(duration: float):
    t = np.arange(0, 32, 0.01)
    kernel = gamma.pdf(t, 6 / 0.9, scale=0.9) - 0.48 * gamma.pdf(t, 12 / 0.9, scale=0.9)
    curve = np.convolve(kernel / kernel.sum(), np.ones(int(duration * 100)))
    assert response_height(duration, TR) == pytest.approx(np.ptp(curve), rel=0.01)


def test_air_and_constant_voxels_are_no_brain(tmp_path: Path):
    series = raw()
    series[:, 0] = 20 + np.random.default_rng(1).normal(size=(60, *SHAPE[1:]))
    series[:, 1, 0, 0] = 900
    found = load(run_of(tmp_path / "a.nii", series), LOAD)
    expected = np.ones(SHAPE, bool)
    expected[0], expected[1, 0, 0] = False, False
    np.testing.assert_array_equal(found.inside, expected)
    np.testing.assert_allclose(found.voxels, series[:, expected], rtol=1e-6)
    np.testing.assert_allclose(found.volume(found.level)[expected], series.mean(0)[expected], rtol=1e-6)
    assert (found.volume(found.level)[~expected] == 0).all()
    assert found.repetition_time == TR


@pytest.mark.parametrize("change", [lambda x: x - x.mean(0), lambda x: (x - x.mean(0)) / x.std(0), lambda x: x * np.nan])
def test_a_run_without_baseline_is_named(tmp_path: Path, change):
    with pytest.raises(ValueError, match=r"a.nii: NaN, or no baseline"):
        load(run_of(tmp_path / "a.nii", change(raw())), LOAD)


def test_scale_of_the_scanner_does_not_matter(tmp_path: Path):
    events = [{"onset": onset, "duration": 4.0, "label": 1} for onset in (8.0, 50.0, 80.0)]
    found = []
    for k, scale in enumerate((1.0, 7.0)):
        run = run_of(tmp_path / f"{k}.nii", scale * raw(), *events)
        found.append(responses(run, load(run, LOAD), {1: 4.0}))
    assert list(found[0]) == [1]
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "sub-01_task-motor_run-1_bold.nii.gz",
        "sub-01_task-motor_run-1_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz",
        "sub-01_task-motor_run-1_space-MNI152NLin2009cAsym_res-2_desc-preproc_bold.nii",
    ],
)
def test_motion_comes_from_the_confounds_of_the_same_run(tmp_path: Path, name: str):
    for run, value in ((1, 0.3), (2, 9)):
        table = tmp_path / f"sub-01_task-motor_run-{run}_desc-confounds_timeseries.tsv"
        table.write_text(f"csf\tframewise_displacement\n1\tn/a\n2\t0.1\n3\t{value}\n")
    assert framewise_displacement(str(tmp_path / name)) == pytest.approx(0.2)


def test_no_confounds_is_no_motion_and_no_column_is_an_error(tmp_path: Path):
    assert framewise_displacement(str(tmp_path / "sub-01_bold.nii")) is None
    assert framewise_displacement(str(tmp_path / "scan.nii")) is None
    (tmp_path / "sub-01_desc-confounds_timeseries.tsv").write_text("csf\n1\n")
    with pytest.raises(ValueError, match="no framewise_displacement"):
        framewise_displacement(str(tmp_path / "sub-01_bold.nii"))
