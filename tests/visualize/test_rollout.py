from __future__ import annotations

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

from custom.data.records import Event
from custom.data.windows import Windows
from custom.networks.slice_vit import Attention, SliceViT
from custom.transforms.event_window import SplitEventsd
from custom.visualize.explanation import randomised
from custom.visualize.rollout import attention_rollout, frame_weights, spatial_weights, write_rollout

CPU = torch.device("cpu")
CLASSES = ["early", "late"]
SHAPE, RUN, FRAMES, TR, SHIFT = (10, 8, 5), 20, 4, 2.0, 2.0
ONSETS = (1.0, 9.0, 16.5, 33.0)  # the last window has two frames of the run
STARTS = (2, 6, 9, 18)
# x to the left, oblique, unequal voxels
AFFINE = np.array([[-2.0, 0.1, 0, 20], [0.1, 2.2, 0.2, -9], [0, -0.2, 3.0, 4], [0, 0, 0, 1]])
GRID = (12, 9, 7)
SPATIAL = [
    Orientationd("image", axcodes="RAS", labels=None),
    Spacingd("image", pixdim=[2.5] * 3),
    ResizeWithPadOrCropd("image", spatial_size=GRID),
]


def build(size: Sequence[int] = SHAPE, **options) -> SliceViT:
    """Weights large enough for attention that is not even."""
    torch.manual_seed(5)
    sizes = {"patch_size": 3, "dim": 8, "slice_depth": 2, "frame_depth": 2} | options
    network = SliceViT(2, size, FRAMES, **sizes)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 3
    return network.eval()


def load(data: dict) -> dict:
    """Stands for LoadBOLDd: image and mask as (T, X, Y, Z) and (1, X, Y, Z)."""
    file = nib.load(data["image"])
    image = torch.from_numpy(np.moveaxis(file.get_fdata(dtype=np.float32), -1, 0))
    mask = torch.ones(1, *image.shape[1:], dtype=torch.uint8)
    image = MetaTensor(image, affine=file.affine, meta={"filename_or_obj": data["image"], "repetition_time": TR})
    return data | {"image": image, "mask": MetaTensor(mask, affine=file.affine)}


def drop_mask(data: dict) -> dict:
    return {key: value for key, value in data.items() if key != "mask"}


def scan() -> np.ndarray:
    """A brain (X, Y, Z, T) of noise, with air around it."""
    array = np.zeros((*SHAPE, RUN), dtype=np.float32)
    array[2:8, 2:6, 1:4] = np.random.default_rng(0).normal(0, 1, (6, 4, 3, RUN))
    return array


def write_run(folder: Path, array: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(scan() if array is None else array, AFFINE), folder / "run.nii")
    return folder / "run.nii"


def explain(raw: Path, out: Path, network: SliceViT, steps: list[Callable], label: int | None = 1, seed: int = 10) -> dict:
    events = [Event(onset, FRAMES * TR) for onset in ONSETS]
    item = {"image": str(raw), "subject": "sub-01", "scan": "sub-01_run-1", "events": events}
    item |= {} if label is None else {"label": label}
    split = SplitEventsd("image", Windows(shift=SHIFT), FRAMES)
    write_rollout(network, [item], [*steps, split], CLASSES, str(out), CPU, seed)
    return json.loads((out / "maps.json").read_text())


def windows_of(raw: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows (4, F, X, Y, Z) on the raw grid, and their masks."""
    run = torch.from_numpy(np.moveaxis(nib.load(raw).get_fdata(dtype=np.float32), -1, 0))
    run = torch.cat([run, torch.zeros(2, *SHAPE)])
    mask = torch.tensor([[start + frame < RUN for frame in range(FRAMES)] for start in STARTS])
    return torch.stack([run[start : start + FRAMES] for start in STARTS]), mask


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Folder and maps.json of a network on the raw grid."""
    folder = tmp_path_factory.mktemp("rollout")
    return folder, explain(write_run(folder), folder / "explain", build(), [load, drop_mask])


def test_the_rollout_is_the_product_of_the_blocks():
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.rand(2, 3, 5, 5, dtype=torch.float64, generator=generator).softmax(-1) for _ in range(3)]
    expected = np.zeros((2, 5, 5))
    for b in range(2):
        rollout = np.eye(5)
        for matrix in matrices:
            mixed = np.zeros((5, 5))
            for i in range(5):
                for j in range(5):
                    mixed[i, j] = 0.5 * np.mean([float(matrix[b, h, i, j]) for h in range(3)]) + 0.5 * (i == j)
            rollout = mixed @ rollout
        expected[b] = rollout
    found = attention_rollout(matrices)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 5, dtype=torch.float64))
    assert not torch.allclose(found, attention_rollout(matrices[::-1]))


def test_nothing_is_not_rolled_out():
    with pytest.raises(ValueError, match="no block"):
        attention_rollout([])


def test_weights_follow_the_poolings_and_the_blocks_back_to_the_input():
    """One head that passes everything one place on: half of it stays, by the residual connection."""
    shift = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])
    patches = torch.zeros(1, 3, 3, 2, 2)
    patches[..., 1, 0] = 1
    patches[:, :, 2] = torch.tensor([[0.5, 0.5], [0.0, 0.0]])
    last = torch.tensor([0.0, 0.0, 1.0])
    attention = Attention(
        patch_shares=patches,
        slices=(shift.expand(1, 3, 1, 3, 3), shift.expand(1, 3, 1, 3, 3)),
        slice_shares=last.expand(1, 3, 3),
        frames=(shift[None, None],),
        frame_shares=torch.tensor([[1.0, 0.0, 0.0]]),
        logits=torch.zeros(1, 2),
    )
    torch.testing.assert_close(frame_weights(attention), torch.tensor([[0.5, 0.5, 0.0]]))
    found = spatial_weights(attention)
    assert found.shape == (1, 3, 2, 2, 3)
    torch.testing.assert_close(found.sum((2, 3)), torch.tensor([0.5, 0.25, 0.25]).expand(1, 3, 3))
    torch.testing.assert_close(found[0, 0, :, :, 2], torch.tensor([[0.125, 0.125], [0.0, 0.0]]))
    torch.testing.assert_close(found[0, 0, :, :, 0], torch.tensor([[0.0, 0.0], [0.5, 0.0]]))


def test_without_blocks_the_poolings_alone_count():
    network = build(slice_depth=0, frame_depth=0)
    attention = network.attention(torch.randn(1, FRAMES, *SHAPE))
    torch.testing.assert_close(frame_weights(attention), attention.frame_shares)
    torch.testing.assert_close(spatial_weights(attention).sum((2, 3)), attention.slice_shares)


def test_the_class_is_that_of_the_mean_probability(explained: tuple[Path, dict]):
    folder, summary = explained
    (entry,) = summary["maps"]
    with torch.no_grad():
        probabilities = build()(*windows_of(folder / "run.nii")).softmax(1)
    predicted = int(probabilities.mean(0).argmax())
    assert entry["predicted"] == CLASSES[predicted]
    votes = pd.read_csv(folder / "explain" / entry["windows_csv"])
    assert list(votes) == ["block", "onset", "probability"]
    assert list(votes["block"]) == [f"sub-01_run-1_{number:03d}" for number in range(4)]
    assert list(votes["onset"]) == list(ONSETS)
    np.testing.assert_allclose(votes["probability"], probabilities[:, predicted], rtol=1e-4)


def test_the_map_is_the_mean_over_windows_of_the_frames_maps(explained: tuple[Path, dict]):
    folder, summary = explained
    image, mask = windows_of(folder / "run.nii")
    attention = build().attention(image, mask)
    expected = np.zeros(SHAPE)
    for number in range(4):
        frames = frame_weights(attention)[number].numpy()
        coarse = sum(w * volume for w, volume in zip(frames, spatial_weights(attention)[number].numpy(), strict=True))
        fine = torch.nn.functional.interpolate(torch.from_numpy(coarse)[None, None], (12, 9, 5), mode="trilinear")[0, 0]
        brain = (image[number] != 0).any(0).numpy()
        expected += fine[:10, :8].numpy() * brain / 4
    found = nib.load(folder / "explain" / summary["maps"][0]["nifti"]).get_fdata()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-8)


def test_the_time_course_counts_from_the_onset_and_leaves_out_what_was_not_measured(explained: tuple[Path, dict]):
    folder, summary = explained
    weights = frame_weights(build().attention(*windows_of(folder / "run.nii"))).double().numpy()
    assert not weights[3, 2:].any()
    table = pd.read_csv(folder / "explain" / summary["maps"][0]["time_csv"])
    assert list(table) == ["frame", "seconds", "weight", "windows"]
    assert list(table["windows"]) == [4, 4, 3, 3]
    expected = [weights[:, 0].mean(), weights[:, 1].mean(), weights[:3, 2].mean(), weights[:3, 3].mean()]
    np.testing.assert_allclose(table["weight"], expected, rtol=1e-4)
    first = np.mean([start * TR - onset for start, onset in zip(STARTS, ONSETS, strict=True)])
    assert table["seconds"][0] == pytest.approx(first)


def test_maps_json_tells_what_was_done(explained: tuple[Path, dict]):
    folder, summary = explained
    (entry,) = summary["maps"]
    assert summary["method"] == "Attention rollout"
    assert (entry["subject"], entry["source"], entry["label"], entry["windows"]) == ("sub-01", "run.nii", "late", 4)
    assert -1 < entry["randomised_weights_correlation"] < 0.95
    for picture in ("png", "time_png"):
        assert imread(folder / "explain" / entry[picture])[..., :3].std() > 0.01


def test_a_map_lies_on_the_raw_grid_and_in_the_brain(tmp_path: Path):
    raw = write_run(tmp_path)
    (entry,) = explain(raw, tmp_path / "explain", build(GRID), [load, drop_mask, *SPATIAL], label=None)["maps"]
    run, found = nib.load(raw), nib.load(tmp_path / "explain" / entry["nifti"])
    assert entry["label"] is None
    assert nib.aff2axcodes(run.affine) == ("L", "A", "S")
    assert found.shape == SHAPE
    np.testing.assert_allclose(found.affine, run.affine, atol=1e-4)
    heat = found.get_fdata()
    assert heat.min() >= 0
    assert heat[2:8, 2:6, 1:4].mean() > 3 * heat[0].mean()
    assert not heat[:, -1].any()  # farther from the brain than one voxel of the prepared grid


def test_a_signal_at_one_place_is_found_there(tmp_path: Path):
    """Orientation and patches: a single patch of signal in air gets all of the map."""
    array = np.zeros((*SHAPE, RUN), dtype=np.float32)
    array[7, 4, 3] = np.random.default_rng(0).normal(0, 1, RUN)
    (entry,) = explain(write_run(tmp_path, array), tmp_path / "explain", build(), [load, drop_mask])["maps"]
    heat = nib.load(tmp_path / "explain" / entry["nifti"]).get_fdata()
    assert np.argwhere(heat > 0).tolist() == [[7, 4, 3]]


def test_the_same_seed_gives_the_same_files_and_the_network_is_not_changed(tmp_path: Path):
    raw, network = write_run(tmp_path), build()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first, second, other = (
        explain(raw, tmp_path / name, network, [load, drop_mask], seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == second
    assert first["randomised_weights_correlation"] != other["randomised_weights_correlation"]
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_the_control_has_other_weights_throughout():
    """Biases and norms start alike in every network; all else is drawn."""
    network = build()
    same = [n for n, v in randomised(network, 1).named_parameters() if torch.isclose(v, network.get_parameter(n)).all()]
    assert all(name.endswith("bias") for name in same), same


def test_transforms_that_do_not_split_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="SplitEventsd, not function"):
        write_rollout(build(), [], [load, drop_mask], CLASSES, str(tmp_path), CPU)
