"""The temperature of a decoder, against log-likelihoods by scipy of windows whose frames repeat each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import multivariate_normal

from custom.diffusion.classifier import DiffusionClassifierInferer
from custom.diffusion.fit_classifier import fit_classifier, read_temperature

from .gaussian_problem import GaussianProblem, small_problem

CLASSES, FRAMES, GRID, GAP = 3, 4, (3, 2, 1), 2


def frame_problem() -> GaussianProblem:
    """Classes with a map that holds in all frames, weak beside the noise."""
    problem = small_problem(CLASSES, 1, GRID)
    covariance = (problem.axes * problem.variances) @ problem.axes.T
    return GaussianProblem(0.5 * problem.means.float().expand(-1, FRAMES, *GRID), covariance)


def draw(problem: GaussianProblem, labels: torch.Tensor) -> torch.Tensor:
    """Windows whose frames are all the same, which the network takes for independent: it is too sure of itself."""
    return problem.draw(labels, seed=5)[:, :1].expand(-1, FRAMES, *GRID)


def log_likelihoods(problem: GaussianProblem, windows: torch.Tensor) -> np.ndarray:
    covariance = (problem.axes * problem.variances) @ problem.axes.T
    means, x = problem.means.flatten(2).numpy(), windows.flatten(2).numpy()
    found = [sum(multivariate_normal(m[f], covariance).logpdf(x[:, f]) for f in range(FRAMES)) for m in means]
    return np.stack(found, 1)


def best_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """Of least log loss, the labels smoothed by one part in n + 1."""
    share = 1 / (len(labels) + 1)
    wanted = np.eye(CLASSES)[labels] * (1 - share) + share / CLASSES
    loss = lambda t: -(wanted * log_softmax(scores / np.exp(t), axis=1)).sum()  # noqa: E731
    return float(np.exp(minimize_scalar(loss, bounds=(-3, 6), method="bounded").x))


def write_runs(folder: Path, windows: torch.Tensor, labels: torch.Tensor) -> list[dict[str, Any]]:
    """Write two prepared runs that hold the windows in turn, and return their rows, mixed."""
    rows = []
    for r in range(2):
        path, mine = folder / f"run-{r}.nii", range(r, len(windows), 2)
        run = np.random.default_rng(r).normal(size=(*GRID, len(mine) * (FRAMES + GAP))).astype(np.float32)
        for place, i in enumerate(mine):
            start = place * (FRAMES + GAP)
            run[..., start : start + FRAMES] = np.moveaxis(windows[i].numpy(), 0, -1)
            rows.append((i, {"image": str(path), "start": start, "label": int(labels[i]), "block": f"{r}_{i}"}))
        nib.save(nib.Nifti1Image(run, np.eye(4)), path)
    return [row for _, row in sorted(rows, key=lambda pair: pair[0] * 7 % len(windows))]


@pytest.fixture(scope="module")
def problem() -> GaussianProblem:
    return frame_problem()


@pytest.fixture(scope="module")
def labels() -> torch.Tensor:
    return torch.arange(40) % CLASSES  # more than a batch


@pytest.fixture
def rows(tmp_path: Path, problem: GaussianProblem, labels: torch.Tensor) -> list[dict[str, Any]]:
    return write_runs(tmp_path, draw(problem, labels), labels)


def classifier_of(problem: GaussianProblem, temperature: float = 1.0) -> DiffusionClassifierInferer:
    """One whose logits are nearly the log-likelihoods."""
    return DiffusionClassifierInferer(
        problem.levels, CLASSES, (-9.0, 9.0), num_levels=12, num_noises=1, temperature=temperature, batch_size=1000
    )


def test_the_temperature_is_that_of_the_exact_likelihoods(
    problem: GaussianProblem, labels: torch.Tensor, rows: list[dict], tmp_path: Path
) -> None:
    expected = best_temperature(log_likelihoods(problem, draw(problem, labels)), labels.numpy())
    assert expected > 2  # far from what a classifier starts with
    classifier = classifier_of(problem)
    path = tmp_path / "models" / "decoder.json"
    assert fit_classifier(classifier, problem, rows, str(path), FRAMES) is classifier
    assert classifier.temperature == pytest.approx(expected, rel=0.03)
    assert json.loads(path.read_text()) == {"temperature": classifier.temperature}
    assert read_temperature(str(path)) == classifier.temperature


def test_logits_are_divided_by_it_from_then_on(problem: GaussianProblem, rows: list[dict], tmp_path: Path) -> None:
    windows = draw(problem, torch.tensor([0, 1, 2]))
    before = classifier_of(problem)(windows, problem)
    fitted = fit_classifier(classifier_of(problem), problem, rows, str(tmp_path / "decoder.json"), FRAMES)
    torch.testing.assert_close(fitted(windows, problem), before / read_temperature(str(tmp_path / "decoder.json")))


def test_an_earlier_temperature_does_not_matter(problem: GaussianProblem, rows: list[dict], tmp_path: Path) -> None:
    path = str(tmp_path / "decoder.json")
    found = [fit_classifier(classifier_of(problem, t), problem, rows, path, FRAMES).temperature for t in (1.0, 7.0)]
    assert found[0] == found[1]


def test_the_network_is_evaluated(problem: GaussianProblem, rows: list[dict], tmp_path: Path) -> None:
    seen = []

    class Spy(GaussianProblem):
        def forward(self, x: torch.Tensor, timesteps=None, class_labels=None) -> torch.Tensor:
            seen.append((self.training, torch.is_grad_enabled()))
            return super().forward(x, timesteps, class_labels)

    spy = Spy(problem.means, (problem.axes * problem.variances) @ problem.axes.T).train()
    fit_classifier(classifier_of(problem), spy, rows[:4], str(tmp_path / "decoder.json"), FRAMES)
    assert set(seen) == {(False, False)}


def test_rows_stay_as_they_are(problem: GaussianProblem, rows: list[dict], tmp_path: Path) -> None:
    before = [dict(row) for row in rows]
    fit_classifier(classifier_of(problem), problem, rows, str(tmp_path / "decoder.json"), FRAMES)
    assert rows == before


def test_without_a_validation_window_nothing_is_written(problem: GaussianProblem, tmp_path: Path) -> None:
    path = tmp_path / "decoder.json"
    with pytest.raises(ValueError, match=r"no validation window .*decoder\.json: .* --validation_run"):
        fit_classifier(classifier_of(problem), problem, [], str(path), FRAMES)
    assert not path.exists()


def test_windows_without_a_class_are_refused(problem: GaussianProblem, rows: list[dict], tmp_path: Path) -> None:
    path = tmp_path / "decoder.json"
    with pytest.raises(ValueError, match="leave out windows without one"):
        fit_classifier(classifier_of(problem), problem, [*rows[:3], {**rows[3], "label": -1}], str(path), FRAMES)
    assert not path.exists()


def test_a_missing_temperature_tells_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"decoder\.json does not exist: run evaluate\.json"):
        read_temperature(str(tmp_path / "decoder.json"))
