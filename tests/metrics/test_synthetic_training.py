from __future__ import annotations

import numpy as np
import pytest
from generation_cases import CLASSES, FRAMES, brain, process
from sklearn.svm import LinearSVC

from custom.metrics.synthetic_training import frame_probabilities, synthetic_training_accuracy
from custom.metrics.window_set import WindowSet


def accuracies(fake: WindowSet, test: WindowSet | None = None) -> dict:
    return synthetic_training_accuracy(fake, process(5, 1), test or process(4, 2), brain(), CLASSES, n_bootstrap=200)


def points(windows: WindowSet) -> tuple[np.ndarray, np.ndarray]:
    return windows.values[:, :, brain()].reshape(len(windows) * FRAMES, -1), np.repeat(windows.labels, FRAMES)


def test_windows_of_the_same_process_teach_as_much_as_real_ones_and_noise_nothing():
    good, noise = accuracies(process(5, 3)), accuracies(process(5, 3, effect=0))
    assert good["synthetic"]["block"]["accuracy"]["low"] > 0.25
    difference = good["synthetic_minus_real"]["volume"]
    assert difference["low"] < 0.05
    assert difference["high"] > -0.05
    assert noise["synthetic"]["volume"]["accuracy"]["value"] < 0.45
    assert noise["synthetic_minus_real"]["volume"]["high"] < 0
    assert noise["real"] == good["real"]


def test_difference_and_frames_are_of_the_sets_that_they_name():
    found = accuracies(process(2, 3))
    assert [found[name]["frames"] for name in ("synthetic", "real", "synthetic_and_real")] == [48, 120, 168]
    for level in ("volume", "block"):
        a, b = (found[name][level]["accuracy"]["value"] for name in ("synthetic", "real"))
        assert found["synthetic_minus_real"][level]["value"] == pytest.approx(a - b)


def test_a_block_is_the_mean_over_its_frames():
    train, test = process(5, 1), process(4, 2)
    p = frame_probabilities(*points(train), points(test)[0], 4)
    found = accuracies(train, test)["real"]
    assert found["volume"]["accuracy"]["value"] == pytest.approx((p.argmax(1) == points(test)[1]).mean())
    blocks = np.stack([p[i * FRAMES : (i + 1) * FRAMES].sum(0) for i in range(len(test))]).argmax(1)
    assert found["block"]["accuracy"]["value"] == pytest.approx((blocks == test.labels).mean())


def test_intervals_of_volumes_are_over_blocks():
    found = accuracies(process(5, 3))["real"]["volume"]["accuracy"]
    p = frame_probabilities(*points(process(5, 1)), points(process(4, 2))[0], 4)
    right = (p.argmax(1) == points(process(4, 2))[1]).reshape(-1, FRAMES).mean(1)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * right.std() / np.sqrt(len(right)), rel=0.25)


def test_svm_agrees_with_another_implementation():
    (x, y), (test, _) = points(process(5, 1)), points(process(4, 2))
    predicted = frame_probabilities(x, y, test, 4).argmax(1)
    other = LinearSVC(C=1e-3, loss="hinge", dual=True, class_weight="balanced", max_iter=20000)
    other.fit((x - x.mean(0)) / x.std(0), y)
    assert (other.predict((test - x.mean(0)) / x.std(0)) == predicted).mean() > 0.8


def test_voxels_count_alike_whatever_their_scale():
    (x, y), (test, _) = points(process(5, 1)), points(process(4, 2))
    scale = np.where(np.arange(x.shape[1]) == 5, 1000, 1)
    np.testing.assert_allclose(
        frame_probabilities(scale * x, y, scale * test, 4), frame_probabilities(x, y, test, 4), atol=1e-3
    )


def test_a_class_that_was_not_trained_is_never_predicted():
    (x, y), (test, _) = points(process(3, 1).of([0, 3])), points(process(1, 2))
    p = frame_probabilities(x, y, test, 4)
    assert p[:, [1, 2]].max() == 0
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_array_equal(frame_probabilities(x[y == 3], y[y == 3], test, 4), np.eye(4)[[3] * len(test)])


def test_a_single_block_has_no_interval():
    found = accuracies(process(3, 3), process(1, 2).of([1]))
    for interval in (found["real"]["block"]["accuracy"], *found["synthetic_minus_real"].values()):
        assert interval["low"] is interval["high"] is None
        assert interval["value"] is not None
