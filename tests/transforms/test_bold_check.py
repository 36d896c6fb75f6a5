from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from custom.errors import BadScan
from custom.transforms.bold_check import CheckBOLDd, check_bold

NAN, INF = float("nan"), float("inf")


def scan() -> torch.Tensor:
    return torch.rand(4, 5, 5, 5, generator=torch.Generator().manual_seed(0)) + 10


def brain() -> torch.Tensor:
    """100 voxels of 125."""
    mask = torch.ones(1, 5, 5, 5, dtype=torch.uint8)
    mask[:, 0] = 0
    return mask


def with_value(value: float, *where: object) -> torch.Tensor:
    image = scan()
    image[where] = value
    return image


def test_a_good_scan_passes_unchanged_and_is_reported():
    image = MetaTensor(with_value(NAN, slice(None), 1, 0, slice(0, 2)))
    data = {"image": image, "mask": brain(), "report": {"other": 1}}
    result = CheckBOLDd()(data)
    assert result["image"] is image
    assert result["report"] == {"other": 1, "nan_fraction": pytest.approx(0.02)}
    assert data["report"] == {"other": 1}


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_only_the_brain_counts(value: float):
    assert check_bold(with_value(value, slice(None), 0), brain()) == 0
    assert check_bold(with_value(value, slice(None), 1, 0), brain()) == pytest.approx(0.05)
    six = with_value(value, slice(None), 1, 0)
    six[:, 4, 4, 4] = value
    with pytest.raises(BadScan, match="6 % of the brain's voxels are NaN or infinite, at most 5 % may be"):
        check_bold(six, brain())


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (scan()[:1], brain(), r"a 4D scan of at least 2 frames is wanted, this one has \(T, X, Y, Z\) = \(1, 5, 5, 5\)"),
        (scan()[0], brain(), "a 4D scan of at least 2 frames"),
        (scan()[:, :, :, :0], brain()[..., :0], "a 4D scan of at least 2 frames"),
        (scan(), brain()[:, 1:], r"its mask image is \(1, 4, 5, 5\) voxels large, a frame is \(1, 5, 5, 5\)"),
        (scan(), brain()[0], r"its mask image is \(5, 5, 5\) voxels large"),
        (scan(), 0 * brain(), "its mask image is empty"),
        (with_value(NAN, 2, slice(1, 5)), brain(), "frame 2 of 0-3 has no finite voxel in the brain"),
        (scan()[:1].expand(4, -1, -1, -1), brain(), "no voxel of the brain changes over time"),
        (scan().where(brain()[0] == 0, 1.0), brain(), "no voxel of the brain changes over time"),
        (torch.ones(3, 5, 5, 5), brain(), "no voxel of the brain changes over time"),
    ],
)
def test_a_bad_scan_is_refused_and_named(image: torch.Tensor, mask: torch.Tensor, message: str):
    with pytest.raises(BadScan, match=rf"^sub\.nii: .*{message}"):
        CheckBOLDd()({"image": MetaTensor(image, meta={"filename_or_obj": "sub.nii"}), "mask": mask})


def test_the_limit_is_given():
    image = with_value(NAN, slice(None), slice(1, 3))
    assert check_bold(image, brain(), max_nan_fraction=0.5) == pytest.approx(0.5)
    with pytest.raises(BadScan, match="50 % of the brain's voxels are NaN or infinite, at most 49 % may be"):
        check_bold(image, brain(), max_nan_fraction=0.49)


def test_a_change_is_seen_beside_missing_values():
    """The first frame lacks the one voxel that changes."""
    image = torch.ones(4, 5, 5, 5)
    image[:, 2, 2, 2] = torch.tensor([NAN, 1, 1, 2])
    check_bold(image, brain())
    image[3, 2, 2, 2] = 1
    with pytest.raises(BadScan, match="no voxel of the brain changes"):
        check_bold(image, brain())


def test_a_percentage_is_not_a_fraction():
    with pytest.raises(ValueError, match="5 %"):
        CheckBOLDd(max_nan_fraction=5)
