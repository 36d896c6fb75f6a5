"""DropConnect: weights, not activations, are dropped in training (Wan et al., Regularization of Neural Networks, ICML 2013)."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["DropConnectLinear", "drop_connect"]


class DropConnectLinear(nn.Linear):
    """A linear layer whose weights are zero with probability ``p`` in training, each by itself; the others grow by 1/(1 - p).

    The expectation of the layer is therefore the plain layer, which is what evaluation computes, and its state dict is that of
    ``torch.nn.Linear``. One mask serves the whole batch, a new one each forward pass; it comes from torch's global generator,
    whose state the checkpoints keep. The bias is not dropped.

    Args:
        in_features: size of the input's last axis.
        out_features: size of the output's last axis.
        bias: whether there is one.
        p: probability, at least 0 and below 1.

    Raises:
        ValueError: if ``p`` is no such probability.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, p: float = 0.17) -> None:
        super().__init__(in_features, out_features, bias)
        if not 0 <= p < 1:
            raise ValueError(f"weights are dropped with a probability of at least 0 and below 1, not {p}.")
        self.p = p

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(…, in_features) → (…, out_features)."""
        return nn.functional.linear(input, nn.functional.dropout(self.weight, self.p, self.training), self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p}"


def drop_connect(module: nn.Module, p: float) -> nn.Module:
    """Replace every ``torch.nn.Linear`` inside a module by :py:class:`DropConnectLinear` with the same parameters.

    Args:
        module: it is changed; if it is itself a linear layer, the result is what replaces it.
        p: probability, at least 0 and below 1.

    Returns:
        The module.
    """
    if type(module) is nn.Linear:
        layer = DropConnectLinear(module.in_features, module.out_features, module.bias is not None, p)
        layer.weight, layer.bias = module.weight, module.bias
        return layer
    for name, child in module.named_children():
        setattr(module, name, drop_connect(child, p))
    return module
