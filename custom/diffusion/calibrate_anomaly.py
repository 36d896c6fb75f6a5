"""From residuals of windows to anomaly scores, in units of what validation windows show.

A residual is what a model does not explain of a window: of a diffusion's denoiser at one or more noise levels
(:py:mod:`.anomaly`), or of anything else, such as principal components. At every level it is standardised per voxel, and four
kinds of evidence are drawn from it, each the cube root of a mean square (Wilson & Hilferty 1931: nearly normal):

* ``burst``: local energy of a frame;
* ``lasting``: square of the local mean over the frames, which noise that changes from frame to frame averages out of;
* ``flat``: lack of local energy over all frames, a signal that is missing;
* ``frame``: energy of a whole frame.

The window's figure is the mean over the strongest voxels, for ``frame`` the strongest frame. The figures of all levels are
standardised on validation windows and joined by log-sum-exp, a maximum that rewards agreement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.networks.layers import GaussianFilter
from torch import nn

from ..data.other_windows import sliding_windows
from ..own_files import load_tensors
from ..transforms.temporal_window import MappedBOLD, map_bold, temporal_window
from ..transforms.window_rows import last_start, signal_mask

__all__ = ["AnomalyScores", "ResidualSummary", "WindowBatches", "load_calibration", "summarised"]

STRIDE = 3  # frames from one window of the calibration to the next

Residuals = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class AnomalyScores:
    """What is odd about windows.

    Args:
        window: (B,) score, high where odd.
        frame: (B, F) the same for each frame.
        map: (B, F, X, Y, Z) strongest evidence at each voxel, in SDs over validation voxels; 0 outside the mask.
        label: (B,) :py:func:`.anomaly.label_margin`, in nats; None where it was not asked.
    """

    window: torch.Tensor
    frame: torch.Tensor
    map: torch.Tensor
    label: torch.Tensor | None = None


class WindowBatches:
    """Windows (B, F, X, Y, Z) of rows with the masks (B, X, Y, Z) of their runs: voxels that ever differ from 0.

    A window that would reach beyond the end of its run is moved back into it.

    Args:
        rows: windows, with ``image`` and ``start``.
        frames: length of a window, whatever the rows say.
        device: where the batches go.
        batch_size: windows at a time.

    Raises:
        BadScan: if a run is shorter than a window.
    """

    def __init__(self, rows: Sequence[dict], frames: int, device: str | torch.device, batch_size: int) -> None:
        self.rows, self.frames, self.device, self.batch_size = list(rows), frames, device, batch_size
        self.runs: dict[str, tuple[MappedBOLD, torch.Tensor]] = {}

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for first in range(0, len(self.rows), self.batch_size):
            pairs = [self._window(row) for row in self.rows[first : first + self.batch_size]]
            yield torch.stack([p[0] for p in pairs]).to(self.device), torch.stack([p[1] for p in pairs]).to(self.device)

    def _window(self, row: dict) -> tuple[torch.Tensor, torch.Tensor]:
        if row["image"] not in self.runs:
            run = map_bold(row["image"])
            self.runs = {row["image"]: (run, signal_mask(run))} | dict(list(self.runs.items())[:3])  # a few masks at most
        run, mask = self.runs[row["image"]]
        return temporal_window(run, self.frames, last_start(row, run, self.frames))[0].as_tensor(), mask


class ResidualSummary(nn.Module):
    """Scores of windows from their residuals; what it has learnt are buffers, saved and loaded with its state dict.

    Args:
        share: of the voxels (of a frame, in ``burst``: of all frames' voxels) that make the window's figure.
        smoothing: SD in voxels of the Gaussian by which evidence is local.
        false_alarm_rate: share of the validation windows above the threshold.

    Attributes:
        threshold: (); windows whose score is above it are flagged.
    """

    inside: torch.Tensor
    centre: torch.Tensor
    scale: torch.Tensor
    figures: torch.Tensor
    evidence: torch.Tensor
    frame_figures: torch.Tensor
    threshold: torch.Tensor
    label_threshold: torch.Tensor
    num_frames: torch.Tensor

    def __init__(self, share: float = 0.02, smoothing: float = 1.0, false_alarm_rate: float = 0.05) -> None:
        super().__init__()
        if not (0 < share <= 1 and smoothing > 0 and 0 < false_alarm_rate < 1):
            raise ValueError(
                f"share {share}, smoothing {smoothing}, false_alarm_rate {false_alarm_rate}: shares of 1, SD above 0."
            )
        self.share, self.false_alarm_rate = share, false_alarm_rate
        self.smooth = GaussianFilter(3, smoothing)
        for name in BUFFERS:
            self.register_buffer(name, torch.empty(0))

    @property
    def fitted(self) -> bool:
        """Whether it was calibrated or loaded."""
        return self.num_frames.numel() > 0

    def fit(self, batches: Callable[[], Iterable[Residuals]]) -> ResidualSummary:
        """Calibrate on windows that the model was not trained on.

        Args:
            batches: gives, each time it is called, all residuals (L, B, F, X, Y, Z) with the masks (B, X, Y, Z) of their
                brains. It is called twice, so that no more than a batch is held in memory.

        Raises:
            ValueError: if there are too few windows for the rate of false alarms, or a voxel's residual never varies.
        """
        self._fit_scale(batches())
        parts = [self._summarise(r, m) for r, m in batches()]
        figures, per_frame = (torch.cat([part[i] for part in parts]) for i in (0, 1))
        self.figures = torch.stack([figures.mean(0), figures.std(0)])
        self.frame_figures = torch.stack([per_frame.mean((0, 1)), per_frame.flatten(0, 1).std(0)])
        count, total, squares = (torch.stack([part[2][i] for part in parts]).sum(0) for i in range(3))
        mean = total / count
        self.evidence = torch.stack([mean, (squares / count - mean**2).sqrt()]).float()
        self.num_frames = torch.tensor(per_frame.shape[1], device=figures.device)
        self.threshold = self.quantile(self._joined(figures, self.figures))
        return self

    def quantile(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the threshold () above which the stated share of validation scores (N,) lies."""
        if len(scores) * self.false_alarm_rate < 1:
            raise ValueError(
                f"{len(scores)} validation windows are too few for a false alarm rate of {self.false_alarm_rate:g}: "
                f"{math.ceil(1 / self.false_alarm_rate)} are needed, or a higher rate."
            )
        return torch.quantile(scores, 1 - self.false_alarm_rate)

    def score(self, residuals: torch.Tensor, masks: torch.Tensor | None = None) -> AnomalyScores:
        """Score windows.

        Args:
            residuals: (L, B, F, X, Y, Z), of as many levels and frames as were calibrated.
            masks: (B, X, Y, Z) brains of the windows, where they differ from the one of the calibration.

        Raises:
            RuntimeError: before calibration.
            ValueError: for another number of frames, levels, or voxels.
        """
        self._check(residuals)
        inside = self.inside.expand(residuals.shape[1], -1, -1, -1) if masks is None else masks & self.inside
        figures, per_frame, _, maps = self._summarise(residuals, inside, with_map=True)
        frame = self._joined(per_frame, self.frame_figures)
        return AnomalyScores(self._joined(figures, self.figures), frame, maps)

    def _check(self, residuals: torch.Tensor) -> None:
        if not self.fitted:
            raise RuntimeError("the anomaly scorer is not calibrated: call `fit` on validation windows, or load anomaly.pt.")
        wanted = (len(self.scale), int(self.num_frames), *self.scale.shape[1:])
        found = (len(residuals), *residuals.shape[2:])
        if found != wanted:
            raise ValueError(
                f"(levels, frames, X, Y, Z) of the windows is {found}, of the calibration {wanted}: calibrate again."
            )

    def _fit_scale(self, batches: Iterable[Residuals]) -> None:
        """Mean and SD (L, X, Y, Z) of the residual of every voxel, over the frames in whose mask it lies."""
        count, total, squares = torch.zeros(()), torch.zeros(()), torch.zeros(())
        for residuals, masks in batches:
            _finite(residuals)
            r, m = residuals.double(), masks[:, None].double()
            count = (m.sum(0) * r.shape[2])[0] + count.to(r)
            total, squares = (r * m).sum((1, 2)) + total.to(r), (r**2 * m).sum((1, 2)) + squares.to(r)
        if not count.numel() or not (count > 0).any():
            raise ValueError("no validation window has a voxel inside its mask: look at the rows of the validation runs.")
        inside = count > 0
        centre = total / count.clamp(min=1)
        variance = squares / count.clamp(min=1) - centre**2
        constant = int((variance[:, inside] <= 1e-12).sum())
        if constant:
            raise ValueError(
                f"{constant} voxels inside the mask have the same residual in every validation frame: "
                "the runs have constant voxels, or the masks are too large; prepare the study again."
            )
        self.inside, self.centre = inside, centre.float()
        self.scale = torch.where(inside, variance.clamp(min=1e-12).sqrt(), 1.0).float()

    def _summarise(self, residuals: torch.Tensor, masks: torch.Tensor, with_map: bool = False) -> tuple:
        """Figures (B, 4 L) and (B, F, 2 L); count, sum and sum of squares (3 L,) of the evidence; its map or None."""
        _finite(residuals)
        figures, per_frame, sums, maps = [], [], [], []
        for level, residual in enumerate(residuals):
            z = (residual - self.centre[level]) / self.scale[level] * masks[:, None]
            evidence = self._evidence(z, masks)
            voxels = masks.flatten(1).sum(1)
            whole = torch.pow((z**2).flatten(2).sum(2) / voxels[:, None], 1 / 3)
            figures += [self._top(e, masks) for e in evidence] + [whole.amax(1)]
            per_frame += [torch.stack([self._top(e[:, None], masks) for e in evidence[0].unbind(1)], 1), whole]
            sums += [_sums(e, masks) for e in evidence]
            if with_map:
                maps += [self._standardised(e, 3 * level + k) for k, e in enumerate(evidence)]
        strongest = None
        if with_map:
            strongest = torch.stack([m.expand_as(residuals[0]) for m in maps]).amax(0) * masks[:, None]
        return torch.stack(figures, 1), torch.stack(per_frame, 2), torch.stack(sums, 1), strongest

    def _evidence(self, z: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Burst (B, F, X, Y, Z), lasting and flat (B, 1, X, Y, Z) of standardised residuals."""
        near = self.smooth(masks[:, None].to(z)).clamp(min=1e-6)  # only voxels outside the mask have less
        energy = self.smooth(z**2) / near
        mean = self.smooth(z.mean(1, keepdim=True)) / near
        third = 1 / 3
        return energy.pow(third), (mean**2).pow(third), -energy.mean(1, keepdim=True).pow(third)

    def _top(self, evidence: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Mean (B,) of the strongest share of the evidence (B, C, X, Y, Z) inside each mask."""
        strongest = []
        for values, mask in zip(evidence, masks, strict=True):
            inside = values[:, mask].flatten()
            strongest.append(inside.topk(math.ceil(self.share * len(inside))).values.mean())
        return torch.stack(strongest)

    def _standardised(self, evidence: torch.Tensor, which: int) -> torch.Tensor:
        return (evidence - self.evidence[0, which]) / self.evidence[1, which]

    @staticmethod
    def _joined(figures: torch.Tensor, calibration: torch.Tensor) -> torch.Tensor:
        return torch.logsumexp((figures - calibration[0]) / calibration[1], dim=-1)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *further: object) -> None:
        # how large the buffers are is only known from the file
        for name in BUFFERS:
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=self.threshold.device))
        super()._load_from_state_dict(state_dict, prefix, *further)


BUFFERS = (
    *("inside", "centre", "scale", "figures", "evidence", "frame_figures"),
    *("threshold", "label_threshold", "num_frames"),
)


def load_calibration(scorer: nn.Module, path: str, device: torch.device | str = "cpu") -> nn.Module:
    """Return the scorer with what :py:func:`.calibrate` wrote.

    Raises:
        FileNotFoundError: if it did not.
        ValueError: if the file is damaged, or another scorer's.
    """
    remedy = "run evaluate.json again, which calibrates."
    state = load_tensors(path, remedy, device)
    try:
        scorer.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is of another anomaly scorer ({error}): {remedy}") from error
    return scorer


@torch.no_grad()
def summarised(
    residual: Callable[[torch.Tensor], torch.Tensor], rows: Sequence[dict], frames: int, batch_size: int = 8
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Give another model's residual the same summary, so that it differs from a diffusion in the residual alone.

    Args:
        residual: windows (B, F, X, Y, Z) to what the model leaves of them, such as ``PCAResidual(...).residual``.
        rows: of the validation part, whose whole runs calibrate.
        frames: length of a window.
        batch_size: windows at a time.

    Returns:
        Function of windows, labels (not looked at) and masks to scores (N,) and maps (N, F, X, Y, Z), as
        ``custom.metrics.evaluate_anomalies`` takes it.
    """
    batches = WindowBatches(sliding_windows(rows, frames, STRIDE), frames, "cpu", batch_size)
    summary = ResidualSummary().fit(lambda: ((residual(windows)[None], masks) for windows, masks in batches))

    def score(windows: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        scores = summary.score(residual(windows)[None], masks)
        return scores.window.numpy(), scores.map.numpy()

    return score


def _sums(evidence: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    inside = evidence.double() * masks[:, None]
    return torch.stack([masks.sum().double() * evidence.shape[1], inside.sum(), (inside**2).sum()])


def _finite(residuals: torch.Tensor) -> None:
    if not torch.isfinite(residuals).all():
        raise ValueError("a residual is NaN or infinite: a window has such voxels (prepare it again), or the network diverged.")
