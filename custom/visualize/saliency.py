"""Which voxels decided, and when: integrated gradients and the time course of evidence of 4D scans.

References: Sundararajan et al., Axiomatic Attribution for Deep Networks (ICML 2017), equation 1, whose integral is taken over a
few points as in their equation 3; Adebayo et al., Sanity Checks for Saliency Maps (NeurIPS 2018): the randomised-weights check.

Invariants, tested:
* what is explained is one number, the predicted class' logit minus the mean of the others, as in :py:mod:`.evidence`;
* the baseline is 0, the mean of every z-scored series: no activity. Outside the brain the input is 0, hence its attribution;
* the attributions sum up to the number at the scan minus the number at the baseline (completeness, proposition 1), up to the
  error of the few points, which ``maps.json`` states for every map.

The LSTM ties the frames together, so that their gradients cannot be taken block by block: memory grows with the frames. The map
is therefore that of a window in the middle of the scan, the points of the path come one at a time, and memory is what one
backward pass over the window takes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch import nn

from ..harmonization import HarmonizedClassifier
from .background import prepared
from .evidence import margin, write_evidence
from .explanation import explanation_of, randomised
from .maps import file_stem, write_explanations

__all__ = ["attribute", "differentiable", "integrated_gradients", "write_saliency"]


def write_saliency(
    network: HarmonizedClassifier,
    scans: Sequence[Mapping[str, Any]],
    scan_transforms: Sequence[Callable],
    class_names: Sequence[str],
    output_dir: str,
    device: torch.device,
    num_steps: int = 16,
    num_frames: int = 64,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Explain the predicted class of every scan; write NIfTI maps, pictures, time courses and ``maps.json``.

    The class is that of the whole scan. A map is the sum over the window's frames of the attributions' absolute values.

    Args:
        network: with its weights loaded; it knows the sites of the scans.
        scans: ``{"image": raw file, "mask": its mask or absent, "subject": …, "site": …, "label": …}``.
        scan_transforms: raw scan → z-scored image (T, X, Y, Z), 0 outside the brain. The first one loads image and mask; those
            that can be inverted bring the map back onto the scan's grid.
        class_names: in the order of the logits.
        output_dir: receives the files.
        device: to work on.
        num_steps: points on the path from the baseline to the scan.
        num_frames: of the window whose voxels are explained, at most.
        seed: of the random weights; each scan gets other ones.

    Returns:
        The entries of ``maps.json``.

    Raises:
        UnseenSite: if the network does not know a scan's site.
        ValueError: if ``num_steps`` or ``num_frames`` is below 1.
    """
    network, prepare = network.to(device).eval(), Compose(list(scan_transforms))
    explanations = []
    for number, scan in enumerate(scans):
        item, background = prepared(scan, prepare)
        image, site = item["image"].to(device), network.harmonizer.index([scan["site"]]).to(device)
        stem = Path(output_dir) / file_stem(number, str(scan["subject"]))
        predicted, files = _time_course(network, image, site, class_names, stem)
        window = _middle(image.as_tensor(), num_frames)
        maps, completeness = _saliency(network, window, site, predicted, num_steps)
        control, _ = _saliency(randomised(network, seed + number), window, site, predicted, num_steps)
        further = {**files, "frames": len(window), "completeness": completeness}
        inside = (window != 0).any(0, keepdim=True)
        explanations.append(
            explanation_of(
                scan, predicted, maps[None], control[None], inside[None], [item], prepare, background, further=further
            )
        )
    return write_explanations(explanations, class_names, output_dir, method="Integrated gradients")


def integrated_gradients(function: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, num_steps: int) -> torch.Tensor:
    """Return the attributions of a function's value, from the baseline 0, by Gauss-Legendre quadrature.

    ``x · ∫₀¹ ∂F(αx)/∂x dα ≈ x · Σ_k w_k ∂F(α_k x)/∂x``: exact for gradients that are polynomials of a degree below
    ``2 · num_steps`` along the path. A saturated LSTM changes abruptly on it and needs more points: the gap tells.

    Args:
        function: of the image; its value is one number.
        image: of any shape.
        num_steps: points on the path, one forward and backward pass each.

    Returns:
        Attributions, signed, in the image's shape.

    Raises:
        ValueError: if ``num_steps`` is below 1.
    """
    nodes, weights = np.polynomial.legendre.leggauss(num_steps)  # on [-1, 1]
    gradient = torch.zeros_like(image)
    for node, weight in zip(nodes, weights, strict=True):
        point = (image * float((node + 1) / 2)).requires_grad_()
        gradient += float(weight / 2) * torch.autograd.grad(function(point), point)[0]
    return image * gradient


def attribute(
    function: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, num_steps: int
) -> tuple[torch.Tensor, dict[str, float | None]]:
    """Return the attributions of a function's value (:py:func:`integrated_gradients`), and how completely they add up.

    Returns:
        The attributions, and ``attributed`` (their sum), ``logit_difference`` (what they should add up to) and
        ``relative_gap``, ``None`` where nothing is to be explained.
    """
    attributions = integrated_gradients(function, image, num_steps)
    with torch.no_grad():
        difference = float(function(image) - function(torch.zeros_like(image)))
    attributed = float(attributions.double().sum())
    gap = abs(attributed - difference) / abs(difference) if difference else None
    return attributions, {"attributed": attributed, "logit_difference": difference, "relative_gap": gap}


def differentiable(network: nn.Module) -> nn.Module:
    """Return a copy that computes as in evaluation mode, and whose input can have a gradient on a GPU too."""
    twin = copy.deepcopy(network).requires_grad_(False)  # only the input's gradient is wanted
    for module in twin.modules():
        if isinstance(module, nn.RNNBase):
            module.dropout = 0.0
            module.train()  # cuDNN refuses the backward pass of a recurrent layer in evaluation mode
            module.flatten_parameters()  # copying has scattered them
    return twin


def _time_course(
    network: HarmonizedClassifier, image: MetaTensor, site: torch.Tensor, class_names: Sequence[str], stem: Path
) -> tuple[int, dict[str, str]]:
    """Return the predicted class of the whole scan, and the files of its evidence over time."""
    with torch.no_grad():
        logits = network.evidence(image.as_tensor()[None], site)[0]
    predicted = int(logits.mean(0).argmax())
    time, first = image.meta.get("repetition_time"), len(image) - len(logits)
    return predicted, write_evidence(logits, predicted, class_names, time, stem, first)


def _saliency(
    network: nn.Module, window: torch.Tensor, site: torch.Tensor, target: int, num_steps: int
) -> tuple[torch.Tensor, dict[str, float | None]]:
    """Map (1, X, Y, Z) of a window (T, X, Y, Z), on the CPU, and how completely its attributions add up."""
    twin = differentiable(network)

    def explained(image: torch.Tensor) -> torch.Tensor:
        return margin(twin(image[None], site)[0], target)

    attributions, completeness = attribute(explained, window, num_steps)
    return attributions.abs().sum(0, keepdim=True).cpu(), completeness


def _middle(image: torch.Tensor, num_frames: int) -> torch.Tensor:
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}: a map needs one frame at least.")
    start = max(0, (len(image) - num_frames) // 2)
    return image[start : start + num_frames]
