from __future__ import annotations

import numpy as np
import pytest
from generation_cases import CLASSES, brain, patterns, process
from scipy.ndimage import correlate

from custom.metrics.class_maps import class_mean_maps, compare_class_maps, interval_over, map_ssim


def naive_ssim(a: np.ndarray, b: np.ndarray, mask: np.ndarray, data_range: float) -> float:
    """Wang's equation 13 with weights written out."""
    x = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 1.5**2))
    kernel = x[:, None, None] * x[None, :, None] * (x[None, None] if mask.shape[2] > 1 else np.ones((1, 1, 1)))
    kernel /= kernel.sum()

    def mean(v: np.ndarray) -> np.ndarray:
        return correlate(v, kernel, mode="constant")

    a, b = a * mask, b * mask
    c1, c2, ma, mb = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2, mean(a), mean(b)
    va, vb, vab = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    return (((2 * ma * mb + c1) * (2 * vab + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))[mask].mean()


@pytest.mark.parametrize("grid", [(9, 8, 1), (8, 9, 5)])
def test_ssim_is_wangs_over_the_mask_in_two_and_three_dimensions(grid: tuple[int, ...]):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, *grid))
    b += a
    mask = np.ones(grid, bool)
    mask[:3] = False
    assert map_ssim(a, b, mask, 4.0) == pytest.approx(naive_ssim(a, b, mask, 4.0), abs=1e-4)
    assert map_ssim(a + 9 * ~mask, a, mask, 4.0) == pytest.approx(1)


def test_ssim_needs_a_data_range():
    with pytest.raises(ValueError, match="data range of 0"):
        map_ssim(np.zeros((4, 4, 1)), np.zeros((4, 4, 1)), np.ones((4, 4, 1), bool), 0.0)


def test_mean_maps_are_in_the_order_asked_for_and_name_an_empty_class():
    windows = process(3, 0)
    maps = class_mean_maps(windows.values, windows.labels, [2, 0])
    np.testing.assert_allclose(maps[0], windows.values[6:9].mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(maps[1], windows.values[:3].mean((0, 1)), atol=1e-5)
    with pytest.raises(ValueError, match=r"classes \[7\]"):
        class_mean_maps(windows.values, windows.labels, [0, 7])


def means(per_class: int, seed: int, **options) -> np.ndarray:
    windows = process(per_class, seed, **options)
    return class_mean_maps(windows.values, windows.labels, range(4))


def test_independent_draws_are_at_the_ceiling_and_noise_without_classes_is_below():
    test, train = means(10, 2), means(60, 1)
    good = compare_class_maps(means(60, 3), train, test, brain(), CLASSES)
    poor = compare_class_maps(means(60, 4, effect=0), train, test, brain(), CLASSES)
    for figure in ("correlation", "ssim", "specific_correlation"):
        assert abs(good["difference"][figure]["value"]) < 0.1
        assert poor["difference"][figure]["high"] < -0.2
        assert poor["ceiling"][figure] == good["ceiling"][figure]
    truth = patterns()[:, brain()]
    noise = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(truth, test[:, brain()], strict=True)])
    assert good["generated"]["correlation"]["value"] < noise  # no other maps come nearer than the truth


def test_a_mean_that_all_classes_share_is_no_class_of_ones_own():
    shared = np.repeat(5 * patterns()[:1], 4, 0)
    found = compare_class_maps(shared + means(8, 5, effect=0), shared + means(8, 1), shared + means(4, 2), brain(), CLASSES)
    assert found["generated"]["correlation"]["value"] > 0.9
    assert found["generated"]["specific_correlation"]["value"] < 0.35
    assert found["ceiling"]["specific_correlation"]["value"] > 0.5


def test_every_class_has_its_figures_and_the_range_is_of_the_held_out_maps():
    test = means(4, 2)
    found = compare_class_maps(test, means(8, 1), test, brain(), CLASSES)
    assert list(found["classes"]) == CLASSES
    assert found["classes"]["cat"]["generated"]["correlation"] == pytest.approx(1)
    assert found["data_range"] == pytest.approx(test[:, brain()].max() - test[:, brain()].min())
    ceiling = np.mean([c["ceiling"]["ssim"] for c in found["classes"].values()])
    assert found["ceiling"]["ssim"]["value"] == pytest.approx(ceiling)


def test_collapsed_maps_have_no_correlation_but_an_ssim():
    found = compare_class_maps(np.zeros((4, 9, 8, 1)), means(8, 1), means(4, 2), brain(), CLASSES)
    assert found["generated"]["correlation"] == found["difference"]["correlation"]
    assert found["generated"]["correlation"]["value"] is None
    assert found["generated"]["ssim"]["value"] < found["ceiling"]["ssim"]["value"]


def test_interval_is_of_the_mean_over_values():
    values = np.random.default_rng(0).normal(size=400)
    found = interval_over(values.tolist())
    error = values.std() / 20
    assert found["value"] == pytest.approx(values.mean())
    assert [found["low"], found["high"]] == pytest.approx(values.mean() + 1.96 * error * np.array([-1, 1]), abs=0.3 * error)
    assert interval_over([0.5]) == {"value": 0.5, "low": None, "high": None}
    assert interval_over([0.5, None]) == {"value": None, "low": None, "high": None}
