import pytest
import torch

from custom.metrics import class_weights


def test_inverse_frequency_with_mean_one_over_the_samples():
    labels = [0] * 6 + [1] * 3
    weights = class_weights(labels, 2)
    assert weights.dtype == torch.float32
    assert (weights[1] / weights[0]).item() == pytest.approx(2)
    assert weights[labels].mean().item() == pytest.approx(1)


def test_balanced_classes_weigh_one():
    torch.testing.assert_close(class_weights([0, 1, 2] * 4, 3), torch.ones(3))


def test_rare_class_is_clamped():
    labels = [0] * 100 + [1] * 50 + [2] * 2
    weights = class_weights(labels, 3, clamp=4)
    assert (weights.max() / weights.min()).item() == pytest.approx(4)
    assert (weights[1] / weights[0]).item() == pytest.approx(2)
    assert weights[labels].mean().item() == pytest.approx(1)


def test_clamp_of_one_is_no_weighting():
    torch.testing.assert_close(class_weights([0, 0, 0, 1], 2, clamp=1), torch.ones(2))


@pytest.mark.parametrize(
    ("labels", "clamp", "message"),
    [([0, 0, 2], 4, r"class \[1\]"), ([0, 3], 4, "do not fit"), ([-1, 0], 4, "do not fit"), ([], 4, "do not fit")]
    + [([0, 1, 2], 0.5, "clamp")],
)
def test_refuses(labels, clamp, message):
    with pytest.raises(ValueError, match=message):
        class_weights(labels, 3, clamp)
