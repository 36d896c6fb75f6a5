"""The linear head on harmonized features, fitted from the table that the harmonization stage leaves."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite import distributed as idist
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from ..metrics.bootstrap import auc_within
from ..metrics.features import feature_columns, read_features
from ..own_files import load_tensors, read_json
from ..paths import file_digest, refuse_other_file, written_whole
from .affine import SiteAffine
from .classifier import HarmonizedClassifier

__all__ = ["fit_head", "linear_head", "logistic_ridge"]

logger = logging.getLogger(__name__)

AGAIN = "run train.json, or its earlier stages, again."


def logistic_ridge(strength: float = 0.1) -> Any:
    """Standardised logistic regression with an L2 penalty; ``strength`` is scikit-learn's C, small is strong."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=1000))


def linear_head(features: np.ndarray, labels: Sequence[int], num_classes: int, strength: float = 0.1) -> nn.Linear:
    """Fit :func:`logistic_ridge` and fold its standardisation into one linear layer.

    Args:
        features: (n, F) of training subjects.
        labels: (n,) class indices; every class must occur.
        num_classes: number of logits.
        strength: of the fit.

    Returns:
        (F → num_classes), float32. Of two classes the logits are minus and plus half the log odds.
    """
    if set(labels) != set(range(num_classes)):
        raise ValueError(f"the head needs training subjects of all {num_classes} classes, these have {sorted(set(labels))}.")
    scaler, model = (step for _, step in logistic_ridge(strength).fit(features, labels).steps)
    return folded(model.coef_, model.intercept_, scaler.mean_, scaler.scale_)


def folded(coefficients: np.ndarray, intercept: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> nn.Linear:
    """Return a regression on (x - mean) / scale as one layer on x.

    Args:
        coefficients: (classes, F), or (1, F) of two classes.
        intercept: (classes,) or (1,).
        mean: (F,).
        scale: (F,).
    """
    weight = coefficients / scale
    bias = intercept - weight @ mean
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    head = nn.Linear(weight.shape[1], len(weight))
    head.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    return head


def fit_head(
    network: HarmonizedClassifier, extractor: str, harmonizer: str, features: str, path: str, strength: float = 0.1
) -> dict[str, Any]:
    """Fit the head on the training subjects' harmonized features and save the whole network.

    Args:
        network: gets the weights; what is saved is its state dict.
        extractor: path of the extractor's weights; beside it stands ``.json``, whose content goes into ``model.json``.
        harmonizer: path of the harmonizer's state.
        features: path of the table of the harmonization stage: ``subject``, ``part``, ``site``, ``label``, ``f0`` ….
        path: of ``model.pt``.
        strength: of :func:`logistic_ridge`.

    Returns:
        The validation subjects' AUC with and without harmonization, pooled and within site, as ``model.json`` holds it.

    Raises:
        FileNotFoundError: an earlier stage has not left its file.
        ValueError: what it left is damaged, another network's, or of several trainings; or no training subject is of a
            validation subject's site.
    """
    for file in (extractor, harmonizer, features):
        if not Path(file).is_file():
            raise FileNotFoundError(f"{file} does not exist: run train.json, or its earlier stages, first.")
    provenance = Path(extractor).with_suffix(".json")
    known = read_json(provenance, AGAIN)
    refuse_other_file(extractor, known, provenance)
    device = network.head.weight.device
    for module, file in ((network.extractor, extractor), (network.harmonizer, harmonizer)):
        try:
            module.load_state_dict(load_tensors(file, AGAIN, device))
        except RuntimeError as error:
            raise ValueError(f"{file} does not fit the configured network ({error}): {AGAIN}") from error
    table = read_features(features)
    unseen = sorted(set(table["site"]) - set(network.harmonizer.sites))
    if unseen:
        raise ValueError(f"no training subject is of site {', '.join(unseen)}, validation subjects are: split again by site.")
    raw = table[feature_columns(table)].to_numpy()
    harmonized = apply_to_table(network.harmonizer, raw, table["site"])
    training = (table["part"] == "training").to_numpy()
    labels = table["label"].to_numpy()
    found = {}
    for name, x in (("raw", raw), ("harmonized", harmonized)):
        head = linear_head(x[training], labels[training], network.head.out_features, strength)
        found[name] = _validation_figures(head, x[~training], labels[~training], table["site"][~training].to_numpy())
        logger.info(f"validation AUC with {name} features: {found[name]}")
    network.head.load_state_dict(head.state_dict())
    network.check_extractor()
    if idist.get_rank() == 0:
        save_network(network, Path(path), known, found)
    return found


def apply_to_table(harmonizer: SiteAffine, features: np.ndarray, sites: Sequence[str]) -> np.ndarray:
    """Return (n, F) harmonized features of (n, F) features and (n,) site names, float64."""
    row = harmonizer.index(list(sites))
    return harmonizer(torch.from_numpy(features).to(row.device), row).cpu().numpy()


def _validation_figures(head: nn.Linear, x: np.ndarray, y: np.ndarray, sites: np.ndarray) -> dict[str, float | None]:
    """AUC of class 1 against the rest where it is defined."""
    if len(set(y)) < 2:
        return {"auc": None, "auc_within_site": None}
    with torch.no_grad():
        score = head(torch.from_numpy(x).float()).softmax(1)[:, 1].numpy()
    within = auc_within(y, score, list(sites))["value"]
    return {"auc": float(roc_auc_score(y == 1, score)), "auc_within_site": None if np.isnan(within) else within}


def save_network(network: HarmonizedClassifier, path: Path, provenance: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Write ``model.pt``, and ``model.json`` of what is known of the extractor and of the validation's figures."""
    affine = network.harmonizer
    harmonization = {
        "sites": dict(zip(affine.sites, affine.count.tolist(), strict=True)),
        "covariates": affine.covariates,
        "validation": found,
    }
    with written_whole(path) as temporary:
        torch.save(network.state_dict(), temporary)
    with written_whole(path.with_suffix(".json")) as temporary:
        known = {**provenance, "weights_sha256": file_digest(path), "harmonization": harmonization}
        temporary.write_text(json.dumps(known, indent=1))
