"""Speed as ratios within one run: ``python scripts/benchmark.py oasis``, ``abide``, ``haxby``, or ``fmri`` (two decoders).

Machines are noisy, so the two ways of doing a thing take turns, and the ratio of their medians is what counts.
"""

from __future__ import annotations

import copy
import platform
import tempfile
from pathlib import Path

import fire
import nibabel as nib
import numpy as np
import torch
from benchmark_abide import abide
from benchmark_fmri import fmri
from benchmark_haxby import haxby
from monai.bundle import ConfigParser
from monai.data import CacheDataset, Dataset
from timing import alternating
from torch import nn

CONFIGS = Path(__file__).resolve().parents[1] / "bundles" / "oasis_mri_alzheimers_classification" / "configs"
NETWORKS_3D = {"ResNet3D-small": [], "ResNet3D": ["resnet3d"], "Simple3DCNN": ["simple_cnn3d"]}


def oasis(size: int = 48, batch: int = 2, repeats: int = 5) -> None:
    """Training step of each 3D network, contiguous against channels-last, and a cached against an uncached epoch.

    Args:
        size: side of the volumes in voxels.
        batch: volumes per step.
        repeats: turns of each way.
    """
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {batch} x {size}³")
    print(f"{'training step':<16}{'contiguous':>12}{'channels-last':>15}{'ratio':>8}{'gradient error':>16}{'':>4}(contiguous)")
    for name, overlays in NETWORKS_3D.items():
        _training_step(name, _network(overlays), size, batch, repeats)
    _cached_epoch(size=96, count=8, repeats=repeats)


def _network(overlays: list[str]) -> nn.Module:
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in ("train", *overlays)])
    torch.manual_seed(0)
    return parser.get_parsed_content("network_def")


def _training_step(name: str, network: nn.Module, size: int, batch: int, repeats: int) -> None:
    images, labels = torch.rand(batch, 1, size, size, size), torch.arange(batch) % 2
    last = torch.channels_last_3d
    plain, other = copy.deepcopy(network), copy.deepcopy(network).to(memory_format=last)  # type: ignore[call-overload]
    plain_s, other_s = alternating(
        lambda: _step(plain, images, labels), lambda: _step(other, images.to(memory_format=last), labels), repeats
    )
    exact = copy.deepcopy(network).double()
    truth = _gradients(exact, images.double(), labels)
    errors = [
        max(_relative(g, t) for g, t in zip(_gradients(net, x, labels), truth, strict=True))
        for net, x in ((copy.deepcopy(network), images), (other, images.to(memory_format=last)))
    ]
    print(
        f"{name:<16}{1e3 * plain_s:>10.0f}ms{1e3 * other_s:>13.0f}ms{plain_s / other_s:>8.2f}"
        f"{errors[1]:>16.1e}{'':>4}({errors[0]:.1e})"
    )


def _step(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    network.zero_grad()
    nn.functional.cross_entropy(network(images), labels).backward()


def _gradients(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    """Gradient of every parameter; dropout is off, so that two networks compute the same."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    _step(network, images, labels)
    return [p.grad.double() for p in network.parameters() if p.grad is not None]


def _relative(value: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative error of one layer's gradient; a bias in front of a batch norm has none but rounding."""
    return float((value - truth).norm() / truth.norm()) if truth.norm() > 1e-9 else 0.0


def _cached_epoch(size: int, count: int, repeats: int) -> None:
    """One pass over prepared volumes with the bundle's transforms: read anew in every epoch, or held by CacheDataset."""
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "train.json"))
    transform = parser.get_parsed_content("train::preprocessing")
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"image": f"{folder}/{i}.nii", "label": 0, "subject": str(i)} for i in range(count)]
        for row in rows:
            nib.save(nib.Nifti1Image(np.random.rand(size, size, size).astype(np.float32), np.eye(4)), row["image"])
        plain, cached = Dataset(rows, transform), CacheDataset(rows, transform, progress=False)
        plain_s, cached_s = alternating(
            lambda: [plain[i] for i in range(count)], lambda: [cached[i] for i in range(count)], repeats
        )
    print(
        f"epoch over {count} volumes of {size}³, with augmentation: {1e3 * plain_s:.0f} ms from disc, "
        f"{1e3 * cached_s:.0f} ms cached, ratio {plain_s / cached_s:.2f}"
    )


def main() -> None:
    """Command line: one subcommand per bundle."""
    fire.Fire({"abide": abide, "fmri": fmri, "haxby": haxby, "oasis": oasis})


if __name__ == "__main__":
    main()
