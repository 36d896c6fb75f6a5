from __future__ import annotations

import numpy as np
import pytest

from custom.phantoms.anomalies import KINDS, SIZES, TEST_KINDS, TUNING_KINDS, plant

SHAPE = (9, 14, 12, 3)


@pytest.fixture
def mask() -> np.ndarray:
    inside = np.zeros(SHAPE[1:], dtype=bool)
    inside[1:-1, 1:-1] = True
    return inside


@pytest.fixture
def window(mask) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=SHAPE) * mask).astype(np.float32)


@pytest.fixture
def other(mask) -> np.ndarray:
    return (np.random.default_rng(1).normal(size=SHAPE) * mask).astype(np.float32)


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_no_kind_is_tuned_on_and_tested():
    assert not set(TUNING_KINDS) & set(TEST_KINDS)
    assert set(SIZES) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_truth_changes_and_never_the_original_or_the_outside(kind, window, mask, other):
    before = window.copy()
    planted, truth = plant(window, kind, "large", rng(), mask, [other])
    np.testing.assert_array_equal(window, before)
    assert planted.dtype == np.float32
    assert truth.dtype == bool
    assert truth.any()
    assert not truth[:, ~mask].any()
    assert not planted[:, ~mask].any()
    changed = planted != window
    if kind == "blob":  # its tails reach beyond the half maximum that counts as its place
        assert changed[truth].all()
    else:
        assert not changed[~truth].any()
        assert changed[truth].mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_plants_one_anomaly(kind, window, mask, other):
    first, second = (plant(window, kind, "small", rng(), mask, [other])[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_larger_is_more(kind, window, mask, other):
    amounts = []
    for size in ("small", "medium", "large"):
        found = [plant(window, kind, size, rng(s), mask, [other]) for s in range(8)]
        changed = np.mean([((planted - window) ** 2).sum() for planted, _ in found])
        amounts.append(SIZES[kind][size] if kind == "misregistration" else changed)
    assert amounts[0] < amounts[1] < amounts[2]


def test_drop_out_is_a_ball_of_zeros(window, mask):
    planted, truth = plant(window, "drop_out", "small", rng(), np.ones_like(mask))
    assert not planted[truth].any()
    places = np.argwhere(truth[0])
    extent = np.linalg.norm(places[:, None] - places[None], axis=-1).max()
    assert 2 <= extent <= 4


def test_blob_has_the_stated_peak(window, mask):
    planted, _ = plant(window, "blob", "large", rng(), mask)
    assert np.abs(planted - window).max() == pytest.approx(3, rel=1e-5)


def test_spike_moves_one_frame_by_its_jump():
    window, everywhere = np.zeros((5, 20, 20, 10), np.float32), np.ones((20, 20, 10), bool)
    planted, truth = plant(window, "spike", "medium", rng(), everywhere)
    frame = truth.any((1, 2, 3)).nonzero()[0]
    assert len(frame) == 1
    assert abs(planted[frame].mean()) == pytest.approx(1, abs=0.05)
    assert planted[frame].std() == pytest.approx(0.5, abs=0.05)


def test_misregistration_shifts_one_slice_of_a_third_of_the_frames():
    window = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    planted, truth = plant(window, "misregistration", "medium", rng(), np.ones(SHAPE[1:], bool))
    assert truth.any((1, 2, 3)).sum() == 3
    assert truth.any((0, 1, 2)).sum() == 1
    plane, frame = truth.any((0, 1, 2)).argmax(), truth.any((1, 2, 3)).argmax()
    shifts = [np.roll(window[frame, :, :, plane], s, axis) for s in (-2, 2) for axis in (0, 1)]
    assert any(np.array_equal(planted[frame, :, :, plane], shifted) for shifted in shifts)


def test_a_large_wrong_category_is_the_other_window(window, mask, other):
    np.testing.assert_array_equal(plant(window, "wrong_category", "large", rng(), mask, [other])[0], other)
    part, truth = plant(window, "wrong_category", "small", rng(), mask, [other])
    np.testing.assert_array_equal(part[:6], window[:6])
    np.testing.assert_array_equal(part[6:], other[6:])
    np.testing.assert_array_equal(truth.any((1, 2, 3)), [False] * 6 + [True] * 3)


def test_what_cannot_be_planted_is_refused(window, mask):
    with pytest.raises(ValueError, match="no anomaly 'tumour'"):
        plant(window, "tumour", "small", rng(), mask)
    with pytest.raises(ValueError, match="of size 'huge'"):
        plant(window, "blob", "huge", rng(), mask)
    with pytest.raises(ValueError, match="does not fit"):
        plant(window, "blob", "small", rng(), mask[..., :1])
    with pytest.raises(ValueError, match="give `others`"):
        plant(window, "wrong_category", "small", rng(), mask)
