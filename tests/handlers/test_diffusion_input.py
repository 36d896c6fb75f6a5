from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from monai.networks.schedulers import DDPMScheduler

from custom.handlers.diffusion_input import DiffusionInput, FixedLevels

FRAMES, GRID = 3, (2, 3, 1)


def scheduler(prediction_type: str = "v_prediction") -> DDPMScheduler:
    return DDPMScheduler(1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02, prediction_type=prediction_type)


def batch(windows: int = 4, seed: int = 0) -> dict[str, Any]:
    """Windows as a loader hands them out; the second label is that of no class."""
    generator = torch.Generator().manual_seed(seed)
    items = [
        {
            "image": MetaTensor(torch.randn(FRAMES, *GRID, generator=generator), meta={"window_start": i}),
            "label": (0, -1, 2, 3)[i % 4],
            "frame_mask": torch.ones(FRAMES, dtype=torch.bool),
            "block": f"sub-1_run-0{i}_block-1",
        }
        for i in range(windows)
    ]
    return list_data_collate(items)


def values(data: dict[str, Any]) -> torch.Tensor:
    return data["image"].as_tensor()


def as_numpy_target(prediction_type: str, x0: np.ndarray, noise: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
    squares = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[timesteps].reshape(-1, 1, 1, 1, 1)
    return np.sqrt(squares) * noise - np.sqrt(1 - squares) * x0 if prediction_type == "v_prediction" else noise


# ---- training


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("prepare", [DiffusionInput, FixedLevels])
def test_the_target_is_that_of_the_prediction_type(prediction_type: str, prepare: type[DiffusionInput]):
    torch.manual_seed(0)
    images, target, args, told = prepare(scheduler(prediction_type))(batch())
    expected = as_numpy_target(prediction_type, images.numpy(), told["noise"].numpy(), told["timesteps"].numpy())
    np.testing.assert_allclose(target, expected, rtol=1e-4, atol=1e-5)
    assert args == ()
    assert told["noise"].std() > 0.7


def test_another_prediction_type_is_refused():
    with pytest.raises(ValueError, match="prediction_type 'sample' of the scheduler is not one of v_prediction, epsilon"):
        DiffusionInput(scheduler("sample"))


def test_by_default_windows_and_labels_are_passed_on():
    data = batch()
    images, _, _, told = DiffusionInput(scheduler())(data)
    assert type(images) is torch.Tensor
    assert torch.equal(images, values(data))
    assert told["condition"].tolist() == [0, -1, 2, 3]
    assert told["condition"].dtype == torch.int64


def test_timesteps_are_drawn_from_the_whole_schedule():
    torch.manual_seed(0)
    prepare, data = DiffusionInput(scheduler()), batch()
    drawn = torch.cat([prepare(data)[3]["timesteps"] for _ in range(500)]).numpy()
    assert np.histogram(drawn, 4, (0, 1000))[0].min() > 420  # of 500 expected, ±4 standard deviations
    assert drawn.min() < 10
    assert drawn.max() > 989


def test_windows_are_taken_apart_into_frames_in_their_order():
    data = batch()
    images, target, _, told = DiffusionInput(scheduler(), single_frames=1.0)(data)
    assert images.shape == target.shape == told["noise"].shape == (4 * FRAMES, 1, *GRID)
    for i in range(4):
        assert torch.equal(images[i * FRAMES : (i + 1) * FRAMES, 0], values(data)[i])
    assert told["condition"].tolist() == [0] * 3 + [-1] * 3 + [2] * 3 + [3] * 3
    assert len(set(told["timesteps"].tolist())) > FRAMES  # each frame has its own


def test_a_share_of_the_batches_is_taken_apart():
    torch.manual_seed(0)
    prepare, data = DiffusionInput(scheduler(), single_frames=0.25), batch()
    frames = [prepare(data)[0].shape[1] for _ in range(400)]
    assert set(frames) == {1, FRAMES}
    assert np.mean(np.array(frames) == 1) == pytest.approx(0.25, abs=0.08)


def test_a_share_of_the_windows_loses_its_class():
    torch.manual_seed(0)
    data = batch(2000)
    told = DiffusionInput(scheduler(), class_dropout=0.3)(data)[3]["condition"]
    known = data["label"] >= 0
    assert torch.mean((told[known] == -1).float()) == pytest.approx(0.3, abs=0.05)
    assert (told[~known] == -1).all()
    kept = told != -1
    assert torch.equal(told[kept], data["label"][kept])


def test_every_frame_of_a_window_loses_its_class_for_itself():
    torch.manual_seed(0)
    told = DiffusionInput(scheduler(), class_dropout=0.5, single_frames=1.0)(batch(40))[3]["condition"]
    assert len(told) == 40 * FRAMES
    assert ((told.reshape(40, FRAMES) == -1).float().mean(1) % 1 > 0).any()


def test_the_same_seed_draws_the_same_batch():
    prepare, found = DiffusionInput(scheduler(), class_dropout=0.5, single_frames=0.5), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn = [prepare(batch()) for _ in range(6)]
        found.append(torch.cat([torch.cat([told["noise"].flatten(), told["condition"]]) for *_, told in drawn]))
    assert torch.equal(found[0], found[1])
    assert found[0].shape != found[2].shape or not torch.equal(found[0], found[2])


@pytest.mark.parametrize("prepare", [DiffusionInput, FixedLevels])
def test_a_window_that_is_longer_than_its_run_is_named(prepare: type[DiffusionInput]):
    data = batch()
    data["frame_mask"][2, -1] = False
    with pytest.raises(ValueError, match=r"sub-1_run-02_block-1: its window of 3 frames is longer .* give --frames"):
        prepare(scheduler())(data)


# ---- validation


def test_levels_are_the_middles_of_equal_parts():
    assert FixedLevels(scheduler(), 4).timesteps.tolist() == [125, 375, 625, 875]
    assert FixedLevels(scheduler()).timesteps.tolist() == [62, 187, 312, 437, 562, 687, 812, 937]


def test_a_window_is_seen_at_all_levels_one_after_the_other():
    data = batch(2)
    images, _, _, told = FixedLevels(scheduler(), 4)(data)
    assert images.shape == (8, FRAMES, *GRID)
    for i in range(2):
        assert all(torch.equal(image, values(data)[i]) for image in images[4 * i : 4 * i + 4])
    assert told["timesteps"].tolist() == [125, 375, 625, 875] * 2
    assert told["condition"].tolist() == [0] * 4 + [-1] * 4


def test_levels_are_the_same_in_every_epoch():
    """Whatever the random state of the training, which is left as it is."""
    prepare, found = FixedLevels(scheduler(), 4), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        found.append(prepare(batch())[1])
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*found)
    assert not torch.allclose(found[0], FixedLevels(scheduler(), 4, seed=1)(batch())[1])


def test_levels_do_not_depend_on_the_batch_size():
    prepare, data = FixedLevels(scheduler(), 4), batch()
    parts = [{key: value[i : i + 1] for key, value in data.items()} for i in range(4)]
    together, alone = prepare(data), [prepare(part) for part in parts]
    assert torch.equal(together[0], torch.cat([part[0] for part in alone]))
    assert torch.equal(together[1], torch.cat([part[1] for part in alone]))
    for key in ("noise", "timesteps", "condition"):
        assert torch.equal(together[3][key], torch.cat([part[3][key] for part in alone]))


def test_every_level_has_noise_of_its_own():
    noise = FixedLevels(scheduler(), 4)(batch())[3]["noise"][:4].flatten(1)
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 0.9
    assert torch.unique(noise).numel() == noise.numel()
