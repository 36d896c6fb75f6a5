"""How sure a diffusion classifier may be: its temperature, from the validation part."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..paths import written_whole
from .calibrate_anomaly import WindowBatches
from .classifier import DiffusionClassifierInferer, fit_temperature

__all__ = ["fit_classifier", "read_temperature"]


def fit_classifier(
    classifier: DiffusionClassifierInferer,
    network: nn.Module,
    rows: Sequence[Mapping[str, Any]],
    path: str,
    frames: int,
    device: torch.device | str = "cpu",
) -> DiffusionClassifierInferer:
    """Set the temperature of a classifier by the windows of the validation part, and write it for decoding.

    Args:
        classifier: whose temperature is set.
        network: with its weights loaded.
        rows: of the validation part, with labels.
        path: of the json to write, ``{"temperature": …}``.
        frames: of a window.
        device: to compute on.

    Raises:
        ValueError: if there is no window; as :py:func:`.fit_temperature`.
    """
    if not rows:
        raise ValueError(f"no validation window tells the temperature for {path}: prepare the study with a --validation_run.")
    network.eval().to(device)
    classifier.temperature = 1.0
    logits = [classifier(windows, network) for windows, _ in WindowBatches([dict(row) for row in rows], frames, device, 16)]
    labels = torch.tensor([row["label"] for row in rows])
    classifier.temperature = fit_temperature(torch.cat(logits).cpu(), labels)
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps({"temperature": classifier.temperature}))
    return classifier


def read_temperature(path: str) -> float:
    """Return the temperature that :py:func:`fit_classifier` wrote.

    Raises:
        FileNotFoundError: if it did not.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist: run evaluate.json, which finds how sure a decoding may be.")
    return float(json.loads(Path(path).read_text())["temperature"])
