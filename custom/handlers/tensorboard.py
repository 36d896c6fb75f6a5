"""The network's graph in TensorBoard; scalars and pictures go there through MONAI's handlers and the same writer."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys as Keys
from torch.utils.tensorboard import SummaryWriter

__all__ = ["TensorBoardGraph"]


class TensorBoardGraph:
    """Write the graph of a network once, when the engine starts.

    Args:
        summary_writer: the one writer of the run: TensorBoard follows only the newest event file of a folder, so that of
            several writers all but one fall silent.
        network: not wrapped for distribution.
        dataset: whose first item's ``image`` is the example input.
    """

    def __init__(self, summary_writer: SummaryWriter, network: torch.nn.Module, dataset: Any) -> None:
        self.writer, self.network, self.dataset = summary_writer, network, dataset

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        example = torch.as_tensor(self.dataset[0][Keys.IMAGE])[None].to(engine.state.device)
        training = self.network.training
        self.network.eval()
        with torch.no_grad():
            self.writer.add_graph(self.network, example)
        self.network.train(training)
