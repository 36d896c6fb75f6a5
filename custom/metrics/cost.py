"""What a network costs: parameters, operations of a forward pass, and seconds of a training step."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Cost", "cost_of", "seconds_per_step"]


@dataclass(frozen=True)
class Cost:
    """Cost of a network for inputs of one shape.

    Args:
        parameters: number of trained ones.
        flop: floating point operations of a forward pass in evaluation mode; a multiply-add counts as two. Counted are matrix
            products, convolutions and attention, not what is done element by element.
    """

    parameters: int
    flop: int


def cost_of(network: nn.Module, *inputs: torch.Tensor) -> Cost:
    """Count without computing, on a copy whose tensors hold no values (device ``meta``): a whole run takes no memory.

    Args:
        network: it is not changed.
        inputs: of ``forward``, on any device; only shapes and dtypes matter, e.g. ``torch.empty(1, 232, 100, 100, 100,
            device="meta")``.

    Returns:
        The cost.
    """
    empty = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        empty(*(x.to("meta") for x in inputs))
    return Cost(sum(p.numel() for p in network.parameters() if p.requires_grad), counter.get_total_flops())


def seconds_per_step(
    network: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    labels: torch.Tensor,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    steps: int = 5,
) -> float:
    """Median time of a forward pass, a backward pass and an AdamW step, after one that is not counted.

    Args:
        network: a copy of it is trained.
        inputs: of ``forward``, on the network's device.
        labels: second argument of ``loss``.
        loss: of the logits and the labels.
        steps: number that the median is over.

    Returns:
        Seconds.

    Raises:
        ValueError: if ``steps`` is below 1.
    """
    if steps < 1:
        raise ValueError(f"a median needs at least 1 step, not {steps}.")
    trained = copy.deepcopy(network).train()
    optimizer = torch.optim.AdamW(trained.parameters())
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss(trained(*inputs), labels).backward()
        optimizer.step()
        _finish(labels.device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _finish(device: torch.device) -> None:
    """A GPU works on after the call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
