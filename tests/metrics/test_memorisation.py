from __future__ import annotations

import json

import numpy as np
import pytest
from generation_cases import brain, process
from scipy.spatial.distance import cdist

from custom.metrics.memorisation import nearest_neighbour_ratio

UNITS = ("window", "frame")


def audit(fake: np.ndarray, unit: str = "window", train: int = 12, heldout: int = 3, **options):
    return nearest_neighbour_ratio(fake, process(train, 1).values, process(heldout, 2).values, brain(), unit, **options)


@pytest.mark.parametrize("unit", UNITS)
def test_independent_draws_are_not_suspected(unit: str):
    found = audit(process(10, 3).values, unit)
    assert found.verdict == "no sign of memorisation"
    assert found.copies.sum() == 0
    assert found.summary()["ratio"]["median"] == pytest.approx(found.summary()["reference_ratio"]["median"], abs=0.05)
    assert 5 < found.summary()["percentile"] < 95


@pytest.mark.parametrize("unit", UNITS)
def test_one_copy_among_many_samples_is_caught(unit: str):
    fake = process(10, 3).values.copy()
    fake[7] = process(12, 1).values[30]
    found = audit(fake, unit)
    frames = 1 if unit == "window" else fake.shape[1]
    assert np.flatnonzero(found.copies).tolist() == list(range(7 * frames, 8 * frames))
    assert found.verdict == "copies of training data"
    assert found.distance[7 * frames] == pytest.approx(0, abs=1e-5)


def test_training_windows_with_noise_are_nearer_than_held_out_ones():
    fake = process(12, 1).values
    found = audit(fake + 0.9 * np.random.default_rng(0).normal(size=fake.shape) * brain())
    assert found.copies.sum() == 0
    assert found.suspects.mean() > 0.9
    assert found.verdict == "nearer to training data than held-out runs are"
    assert found.summary()["closer_share"] > 0.9


def test_a_smooth_sample_near_to_everything_is_no_suspect():
    found = audit(0.2 * process(10, 3).values)
    assert found.summary()["closer_share"] == 1
    assert found.verdict == "no sign of memorisation"


def test_balanced_ratio_does_not_fall_with_the_number_of_training_windows():
    fake = process(10, 3).values
    few, many = (audit(fake, train=train) for train in (3, 60))
    assert np.median(few.ratio) == pytest.approx(np.median(many.ratio), abs=0.03)
    assert np.median(many.full_ratio) < np.median(few.full_ratio) - 0.05  # which is why it has a reference of its own


def test_distances_are_root_mean_squares_per_voxel_to_the_nearest_other():
    sets = fake, train, held = [process(n, seed).values[:, :, brain()] for n, seed in ((2, 3), (12, 1), (3, 2))]
    voxels = fake.shape[2]
    frames, all_train, all_held = (s.reshape(-1, voxels).astype(float) for s in sets)
    found = audit(process(2, 3).values, "frame")
    np.testing.assert_allclose(found.distance, cdist(frames, all_train).min(1) / np.sqrt(voxels), rtol=1e-5)
    expected = cdist(frames, all_train).min(1) / cdist(frames, all_held).min(1)
    np.testing.assert_allclose(found.full_ratio, expected, rtol=1e-5)
    own = np.repeat(np.arange(len(held)), held.shape[1])
    others = np.where(own[:, None] == own, np.inf, cdist(all_held, all_held)).min(1)
    np.testing.assert_allclose(found.reference_full_ratio, cdist(all_held, all_train).min(1) / others, rtol=1e-5)


def test_the_seed_repeats_the_subsamples_and_the_summary_is_json():
    fake = process(3, 3).values
    a, same, other = (audit(fake, seed=seed) for seed in (0, 0, 1))
    assert (a.ratio == same.ratio).all()
    assert (a.ratio != other.ratio).any()
    assert a.balanced == 6
    assert json.loads(json.dumps(a.summary(), allow_nan=False))["expected_suspect_share"] == pytest.approx(1 / 13)


def test_expected_share_of_suspects_holds_over_studies():
    shares = [
        nearest_neighbour_ratio(*(process(n, 10 * s + k).values for k, n in enumerate((5, 6, 2))), brain()).suspects.mean()
        for s in range(1, 25)
    ]
    assert np.mean(shares) <= 1 / 9


def test_what_cannot_be_audited_is_refused():
    train, held = process(4, 1).values, process(2, 2).values
    with pytest.raises(ValueError, match="at least 2"):
        nearest_neighbour_ratio(train, train, held[:1], brain())
    with pytest.raises(ValueError, match="held-out: windows of 3 frames"):
        nearest_neighbour_ratio(train, train, held[:, :3], brain())
    with pytest.raises(ValueError, match="equals a training window"):
        nearest_neighbour_ratio(train, train, np.concatenate([held, train[:1]]), brain())
    with pytest.raises(ValueError, match="^generated: NaN"):
        nearest_neighbour_ratio(np.where(brain(), np.nan, train), train, held, brain())
