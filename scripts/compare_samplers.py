"""Few-step samplers beside MONAI's full DDPM, on a trained diffusion bundle.

    python scripts/compare_samplers.py bundles/haxby_fmri_diffusion DATASET_DIR CKPT_PATH OUTPUT_DIR

Further ``--key value`` pairs override the configuration, as they did in training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fire
import pandas as pd
import torch
from monai.bundle import ConfigParser
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, Scheduler

from custom.data import read_datalist
from custom.diffusion import DPMSolverScheduler
from custom.diffusion.compare import compare
from custom.handlers import load_verified
from custom.paths import written_whole
from custom.transforms.window_rows import read_windows


def compare_samplers(
    bundle: str,
    dataset_dir: str,
    ckpt_path: str,
    output_dir: str,
    num_seeds: int = 10,
    num_windows: int = 64,
    batch_size: int = 32,
    **override: Any,
) -> str:
    """Write ``samplers.csv``: distances to held-out windows and their spread over seeds, for every sampler; return its path.

    Args:
        bundle: the bundle's folder.
        dataset_dir: prepared dataset, with ``datalist.json``; validation and test windows are what samples are compared with.
        ckpt_path: weights.
        output_dir: receives the table.
        num_seeds: repetitions.
        num_windows: at most so many windows to compare with, and samples per repetition.
        batch_size: samples at a time.
        **override: further keys of ``inference.json``.
    """
    parser = ConfigParser()
    parser.read_config(str(Path(bundle) / "configs" / "inference.json"))
    parser.update(override)
    datalist = read_datalist(Path(dataset_dir) / "datalist.json", parser.get_parsed_content("class_names"))
    device, schedule = parser.get_parsed_content("device"), _schedule(parser.get_parsed_content("sampler"))
    network = load_verified(ckpt_path, parser.get_parsed_content("network"), map_location=device)
    rows = (datalist["validation"] + datalist["test"])[:num_windows]
    labels = torch.tensor([row["label"] for row in rows])
    ddpm = DDPMScheduler(**schedule, clip_sample=False)
    table = compare(network, ddpm, read_windows(rows), labels, _candidates(schedule), range(num_seeds), device, batch_size)
    path = Path(output_dir) / "samplers.csv"
    with written_whole(path) as temporary:
        table.to_csv(temporary)
    with pd.option_context("display.width", 250, "display.max_columns", 30, "display.precision", 3):
        print(table.T)
    return str(path)


def _schedule(scheduler: Scheduler) -> dict[str, Any]:
    """Return the arguments of schedulers with the same noise levels and prediction."""
    return {
        "num_train_timesteps": scheduler.num_train_timesteps,
        "schedule": "linear_beta",
        "beta_start": float(scheduler.betas[0]),
        "beta_end": float(scheduler.betas[-1]),
        "prediction_type": scheduler.prediction_type,
    }


def _candidates(schedule: dict[str, Any]) -> dict[str, tuple[Scheduler, int]]:
    """Return name -> scheduler and its number of steps."""
    solvers = {
        f"{name} {steps}": (DPMSolverScheduler(**schedule, stochastic=stochastic), steps)
        for name, stochastic in (("DPM-Solver++ 2M", False), ("SDE-DPM-Solver++ 2M", True))
        for steps in (10, 20, 50)
    }
    ddim = {f"DDIM {steps}": (DDIMScheduler(**schedule, clip_sample=False), steps) for steps in (20, 50)}
    return {**solvers, **ddim}


if __name__ == "__main__":
    fire.Fire(compare_samplers)
