from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from custom.phantoms.head import Anatomy, Scan, _wall_distance_before, draw_anatomy, scan_head, simulate_head

VOXEL = 6.0
HEALTHY = Anatomy(ventricle_growth=0.0, thinning=0.0, asymmetry=0.0, shape_seed=1)


def scan(anatomy: Anatomy, seed: int = 0) -> Scan:
    return scan_head(np.random.default_rng(seed), anatomy, VOXEL)


def dark_voxels(image: np.ndarray) -> np.ndarray:
    """Mark the CSF in the box of the lateral ventricles (the head may be shifted, so the box is generous)."""
    box = np.zeros(image.shape, bool)
    box[9:20, 8:24, 12:19] = True
    return box & (image > 0) & (image < 0.55 * np.percentile(image, 99))


def test_shape_and_background():
    head = simulate_head(0, severity=0.5, voxel_size=VOXEL)
    assert head.shape == (29, 35, 29)
    assert head.dtype == np.float32
    assert head.min() == 0
    assert (head[0] == 0).all()
    assert 1500 < np.median(head[head > 0]) < 2500


def test_seed_and_generator_agree():
    expected = simulate_head(7, 0.5, VOXEL)
    np.testing.assert_array_equal(simulate_head(np.random.default_rng(7), 0.5, VOXEL), expected)
    assert (simulate_head(8, 0.5, VOXEL) != expected).any()


def test_severity_grows_ventricles_and_lowers_nwbv():
    scans = [scan(draw_anatomy(np.random.default_rng(2), severity)) for severity in (0.0, 0.5, 1.0)]
    volumes = [dark_voxels(s.image).sum() for s in scans]
    assert volumes[0] < volumes[1] < volumes[2]
    assert scans[0].nwbv > scans[1].nwbv + 0.02 > scans[2].nwbv + 0.04


@pytest.mark.parametrize("change", [{"ventricle_growth": 6.0}, {"thinning": 1.3}])
def test_each_kind_of_atrophy_lowers_nwbv(change: dict[str, float]):
    assert scan(replace(HEALTHY, **change)).nwbv < scan(HEALTHY).nwbv - 0.01


def test_thinning_leaves_the_ventricles_alone():
    thinned, healthy = scan(replace(HEALTHY, thinning=1.0)).image, scan(HEALTHY).image
    middle = (slice(12, 17), slice(16, 22), slice(15, 17))
    assert np.percentile(np.abs(thinned - healthy)[middle], 90) < 100
    assert thinned.sum() < 0.97 * healthy.sum()


def test_left_is_left():
    dark = dark_voxels(scan(replace(HEALTHY, ventricle_growth=6.0, asymmetry=0.9)).image)
    assert dark[:14].sum() > 1.5 * dark[15:].sum()


def test_front_is_front_and_up_is_up():
    """Cerebellum and brain stem hang from the back of the brain; the widest part of it lies above them."""
    brain = scan(HEALTHY).image > 0
    low = np.nonzero(brain.sum(axis=(0, 1)))[0][:4]
    centre = [np.nonzero(brain[:, :, k])[1].mean() for k in (*low, 16)]
    assert max(centre[:-1]) < centre[-1] - 1


def test_rescan_differs_but_the_brain_does_not():
    first, second = scan(HEALTHY, seed=1), scan(HEALTHY, seed=2)
    assert (first.image != second.image).any()
    assert abs(first.nwbv - second.nwbv) < 0.015


@pytest.mark.parametrize("growth", [-1.0, 0.0, 3.0, 8.0])
def test_the_wall_moves_out_without_folding(growth: float):
    distance = np.linspace(-10, 60, 2001)
    before = _wall_distance_before(distance, np.full_like(distance, growth))
    assert (np.diff(before) > 0).all()
    assert abs(np.interp(growth, distance, before)) < 0.02
    np.testing.assert_allclose(before[distance < -2], distance[distance < -2])
    np.testing.assert_allclose(before[-1], 60, atol=1e-3)
