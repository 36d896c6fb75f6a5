"""The stages of the diffusion bundle in two ways each: seconds of both, and what else one of them spares.

Networks are not trained, on which neither time nor memory depends. In decoding the outcome does matter: there the closed form
is fitted, to windows of the Gaussian that it assumes, whose classes are about as hard to tell apart as those of the real slice.
"""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from monai.networks.schedulers import DDPMScheduler
from timing import alternating
from torch import nn

from custom.diffusion import DiffusionClassifierInferer, DPMSolverScheduler, generate
from custom.networks import GaussianDenoiser, NoiseLevels, ResidualDenoiser, SignalScale, SpatioTemporalDiffusionUNet

__all__ = ["haxby"]

Grid = tuple[int, int, int]
SCHEDULE: dict[str, Any] = {"schedule": "linear_beta", "beta_start": 1e-4, "beta_end": 0.02, "prediction_type": "v_prediction"}
FRAMES, CLASSES, RANK = 9, 8, 64
REAL_SLICE, BRAIN = (40, 20, 1), 530  # the real data's grid, and its voxels in the brain
FULL = {"channels": (32, 64, 128, 256), "attention_levels": (False, False, True, True)}  # the bundle's
SMALL = {"channels": (16, 32, 64), "attention_levels": (False, False, True), "head_dim": 16, "norm_num_groups": 4}


@dataclass(frozen=True)
class Row:
    """Two ways of doing a thing, and what there is to say about them beside their times."""

    name: str
    ways: Sequence[Callable[[], object]]
    note: str = ""
    repeats: int = 1000  # at most


def haxby(repeats: int = 5, only: str = "") -> None:
    """Time the stages of the diffusion bundle in two ways each, and print the ratios.

    Args:
        repeats: turns of each way; fewer of what takes long.
        only: one of sampling, checkpointing, channels_last, decoding, closed_form and inference_mode; all by default.
    """
    stages = {stage.__name__: stage for stage in STAGES}
    if only and only not in stages:
        raise ValueError(f"there is no stage '{only}' of {', '.join(stages)}.")
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'':<72}{'first':>11}{'second':>11}{'ratio':>8}")
    for stage in [stages[only]] if only else STAGES:
        torch.manual_seed(0)
        for row in stage():
            plain, other = alternating(row.ways[0], row.ways[1], min(repeats, row.repeats))
            print(f"{row.name:<72}{1e3 * plain:>9.1f}ms{1e3 * other:>9.1f}ms{plain / other:>8.2f}  {row.note}", flush=True)


# ---- stages


def sampling(grid: Grid = (16, 8, 1), training_steps: int = 1000, few: tuple[int, ...] = (50, 20)) -> Iterator[Row]:
    """Two samples, by MONAI's DDPM with all steps and with few."""
    network = denoiser(grid, SMALL)
    ddpm = DDPMScheduler(training_steps, clip_sample=False, **SCHEDULE)
    for steps in few:
        solver = DPMSolverScheduler(training_steps, stochastic=True, **SCHEDULE)
        solver.set_timesteps(steps)
        ways = [partial(generate, network, s, (FRAMES, *grid), [0, 1], [0, 1]) for s in (ddpm, solver)]
        all_of_them, some = (calls(network, way) for way in ways)
        note = f"{all_of_them} and {some} evaluations, ratio {all_of_them / some:g}"
        yield Row(f"{_times(2, FRAMES, *grid)}: DDPM, SDE-DPM-Solver++ with {steps} steps", ways, note, 1)


def checkpointing(
    sizes: tuple[tuple[int, Grid, Mapping[str, Any], int], ...] = (
        (1, (40, 64, 64), FULL, 1),
        (4, (64, 64, 1), FULL, 3),
        (12, REAL_SLICE, SMALL, 5),
    ),
) -> Iterator[Row]:
    """A training step that keeps all activations, and one that computes those of each level again."""
    for batch, grid, width, repeats in sizes:
        x = torch.randn(batch, FRAMES, *grid)
        keeping = unet(grid, width)
        again = copy.deepcopy(keeping)
        again.checkpointing = True
        ways = [partial(gradients, network, x) for network in (keeping, again)]
        kept, spared = (saved_bytes(network, x) for network in (keeping, again))
        note = f"{kept / 2**20:.0f} and {spared / 2**20:.0f} MiB saved by the forward pass, ratio {kept / spared:.1f}"
        yield Row(f"{_times(batch, FRAMES, *grid)}: training step, all kept, checkpointed", ways, note, repeats)


def channels_last(
    sizes: tuple[tuple[int, Grid, Mapping[str, Any]], ...] = (
        (12, REAL_SLICE, SMALL),
        (2, (64, 64, 1), FULL),
        (2, (12, 14, 6), SMALL),
        (1, (20, 32, 32), FULL),
    ),
) -> Iterator[Row]:
    """A training step with contiguous and with channels-last weights, and how far gradients are from those in float64."""
    for batch, grid, width in sizes:
        x, contiguous = torch.randn(batch, FRAMES, *grid), unet(grid, width)
        layout = torch.channels_last if grid[-1] == 1 else torch.channels_last_3d
        last = copy.deepcopy(contiguous).to(memory_format=layout)  # type: ignore[call-overload]
        truth = gradients(copy.deepcopy(contiguous).double(), x.double())
        ways = [partial(gradients, network, x) for network in (contiguous, last)]
        note = "gradient errors {:.1e} and {:.1e}".format(*(largest_error(way(), truth) for way in ways))
        yield Row(f"{_times(batch, FRAMES, *grid)}: training step, contiguous, channels-last", ways, note)


def decoding(grid: Grid = (16, 16, 1), brain: int = 200, count: int = 2 * CLASSES) -> Iterator[Row]:
    """The diffusion classifier with all draws for all classes, and with early rejection, of few draws and of many."""
    network = fitted(denoiser(grid, SMALL), grid, brain).eval()
    windows, labels = draw_windows(grid, brain, count, seed=1)
    for noises in (2, 8):
        inferers = [DiffusionClassifierInferer(_levels(), CLASSES, num_noises=noises, rejection=r) for r in (None, 3.0)]
        right = [float((inferer(windows, network).argmax(1) == labels).float().mean()) for inferer in inferers]
        all_of_them, some = (inferer.evaluations / inferer.windows for inferer in inferers)
        ways = [partial(inferer, windows, network) for inferer in inferers]
        note = f"{all_of_them:.0f} and {some:.0f} evaluations a window, ratio {all_of_them / some:.2f}; "
        note += "{:.0%} and {:.0%} right".format(*right)
        yield Row(f"{_times(count, FRAMES, *grid)}: decoding with {4 * noises} draws, rejection None, 3", ways, note, 1)


def closed_form(grid: Grid = REAL_SLICE, brain: int = BRAIN, batch: int = 12) -> Iterator[Row]:
    """The closed form against a V×V Wiener filter, solved for or in its eigenvectors, and against a training step."""
    network = fitted(denoiser(grid, SMALL), grid, brain)
    gaussian = cast(GaussianDenoiser, network.gaussian)
    x, timesteps = torch.randn(batch, FRAMES, *grid), torch.linspace(10, 990, batch)
    labels = torch.arange(batch) % CLASSES
    ours = partial(gaussian, x, timesteps, labels)
    for name, plain in (("a solve", WienerFilter(gaussian)), ("all eigenvectors", EigenFilter(gaussian))):
        way = partial(plain, x, timesteps, labels)
        note = f"largest difference {float((way() - ours()).abs().max()):.1e}"
        yield Row(f"{_times(batch, FRAMES, *grid)}: dense filter of {brain} voxels by {name}, rank {RANK}", [way, ours], note)
    step = partial(gradients, network, x, timesteps, labels)
    yield Row(f"{_times(batch, FRAMES, *grid)}: training step of the network, the closed form in it", [step, ours])


def inference_mode() -> Iterator[Row]:
    """A forward pass under no_grad, as MONAI's inferers are, and under inference_mode."""
    for batch, grid in ((2, (16, 8, 1)), (12, REAL_SLICE)):
        network, x = denoiser(grid, SMALL), torch.randn(batch, FRAMES, *grid)
        ways = [partial(_under, mode, network, x) for mode in (torch.no_grad, torch.inference_mode)]
        yield Row(f"{_times(batch, FRAMES, *grid)}: forward pass, no_grad, inference_mode", ways)


STAGES = (sampling, checkpointing, channels_last, decoding, closed_form, inference_mode)


# ---- networks and windows


def unet(grid: Grid, width: Mapping[str, Any]) -> SpatioTemporalDiffusionUNet:
    """Return a network of which no weight is 0, so that a step has gradients everywhere."""
    network = SpatioTemporalDiffusionUNet(2 if grid[-1] == 1 else 3, CLASSES, FRAMES, **width)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return network


def denoiser(grid: Grid, width: Mapping[str, Any]) -> ResidualDenoiser:
    """Return the bundle's network, its learnt part as it starts."""
    learnt = SpatioTemporalDiffusionUNet(2 if grid[-1] == 1 else 3, CLASSES, FRAMES, **width)
    return ResidualDenoiser(SignalScale(grid), learnt, GaussianDenoiser(_levels(), CLASSES, grid, FRAMES, RANK))


def fitted(network: ResidualDenoiser, grid: Grid, brain: int) -> ResidualDenoiser:
    """Fit the closed form to as many windows as six real runs have."""
    cast(GaussianDenoiser, network.gaussian).fit(*draw_windows(grid, brain, 6 * CLASSES, seed=0))
    return network


def draw_windows(grid: Grid, brain: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return windows (count, F, X, Y, Z) of few spatial components and white noise, and their classes (count,)."""
    shared = torch.Generator().manual_seed(42)
    components, maps = (torch.randn(n, brain, generator=shared) for n in (20, CLASSES))
    own, labels = torch.Generator().manual_seed(seed), torch.arange(count) % CLASSES
    courses = torch.randn(count, FRAMES, 20, generator=own) + torch.randn(count, 1, 20, generator=own)
    noise = torch.randn(count, FRAMES, brain, generator=own) + 0.5 * torch.randn(count, 1, brain, generator=own)
    series = 0.2 * courses @ components + noise + 0.2 * maps[labels][:, None]
    voxels = torch.zeros(count, FRAMES, grid[0] * grid[1] * grid[2])
    voxels[..., :brain] = series
    return voxels.unflatten(-1, grid), labels


def _levels() -> NoiseLevels:
    return NoiseLevels(DDPMScheduler(1000, **SCHEDULE).alphas_cumprod)


# ---- the plain ways of the closed form


class WienerFilter(nn.Module):
    """The same estimate with the covariance written out: in every mode of frames a system of V equations to solve.

    Args:
        gaussian: fitted.
    """

    def __init__(self, gaussian: GaussianDenoiser) -> None:
        super().__init__()
        self.gaussian, self.inside = gaussian, gaussian.mask.bool()
        along = gaussian.components[:, self.inside]
        self.covariance = (along.T * (gaussian.variances - gaussian.rest_variance)) @ along
        self.covariance.diagonal().add_(gaussian.rest_variance)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        basis, spread = self.gaussian._frames(x.shape[1])
        a, s = (level.reshape(-1, 1, 1) for level in self.gaussian.levels.signal_and_noise(timesteps))
        centre = self.gaussian._class_maps(labels)
        rotated = basis @ (x.flatten(2) - a * centre)[..., self.inside]
        x0 = centre.repeat(1, x.shape[1], 1)
        x0[..., self.inside] += basis.T @ self.filtered(rotated, spread, a, s)
        return self.gaussian.levels.output_of(x0.reshape(x.shape), x, timesteps)

    def filtered(self, rotated: torch.Tensor, spread: torch.Tensor, a: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """Return a C (a² C + s² I)⁻¹ of every mode (B, F, V)."""
        covariances = spread[:, None, None] * self.covariance
        estimates = []
        for noisy, a_, s_ in zip(rotated, a, s, strict=True):
            total = a_.square() * covariances + s_.square() * torch.eye(len(self.covariance))
            estimates.append(a_ * covariances @ torch.linalg.solve(total, noisy[..., None]))
        return torch.stack(estimates)[..., 0]


class EigenFilter(WienerFilter):
    """The same estimate in the basis of all V eigenvectors, which are found once."""

    def __init__(self, gaussian: GaussianDenoiser) -> None:
        super().__init__(gaussian)
        self.values, self.vectors = torch.linalg.eigh(self.covariance)

    def filtered(self, rotated: torch.Tensor, spread: torch.Tensor, a: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """Return a C (a² C + s² I)⁻¹ of every mode (B, F, V)."""
        variances = spread[:, None] * self.values
        return a * variances / (a.square() * variances + s.square()) * (rotated @ self.vectors) @ self.vectors.T


# ---- measures


def gradients(network: nn.Module, x: torch.Tensor, *condition: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradient of every parameter after one step on x, of no class at timestep 0 unless told."""
    network.zero_grad()
    network(x, *condition).square().mean().backward()
    return [p.grad for p in network.parameters() if p.grad is not None]


def largest_error(found: list[torch.Tensor], truth: list[torch.Tensor]) -> float:
    """Return the largest relative error of a layer's gradient; those of a sum of 0, such as a key's bias, have none."""
    pairs = zip((g.double() for g in found), truth, strict=True)
    return max(float((g - t).norm() / t.norm()) for g, t in pairs if t.norm() > 1e-9)


def saved_bytes(network: nn.Module, x: torch.Tensor) -> int:
    """Return what a forward pass of x keeps for the backward pass, without the weights; shared storage counts once."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that its address is not given away again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(x)
    return sum(storage.nbytes() for storage in kept.values())


def calls(network: nn.Module, way: Callable[[], object]) -> int:
    """Return how often a way of doing something calls a network."""
    found: list[None] = []
    handle = network.register_forward_pre_hook(lambda *_: found.append(None))
    way()
    handle.remove()
    return len(found)


def _under(mode: Callable[[], Any], network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with mode():
        return network(x)


def _times(*sizes: int) -> str:
    return "×".join(str(size) for size in sizes)
