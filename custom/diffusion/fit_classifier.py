"""How sure a diffusion classifier may be: its temperature, from the validation part."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite import distributed as idist
from torch import nn

from ..own_files import read_json
from ..paths import written_whole
from ..processes import share, together
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

    Processes under torchrun share the windows, and all get the temperature.

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
    mine = WindowBatches([dict(row) for row in share(rows)], frames, device, 16)
    logits = together([logit.cpu().clone() for windows, _ in mine for logit in classifier(windows, network)])
    labels = torch.tensor([row["label"] for row in rows])
    classifier.temperature = fit_temperature(torch.stack(logits), labels)
    if idist.get_rank() == 0:
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps({"temperature": classifier.temperature}))
    return classifier


def read_temperature(path: str) -> float:
    """Return the temperature that :py:func:`fit_classifier` wrote.

    Raises:
        FileNotFoundError: if it did not.
        ValueError: if the file is damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist: run evaluate.json, which finds how sure a decoding may be.")
    remedy = "run evaluate.json again, which writes it."
    temperature = read_json(path, remedy).get("temperature")
    if not isinstance(temperature, float) or not 0 < temperature < math.inf:
        raise ValueError(f"{path} is damaged (its temperature is {temperature!r}): {remedy}")
    return temperature
