from __future__ import annotations

import pickle
import struct
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor, list_data_collate
from monai.transforms import Compose

from custom.errors import BadScan
from custom.transforms.temporal_window import (
    MapBOLDd,
    MappedBOLD,
    RandTemporalWindow,
    RandTemporalWindowd,
    TemporalWindow,
    TemporalWindowd,
    map_bold,
    temporal_window,
)

AFFINE = np.array([[3.0, 0, 0.2, -9], [0, 3, 0, 5], [0, 0, 4, 1], [0, 0, 0, 1]])


def write(path: Path, dtype: type = np.float32, frames: int = 12, slope: float = 1.0, inter: float = 0.0) -> Path:
    """Write a scan of (4, 5, 6) voxels; the value of a voxel tells its place and its frame."""
    voxels = np.arange(4 * 5 * 6 * frames).reshape(4, 5, 6, frames).astype(dtype)
    image = nib.Nifti1Image(voxels, AFFINE)
    image.header.set_slope_inter(slope, inter)
    image.header["pixdim"][4] = 2.5
    nib.save(image, path)
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8, np.float64])
@pytest.mark.parametrize(("slope", "inter"), [(1.0, 0.0), (0.5, 0.0), (1.0, 7.0), (0.25, -3.0)])
def test_a_window_holds_the_scaled_values_of_its_frames(tmp_path: Path, dtype: type, slope: float, inter: float):
    path = tmp_path / "a.nii"
    header = nib.load(write(path)).header
    raw = (np.arange(4 * 5 * 6 * 12).reshape(4, 5, 6, 12) % 200).astype(dtype)
    header.set_data_dtype(dtype)
    header.set_slope_inter(slope, inter)
    header["vox_offset"] = 352
    path.write_bytes(header.binaryblock + bytes(4) + raw.tobytes(order="F"))
    expected = np.moveaxis(slope * raw.astype(np.float64) + inter, -1, 0)
    window, valid = temporal_window(map_bold(path), frames=5, start=3)
    np.testing.assert_allclose(window.numpy(), expected[3:8], rtol=1e-6)
    assert window.dtype == torch.float32
    assert window.is_contiguous()
    assert valid.tolist() == [True] * 5


def test_the_handle_knows_the_scan_and_holds_no_voxel(tmp_path: Path):
    handle = map_bold(write(tmp_path / "a.nii"))
    assert (handle.shape, handle.repetition_time) == ((12, 4, 5, 6), 2.5)
    np.testing.assert_allclose(handle.affine, AFFINE)
    assert len(pickle.dumps(handle)) < 2000
    again = pickle.loads(pickle.dumps(handle))
    assert torch.equal(temporal_window(again, 4, 2)[0], temporal_window(handle, 4, 2)[0])


def test_memory_is_that_of_the_window(tmp_path: Path):
    handle = map_bold(write(tmp_path / "a.nii", frames=4000))  # 1.9 MB
    tracemalloc.start()
    try:
        window = handle.frames(3000, 3002)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000
    assert window.untyped_storage().nbytes() == 2 * 4 * 5 * 6 * 4


def test_an_image_is_cut_as_a_file_is(tmp_path: Path):
    handle = map_bold(write(tmp_path / "a.nii"))
    image = temporal_window(handle)[0]
    assert image.shape == (12, 4, 5, 6)
    for scan in (handle, image, image.as_tensor(), image.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)):
        window, valid = TemporalWindow(frames=4, start=10)(scan)
        assert window.is_contiguous()
        assert torch.equal(window[:2].as_tensor(), image[10:].as_tensor())
        assert torch.count_nonzero(window[2:]) == 0
        assert valid.tolist() == [True, True, False, False]
        assert window.meta["window_start"] == 10


def test_place_and_history_are_kept(tmp_path: Path):
    path = write(tmp_path / "a.nii")
    window = MapBOLDd("image")({"image": str(path)})["image"].frames(0, 2)
    np.testing.assert_allclose(window.affine.numpy(), AFFINE)
    assert window.meta["filename_or_obj"] == str(path)
    image = MetaTensor(torch.rand(3, 2, 2, 2), affine=torch.from_numpy(AFFINE), applied_operations=[{"class": "Flip"}])
    for frames in (None, 2, 5):
        item = TemporalWindowd("image", frames)({"image": image, "label": 1})
        assert item["label"] == 1
        assert item["image"].applied_operations == image.applied_operations
        assert torch.equal(item["image"].affine, image.affine)
    assert "window_start" not in image.meta


@pytest.mark.parametrize(("frames", "start"), [(0, 0), (3, 12), (3, -1), (None, 12)])
def test_windows_without_a_frame_are_refused(tmp_path: Path, frames: int | None, start: int):
    path = write(tmp_path / "a.nii")
    with pytest.raises(ValueError, match=rf"{path}: .* are no window of a scan of 12 frames"):
        temporal_window(map_bold(path), frames, start)
    with pytest.raises(ValueError, match="a window has at least one frame, not 0"):
        RandTemporalWindow(0)


def test_every_window_is_drawn_about_equally_often():
    image = torch.arange(10.0).reshape(10, 1, 1, 1).expand(-1, 2, 2, 2)
    draw = RandTemporalWindow(frames=7).set_random_state(0)
    starts = []
    for _ in range(400):
        window, _ = draw(image)
        starts.append(int(window[0, 0, 0, 0]))
        assert starts[-1] == draw.start == window.meta["window_start"]
        assert (window[1:] - window[:-1] == 1).all()
    assert np.bincount(starts, minlength=4).min() > 70
    assert max(starts) == 3


def test_a_short_scan_is_padded_at_its_end():
    item = RandTemporalWindowd("image", frames=8)({"image": torch.ones(5, 2, 2, 2)})
    assert item["image"].shape == (8, 2, 2, 2)
    assert item["image"].sum((1, 2, 3)).tolist() == [8.0] * 5 + [0.0] * 3
    assert item["frame_mask"].tolist() == [True] * 5 + [False] * 3
    assert item["image"].meta["window_start"] == 0


def test_two_keys_share_a_window():
    image = torch.rand(40, 2, 2, 2)
    transform = RandTemporalWindowd(["a", "b"], frames=3).set_random_state(3)
    for _ in range(5):
        item = transform({"a": image, "b": 2 * image})
        assert torch.equal(2 * item["a"], item["b"])


def starts(dataset: CacheDataset) -> list[int]:
    return [dataset[i]["image"].meta["window_start"] for i in range(len(dataset))]


def test_a_cache_holds_handles_and_the_seed_makes_the_epochs(tmp_path: Path):
    rows = [{"image": str(write(tmp_path / f"{i}.nii", frames=100)), "label": i} for i in range(4)]
    chain = Compose([MapBOLDd("image"), RandTemporalWindowd("image", frames=5)])
    epochs = []
    for _ in range(2):
        chain.set_random_state(7)
        dataset = CacheDataset(rows, chain, copy_cache=False, progress=False)
        assert all(isinstance(item["image"], MappedBOLD) for item in dataset._cache)
        epochs.append([starts(dataset), starts(dataset)])
        assert all(set(item) == {"image", "label"} for item in dataset._cache)  # nothing was added to what is cached
    assert epochs[0] == epochs[1]
    assert epochs[0][0] != epochs[0][1]


def test_windows_are_collated_into_a_batch(tmp_path: Path):
    rows = [{"image": str(write(tmp_path / f"{i}.nii", frames=4 + 4 * i))} for i in range(2)]
    dataset = CacheDataset(
        rows, Compose([MapBOLDd("image"), RandTemporalWindowd("image", 6)]), copy_cache=False, progress=False
    )
    batch = next(iter(DataLoader(dataset, batch_size=2, collate_fn=list_data_collate)))
    assert batch["image"].shape == (2, 6, 4, 5, 6)
    assert batch["frame_mask"].tolist() == [[True] * 4 + [False] * 2, [True] * 6]
    assert batch["image"].meta["filename_or_obj"] == [row["image"] for row in rows]


def test_an_unknown_repetition_time_does_not_stop_a_batch():
    image = MetaTensor(torch.rand(3, 2, 2, 2), affine=torch.eye(4), meta={"filename_or_obj": "a", "repetition_time": None})
    item = TemporalWindowd("image")({"image": image})
    batch = list_data_collate([item, item])
    assert batch["image"].shape == (2, 3, 2, 2, 2)
    assert batch["image"].meta["filename_or_obj"] == ["a", "a"]
    assert image.meta["repetition_time"] is None


def test_files_that_cannot_be_mapped_are_refused(tmp_path: Path):
    nib.save(nib.load(write(tmp_path / "a.nii")), tmp_path / "a.nii.gz")
    with pytest.raises(BadScan, match=r"a\.nii\.gz: only an uncompressed \.nii file can be read frame by frame"):
        map_bold(tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.float32), AFFINE), tmp_path / "b.nii")
    with pytest.raises(BadScan, match=r"b\.nii: a 4D scan is wanted, this one has shape \(3, 3, 3\)"):
        map_bold(tmp_path / "b.nii")
    (tmp_path / "c.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:-10])
    with pytest.raises(BadScan, match=r"c\.nii: the file is cut off, 10 bytes are missing"):
        map_bold(tmp_path / "c.nii")
    with pytest.raises(FileNotFoundError):
        map_bold(tmp_path / "d.nii")
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3, 2), np.complex64), AFFINE), tmp_path / "e.nii")
    with pytest.raises(BadScan, match=r"e\.nii: damaged, holds complex64"):
        map_bold(tmp_path / "e.nii")


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_scan_that_begins_nowhere_is_refused(tmp_path: Path, value: float):
    content = bytearray(Path(write(tmp_path / "a.nii")).read_bytes())
    content[108:112] = struct.pack("<f", value)
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(BadScan, match=r"a\.nii: damaged.*prepare the study again"):
        map_bold(tmp_path / "a.nii")
