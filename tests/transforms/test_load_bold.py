from __future__ import annotations

import json
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImage, Orientationd, ResizeWithPadOrCropd, Spacingd

from custom.errors import BadScan
from custom.transforms.load_bold import LoadBOLDd, estimate_brain_mask

# (X, Y, Z, T), every extent different
VOXELS = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6, 7)).astype(np.int16)
MASK = np.random.default_rng(1).random((4, 5, 6)) > 0.4
AFFINE = np.diag([-3.0, 3.0, 4.0, 1.0])


def mat(path: Path, voxels: np.ndarray = VOXELS, mask: np.ndarray = MASK, matlab: bool = True, **kwargs: object) -> str:
    """Write a scan (X, Y, Z, T) as MATLAB does, h5py then shows it reversed, or in plain order."""
    with h5py.File(path, "w") as file:
        file.create_dataset("fMRIdata/orig", data=voxels.T if matlab else voxels, **kwargs)
        file["fMRIdata/mask"] = (mask.T if matlab else mask).astype(np.uint8)
    return str(path)


def nifti(path: Path, voxels: np.ndarray = VOXELS, tr: float = 2.0, unit: str = "sec", affine: np.ndarray = AFFINE) -> str:
    image = nib.Nifti1Image(voxels, affine)
    if voxels.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr))
        image.header.set_xyzt_units("mm", unit)
    nib.save(image, path)
    return str(path)


def save_mask(path: Path, mask: np.ndarray = MASK, affine: np.ndarray = AFFINE) -> str:
    return nifti(path, mask.astype(np.uint8), affine=affine)


def load(image: str, mask: str | None = None, **kwargs: object) -> tuple[torch.Tensor, torch.Tensor]:
    data = LoadBOLDd(**kwargs)({"image": image} | ({"mask": mask} if mask else {}))
    return data["image"], data["mask"]


# MATLAB


@pytest.mark.parametrize("kwargs", [{}, {"chunks": (7, 3, 5, 4), "compression": "gzip"}])
def test_matlab_file(tmp_path: Path, kwargs: dict):
    image, mask = load(mat(tmp_path / "a.mat", **kwargs), voxel_size=(3, 3, 4), repetition_time=2.5)
    assert image.shape == (7, 4, 5, 6)
    assert (image.dtype, mask.dtype) == (torch.float32, torch.uint8)
    np.testing.assert_array_equal(image, np.moveaxis(VOXELS, -1, 0))
    np.testing.assert_array_equal(mask[0], MASK)
    assert image.affine.tolist() == mask.affine.tolist() == np.diag([3.0, 3, 4, 1]).tolist()
    assert image.meta["filename_or_obj"] == str(tmp_path / "a.mat")
    assert image.meta["repetition_time"] == 2.5


def test_plain_order_gives_the_same_tensors(tmp_path: Path):
    reverse, plain = (load(mat(tmp_path / f"{order}.mat", matlab=order)) for order in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(reverse, plain, strict=True))
    assert reverse[0].meta.get("repetition_time") is None


def test_nan_stays_nan_and_doubles_become_floats(tmp_path: Path):
    voxels = VOXELS.astype(np.float64) / 3
    voxels[1, 2, 3, 4] = np.nan
    image, _ = load(mat(tmp_path / "a.mat", voxels))
    assert torch.isnan(image).nonzero().tolist() == [[4, 1, 2, 3]]
    np.testing.assert_array_equal(image, np.moveaxis(voxels, -1, 0).astype(np.float32))


@pytest.mark.parametrize("matlab", [True, False])
def test_what_may_be_read_in_two_ways_must_be_stated(tmp_path: Path, matlab: bool):
    voxels = np.random.default_rng(0).integers(0, 99, (4, 4, 4, 4), np.int16)
    path = mat(tmp_path / "a.mat", voxels, np.ones((4, 4, 4)), matlab)
    with pytest.raises(BadScan, match=r"a\.mat: time may be the first or the last axis .*--time_axis first"):
        load(path)
    image, _ = load(path, time_axis="first" if matlab else "last")
    np.testing.assert_array_equal(image, np.moveaxis(voxels, -1, 0))


def test_a_stated_axis_that_does_not_fit(tmp_path: Path):
    with pytest.raises(BadScan, match="is on another grid than orig .* with time last, as --time_axis says"):
        load(mat(tmp_path / "a.mat"), time_axis="last")


@pytest.mark.parametrize(
    ("voxels", "mask", "message"),
    [
        (VOXELS, MASK[:3], r"mask \(6, 5, 3\) is on another grid than orig \(7, 6, 5, 4\)"),
        (VOXELS, MASK.T, r"mask \(4, 5, 6\) is on another grid"),
        (VOXELS[..., 0], MASK, r"orig of 4 and mask of 3 dimensions are wanted, they have shapes \(6, 5, 4\)"),
        (VOXELS, MASK[..., 0], r"they have shapes \(7, 6, 5, 4\) and \(5, 4\)"),
    ],
)
def test_shapes_that_do_not_fit(tmp_path: Path, voxels: np.ndarray, mask: np.ndarray, message: str):
    with pytest.raises(BadScan, match=message):
        load(mat(tmp_path / "a.mat", voxels, mask))


def test_one_frame_is_passed_on(tmp_path: Path):
    assert load(mat(tmp_path / "a.mat", VOXELS[..., :1]))[0].shape == (1, 4, 5, 6)
    assert load(nifti(tmp_path / "a.nii", VOXELS[..., :1]), save_mask(tmp_path / "m.nii"))[0].shape == (1, 4, 5, 6)


@pytest.mark.parametrize("name", ["orig", "mask"])
@pytest.mark.parametrize("value", [None, b"text", np.zeros((2, 2), complex)])
def test_a_missing_array_or_one_of_no_numbers(tmp_path: Path, name: str, value: object):
    path = mat(tmp_path / "a.mat")
    with h5py.File(path, "a") as file:
        del file[f"fMRIdata/{name}"]
        if value is not None:
            file[f"fMRIdata/{name}"] = value
    with pytest.raises(BadScan, match=rf"a\.mat: fMRIdata has no numeric array '{name}'"):
        load(path)


def test_another_group(tmp_path: Path):
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["data/orig"] = VOXELS.T
    with pytest.raises(BadScan, match=r"a\.mat: has no group 'fMRIdata', only \['data'\]"):
        load(str(tmp_path / "a.mat"))


@pytest.mark.parametrize("keep", [0, 100, 1000, 0.5, 0.99])
def test_a_truncated_mat(tmp_path: Path, keep: float):
    path = Path(mat(tmp_path / "a.mat"))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep >= 1 else keep * len(whole))])
    with pytest.raises(BadScan, match=r"a\.mat: damaged"):
        load(str(path))


def test_flipped_bits_give_a_bad_scan_or_numbers_but_no_other_error(tmp_path: Path):
    path = Path(mat(tmp_path / "a.mat", chunks=(7, 6, 5, 4), compression="gzip", fletcher32=True))
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 37):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            load(str(path))
        except BadScan as error:
            refused += str(path) in str(error)
    assert refused > 20


# NIfTI


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_as_monai_reads_it(tmp_path: Path, suffix: str):
    path = nifti(tmp_path / f"a{suffix}")
    image, mask = load(path, save_mask(tmp_path / "m.nii.gz"))
    monais = LoadImage(reader="NibabelReader", ensure_channel_first=True, image_only=True)(path)
    assert torch.equal(image.as_tensor(), monais.as_tensor())
    assert torch.equal(image.affine, monais.affine)
    assert torch.equal(mask.affine, monais.affine)
    np.testing.assert_array_equal(mask[0], MASK)
    assert image.dtype == torch.float32
    assert image.meta["repetition_time"] == 2.0


def test_scaled_integers(tmp_path: Path):
    image = nib.Nifti1Image(VOXELS, AFFINE)
    image.header.set_slope_inter(0.25, 10)
    nib.save(image, tmp_path / "a.nii")
    loaded, _ = load(str(tmp_path / "a.nii"), save_mask(tmp_path / "m.nii"))
    np.testing.assert_array_equal(loaded, np.moveaxis(VOXELS, -1, 0) * 0.25 + 10)


@pytest.mark.parametrize(
    ("tr", "unit", "seconds"),
    [
        (2.0, "sec", 2.0),
        (2000.0, "msec", 2.0),
        (0.8, "sec", 0.8),
        (0.0, "sec", None),
        (2.0, "unknown", None),
        (2.0, "hz", None),
    ],
)
def test_repetition_time_of_the_header(tmp_path: Path, tr: float, unit: str, seconds: float | None):
    image, _ = load(nifti(tmp_path / "a.nii", tr=tr, unit=unit), save_mask(tmp_path / "m.nii"))
    assert image.meta.get("repetition_time") == seconds


@pytest.mark.parametrize(("content", "seconds"), [({"RepetitionTime": 1.5}, 1.5), ({}, 2.0)])
def test_repetition_time_of_the_sidecar(tmp_path: Path, content: dict, seconds: float):
    path, mask = nifti(tmp_path / "a_bold.nii.gz"), save_mask(tmp_path / "m.nii")
    (tmp_path / "a_bold.json").write_text(json.dumps(content))
    assert load(path, mask)[0].meta["repetition_time"] == seconds
    assert load(path, mask, repetition_time=0.7)[0].meta["repetition_time"] == 0.7


def test_repetition_time_of_the_dataset(tmp_path: Path):
    (tmp_path / "dataset_description.json").write_text("{}")
    (tmp_path / "task-rest_bold.json").write_text('{"RepetitionTime": 0.72}')
    (tmp_path / "sub-1" / "func").mkdir(parents=True)
    path = nifti(tmp_path / "sub-1" / "func" / "sub-1_task-rest_bold.nii")
    assert load(path, save_mask(tmp_path / "m.nii"))[0].meta["repetition_time"] == 0.72


@pytest.mark.parametrize("content", ["{", "[]", '{"RepetitionTime": "two"}', '{"RepetitionTime": 0}'])
def test_a_broken_sidecar_is_named(tmp_path: Path, content: str):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(BadScan, match=r"a\.json: (not a BIDS file|RepetitionTime is)"):
        load(nifti(tmp_path / "a.nii"), save_mask(tmp_path / "m.nii"))


def test_a_mask_with_a_trailing_axis(tmp_path: Path):
    _, mask = load(nifti(tmp_path / "a.nii"), save_mask(tmp_path / "m.nii", MASK[..., None]))
    np.testing.assert_array_equal(mask[0], MASK)


@pytest.mark.parametrize("other", [{"mask": MASK[:3]}, {"affine": np.eye(4)}])
def test_a_mask_of_another_grid(tmp_path: Path, other: dict):
    with pytest.raises(BadScan, match=r"a\.nii: its mask .*m\.nii is on another grid"):
        load(nifti(tmp_path / "a.nii"), save_mask(tmp_path / "m.nii", **other))


def test_other_nifti_is_refused(tmp_path: Path):
    mask = save_mask(tmp_path / "m.nii")
    with pytest.raises(BadScan, match=r"a\.nii: a 4D file is wanted, this one has shape \(4, 5, 6\)"):
        load(nifti(tmp_path / "a.nii", VOXELS[..., 0]), mask)
    with pytest.raises(BadScan, match=r"a\.nii: holds complex64"):
        load(nifti(tmp_path / "a.nii", VOXELS.astype(np.complex64)), mask)
    path = Path(nifti(tmp_path / "a.nii"))
    whole = path.read_bytes()
    path.write_bytes(whole[:280] + bytes(16) + whole[296:])  # the header's srow_x
    with pytest.raises(BadScan, match=r"a\.nii: its affine has no inverse"):
        load(str(path), mask)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("keep", [0, 0.3, 0.9])
def test_a_truncated_nifti(tmp_path: Path, suffix: str, keep: float):
    path = Path(nifti(tmp_path / f"a{suffix}"))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(BadScan, match=rf"a{suffix}: damaged"):
        load(str(path), save_mask(tmp_path / "m.nii"))


def test_an_absent_file_is_absent(tmp_path: Path):
    for name in ("a.mat", "a.nii"):
        with pytest.raises(FileNotFoundError, match=name):
            load(str(tmp_path / name))


def test_a_real_scan_through_monais_transforms(real_data: Path):
    """One slice of one voxel along x, TR 1.5 s, masked already."""
    steps = [
        LoadBOLDd(),
        Orientationd(["image", "mask"], axcodes="RAS", labels=None),
        Spacingd(["image", "mask"], pixdim=(2, 4, 4), mode=("bilinear", "nearest")),
        ResizeWithPadOrCropd(["image", "mask"], (4, 48, 48)),
    ]
    path = str(real_data / "abide" / "PITT_0050048_sagittal_bold.nii.gz")
    loaded = steps[0]({"image": path})
    assert loaded["image"].shape == (193, 1, 109, 91)
    assert loaded["image"].meta["repetition_time"] == 1.5
    np.testing.assert_array_equal(loaded["mask"][0], (loaded["image"] != 0).any(0))
    assert loaded["report"] == {"mask_estimated": 1}
    data = Compose(steps)({"image": path})
    assert data["image"].shape == (193, 4, 48, 48)
    assert data["mask"].shape == (1, 4, 48, 48)
    assert data["image"].meta["repetition_time"] == 1.5


# mask of a scan without one


def test_a_masked_scan_is_its_own_mask():
    scan = np.where(MASK, np.moveaxis(VOXELS, -1, 0).astype(np.float32), 0)
    scan[:3, 0, 0, 0] = 0
    hole = tuple(np.argwhere(MASK)[0])
    scan[(slice(None), *hole)] = np.nan
    np.testing.assert_array_equal(estimate_brain_mask(scan, AFFINE, "a"), MASK)
    nan_outside = np.where(MASK, np.abs(np.nan_to_num(scan)) + 1, np.nan)
    np.testing.assert_array_equal(estimate_brain_mask(nan_outside, AFFINE, "a"), MASK)


def test_brain_in_noisy_air_with_holes():
    """A ball of 1000 in air of 20, some voxels NaN in some frames."""
    rng = np.random.default_rng(0)
    ball = np.linalg.norm(np.indices((20, 20, 20)) - 9.5, axis=0) < 7
    scan = np.abs(np.where(ball, 1000, 20) + rng.normal(0, 5, (6, 20, 20, 20))).astype(np.float32)
    scan[:3, 9:11, 9:11, 9:11] = np.nan
    scan[:, 5, 10, 10] = np.nan
    brain = estimate_brain_mask(scan, AFFINE, "a")
    assert 2 * (brain & ball).sum() / (brain.sum() + ball.sum()) > 0.98
    assert brain[5, 10, 10]


def test_a_thin_scan_keeps_its_brain(real_data: Path):
    _, mask = load(str(real_data / "bold" / "nipy_functional.nii.gz"))
    assert 0.5 < float(mask.float().mean()) < 0.95
    fsl = real_data / "bold"
    _, mask = load(str(fsl / "fsl_av_fmri.nii.gz"))
    brain = nib.load(fsl / "fsl_av_fmri_mask.nii.gz").get_fdata() > 0
    assert 2 * (mask[0].numpy() * brain).sum() / (int(mask.sum()) + brain.sum()) > 0.9


def test_a_detrended_scan_cannot_be_thresholded():
    scan = np.random.default_rng(0).normal(size=(9, 5, 6, 7)).astype(np.float32)
    with pytest.raises(BadScan, match="scan.nii: without a baseline"):
        estimate_brain_mask(scan, AFFINE, "scan.nii")


# arguments


def test_wrong_arguments():
    with pytest.raises(ValueError, match="time_axis is 'middle'"):
        LoadBOLDd(time_axis="middle")
    with pytest.raises(ValueError, match="the keys of image and mask"):
        LoadBOLDd(keys="image")


def test_the_item_it_was_given_stays_as_it_was(tmp_path: Path):
    data = {"image": nifti(tmp_path / "a.nii", np.abs(VOXELS) * np.int16(1) * MASK[..., None]), "report": {"n": 1}}
    before = {**data, "report": dict(data["report"])}
    assert LoadBOLDd()(data)["report"] == {"n": 1, "mask_estimated": 1}
    assert data == before


# a run in a file of several


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_frames_of_a_run_alone(tmp_path: Path, suffix: str, scaled: bool):
    image = nib.Nifti1Image(VOXELS, AFFINE)
    if scaled:
        image.header.set_slope_inter(0.5, 3)
    image.header.set_zooms((3, 3, 4, 2.5))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / f"a{suffix}")
    whole = nib.load(tmp_path / f"a{suffix}").get_fdata()
    data = {"image": str(tmp_path / f"a{suffix}"), "mask": save_mask(tmp_path / "m.nii"), "frame_range": "2:5"}
    run = LoadBOLDd()(data)
    assert (run["image"].shape, run["image"].dtype) == ((3, 4, 5, 6), torch.float32)
    np.testing.assert_allclose(run["image"], np.moveaxis(whole[..., 2:5], -1, 0), rtol=1e-6)
    assert run["image"].meta["repetition_time"] == 2.5


def test_other_frames_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []
    read = nib.arrayproxy.ArrayProxy._get_unscaled

    def remember(self: nib.arrayproxy.ArrayProxy, slicer: object) -> np.ndarray:
        found = read(self, slicer)
        asked.append(found.shape)
        return found

    monkeypatch.setattr(nib.arrayproxy.ArrayProxy, "_get_unscaled", remember)
    LoadBOLDd()({"image": nifti(tmp_path / "a.nii.gz"), "mask": save_mask(tmp_path / "m.nii.gz"), "frame_range": "3:7"})
    assert sorted(asked) == [(4, 5, 6), (4, 5, 6, 4)]


@pytest.mark.parametrize("frames", ["5:8", "3:3", "7:9"])
def test_frames_that_the_file_has_not(tmp_path: Path, frames: str):
    start, stop = frames.split(":")
    with pytest.raises(BadScan, match=rf"a\.nii: the frames {start} to {stop} of a run are wanted, the file has shape .* 7\)"):
        LoadBOLDd()({"image": nifti(tmp_path / "a.nii"), "frame_range": frames})


@pytest.mark.parametrize("frames", ["5", "a:b", "-2:3"])
def test_a_range_that_is_none(tmp_path: Path, frames: str):
    with pytest.raises(BadScan, match=rf"a\.nii: frame_range is '{frames}': two numbers"):
        LoadBOLDd()({"image": nifti(tmp_path / "a.nii"), "frame_range": frames})


def test_a_matlab_file_is_one_run(tmp_path: Path):
    with pytest.raises(BadScan, match=r"a\.mat: has a frame_range, which only a NIfTI may have"):
        LoadBOLDd()({"image": mat(tmp_path / "a.mat"), "frame_range": "0:2"})
