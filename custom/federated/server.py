"""The server's side of the federation: it asks, sums, and asks again; scans stay where they are, and rows are not sent.

Stages are those of ``train.json``: the extractor by FedAvg (McMahan et al. 2017), weighted by training subjects, where every
site's loss balances its own classes (a site of one class would teach nothing but its name, and teaches nothing); ComBat from
sums (:mod:`custom.harmonization.federated`) and the head by Newton's method (:mod:`custom.harmonization.federated_head`), both
equal to the fits on all rows. All that leaves a site:

=========  ==========================================================================================================
task       answer
=========  ==========================================================================================================
describe   numbers of training and validation subjects, of training subjects per class; the one or two values of each
           text covariate
train      the extractor's weights after local epochs; mean log loss of the validation subjects under the weights sent
validate   that mean alone, for the weights of the last round
moments    see :mod:`custom.harmonization.federated`; likewise ``residuals`` and ``effect``
harmonize  mean and sum of squares of the harmonized features
step       loss, gradient and Hessian of the head, one for each of Newton's steps
finish     nothing
=========  ==========================================================================================================

What goes down to every site are the weights, the estimates pooled so far, and in the end the network with all sites' ComBat
effects and numbers of subjects.

None of this is a row of a subject, and it is NOT private. Of a site with at most F + 1 training subjects (F features) the
server can compute every feature row, score and label from the Hessians and gradients of two of Newton's steps; and weights
before and after an epoch on few subjects tell of them too. Only secure aggregation, of which the server learns the sums over
sites and nothing else, would prevent that; it is not part of this.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import monai
import numpy as np
import pandas as pd
import torch
from monai.bundle import ConfigParser

from ..harmonization import HarmonizedClassifier, SiteAffine
from ..harmonization.checks import check_labels, check_sites
from ..harmonization.design import LABEL, pooled_coding
from ..harmonization.federated import combat_of_sites, pool_moments, pool_sigma
from ..harmonization.federated_head import pool_scaler, solve_logistic_ridge
from ..harmonization.head import folded
from ..networks.weights_digest import weights_digest
from .site import arrays_of, state_of

__all__ = ["Ask", "federate"]

logger = logging.getLogger(__name__)

Message = dict[str, Any]
Ask = Callable[[str, Message], dict[str, Message]]
SETTINGS = ("num_classes", "covariates", "label_in_fit", "reference_site", "min_site_n", "ridge", "seed")


def federate(
    ask: Ask, configs: Sequence[str], rounds: int, local_epochs: int, **override: Any
) -> tuple[HarmonizedClassifier, pd.DataFrame]:
    """Train the whole network over the sites.

    Args:
        ask: sends a task and a question to every site and returns site -> answer.
        configs: paths of ``train.json``, ``federated.json`` and further overlays, as the sites have them.
        rounds: of FedAvg; the weights of the round with the lowest validation log loss over all sites' subjects are taken.
        local_epochs: of every site in a round.
        override: keys of the configuration, as the sites have them.

    Returns:
        The network, and one line per round with its validation log loss. The sites have kept the network too.

    Raises:
        ValueError: as :func:`custom.harmonization.fit_combat`, naming the site; not two classes; weights that are not finite.
    """
    parser = ConfigParser()
    parser.read_config(list(configs))
    parser.update(dict(override))
    settings = {key: parser.get_parsed_content(key) for key in SETTINGS}
    described = _sorted(ask("describe", {}))
    _check(described, settings)
    ask = _of_all(ask, described)
    monai.utils.set_determinism(settings["seed"])
    network: HarmonizedClassifier = parser.get_parsed_content("network_def")
    weights, history = train_extractor(ask, arrays_of(network.extractor.state_dict()), described, rounds, local_epochs)
    network.extractor.load_state_dict(state_of(weights))
    harmonizer = _harmonize(ask, weights, described, settings)
    harmonizer.feature_digest = weights_digest(network.extractor)
    network.harmonizer.load_state_dict(harmonizer.state_dict())
    network.head.load_state_dict(_head(ask, harmonizer, described, settings["ridge"]).state_dict())
    ask("finish", {"network": arrays_of(network.state_dict())})
    return network, history


def _of_all(ask: Ask, described: Mapping[str, Message]) -> Ask:
    """Ask, and hear all of the sites that began, in their order.

    Raises:
        RuntimeError: a site is silent, or one is new: sums over other sites than before would not be noticed later on.
    """

    def asked(task: str, question: Message) -> dict[str, Message]:
        answers = _sorted(ask(task, question))
        if list(answers) != list(described):
            raise RuntimeError(f"'{task}' was answered by {list(answers)}, the federation began with {list(described)}.")
        return answers

    return asked


def _sorted(answers: Mapping[str, Message]) -> dict[str, Message]:
    """In whatever order they came in: sums of floating-point numbers depend on it."""
    return dict(sorted(answers.items()))


def _check(described: Mapping[str, Message], settings: Mapping[str, Any]) -> None:
    """Raise what the pooled fit would raise for too few subjects, before anything is trained."""
    if settings["num_classes"] != 2:
        raise ValueError(f"the federated head tells two classes apart, the configuration has {settings['num_classes']}.")
    count = [site["training"] for site in described.values()]
    sites = np.repeat(np.array(list(described), dtype=object), count)
    check_sites(sites, settings["min_site_n"], settings["reference_site"])
    labels = np.concatenate([np.repeat([0, 1], site["classes"]) for site in described.values()])
    check_labels(labels.tolist(), sites, [""] * len(labels))
    if not any(_share(site) for site in described.values()):
        raise ValueError("no site has training subjects of both classes: an extractor cannot be trained over them.")
    few = [site for site, answer in described.items() if answer["validation"] < 2]
    if few:  # the mean over one subject is that subject's score
        raise ValueError(f"site {few[0]} has fewer than two validation subjects: split again, or leave the site out.")


def _share(described: Message) -> int:
    """Weight of a site in FedAvg: its training subjects, if they are of both classes."""
    return int(described["training"]) if np.all(described["classes"]) else 0


def train_extractor(
    ask: Ask, weights: Message, described: Mapping[str, Message], rounds: int, local_epochs: int
) -> tuple[Message, pd.DataFrame]:
    """Return the extractor's weights of the best round, and one line per round; arguments as of :func:`federate`.

    Args:
        ask: the sites.
        weights: to begin with.
        described: the sites' answers to ``describe``.
        rounds: of FedAvg.
        local_epochs: of every site in a round.
    """
    if rounds < 1 or local_epochs < 1:
        raise ValueError(f"{rounds} rounds of {local_epochs} local epochs: at least one of each is needed.")
    losses, best = [], weights
    for number in range(rounds + 1):
        task = "train" if number < rounds else "validate"
        answers = ask(task, {"round": number, "local_epochs": local_epochs, "weights": weights})
        losses.append(_mean_loss({s: a["log_loss"] for s, a in answers.items()}, described))
        logger.info("round %d: validation log loss %.4f", number, losses[-1])
        if number > 0 and losses[-1] <= min(losses[1:]):  # those at the start are not trained
            best = weights
        if task == "train":
            weights = average_weights({s: a["weights"] for s, a in answers.items()}, described)
    return best, pd.DataFrame({"round": range(rounds + 1), "val_log_loss": losses})


def _mean_loss(losses: Mapping[str, float], described: Mapping[str, Message]) -> float:
    return float(np.average(list(losses.values()), weights=[described[site]["validation"] for site in losses]))


def average_weights(weights: Mapping[str, Message], described: Mapping[str, Message]) -> Message:
    """Return the mean of the weights of the sites that have both classes, by their training subjects.

    Raises:
        ValueError: a site's weights are not finite, or what is no weight differs between sites.
    """
    for site, state in weights.items():
        broken = [key for key, value in state.items() if not np.isfinite(value).all()]
        if broken:
            raise ValueError(f"the weights {broken[0]} of site {site} are not finite: lower --learning_rate.")
    share = np.array([_share(described[site]) for site in weights], dtype=float)
    share /= share.sum()
    return {key: _mean_of([state[key] for state in weights.values()], share, key) for key in next(iter(weights.values()))}


def _mean_of(values: Sequence[np.ndarray], share: np.ndarray, key: str) -> np.ndarray:
    """What is no floating-point number, such as the strides in an extra state, must be the same everywhere."""
    first = values[0]
    if not np.issubdtype(first.dtype, np.floating):
        if not all(np.array_equal(first, other) for other in values):
            raise ValueError(f"the sites have different {key}: give all of them the same overlays.")
        return first
    return np.tensordot(share, np.stack(values).astype(np.float64), axes=1).astype(first.dtype)


def _harmonize(ask: Ask, weights: Message, described: Mapping[str, Message], settings: Mapping[str, Any]) -> SiteAffine:
    coding = pooled_coding([site["levels"] for site in described.values()])
    columns = [name if one is None else f"{name}={one}" for name, one in coding.items()]
    common = {"coding": coding, "label_in_fit": settings["label_in_fit"]}
    moments = ask("moments", {**common, "weights": weights})
    pooled = pool_moments(
        moments,
        columns + [LABEL] * settings["label_in_fit"],
        min_site_n=settings["min_site_n"],
        reference_site=settings["reference_site"],
    )
    residuals = ask("residuals", {**common, "beta": pooled.beta})
    sigma = pool_sigma(pooled, {site: answer["squares"] for site, answer in residuals.items()})
    effects = ask("effect", {**common, "standard": pooled.standard(sigma)})
    return combat_of_sites(pooled, sigma, {s: (a["gamma"], a["delta"]) for s, a in effects.items()}).affine()


def _head(ask: Ask, harmonizer: SiteAffine, described: Mapping[str, Message], strength: float) -> torch.nn.Linear:
    sums = ask("harmonize", {"harmonizer": arrays_of(harmonizer.state_dict())})
    mean, scale = pool_scaler(list(sums.values()))
    counts = np.sum([site["classes"] for site in described.values()], axis=0)
    question = {"mean": mean, "scale": scale, "class_weights": counts.sum() / (2 * counts)}

    def sums_at(coefficients: np.ndarray) -> list[Message]:
        return list(ask("step", {**question, "coefficients": coefficients}).values())

    found = solve_logistic_ridge(sums_at, len(mean), strength)
    return folded(found[None, :-1], found[-1:], mean, scale)
