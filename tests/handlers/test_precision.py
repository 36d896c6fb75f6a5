from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from monai.engines import SupervisedTrainer

from custom.handlers.precision import BFloat16


def trainer(device: str) -> SupervisedTrainer:
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2).to(device)
    return SupervisedTrainer(
        device=torch.device(device),
        max_epochs=1,
        train_data_loader=[{"image": torch.ones(4, 3), "label": torch.tensor([0, 1, 0, 0])}] * 3,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=torch.nn.CrossEntropyLoss(),
        train_handlers=[BFloat16()],
        decollate=False,
    )


def test_on_a_cpu_bfloat16_is_refused():
    with pytest.raises(
        ValueError, match="training in bfloat16 on 'cpu' is refused: .* Train on a GPU, or without this overlay"
    ):
        trainer("cpu")


def test_a_trainer_of_a_gpu_computes_in_bfloat16_and_does_not_scale_its_loss(monkeypatch: pytest.MonkeyPatch):
    """What MONAI's trainer reads, checked without a GPU on an engine that only says it has one."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    engine = Engine(lambda engine, batch: None)
    engine.state.device = torch.device("cuda:0")
    BFloat16().attach(engine)
    engine.scaler = None  # as the trainer sets it before it starts
    engine.run([0])
    assert (engine.amp, engine.amp_kwargs) == (True, {"dtype": torch.bfloat16})
    loss = torch.tensor(3.0)
    assert engine.scaler.scale(loss) is loss
    assert not engine.scaler.is_enabled()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="bfloat16 is for a GPU, and there is none")
def test_on_a_gpu_the_network_computes_in_bfloat16_and_learns_in_float32():
    engine, dtypes = trainer("cuda"), []
    engine.network.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    engine.run()
    assert dtypes == [torch.bfloat16] * 3
    assert engine.network.weight.grad.dtype == torch.float32
    assert engine.scaler.get_scale() == 1.0
