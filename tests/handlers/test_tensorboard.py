from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from custom.handlers import TensorBoardGraph


@pytest.mark.parametrize("training", [True, False])
def test_the_graph_is_in_the_event_file_and_the_network_as_before(tmp_path: Path, training: bool):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU()).train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    engine = Engine(lambda engine, batch: None)
    engine.state.device = torch.device("cpu")
    with SummaryWriter(str(tmp_path)) as writer:
        TensorBoardGraph(writer, network, [{"image": MetaTensor(torch.rand(1, 8, 8))}]).attach(engine)
        engine.run([0], max_epochs=2)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["graph"] is True
    assert {"Conv2d", "ReLU"} <= {part.split("[")[0] for node in events.Graph().node for part in node.name.split("/")}
    assert network.training is training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
