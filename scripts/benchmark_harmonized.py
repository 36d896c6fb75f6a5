"""What the ABIDE network and its harmonization cost against the plain way, as rows of ``scripts/benchmark.py abide``."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from neuroHarmonize import harmonizationApply, harmonizationLearn
from torch import nn

from custom.harmonization import fit_combat
from custom.networks import SliceCNNLSTM
from custom.networks.slice_cnn_lstm import ConvMean

IMAGE = (1, 2, 64, 64, 34)  # (B, T, X, Y, Z): 68 pictures
SUBJECTS, FEATURES, SITES = 2000, 512, 20

Way = Callable[[], np.ndarray | torch.Tensor]


def training_steps() -> tuple[Way, Way, Way]:
    """Gradients of one step: the plain form, which carries every convolution out; the exact rewrite; the strided stem."""
    torch.manual_seed(0)
    image, label = torch.randn(IMAGE), torch.tensor([1])
    exact, strided = SliceCNNLSTM(), SliceCNNLSTM(strides=(2, 2, 1))
    plain = copy.deepcopy(exact)
    plain.encoder[-1].__class__ = _CarriedOut
    return tuple(lambda n=n: _gradients(n, image, label) for n in (plain, exact, strided))  # type: ignore[return-value]


class _CarriedOut(ConvMean):
    """The same layer with its convolution carried out at every position before the mean is taken."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.Conv2d.forward(self, image).mean((2, 3))


def _gradients(network: SliceCNNLSTM, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    network.zero_grad()
    nn.functional.cross_entropy(network(image), label).backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def combat_applications() -> tuple[Way, Way]:
    """Harmonize a whole study: the library's apply, and the affine map of every row's site."""
    rng = np.random.default_rng(0)
    site = np.arange(SUBJECTS) % SITES
    features = rng.normal(size=(SUBJECTS, FEATURES)) * (1 + site[:, None] / SITES) + site[:, None]
    names = [f"S{i:02d}" for i in site]
    table = pd.DataFrame({"SITE": names})
    model, _ = harmonizationLearn(features, table)
    affine = fit_combat(features, names, subjects=[str(i) for i in range(SUBJECTS)])
    tensor = torch.from_numpy(features)
    return lambda: harmonizationApply(features, table, model), lambda: affine(tensor, affine.index(names))
