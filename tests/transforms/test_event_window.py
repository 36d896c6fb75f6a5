from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, RandGaussianNoised

from custom.data import Event, Windows
from custom.errors import BadScan
from custom.transforms.event_window import EventWindowd, RandEventWindowd, SplitEventsd, event_window
from custom.transforms.temporal_window import MapBOLDd

RUN = torch.arange(1.0, 21).reshape(20, 1, 1, 1).expand(-1, 2, 3, 2).contiguous()  # frame t has the value t + 1
ROW = {"image": RUN, "start": 5, "frames": 4, "label": 1, "block": "run_001"}
EVENTS = (Event(4, 8, 1), Event(20, 8, 0), Event(32, 8, 1))


def values(item: dict) -> list[float]:
    """Return what the frames hold, all of whose voxels are equal."""
    image = item["image"].flatten(1)
    assert bool((image == image[:, :1]).all())
    return image[:, 0].tolist()


def run_item(**more: object) -> dict:
    image = MetaTensor(RUN, affine=torch.eye(4), meta={"filename_or_obj": "run.nii", "repetition_time": 2.0, "unknown": None})
    return {"image": image, "events": EVENTS, "scan": "run", "subject": "s1", "mask": torch.ones(1), "report": {}, **more}


@pytest.mark.parametrize(
    ("frames", "length", "start", "expected", "valid"),
    [
        (4, None, 5, [6, 7, 8, 9], 4),
        (4, 6, 5, [6, 7, 8, 9, 0, 0], 4),
        (4, 4, 18, [19, 20, 0, 0], 2),
        (4, 6, 18, [19, 20, 0, 0, 0, 0], 2),
        (1, 2, 0, [1, 0], 1),
    ],
)
def test_a_window_holds_the_events_frames_and_then_zeros(
    frames: int, length: int | None, start: int, expected: list[float], valid: int
):
    item = EventWindowd("image", length)({**ROW, "start": start, "frames": frames})
    assert values(item) == expected
    assert item["frame_mask"].tolist() == [True] * valid + [False] * (len(expected) - valid)
    assert item["frame_mask"].dtype == torch.bool
    assert (item["label"], item["image"].dtype) == (1, torch.float32)
    assert torch.equal(RUN, ROW["image"])


def test_a_window_longer_than_the_network_takes_is_refused():
    with pytest.raises(ValueError, match="run_001: its window has 4 frames, the network takes 3: raise the frames"):
        EventWindowd("image", 3)(ROW)


@pytest.mark.parametrize("start", [-1, 20])
def test_a_window_without_a_measured_frame_is_refused(start: int):
    with pytest.raises(ValueError, match="no window of a scan of 20 frames"):
        event_window(RUN, start, 4)


def test_rows_of_a_prepared_run_make_batches(tmp_path: Path):
    path = tmp_path / "run.nii"
    nib.save(nib.Nifti1Image(np.moveaxis(RUN.numpy(), 0, -1), np.diag([3.0, 3, 4, 1])), path)
    rows = [{"image": str(path), "start": 3 * i, "frames": 2 + i, "label": 0, "block": f"run_{i:03d}"} for i in range(3)]
    dataset = CacheDataset(rows, Compose([MapBOLDd("image"), EventWindowd("image", 5)]), copy_cache=False, progress=False)
    batch = next(iter(DataLoader(dataset, batch_size=3)))
    assert batch["image"][:, :, 0, 0, 0].tolist() == [[1, 2, 0, 0, 0], [4, 5, 6, 0, 0], [7, 8, 9, 10, 0]]
    assert batch["frame_mask"].sum(1).tolist() == [2, 3, 4]
    assert batch["image"].meta["filename_or_obj"] == [str(path)] * 3
    np.testing.assert_allclose(batch["image"].affine[0], np.diag([3.0, 3, 4, 1]))


def drawn(transform: RandEventWindowd, row: dict, times: int = 200) -> list[float]:
    """Return the first value of windows drawn, which is their first frame + 1."""
    return [values(transform(row))[0] for _ in range(times)]


def test_the_shift_is_uniform_over_plus_and_minus_its_bound():
    counts = np.bincount(drawn(RandEventWindowd("image", 4, max_shift=2).set_random_state(0), ROW, 500))
    assert counts[:4].sum() == 0
    assert len(counts) == 9
    assert counts[4:].min() > 70  # of 100 expected


@pytest.mark.parametrize(("start", "frames"), [(0, 4), (1, 4), (15, 4), (16, 4), (18, 4), (19, 4), (0, 30)])
def test_a_shifted_window_stays_in_the_run_and_loses_no_frame(start: int, frames: int):
    row = {**ROW, "start": start, "frames": frames}
    measured = int(EventWindowd("image")(row)["frame_mask"].sum())
    transform = RandEventWindowd("image", max_shift=3).set_random_state(1)
    for _ in range(40):
        item = transform(row)
        assert int(item["frame_mask"].sum()) >= measured
        assert 0 <= item["image"].meta["window_start"] == start + transform.shift < 20


def test_the_seed_decides_the_shift_and_no_shift_is_the_window_itself():
    seeded = [drawn(RandEventWindowd("image", 4, 3).set_random_state(s), ROW, 30) for s in (5, 5, 6)]
    assert seeded[0] == seeded[1] != seeded[2]
    assert set(drawn(RandEventWindowd("image", 4), ROW, 20)) == {6.0}
    with pytest.raises(ValueError, match="max_shift is a number of frames, not -1"):
        RandEventWindowd("image", 4, -1)


def test_a_run_becomes_a_list_of_its_events_windows():
    items = SplitEventsd("image", Windows(shift=4), frames=5)(run_item(age=31, wave=None))
    assert [values(item) for item in items] == [[5, 6, 7, 8, 0], [13, 14, 15, 16, 0], [19, 20, 0, 0, 0]]
    assert [item["frame_mask"].sum().item() for item in items] == [4, 4, 2]
    assert [item["block"] for item in items] == ["run_000", "run_001", "run_002"]
    assert [(item["onset"], item["label"]) for item in items] == [(4, 1), (20, 0), (32, 1)]
    assert set(items[0]) == {"image", "frame_mask", "block", "onset", "start", "label", "scan", "subject", "age"}


def test_windows_of_a_run_are_those_of_its_rows():
    """Inference cuts what training was given: the same frames for the same events."""
    windows = Windows(shift=4)
    items = SplitEventsd("image", windows, frames=6)(run_item())
    rows = [{"start": w.start, "frames": w.frames} for w in windows.locate(EVENTS, 20, 2.0, "run")]
    for item, row in zip(items, rows, strict=True):
        trained = EventWindowd("image", 6)({"image": RUN, **row})
        assert torch.equal(item["image"].as_tensor(), trained["image"].as_tensor())
        assert torch.equal(item["frame_mask"], trained["frame_mask"])


def test_the_loader_makes_one_batch_of_a_runs_windows_which_transforms_may_change_one_by_one():
    chain = Compose([SplitEventsd("image", Windows(), frames=4), RandGaussianNoised("image", prob=1.0)])
    batch = next(iter(DataLoader(Dataset([run_item()], chain), batch_size=1)))
    assert batch["image"].shape == (3, 4, 2, 3, 2)
    assert len({float(noise) for noise in (batch["image"][:, 0] - batch["image"][:, 1]).flatten(1)[:, 0]}) == 3
    first = decollate_batch(batch)[0]
    assert first["image"].meta["filename_or_obj"] == "run.nii"
    assert (first["scan"], first["block"], int(first["label"])) == ("run", "run_000", 1)


def test_a_block_that_the_events_name_keeps_its_name_and_a_run_without_labels_has_none():
    events = (Event(4, 8, columns={"block": "tongue-1"}), Event(20, 8, 2))
    items = SplitEventsd("image", Windows())(run_item(events=events))
    assert [item["block"] for item in items] == ["tongue-1", "run_001"]
    assert all("label" not in item for item in items)


def test_runs_whose_events_have_no_windows_are_refused():
    with pytest.raises(BadScan, match=r"run\.nii: none of its 1 events has a window within its 20 frames"):
        SplitEventsd("image", Windows(shift=6))(run_item(events=(Event(38, 8),)))
    with pytest.raises(BadScan, match=r"run\.nii: event 0 begins at 44 s"):
        SplitEventsd("image", Windows())(run_item(events=(Event(44, 8),)))
    unknown = {**run_item(), "image": MetaTensor(RUN, meta={"filename_or_obj": "run.nii"})}
    with pytest.raises(BadScan, match=r"run\.nii: the time between two frames is not known"):
        SplitEventsd("image", Windows())(unknown)
    with pytest.raises(ValueError, match="run_000: its window has 4 frames, the network takes 3"):
        SplitEventsd("image", Windows(), frames=3)(run_item())
