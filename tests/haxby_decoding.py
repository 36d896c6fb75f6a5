"""Leave-one-run-out decoding by what the diffusion bundle knows before its first epoch: its closed form.

Preparation, network and decoder come from the bundle's own configurations. Before training the learnt part of the network says
0 (``tests/test_haxby_real_data.py`` looks), so that the closed form alone is asked, in a fiftieth of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from bundle_cases import CASES, Paths, run_workflow
from ignite.engine import Engine
from monai.bundle import ConfigParser

from custom.data import LeaveOneRunOut, read_datalist, split_again
from custom.data.splits import PARTS
from custom.handlers.fit_denoiser import FitDenoiser
from custom.networks.residual_denoiser import ResidualDenoiser
from custom.transforms.window_rows import read_windows

CASE = next(case for case in CASES if case.name == "haxby_fmri_diffusion")
TINY = {key: value for key, value in CASE.grid.items() if key != "spatial_size"}  # U-Net
CHANCE = 1 / 8

Datalist = dict[str, Any]
Decoder = Callable[..., torch.Tensor]


def prepare(paths: Paths, spatial_size: Sequence[int], spacing: Sequence[float], **override: Any) -> None:
    """Run the bundle's preprocess.json."""
    grid = {"spatial_size": list(spatial_size), "spacing": list(spacing)}
    run_workflow(CASE, "preprocess", **{**paths.preprocess, "num_workers": 1, **grid, **override})


def folds(paths: Paths) -> list[Datalist]:
    """Return a datalist per run and subject: the run tests, the next one is for validation, the others train."""
    source = Path(paths.data) / "datalist.json"
    content = read_datalist(source)
    rows = [row for part in PARTS for row in content[part]]
    lists = []
    for run in sorted({row["run"] for row in rows}, key=int):
        split_again(source, LeaveOneRunOut(held_out=run), source.with_name(f"run-{run}.json"))
        fold = read_datalist(source.with_name(f"run-{run}.json"))
        lists += [_of_subject(fold, subject) for subject in sorted({row["subject"] for row in rows})]
    return lists


def _of_subject(datalist: Datalist, subject: str) -> Datalist:
    return {**datalist, **{part: [row for row in datalist[part] if row["subject"] == subject] for part in PARTS}}


def fitted(datalist: Datalist, spatial_size: Sequence[int]) -> tuple[ResidualDenoiser, Decoder]:
    """Return the network of train.json, fitted to the training part but not trained, and the decoder of evaluate.json."""
    parser = ConfigParser()
    parser.read_config([CASE.config(name) for name in ("train", "evaluate")])
    parser.update({"spatial_size": list(spatial_size), **TINY})
    network = parser.get_parsed_content("network_def").eval()
    FitDenoiser(network, datalist["training"])(Engine(lambda engine, batch: None))
    return network, parser.get_parsed_content("classifier::classifier")


def accuracies(datalist: Datalist, spatial_size: Sequence[int], *others: Datalist) -> list[float]:
    """Return the accuracy on the test part of a datalist by its training part, and on the test parts of other lists."""
    network, decoder = fitted(datalist, spatial_size)
    return [_accuracy(network.gaussian, decoder, part["test"]) for part in (datalist, *others)]


def _accuracy(denoiser: torch.nn.Module, decoder: Decoder, rows: list[dict[str, Any]]) -> float:
    found = decoder(read_windows(rows), denoiser).argmax(1)
    return float((found == torch.tensor([row["label"] for row in rows])).double().mean())
