"""Grad-CAM of test subjects, in the space of their scans, with the randomised-weights check.

Reference: Selvaraju et al., Grad-CAM (ICCV 2017).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import Compose
from monai.visualize import GradCAM
from torch import nn

from .explanation import explanation_of, in_scan_space, randomised
from .maps import write_explanations

__all__ = ["gradcam", "last_spatial_layer", "write_gradcam"]


def write_gradcam(
    network: nn.Module,
    scans: Sequence[Mapping[str, Any]],
    scan_transforms: Sequence[Callable],
    input_transforms: Sequence[Callable],
    class_names: Sequence[str],
    output_dir: str,
    device: torch.device,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Explain the predicted class of every scan; write NIfTI maps, pictures and ``maps.json``.

    Args:
        network: with its weights loaded.
        scans: ``{"image": raw file, "subject": …, "label": …}``.
        scan_transforms: raw scan → prepared image or slices, inverted to bring the map back onto the scan's grid.
        input_transforms: prepared image → network input.
        class_names: in the order of the logits.
        output_dir: receives the files.
        device: to work on.
        seed: of the random weights; each scan gets other ones.

    Returns:
        The entries of ``maps.json``.
    """
    network = network.to(device).eval()
    prepare, enter = Compose(list(scan_transforms)), Compose(list(input_transforms))
    explanations = []
    for number, scan in enumerate(scans):
        items = prepare({"image": scan["image"]})
        items = items if isinstance(items, list) else [items]
        images = torch.stack([torch.as_tensor(enter(item)["image"]) for item in items]).to(device)
        with torch.no_grad():
            predicted = int(network(images).softmax(1).mean(0).argmax())
        maps = gradcam(network, images, predicted)
        control = gradcam(randomised(network, seed + number), images, predicted)
        background = in_scan_space(images, items, prepare)
        explanations.append(explanation_of(scan, predicted, maps, control, images > 0, items, prepare, background))
    return write_explanations(explanations, class_names, output_dir, method="Grad-CAM")


def gradcam(network: nn.Module, images: torch.Tensor, target: int) -> torch.Tensor:
    """Return the Grad-CAM (N, 1, *spatial), not negative, of one class at the last layer that is fine enough.

    Args:
        network: in evaluation mode.
        images: (N, 1, *spatial).
        target: class index.
    """
    twin = copy.deepcopy(network)  # MONAI's hooks stay in the module that they are given, and allow nothing that works in place
    for module in twin.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    cam = GradCAM(twin, last_spatial_layer(twin, images[:1]), postprocessing=lambda values: values)
    return torch.cat([cam(image[None].requires_grad_(), class_idx=target).detach() for image in images])


def last_spatial_layer(network: nn.Module, image: torch.Tensor, min_size: int = 6) -> str:
    """Return the name of the last module that puts out a feature map of at least ``min_size`` voxels along every axis.

    Deeper maps, 4³ for a volume of 128³, cannot tell one lobe from the next.
    Modules that run several times (one activation for all layers) are passed over: their gradient would be another layer's. So
    are modules that enlarge (EfficientNet's padding): their map is not aligned with the image.

    Args:
        network: any classifier.
        image: an example input, (1, C, *spatial).
        min_size: smallest side of the feature map.

    Raises:
        ValueError: if the network has no such layer.
    """
    runs: list[tuple[str, bool]] = []

    def remember(name: str) -> Callable:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            runs.append((name, _is_fine_map(inputs, output, image.ndim, min_size)))

        return hook

    hooks = [module.register_forward_hook(remember(name)) for name, module in network.named_modules() if name]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    times = Counter(name for name, _ in runs)
    once = [name for name, fine in runs if fine and times[name] == 1]
    if not once:
        raise ValueError(
            f"{type(network).__name__} has no feature map of {min_size} voxels per axis for an input of {tuple(image.shape)}."
        )
    return once[-1]


def _is_fine_map(inputs: Any, output: Any, ndim: int, min_size: int) -> bool:
    if not (isinstance(output, torch.Tensor) and output.ndim == ndim and min(output.shape[2:]) >= min_size):
        return False
    return all(after <= before for before, after in zip(inputs[0].shape[2:], output.shape[2:], strict=True))
