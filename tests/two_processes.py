"""Workflows on two processes as torchrun starts them, without its 8 s of imports in each.

They are forked from a server that has imported everything once. The command of the README itself is tested too, once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp
from bundle_cases import Case
from monai.bundle import ConfigWorkflow

multiprocessing.set_forkserver_preload(
    [
        "monai.bundle",
        "nilearn.signal",
        "torch.utils.tensorboard",
        "custom.handlers",
        "custom.diffusion",
        "custom.harmonization",
        "custom.visualize",
    ]
)


def run_on_two(case: Case, *configs: str, metrics_dir: Path | None = None, **override: Any) -> None:
    """Run configs of a bundle; of a training, leave what each process found in validation as ``<metrics_dir>/<rank>.json``.

    Raises:
        torch.multiprocessing.ProcessRaisedException: if one process fails; the other is ended.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = [case.config(name) for name in configs]
    mp.start_processes(_process, (port, files, metrics_dir, override), nprocs=2, start_method="forkserver")


def _process(rank: int, port: int, files: list[str], metrics_dir: Path | None, override: dict[str, Any]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    workflow = ConfigWorkflow(config_file=files, logging_file=False, **override)
    workflow.initialize()
    workflow.run()
    if metrics_dir is not None:
        evaluator = workflow.parser.get_parsed_content("validate::evaluator")
        (metrics_dir / f"{rank}.json").write_text(json.dumps(evaluator.state.metrics))
    workflow.finalize()
