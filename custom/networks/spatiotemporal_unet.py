"""Spatiotemporal diffusion U-Net of fMRI windows: convolutions and attention within frames, a transformer over them.

References: Ho et al., *Denoising Diffusion Probabilistic Models* (NeurIPS 2020), appendix B: the U-Net and how the timestep
enters it; Ho et al., *Video Diffusion Models* (2022), section 3: space and time factorised; Ho and Salimans, *Classifier-Free
Diffusion Guidance* (2022), algorithm 1: the class dropped in training; Chen et al., *Training Deep Nets with Sublinear Memory
Cost* (2016): checkpointing.

A frame is an image of one channel. Frames lie in the batch for everything spatial, MONAI's residual blocks above all; only the
blocks of attention of the deep levels (:py:class:`~.temporal_attention.SpatioTemporalBlock`) know which frames belong together.
So a window may have any number of frames up to ``max_frames``, and a grid any size: it is padded with zeros to what the levels
can halve, and cropped again.

Every residual branch and the last convolution end in zeros: the untrained network says 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from monai.networks.blocks import Convolution, UpSample
from monai.networks.nets.diffusion_model_unet import DiffusionUnetDownsample, DiffusionUNetResnetBlock, get_timestep_embedding
from torch import nn
from torch.utils.checkpoint import checkpoint

from .exporting import exporting
from .temporal_attention import SpatioTemporalBlock

__all__ = ["SpatioTemporalDiffusionUNet"]


class _Level(nn.Module):
    """Residual blocks of one resolution, then attention where there is one, then, at the bottom, one more residual block."""

    def __init__(
        self, blocks: Sequence[nn.Module], attention: SpatioTemporalBlock | None = None, last: nn.Module | None = None
    ):
        super().__init__()
        self.blocks, self.attention, self.last = nn.ModuleList(blocks), attention, last

    def forward(self, x: torch.Tensor, embedding: torch.Tensor, frames: int) -> torch.Tensor:
        for block in self.blocks:
            x = block(x, embedding)
        if self.attention is not None:
            x = self.attention(x, frames)
        return x if self.last is None else self.last(x, embedding)


class SpatioTemporalDiffusionUNet(nn.Module):
    """What a noisy window holds, by timestep and class: noise or velocity, as it is trained.

    Args:
        spatial_dims: 3, or 2 for windows of one slice.
        num_classes: number of classes; "no class" has an embedding beside theirs.
        max_frames: longest window.
        channels: of the levels, the grid halved from one to the next; multiples of ``norm_num_groups``.
        num_res_blocks: residual blocks of a level, on the way down and on the way up.
        attention_levels: which levels have a block of attention, on the way down; that of the last level is the bottleneck.
        num_heads: of all attentions.
        head_dim: channels of a head of the temporal transformer.
        norm_num_groups: groups of all group norms, of two channels at least: alone, a channel would lose the embedding that is
            added to it to its own mean.
        checkpointing: compute the activations of a level again in the backward pass, in place of keeping them.

    Raises:
        ValueError: if ``spatial_dims`` is neither 2 nor 3, channels and attention levels differ in number, or heads or groups
            cannot share the channels.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        num_classes: int = 8,
        max_frames: int = 16,
        channels: Sequence[int] = (32, 64, 128, 256),
        num_res_blocks: int = 1,
        attention_levels: Sequence[bool] = (False, False, True, True),
        num_heads: int = 4,
        head_dim: int = 64,
        norm_num_groups: int = 8,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check(spatial_dims, channels, attention_levels, num_heads, norm_num_groups)
        self.spatial_dims, self.num_classes, self.max_frames = spatial_dims, num_classes, max_frames
        self.num_heads, self.norm_num_groups = num_heads, norm_num_groups
        self.checkpointing = checkpointing
        width = 4 * channels[0]
        self.time_embedding = nn.Sequential(nn.Linear(channels[0], width), nn.SiLU(), nn.Linear(width, width))
        self.class_embedding = nn.Embedding(num_classes + 1, width)

        def block(before: int, after: int) -> nn.Module:
            return DiffusionUNetResnetBlock(spatial_dims, before, width, after, norm_num_groups=norm_num_groups)

        def blocks(before: int, after: int) -> list[nn.Module]:
            return [block(before if i == 0 else after, after) for i in range(num_res_blocks)]

        attentions = [
            SpatioTemporalBlock(n, max_frames, num_heads, head_dim, norm_num_groups) if attends else None
            for n, attends in zip(channels, attention_levels, strict=True)
        ]
        entering, leaving = [channels[0], *channels[:-1]], list(channels)
        self.conv_in = Convolution(spatial_dims, 1, channels[0], conv_only=True)
        self.down = nn.ModuleList(
            _Level(blocks(a, b), attention)
            for a, b, attention in zip(entering[:-1], leaving[:-1], attentions[:-1], strict=True)
        )
        self.downsample = nn.ModuleList(DiffusionUnetDownsample(spatial_dims, n, use_conv=True) for n in channels[:-1])
        self.bottom = _Level(blocks(entering[-1], leaving[-1]), attentions[-1], block(leaving[-1], leaving[-1]))
        self.upsample = nn.ModuleList(_doubling(spatial_dims, b, a) for a, b in zip(channels[:-1], channels[1:], strict=True))
        self.up = nn.ModuleList(_Level(blocks(2 * n, n)) for n in channels[:-1])
        last = Convolution(spatial_dims, channels[0], 1, conv_only=True)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.out = nn.Sequential(nn.GroupNorm(norm_num_groups, channels[0]), nn.SiLU(), last)

    def get_extra_state(self) -> torch.Tensor:
        """Return what the weights' shapes do not show: heads and groups."""
        return torch.tensor([self.num_heads, self.norm_num_groups])

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Refuse weights that were trained with other heads or groups: they fit, and predict something else."""
        if state.tolist() != self.get_extra_state().tolist():
            raise ValueError(
                f"these weights were trained with num_heads and norm_num_groups {state.tolist()}, the network has "
                f"{self.get_extra_state().tolist()}: build it as it was trained."
            )

    @property
    def attention_blocks(self) -> tuple[str, ...]:
        """Names that :py:meth:`attention` knows: "spatial_<level>" and "temporal_<level>" of every level that has attention."""
        levels = [i for i, level in enumerate([*self.down, self.bottom]) if level.attention is not None]
        return tuple(f"{kind}_{level}" for level in levels for kind in ("spatial", "temporal"))

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor | None = None, class_labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the noise or velocity of windows.

        Args:
            x: noisy windows (B, F, X, Y, Z), F up to ``max_frames``; Z is 1 where ``spatial_dims`` is 2.
            timesteps: (B,) or (1,), integers or not; None is 0.
            class_labels: (B,) or (1,), -1 for no class; None for no class at all.

        Raises:
            ValueError: if the window is too long, a slice is no slice, or there is no such class.
        """
        frames, grid = x.shape[1], x.shape[2:]
        h, skips, embedding = self._encode(x, timesteps, class_labels)
        for level, upsample, skip in reversed(list(zip(self.up, self.upsample, skips, strict=True))):
            h = self._run(level, torch.cat([upsample(h), skip], 1), embedding, frames)
        return self._cropped(self.out(h), frames, grid)

    def features(
        self, x: torch.Tensor, timesteps: torch.Tensor | None = None, class_labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return what leaves the bottleneck, (B, F, C, x, y, z), C the last of ``channels``; arguments as in ``forward``."""
        h = self._encode(x, timesteps, class_labels)[0]
        h = h[..., None] if self.spatial_dims == 2 else h
        return h.unflatten(0, (-1, x.shape[1]))

    @torch.no_grad()
    def attention(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor | None = None,
        class_labels: torch.Tensor | None = None,
        blocks: Sequence[str] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return how blocks attend, computed again by hand since the fused kernels keep their weights to themselves.

        Args:
            x: noisy windows, and the timesteps and classes, as in ``forward``.
            timesteps: see there.
            class_labels: see there.
            blocks: some of :py:attr:`attention_blocks`; None is all of them.

        Returns:
            * "spatial_<level>": (B, F, heads, X, Y, Z), attention that the places of a frame get, the mean over those that ask,
              relative to an equal share (mean 1), interpolated from the level's grid to the window's.
            * "temporal_<level>": (B, heads, F, F), attention of frames (rows, of sum 1) on frames, the mean over places.

        Raises:
            ValueError: for a block that the network does not have, or where ``forward`` does.
        """
        blocks = self.attention_blocks if blocks is None else blocks
        for name in blocks:
            if name not in self.attention_blocks:
                raise ValueError(
                    f"no block of attention '{name}': the network has {', '.join(self.attention_blocks) or 'none'}."
                )
        entered: dict[int, torch.Tensor] = {}

        def keep(level: int) -> Any:
            return lambda module, inputs: entered.__setitem__(level, inputs[0])

        levels = [*self.down, self.bottom]
        of_blocks = {name: int(name.rsplit("_", 1)[1]) for name in blocks}
        hooks = [levels[i].attention.register_forward_pre_hook(keep(i)) for i in sorted(set(of_blocks.values()))]
        try:
            self._encode(x, timesteps, class_labels)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: self._attention_of(name, levels[i].attention, entered[i], x) for name, i in of_blocks.items()}

    def _attention_of(self, name: str, block: nn.Module, entered: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        block, frames, grid = cast(SpatioTemporalBlock, block), x.shape[1], x.shape[2:]
        if name.startswith("temporal"):
            return block.temporal_weights(entered, frames)
        padded = [n + sum(self._padding(n)) for n in grid[: self.spatial_dims]]
        mode = "bilinear" if self.spatial_dims == 2 else "trilinear"
        fine = nn.functional.interpolate(block.spatial_received(entered), size=padded, mode=mode)
        heads = fine.shape[1]
        return self._cropped(fine.flatten(0, 1)[:, None], frames * heads, grid).unflatten(1, (frames, heads))

    def _encode(
        self, x: torch.Tensor, timesteps: torch.Tensor | None, class_labels: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """Return the bottleneck (B · F, C, *space), what the levels before it hold, and the embedding (B · F, width)."""
        self._check_window(x)
        frames = x.shape[1]
        embedding = self._embedding(x, timesteps, class_labels).repeat_interleave(frames, 0)
        h, skips = self.conv_in(self._padded(x)), []
        for level, downsample in zip(self.down, self.downsample, strict=True):
            h = self._run(level, h, embedding, frames)
            skips.append(h)
            h = downsample(h)
        return self._run(self.bottom, h, embedding, frames), skips, embedding

    def _embedding(self, x: torch.Tensor, timesteps: torch.Tensor | None, class_labels: torch.Tensor | None) -> torch.Tensor:
        """Return the embedding of timestep and class, (B, width)."""
        batch, linear = x.shape[0], cast(nn.Linear, self.time_embedding[0])
        timesteps = x.new_zeros(1) if timesteps is None else timesteps.to(x.device)
        sinusoids = get_timestep_embedding(timesteps, linear.in_features).to(linear.weight.dtype)
        return self.time_embedding(sinusoids) + self.class_embedding(self._classes(x, class_labels).expand(batch))

    def _classes(self, x: torch.Tensor, class_labels: torch.Tensor | None) -> torch.Tensor:
        """Return the index of each sample's class, (B,) or (1,); that of "no class" is the last one."""
        if class_labels is None:
            return torch.full((1,), self.num_classes, device=x.device)
        labels = class_labels.to(x.device)
        if not (exporting() or labels.is_meta or bool(((labels >= -1) & (labels < self.num_classes)).all())):
            raise ValueError(
                f"class labels {labels.tolist()} came to a network of {self.num_classes} classes, 0 the first, -1 none."
            )
        return labels.masked_fill(labels < 0, self.num_classes)

    def _run(self, level: nn.Module, h: torch.Tensor, embedding: torch.Tensor, frames: int) -> torch.Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return cast(torch.Tensor, checkpoint(level, h, embedding, frames, use_reentrant=False))
        return level(h, embedding, frames)

    def _check_window(self, x: torch.Tensor) -> None:
        if x.shape[1] > self.max_frames:
            raise ValueError(f"a window has {x.shape[1]} frames, the network is built for at most {self.max_frames}.")
        if self.spatial_dims == 2 and x.shape[-1] != 1:
            raise ValueError(f"windows of {x.shape[-1]} slices came to a network for one slice: build it with spatial_dims 3.")

    def _padding(self, size: int) -> tuple[int, int]:
        """Return the zeros before and after an axis that the levels cannot halve otherwise."""
        missing = -size % 2 ** len(self.down)
        return missing // 2, missing - missing // 2

    def _padded(self, x: torch.Tensor) -> torch.Tensor:
        """(B, F, X, Y, Z) → (B · F, 1, *space)."""
        x = x.squeeze(-1) if self.spatial_dims == 2 else x
        return nn.functional.pad(x.flatten(0, 1)[:, None], [n for size in reversed(x.shape[2:]) for n in self._padding(size)])

    def _cropped(self, h: torch.Tensor, frames: int, grid: torch.Size) -> torch.Tensor:
        """(B · frames, 1, *space) → (B, frames, X, Y, Z)."""
        for axis, size in enumerate(grid[: self.spatial_dims]):
            h = h.narrow(2 + axis, self._padding(size)[0], size)
        return h.reshape(-1, frames, *grid)


def _doubling(spatial_dims: int, before: int, after: int) -> UpSample:
    """Pointwise convolution at the coarse resolution, where it is cheap, then every voxel repeated."""
    return UpSample(spatial_dims, before, after, 2, mode="nontrainable", interp_mode="nearest", align_corners=None)


def _check(
    spatial_dims: int, channels: Sequence[int], attention_levels: Sequence[bool], num_heads: int, norm_num_groups: int
) -> None:
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims is 2 (one slice) or 3, not {spatial_dims}.")
    if len(channels) != len(attention_levels):
        raise ValueError(f"{len(channels)} channels and {len(attention_levels)} attention levels: every level needs both.")
    for n, attends in zip(channels, attention_levels, strict=True):
        if n % norm_num_groups or n == norm_num_groups or (attends and n % num_heads):
            raise ValueError(
                f"{n} channels cannot be shared by {norm_num_groups} groups, of two channels at least, or by {num_heads} heads."
            )
