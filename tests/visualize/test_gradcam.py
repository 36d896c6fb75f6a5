from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import ResNet
from monai.transforms import (
    EnsureChannelFirstd,
    EnsureTyped,
    Orientationd,
    Resized,
    ResizeWithPadOrCropd,
    Spacingd,
    SqueezeDimd,
)
from torch import nn

from custom.networks import Simple3DCNN, SliceClassifier
from custom.transforms import AxialSlicesd, LoadScand, ScaleBrainPercentilesd
from custom.visualize.explanation import randomised, rank_correlation
from custom.visualize.gradcam import gradcam, last_spatial_layer, write_gradcam

CPU = torch.device("cpu")


class Blobs(nn.Module):
    """Class 0 counts what is bright, class 1 what is dark: Grad-CAM of it is known exactly."""

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.features = nn.Sequential(convolution(1, 2, 1, bias=False), nn.ReLU())
        self.features[0].weight.data = torch.tensor([1.0, -1.0]).reshape(2, *[1] * (spatial_dims + 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.features(image).flatten(2).mean(-1)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_map_shows_what_decides(spatial_dims: int):
    image = torch.zeros(2, 1, *[12] * spatial_dims)
    bright, dark = (0, 0, *[2] * spatial_dims), (0, 0, *[8] * spatial_dims)
    image[bright], image[dark] = 2.0, -1.0
    image[1] = image[0].flip(-1)
    for target, here in ((0, image.clamp(min=0)), (1, -image.clamp(max=0))):
        maps = gradcam(Blobs(spatial_dims), image, target)
        torch.testing.assert_close(maps, here / 12**spatial_dims)


def test_a_network_is_not_changed_by_being_explained():
    network = Blobs(2)
    gradcam(network, torch.rand(1, 1, 8, 8), 0)
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())
    assert network.features[0].weight.grad is None


class Reused(nn.Module):
    """One activation after every layer, the last layer too coarse to tell places apart."""

    def __init__(self, deepest: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.act, self.pool, self.pad = nn.ReLU(), nn.AdaptiveAvgPool2d(deepest), nn.ZeroPad2d(4)
        self.last = nn.Conv2d(2, 2, 9)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.act(self.second(self.act(self.first(image))))
        return self.act(self.last(self.pad(self.pool(x)))).flatten(2).mean(-1)


def test_the_last_layer_that_is_fine_enough_and_runs_once():
    """The activation runs three times, two of them on fine maps; the padding makes a coarse map large, not fine."""
    assert last_spatial_layer(Reused(3), torch.rand(1, 1, 16, 16)) == "second"
    assert last_spatial_layer(Reused(7), torch.rand(1, 1, 16, 16)) == "last"


def test_a_network_of_coarse_maps_only_is_refused():
    with pytest.raises(ValueError, match=r"Reused has no feature map of 17 voxels per axis for an input of \(1, 1, 16, 16\)"):
        last_spatial_layer(Reused(7), torch.rand(1, 1, 16, 16), min_size=17)


RESNET3D = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [2, 4, 4, 8], "n_input_channels": 1, "num_classes": 2}
NETWORKS = {
    "resnet18": (lambda: SliceClassifier("resnet18"), (64, 64)),
    "resnet50": (lambda: SliceClassifier("resnet50"), (64, 64)),
    "efficientnet_b0": (lambda: SliceClassifier("efficientnet_b0"), (64, 64)),
    "densenet121": (lambda: SliceClassifier("densenet121"), (64, 64)),
    "simple_cnn3d": (lambda: Simple3DCNN(channels=(2, 2, 4, 4, 8)), (32, 32, 32)),
    "resnet3d": (lambda: ResNet(**RESNET3D, spatial_dims=3, conv1_t_stride=2), (32, 32, 32)),
}


@pytest.mark.parametrize(("build", "shape"), NETWORKS.values(), ids=NETWORKS.keys())
def test_the_layer_of_every_network_runs_once_on_a_map_in_the_images_place(build, shape: tuple[int, ...]):
    torch.manual_seed(0)
    network, image = build().eval(), torch.rand(1, 1, *shape)
    name = last_spatial_layer(network, image)
    module, runs = network.get_submodule(name), []
    module.register_forward_hook(lambda module, inputs, output: runs.append((inputs[0].shape[2:], output.shape[2:])))
    network(image)
    assert len(runs) == 1
    before, after = runs[0]
    assert min(after) >= 6
    assert all(a <= b for a, b in zip(after, before, strict=True))
    assert not isinstance(module, nn.ZeroPad2d)
    maps = gradcam(network, image, 0)
    assert maps.shape == image.shape
    assert torch.isfinite(maps).all()
    assert maps.min() >= 0


@pytest.mark.parametrize("build", [lambda: Simple3DCNN(channels=(2, 4)), lambda: SliceClassifier("resnet18")])
def test_randomised_weights_are_all_new_and_the_original_is_untouched(build):
    network = build().train()
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value += 0.1 + torch.rand_like(value)  # as training leaves it: nothing at its initial value
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    twin = randomised(network, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert not twin.training
    assert network.training
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    same = [n for n, v in twin.state_dict().items() if v.is_floating_point() and torch.isclose(v, before[n]).all()]
    assert same == []
    torch.testing.assert_close(randomised(network, seed=3).state_dict(), twin.state_dict(), rtol=0, atol=0)
    assert not torch.equal(next(randomised(network, seed=4).parameters()), next(twin.parameters()))


def test_rank_correlation():
    maps = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones_like(maps, dtype=torch.bool)
    assert rank_correlation(maps, maps**3, everywhere) == pytest.approx(1)
    assert rank_correlation(maps, 1 - maps, everywhere) == pytest.approx(-1)
    brain = torch.zeros_like(everywhere)
    brain[..., :3] = True
    half = torch.where(brain, maps, 1 - maps)
    assert rank_correlation(maps, half, brain) == pytest.approx(1)
    assert rank_correlation(maps, half, everywhere) < 0.9


def test_a_constant_map_has_no_correlation():
    maps, flat = torch.rand(1, 1, 6, 6), torch.zeros(1, 1, 6, 6)
    everywhere = torch.ones_like(maps, dtype=torch.bool)
    assert rank_correlation(maps, flat, everywhere) is None
    assert rank_correlation(flat, maps, everywhere) is None
    outside = torch.where(torch.arange(6) < 3, 0.0, maps)
    assert rank_correlation(outside, maps, (torch.arange(6) < 3).expand(1, 1, 6, 6)) is None


BLOB = (9, 5, 8)


def head(shape: tuple[int, ...] = (14, 12, 16)) -> np.ndarray:
    array = np.zeros(shape, dtype=np.float32)
    array[3:12, 2:10, 3:13] = 10 + np.random.default_rng(0).random((9, 8, 10))
    array[8:11, 4:7, 7:10] = 100
    return array


def write_nifti(folder: Path) -> Path:
    """Raw scan with x to the left, tilted, of unequal voxels."""
    affine = np.array([[-2, 0.1, 0, 20], [0.1, 2.2, 0.2, -9], [0, -0.2, 1.8, 4], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(head(), affine), folder / "raw.nii.gz")
    return folder / "raw.nii.gz"


def write_analyze(folder: Path) -> Path:
    """As OASIS stores it: big-endian int16, with a trailing axis."""
    header = nib.AnalyzeHeader(endianness=">")
    header.set_data_dtype(">i2")
    image = nib.AnalyzeImage(head()[..., None].astype(np.int16), None, header)
    image.header.set_zooms((2.0, 2.0, 2.0, 1.0))
    image.to_filename(folder / "raw.img")
    return folder / "raw.img"


LOAD = [
    LoadScand("image", reader="NibabelReader"),
    EnsureChannelFirstd("image"),
    Orientationd("image", axcodes="RAS", labels=None),
    ScaleBrainPercentilesd("image", lower=0, upper=100),
]
VOLUME = [*LOAD, Spacingd("image", pixdim=[1.5] * 3), ResizeWithPadOrCropd("image", spatial_size=[24] * 3)]
SLICES = [*LOAD, AxialSlicesd("image", num_slices=10, central=0.7), Resized("image", spatial_size=[20, 20, 1])]


def explain(raw: Path, out: Path, spatial_dims: int) -> list[dict]:
    scans = [{"image": str(raw), "subject": "OAS1_0001", "label": 1}]
    steps = VOLUME if spatial_dims == 3 else SLICES
    enter = [EnsureTyped("image")] if spatial_dims == 3 else [SqueezeDimd("image", dim=-1), EnsureTyped("image")]
    return write_gradcam(Blobs(spatial_dims), scans, steps, enter, ["bright", "dark"], str(out), CPU)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("write", [write_nifti, write_analyze])
def test_maps_lie_on_the_raw_scans_grid(tmp_path: Path, write, spatial_dims: int):
    raw = write(tmp_path)
    (entry,) = explain(raw, tmp_path / "explain", spatial_dims)
    scan, found = nib.load(raw), nib.load(tmp_path / "explain" / entry["nifti"])
    assert found.shape == scan.shape[:3]
    np.testing.assert_allclose(found.affine, scan.affine, atol=1e-4)
    peak = np.unravel_index(found.get_fdata().argmax(), found.shape)
    assert np.abs(np.subtract(peak, BLOB)).max() <= 1
    assert (tmp_path / "explain" / entry["png"]).stat().st_size > 5000


def test_the_summary_says_what_was_explained(tmp_path: Path):
    entries = explain(write_nifti(tmp_path), tmp_path / "explain", 3)
    summary = json.loads((tmp_path / "explain" / "maps.json").read_text())
    assert summary["method"] == "Grad-CAM"
    assert summary["maps"] == entries
    (entry,) = entries
    assert (entry["subject"], entry["source"]) == ("OAS1_0001", "raw.nii.gz")
    assert (entry["label"], entry["predicted"]) == ("dark", "bright")
