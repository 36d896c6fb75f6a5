"""Slice CNN-LSTM: a 2D CNN over the axial slices of every frame, their mean, and an LSTM over time.

Cost. One 64×64×34×176 scan has 5984 slice pictures. Two exact savings and one bound keep them affordable:

* The last convolution feeds straight into global average pooling. The mean of a convolution's output is its weights times the
  means of the input under each tap's window (:py:class:`ConvMean`), so that convolution is never carried out: 4.7 times fewer
  operations with the default sizes.
* Slices and frames are folded into one batch, ``chunk`` pictures at a time; in training a chunk's activations are computed
  again in the backward pass (Chen et al., Training deep nets with sublinear memory cost, 2016), so memory is that of a chunk.
* ``strides`` shrinks the pictures in the stem: an approximation, hence an option.

No normalisation layer stands between the convolutions. Batch norm would mix the slices of a few subjects. Group norm takes
level and spread out of every picture, and how the frames' levels spread over time is how the coupling of regions shows in
z-scored series: on the phantom it learnt three times slower than no normalisation with He's initialisation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .chunked import chunked
from .exporting import exporting

__all__ = ["ConvMean", "SliceCNNLSTM"]


class ConvMean(nn.Conv2d):
    """Spatial mean of a 2D convolution's output, by the means of the input under each tap: equal up to rounding.

    ``mean_p Σ_k w_k x(p + k) = Σ_k w_k mean_p x(p + k)``. The parameters are those of ``torch.nn.Conv2d``.
    """

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, X, Y) → (N, out_channels)."""
        rows = self._windows(image.shape[2], 0, image)
        columns = self._windows(image.shape[3], 1, image)
        means = rows @ (image @ columns.T)
        return nn.functional.linear(means.flatten(1), self.weight.flatten(1), self.bias)

    def _windows(self, size: int, axis: int, like: torch.Tensor) -> torch.Tensor:
        """(kernel, size): which share of the output's mean each input position has under each tap."""
        kernel, padding, stride = self.kernel_size[axis], int(self.padding[axis]), self.stride[axis]
        outputs = (size + 2 * padding - kernel) // stride + 1
        first = torch.arange(kernel, device=like.device)[:, None] - padding
        offset = torch.arange(size, device=like.device)[None] - first
        inside = (offset >= 0) & (offset < outputs * stride) & (offset % stride == 0)
        return inside.to(like.dtype) / outputs


class SliceCNNLSTM(nn.Module):
    """CNN over slices, mean over slices, LSTM over time, linear head.

    Args:
        num_classes: number of logits.
        channels: output channels of the three convolutions.
        kernel_sizes: their kernels, odd; padding keeps the size.
        strides: of the convolutions; ``(2, 2, 1)`` is the strided stem.
        hidden: size of the LSTM's state, which is the feature.
        warm_up: first frames whose states do not count (of a short scan half of them): the LSTM starts from zero, and states
            that tell of the start rather than of the scan would weigh the more the shorter a site's runs are.
        chunk: pictures that go through the CNN at once.
    """

    def __init__(
        self,
        num_classes: int = 2,
        channels: Sequence[int] = (32, 64, 128),
        kernel_sizes: Sequence[int] = (3, 5, 5),
        strides: Sequence[int] = (1, 1, 1),
        hidden: int = 64,
        warm_up: int = 8,
        chunk: int = 256,
    ) -> None:
        super().__init__()
        self.warm_up, self.chunk = warm_up, chunk
        sizes = list(zip((1, *channels), channels, kernel_sizes, strides, strict=False))
        layers: list[nn.Module] = []
        for before, after, kernel, stride in sizes[:-1]:
            layers += [nn.Conv2d(before, after, kernel, stride, padding=kernel // 2), nn.ReLU(inplace=True)]
        before, after, kernel, stride = sizes[-1]
        self.encoder = nn.Sequential(*layers, ConvMean(before, after, kernel, stride, padding=kernel // 2))
        for layer in self.encoder:
            if isinstance(layer, nn.Conv2d):  # PyTorch's own start lets the signal fade from layer to layer (He et al., 2015)
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.get_parameter("bias"))
        self.lstm = nn.LSTM(channels[-1], hidden, batch_first=True)
        self.head = nn.Linear(hidden, num_classes)

    def get_extra_state(self) -> torch.Tensor:
        """Return what the weights' shapes do not show: the strides, and the warm-up."""
        strides = [layer.stride[0] for layer in self.encoder if isinstance(layer, nn.Conv2d)]
        return torch.tensor([*strides, self.warm_up])

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Refuse weights that were trained with other strides: they would fit, and predict something else."""
        if state.tolist() != self.get_extra_state().tolist():
            raise ValueError(
                f"these weights were trained with strides and warm-up {state.tolist()}, the network has "
                f"{self.get_extra_state().tolist()}: name the overlay that they were trained with."
            )

    def forward(self, image: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, X, Y, Z), and (B, T) true where a frame is valid → logits (B, num_classes)."""
        return self.head(self.forward_features(image, mask))

    def forward_features(self, image: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the feature (B, hidden): the mean of the LSTM's states over the valid frames after the warm-up.

        Invalid frames must come last: the LSTM runs forwards, so they change no state before them.

        Raises:
            ValueError: if a scan has no valid frame after the warm-up.
        """
        states = self.states(image)
        if mask is None:
            return states.mean(1)
        valid = mask[:, -states.shape[1] :].to(states.dtype)[..., None]
        if not exporting() and (valid.sum(1) == 0).any():
            raise ValueError(f"a scan of at most {self.warm_up} frames is too short for this network: leave it out.")
        return (states * valid).sum(1) / valid.sum(1)

    def evidence(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits of the last frames (B, T - warm-up, num_classes), whose mean are the logits of the scan."""
        return self.head(self.states(image))

    def states(self, image: torch.Tensor) -> torch.Tensor:
        """Return the LSTM's state after every frame but those of the warm-up, (B, T - warm-up, hidden)."""
        states = self.lstm(self.frame_features(image))[0]
        return states[:, min(self.warm_up, image.shape[1] // 2) :]

    def frame_features(self, image: torch.Tensor) -> torch.Tensor:
        """Return the mean over slices of the CNN's features, (B, T, channels[-1])."""
        b, t, x, y, z = image.shape
        pictures = image.permute(0, 1, 4, 2, 3).reshape(-1, 1, x, y)
        return chunked(self.encoder, pictures, self.chunk).unflatten(0, (b, t, z)).mean(2)
