"""Anomalies by partial denoising: what a network, shown a window under noise, does not put back.

A window x_0 is noised, x_t = a x_0 + s ε, and its residual is what the estimate of x_0 leaves, x_0 - x̂_0 (Wyatt et al.,
*AnoDDPM*, CVPR Workshops 2022; Graham et al., *Denoising diffusion models for out-of-distribution detection*, ibid. 2023).
Noise comes in pairs ±ε whose residuals are averaged: of a denoiser linear in x_t, such as that of a Gaussian, the noise falls
out and s² (a² Σ + s² I)⁻¹ (x_0 - μ) is left, whatever ε was. Under little noise that is nearly the error with which a voxel is
predicted from all others; under much noise nearly the window itself, which shows best what is missing.

A good window of another category is no outlier: a wrong label is found by a classifier's logits, :py:func:`label_margin`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import one_hot

from ..data.other_windows import sliding_windows
from ..networks.noise_level import NoiseLevels
from ..paths import written_whole
from ..transforms.temporal_window import MappedBOLD, map_bold
from ..transforms.window_rows import last_start
from .calibrate_anomaly import STRIDE, AnomalyScores, ResidualSummary, WindowBatches

__all__ = ["AnomalyScorer", "calibrate", "detect", "label_margin", "score_function"]

Classifier = Callable[[torch.Tensor, nn.Module], torch.Tensor]


class AnomalyScorer(nn.Module):
    """Scores of windows from the residuals of a denoising network at a few noise levels.

    The noise is the same for every window, so a score depends neither on the batch nor on the order.

    Args:
        levels: the schedule and the meaning of the network's output.
        log_snrs: noise levels; each costs ``2 * num_noises`` evaluations of the network.
        num_noises: pairs ±ε per level.
        seed: of the noise.
        summary: how residuals become scores; None takes the defaults.

    What it has learnt is in its state dict, with ``log_snrs``, ``num_noises`` and ``seed``: loading refuses others.
    """

    recipe: torch.Tensor

    def __init__(
        self,
        levels: NoiseLevels,
        log_snrs: Sequence[float] = (-4.0, 1.0),
        num_noises: int = 1,
        seed: int = 0,
        summary: ResidualSummary | None = None,
    ) -> None:
        super().__init__()
        if not len(log_snrs) or num_noises < 1:
            raise ValueError(f"{len(log_snrs)} noise levels and {num_noises} pairs of noise: at least one of each is needed.")
        self.levels, self.log_snrs, self.num_noises, self.seed = levels, tuple(log_snrs), num_noises, seed
        self.summary = ResidualSummary() if summary is None else summary
        self.register_buffer("recipe", torch.tensor([seed, num_noises, *log_snrs], dtype=torch.float64))

    @torch.no_grad()
    def residuals(self, network: nn.Module, windows: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Return x_0 - x̂_0 of windows (B, F, X, Y, Z) at every level, (L, B, F, X, Y, Z), averaged over the noise.

        Args:
            network: in evaluation mode.
            windows: x_0.
            labels: (B,) classes to denoise as; None is -1, no class.

        Raises:
            RuntimeError: if the network is in training mode, where dropout makes a score random.
        """
        if network.training:
            raise RuntimeError("the network is in training mode: call network.eval() before scoring.")
        labels = torch.full((len(windows),), -1, device=windows.device) if labels is None else labels.to(windows.device)
        generator = torch.Generator().manual_seed(self.seed)
        noises = [torch.randn(1, *windows.shape[1:], generator=generator).to(windows) for _ in range(self.num_noises)]
        found = []
        for level in self.log_snrs:
            timestep = self.levels.timestep_of(torch.tensor([level])).to(windows.device)
            estimates = [
                self._estimate(network, windows, sign * noise, timestep, labels) for noise in noises for sign in (1, -1)
            ]
            found.append(windows - torch.stack(estimates).mean(0))
        return torch.stack(found)

    def _estimate(
        self, network: nn.Module, windows: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        x_t = self.levels.noisy(windows, noise, timestep)
        output = network(x_t, timesteps=timestep.expand(len(windows)), class_labels=labels)
        return self.levels.sample_and_noise(output, x_t, timestep)[0]

    @torch.no_grad()
    def fit(self, network: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> AnomalyScorer:
        """Calibrate on windows (B, F, X, Y, Z) and masks (B, X, Y, Z) of validation runs; see :py:meth:`ResidualSummary.fit`.

        Args:
            network: in evaluation mode.
            batches: can be run through twice: a list or a loader, no generator.
        """
        self.summary.fit(lambda: ((self.residuals(network, windows), masks) for windows, masks in batches))
        return self

    def fit_labels(self, logits: torch.Tensor, labels: torch.Tensor) -> AnomalyScorer:
        """Calibrate the threshold of wrong labels on logits (N, C) and labels (N,) of validation windows."""
        self.summary.label_threshold = self.summary.quantile(label_margin(logits, labels))
        return self

    @torch.no_grad()
    def score(
        self,
        network: nn.Module,
        windows: torch.Tensor,
        labels: torch.Tensor | None = None,
        logits: torch.Tensor | None = None,
        masks: torch.Tensor | None = None,
    ) -> AnomalyScores:
        """Score windows.

        Args:
            network: in evaluation mode.
            windows: (B, F, X, Y, Z), of the calibrated number of frames.
            labels: (B,) stated classes; only with ``logits``. The residual itself is that of no class.
            logits: (B, C) of a classifier, such as a diffusion classifier's.
            masks: (B, X, Y, Z) brains of the windows, where they differ.

        Raises:
            RuntimeError: before calibration.
            ValueError: for one of labels and logits without the other, or windows of another shape.
        """
        if (labels is None) != (logits is None):
            raise ValueError("a stated label is judged by a classifier's logits: give labels and logits, or neither.")
        scores = self.summary.score(self.residuals(network, windows), masks)
        if labels is None or logits is None:
            return scores
        return replace(scores, label=label_margin(logits, labels))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *further: object) -> None:
        saved = state_dict.get(prefix + "recipe")
        if saved is not None and saved.tolist() != self.recipe.tolist():
            raise ValueError(
                f"this anomaly scorer was calibrated with [seed, num_noises, log_snrs …] = {saved.tolist()}, "
                f"not {self.recipe.tolist()}: use those, or calibrate again."
            )
        super()._load_from_state_dict(state_dict, prefix, *further)


def label_margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return by how much the best other class exceeds the stated one, (B,), of logits (B, C) and labels (B,).

    Raises:
        ValueError: if a label is no class of the logits.
    """
    if ((labels < 0) | (labels >= logits.shape[1])).any():
        raise ValueError(f"labels {labels.tolist()} are to be judged by logits of {logits.shape[1]} classes.")
    stated = one_hot(labels.long(), logits.shape[1]).bool()
    return logits.masked_fill(stated, -torch.inf).amax(1) - logits[stated]


def score_function(
    network: nn.Module,
    scorer: AnomalyScorer,
    classifier: Classifier | None = None,
    device: str | torch.device = "cpu",
    batch_size: int = 8,
) -> Callable[..., tuple[np.ndarray, np.ndarray | None]]:
    """Return a function of windows, labels and masks to scores (N,) and maps: what ``custom.metrics.anomaly`` takes.

    Args:
        network: it is put into evaluation mode.
        scorer: calibrated.
        classifier: with one the score is :py:func:`label_margin`, without a map; None: the window's score with its map.
        device: to compute on.
        batch_size: windows at a time.
    """
    network.eval().to(device)
    scorer.to(device)

    @torch.no_grad()
    def score(windows: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        batches = [part.to(device).split(batch_size) for part in (windows, labels, masks)]
        if classifier is not None:
            margins = [label_margin(classifier(w, network), y) for w, y, _ in zip(*batches, strict=True)]
            return torch.cat(margins).cpu().numpy(), None
        found = [scorer.score(network, w, masks=m) for w, _, m in zip(*batches, strict=True)]
        return torch.cat([f.window for f in found]).cpu().numpy(), torch.cat([f.map for f in found]).cpu().numpy()

    return score


def calibrate(
    network: nn.Module,
    scorer: AnomalyScorer,
    rows: Sequence[dict],
    path: str | Path,
    frames: int,
    classifier: Classifier | None = None,
    device: str | torch.device = "cpu",
    batch_size: int = 8,
) -> AnomalyScorer:
    """Fit a scorer on the whole of the validation runs and write its state dict.

    Args:
        network: of the signature in :py:mod:`custom.networks`; it is put into evaluation mode.
        scorer: to fit, in place.
        rows: of the validation part; with a classifier their labels are used as well.
        path: of the file to write, such as ``models/anomaly.pt``; it loads with ``weights_only=True``.
        frames: length of a window.
        classifier: ``classifier(windows, network)`` gives logits (B, C); None: no threshold for wrong labels.
        device: to compute on.
        batch_size: windows at a time.
    """
    network.eval().to(device)
    scorer.to(device)
    scorer.fit(network, WindowBatches(sliding_windows(rows, frames, STRIDE), frames, device, batch_size))
    if classifier is not None:
        with torch.no_grad():
            logits = [classifier(windows, network) for windows, _ in WindowBatches(rows, frames, device, batch_size)]
        scorer.fit_labels(torch.cat(logits), torch.tensor([row["label"] for row in rows], device=logits[0].device))
    with written_whole(path) as temporary:
        torch.save(scorer.state_dict(), temporary)
    return scorer


def detect(
    network: nn.Module,
    scorer: AnomalyScorer,
    rows: Sequence[dict],
    output_dir: str | Path,
    device: str | torch.device = "cpu",
    batch_size: int = 8,
    classifier: Classifier | None = None,
) -> pd.DataFrame:
    """Score the windows of runs; write ``anomalies.csv`` and a 4D map of each run, ``<scan>_anomaly.nii.gz``.

    A map is on the grid of the prepared run, 0 in frames that no window covers, the maximum where windows overlap. A window
    that would reach beyond the end of its run is moved back into it: ``start`` tells its first frame.

    Args:
        network: it is put into evaluation mode.
        scorer: calibrated.
        rows: windows, with ``image``, ``scan`` and ``start``; ``label`` where a classifier judges it.
        output_dir: gets the files.
        device: to compute on.
        batch_size: windows at a time.
        classifier: ``classifier(windows, network)`` gives logits (B, C).

    Returns:
        What ``anomalies.csv`` holds, a line per window: scan, block, onset …, ``score``, ``threshold``, ``flagged``, with a
        classifier ``label_score`` and ``label_flagged``, ``frame_0`` ….

    Raises:
        RuntimeError: if the scorer is not calibrated.
        ValueError: if a run is shorter than a window, or two runs have one name.
    """
    if not scorer.summary.fitted:
        raise RuntimeError("the anomaly scorer is not calibrated: run `calibrate` on validation runs, or load anomaly.pt.")
    network.eval().to(device)
    scorer.to(device)
    by_scan: dict[str, list[dict]] = {}
    for row in rows:
        by_scan.setdefault(row["scan"], []).append(row)
    table = []
    for scan, members in by_scan.items():
        if len({row["image"] for row in members}) > 1:
            raise ValueError(f"scan {scan}: its windows are of several images: give every run a name of its own.")
        table += _detect_in_run(network, scorer, members, Path(output_dir), device, batch_size, classifier)
    found = pd.DataFrame(table)
    with written_whole(Path(output_dir) / "anomalies.csv") as temporary:
        found.to_csv(temporary, index=False)
    return found


def _detect_in_run(
    network: nn.Module,
    scorer: AnomalyScorer,
    rows: Sequence[dict],
    folder: Path,
    device: str | torch.device,
    batch_size: int,
    classifier: Classifier | None,
) -> list[dict]:
    frames = int(scorer.summary.num_frames)
    batches = WindowBatches(rows, frames, device, batch_size)
    run = map_bold(rows[0]["image"])
    volume, lines = np.full(run.shape, -np.inf, dtype=np.float32), []
    for number, (windows, masks) in enumerate(batches):
        members = rows[number * batch_size : number * batch_size + len(windows)]
        logits = labels = None
        if classifier is not None:
            with torch.no_grad():
                logits = classifier(windows, network)
            labels = torch.tensor([row["label"] for row in members], device=logits.device)
        scores = scorer.score(network, windows, labels, logits, masks)
        for i, row in enumerate(members):
            start = last_start(row, run, frames)
            part = volume[start : start + frames]
            np.maximum(part, scores.map[i].cpu().numpy(), out=part)
            lines.append(_line(row, start, scores, i, scorer.summary))
    volume[np.isneginf(volume)] = 0
    _write_map(run, volume, folder / (re.sub(r"[^\w.-]+", "-", rows[0]["scan"]) + "_anomaly.nii.gz"))
    return lines


def _line(row: dict, start: int, scores: AnomalyScores, i: int, summary: ResidualSummary) -> dict:
    known = {key: row[key] for key in ("subject", "scan", "run", "block", "onset", "duration", "label") if key in row}
    score, threshold = float(scores.window[i]), float(summary.threshold)
    line = known | {"start": start, "score": score, "threshold": threshold, "flagged": score > threshold}
    if scores.label is not None:
        line["label_score"] = float(scores.label[i])
        if summary.label_threshold.numel():
            line["label_flagged"] = line["label_score"] > float(summary.label_threshold)
    return line | {f"frame_{k}": value for k, value in enumerate(scores.frame[i].tolist())}


def _write_map(run: MappedBOLD, volume: np.ndarray, path: Path) -> None:
    image = nib.Nifti1Image(np.moveaxis(volume, 0, -1), run.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((*image.header.get_zooms()[:3], run.repetition_time or 0))
    with written_whole(path) as temporary:
        nib.save(image, temporary)
