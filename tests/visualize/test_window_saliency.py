from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread
from monai.data import MetaTensor
from monai.transforms import Orientationd, ResizeWithPadOrCropd, Spacingd
from torch import nn

from custom.data.records import Event
from custom.data.windows import Windows
from custom.transforms.event_window import SplitEventsd
from custom.visualize.evidence import margin
from custom.visualize.window_saliency import time_course, write_window_saliency

CPU = torch.device("cpu")
CLASSES = ["left leg", "right leg", "forearm"]
SHAPE, RUN, FRAMES, TR, SHIFT = (8, 6, 5), 20, 4, 2.0, 4.0
ONSETS = (0.5, 8.5, 16.5, 31.0)  # the last window has two frames of the run
STARTS = (2, 6, 10, 18)
LABELS = (0, 1, 0, 1)
BLOB = (6, 3, 2)
# x to the left, oblique, unequal voxels
AFFINE = np.array([[-2.0, 0.1, 0, 20], [0.1, 2.2, 0.2, -9], [0, -0.2, 3.0, 4], [0, 0, 0, 1]])
SPATIAL = [
    Orientationd("image", axcodes="RAS", labels=None),
    Spacingd("image", pixdim=[2.5] * 3),
    ResizeWithPadOrCropd("image", spatial_size=[10, 8, 8]),
]


class Linear(nn.Module):
    """Mean over the valid frames, then one weight per voxel: every attribution is known exactly."""

    def __init__(self, num_voxels: int, num_classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.head = nn.Linear(num_voxels, num_classes)

    def forward(self, image: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        valid = image.new_ones(image.shape[:2]) if mask is None else mask.to(image)
        image = (image * valid[:, :, None, None, None]).sum(1) / valid.sum(1)[:, None, None, None]
        return self.head(self.voxels(image).flatten(1))

    def voxels(self, image: torch.Tensor) -> torch.Tensor:
        return image


class Curved(Linear):
    def voxels(self, image: torch.Tensor) -> torch.Tensor:
        return torch.sin(image) + 0.3 * image**2


def load(data: dict) -> dict:
    """Stands for LoadBOLDd: image and mask as (T, X, Y, Z) and (1, X, Y, Z)."""
    file = nib.load(data["image"])
    image = torch.from_numpy(np.moveaxis(file.get_fdata(dtype=np.float32), -1, 0))
    mask = torch.ones(1, *image.shape[1:], dtype=torch.uint8)
    image = MetaTensor(image, affine=file.affine, meta={"filename_or_obj": data["image"], "repetition_time": TR})
    return data | {"image": image, "mask": MetaTensor(mask, affine=file.affine)}


def drop_mask(data: dict) -> dict:
    return {key: value for key, value in data.items() if key != "mask"}


def events_of(labels: Sequence[int | None]) -> list[Event]:
    return [Event(onset, FRAMES * TR, label) for onset, label in zip(ONSETS, labels, strict=True)]


def write_run(folder: Path, array: np.ndarray | None = None) -> Path:
    values = np.random.default_rng(0).normal(0, 1, (*SHAPE, RUN)).astype(np.float32) if array is None else array
    nib.save(nib.Nifti1Image(values, AFFINE), folder / "run.nii")
    return folder / "run.nii"


def explain(raw: Path, out: Path, network: nn.Module, steps: list[Callable], labels=LABELS, **options) -> list[dict]:
    scan = {"image": str(raw), "subject": "sub-01", "scan": "sub-01_run-1", "events": events_of(labels)}
    split = SplitEventsd("image", Windows(shift=SHIFT), FRAMES)
    given = {"num_steps": 4, "seed": 10} | options  # not the seed of the network
    write_window_saliency(network, [scan], [*steps, split], CLASSES, str(out), CPU, **given)
    return json.loads((out / "maps.json").read_text())["maps"]


def expected_of(raw: Path, network: Linear) -> dict[int, list[np.ndarray]]:
    """Class → attributions (F, X, Y, Z) of the windows that a linear network gives to it, in float64."""
    run = np.moveaxis(nib.load(raw).get_fdata(), -1, 0)
    weight = network.head.weight.detach().double().numpy()
    bias = network.head.bias.detach().double().numpy()
    found: dict[int, list[np.ndarray]] = {}
    for start in STARTS:
        window = run[start : start + FRAMES]
        logits = weight @ window.mean(0).ravel() + bias
        target = int(logits.argmax())
        others = [c for c in range(3) if c != target]
        contrast = (weight[target] - weight[others].mean(0)).reshape(SHAPE)
        found.setdefault(target, []).append(contrast * window / len(window))
    return found


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Linear, list[dict]]:
    """Folder, network and maps of a linear network on the raw grid."""
    folder = tmp_path_factory.mktemp("linear")
    network = Linear(int(np.prod(SHAPE)))
    return folder, network, explain(write_run(folder), folder / "explain", network, [load, drop_mask])


def test_there_is_a_map_of_every_class_that_is_found(linear: tuple[Path, Linear, list[dict]]):
    folder, network, maps = linear
    expected = expected_of(folder / "run.nii", network)
    assert len(expected) == 2  # of three classes: the test can tell
    assert [entry["predicted"] for entry in maps] == [CLASSES[target] for target in sorted(expected)]
    assert [entry["title"] for entry in maps] == [f"sub-01_run-1 {CLASSES[target]}" for target in sorted(expected)]
    assert {entry["subject"] for entry in maps} == {"sub-01"}
    assert len({entry[file] for entry in maps for file in ("nifti", "png", "time_csv", "time_png")}) == 8
    assert all(
        (folder / "explain" / entry[file]).is_file() for entry in maps for file in ("nifti", "png", "time_csv", "time_png")
    )
    assert json.loads((folder / "explain" / "maps.json").read_text())["method"] == "Integrated gradients"


def test_a_map_is_the_mean_over_the_windows_of_its_class(linear: tuple[Path, Linear, list[dict]]):
    folder, network, maps = linear
    expected = expected_of(folder / "run.nii", network)
    assert all(len(windows) == 2 for windows in expected.values())
    for entry in maps:
        windows = expected[CLASSES.index(entry["predicted"])]
        heat = nib.load(folder / "explain" / entry["nifti"]).get_fdata()
        np.testing.assert_allclose(heat, np.mean([np.abs(w).sum(0) for w in windows], axis=0), rtol=1e-4, atol=1e-7)
        assert entry["windows"] == len(windows)


def test_the_time_course_counts_from_the_onset(linear: tuple[Path, Linear, list[dict]]):
    folder, network, maps = linear
    expected = expected_of(folder / "run.nii", network)
    lags = {target: [] for target in expected}
    run = np.moveaxis(nib.load(folder / "run.nii").get_fdata(), -1, 0)
    for onset, start in zip(ONSETS, STARTS, strict=True):
        with torch.no_grad():
            window = torch.from_numpy(run[start : start + FRAMES]).float()
            lags[int(network(window[None]).argmax())].append(start * TR - onset)
    for entry in maps:
        target = CLASSES.index(entry["predicted"])
        table = pd.read_csv(folder / "explain" / entry["time_csv"])
        assert list(table) == ["frame", "seconds", "attribution", "windows"]
        for row in table.itertuples():
            there = [(w, lag) for w, lag in zip(expected[target], lags[target], strict=True) if row.frame < len(w)]
            assert row.windows == len(there)
            assert row.attribution == pytest.approx(np.mean([np.abs(w[row.frame]).sum() for w, _ in there]), rel=1e-4)
            assert row.seconds == pytest.approx(np.mean([lag for _, lag in there]) + row.frame * TR)
        assert imread(folder / "explain" / entry["time_png"])[..., :3].std() > 0.01


def test_frames_beyond_the_end_of_the_run_are_left_out():
    windows = [{"start": 1, "onset": 0.5, "frame_mask": torch.tensor([True, True, n > 1])} for n in (1, 2)]
    table = time_course([np.array([1.0, 2.0, 0.0]), np.array([3.0, 4.0, 5.0])], windows, 2.0)
    assert table["attribution"].tolist() == [2, 3, 5]
    assert table["windows"].tolist() == [2, 2, 1]
    assert table["seconds"].tolist() == [1.5, 3.5, 5.5]
    nobody = [{"start": 0, "onset": 0.0, "frame_mask": torch.tensor([True, False])}]
    assert time_course([np.array([1.0, 0.0])], nobody, 2.0)["frame"].tolist() == [0]


def test_windows_with_labels_tell_how_many_are_right(linear: tuple[Path, Linear, list[dict]], tmp_path: Path):
    folder, network, maps = linear
    assert all(entry["label"] is None for entry in maps)
    whole = [target for target, windows in expected_of(folder / "run.nii", network).items() for _ in windows]
    assert sum(entry["windows"] for entry in maps) == len(whole) == len(LABELS)
    run = np.moveaxis(nib.load(folder / "run.nii").get_fdata(dtype=np.float32), -1, 0)
    with torch.no_grad():
        found = [int(network(torch.from_numpy(run[s : s + FRAMES])[None]).argmax()) for s in STARTS]
    right = sum(a == b for a, b in zip(found, LABELS, strict=True))
    assert 0 < right < len(LABELS)
    assert sum(entry["correct_windows"] for entry in maps) == right
    unlabelled = explain(folder / "run.nii", tmp_path, network, [load, drop_mask], labels=[None] * 4)
    assert not any("correct_windows" in entry for entry in unlabelled)


def test_a_linear_network_is_explained_completely(linear: tuple[Path, Linear, list[dict]]):
    folder, network, maps = linear
    expected = expected_of(folder / "run.nii", network)
    for entry in maps:
        windows = expected[CLASSES.index(entry["predicted"])]
        complete = entry["completeness"]
        assert complete["attributed"] == pytest.approx(np.mean([w.sum() for w in windows]), rel=1e-4)
        assert complete["logit_difference"] == pytest.approx(complete["attributed"], rel=1e-4)
        assert complete["relative_gap"] < 1e-4


def test_more_points_close_the_gap_of_a_curved_network(tmp_path: Path):
    raw, network = write_run(tmp_path), Curved(int(np.prod(SHAPE)))
    coarse, fine = (
        max(
            entry["completeness"]["relative_gap"]
            for entry in explain(raw, tmp_path / str(n), network, [load, drop_mask], num_steps=n)
        )
        for n in (1, 6)
    )
    assert fine < 1e-4 < 0.01 < coarse


def test_the_gap_is_that_of_all_windows(tmp_path: Path):
    """One point is the midpoint rule; what one window has too much does not make up for what another has too little."""
    raw, network = write_run(tmp_path), Curved(int(np.prod(SHAPE)))
    maps = explain(raw, tmp_path / "explain", network, [load, drop_mask], num_steps=1)
    twin, run = copy.deepcopy(network).double(), torch.from_numpy(np.moveaxis(nib.load(raw).get_fdata(), -1, 0).copy())
    sums: dict[int, list[tuple[float, float]]] = {}
    for start in STARTS:
        window = run[start : start + FRAMES]
        target = int(twin(window[None])[0].argmax())
        half = (window / 2).requires_grad_()
        (gradient,) = torch.autograd.grad(margin(twin(half[None])[0], target), half)
        difference = margin(twin(window[None])[0] - twin(0 * window[None])[0], target)
        sums.setdefault(target, []).append((float((window * gradient).sum()), float(difference.detach())))
    for entry in maps:
        found, expected = np.array(sums[CLASSES.index(entry["predicted"])]).T
        complete = entry["completeness"]
        assert complete["relative_gap"] == pytest.approx(np.abs(found - expected).sum() / np.abs(expected).sum(), rel=1e-3)
        assert complete["attributed"] == pytest.approx(found.mean(), rel=1e-3)
    assert any(np.ptp(np.sign(found - expected)) for found, expected in (np.array(s).T for s in sums.values()))


def test_a_map_lies_on_the_raw_grid(tmp_path: Path):
    array = np.full((*SHAPE, RUN), 1.0, dtype=np.float32)
    array[BLOB] = 30
    raw = write_run(tmp_path, array)
    network = Linear(10 * 8 * 8)
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor([[1.0], [0], [0]]).expand(-1, 640))
    (entry,) = explain(raw, tmp_path / "explain", network, [load, drop_mask, *SPATIAL])
    scan, found = nib.load(raw), nib.load(tmp_path / "explain" / entry["nifti"])
    assert nib.aff2axcodes(scan.affine) == ("L", "A", "S")
    assert found.shape == SHAPE
    np.testing.assert_allclose(found.affine, scan.affine, atol=1e-4)
    assert np.unravel_index(found.get_fdata().argmax(), SHAPE) == BLOB


def test_the_network_is_not_changed_and_the_seed_is_that_of_the_control(tmp_path: Path):
    raw, network = write_run(tmp_path), Linear(int(np.prod(SHAPE)))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first, again, other = (
        explain(raw, tmp_path / name, network, [load, drop_mask], num_steps=1, seed=seed)
        for name, seed in (("a", 10), ("b", 10), ("c", 20))
    )
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert first == again
    assert all(-1 < entry["randomised_weights_correlation"] < 0.9 for entry in first)
    assert first[0]["randomised_weights_correlation"] != other[0]["randomised_weights_correlation"]


def test_no_points_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="positive"):
        explain(write_run(tmp_path), tmp_path, Linear(int(np.prod(SHAPE))), [load, drop_mask], num_steps=0)


def test_transforms_that_do_not_split_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="SplitEventsd, not function"):
        write_window_saliency(Linear(1), [], [load, drop_mask], CLASSES, str(tmp_path), CPU)
