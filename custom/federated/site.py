"""What a site answers to the server; its scans, its subjects and their features stay in its folder.

Invariants, tested:
* what an answer holds is in the table of :mod:`.server`: counts, sums over subjects, weights; no subject's name, no row. What
  can be computed from it is told there, too;
* a site keeps nothing in memory that it could not read again from its folder, so that a site which is restarted between two
  questions (as NVFlare's simulator does where it has fewer threads than sites) answers the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.bundle import ConfigWorkflow
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject

from ..data import PARTS
from ..data.datalist import names
from ..harmonization import SiteAffine, apply_to_table
from ..harmonization.checks import check_features
from ..harmonization.design import LABEL, apply_coding, covariate_levels
from ..harmonization.federated import effect_of_site, moments_of_site, residuals_of_site
from ..harmonization.federated_head import logistic_sums, scaler_sums
from ..harmonization.head import save_network
from ..metrics import class_weights
from ..metrics.features import feature_columns, read_features
from ..own_files import load_tensors, read_json
from ..paths import written_whole

__all__ = ["Site", "arrays_of", "state_of"]

Message = dict[str, Any]
AGAIN = "begin the federation again."


class Site:
    """A client of the federation: one site's prepared dataset and the bundle's configurations.

    Args:
        name: of the site, as in the datalist.
        configs: paths of ``train.json``, ``federated.json`` and further overlays.
        dataset_dir: the site's prepared dataset.
        work_dir: for the site's files: optimizer, extractor, features, and the finished ``model.pt``.
        override: keys of the configuration.
    """

    def __init__(self, name: str, configs: Sequence[str], dataset_dir: str, work_dir: str, **override: Any) -> None:
        self.name, self.configs, self.folder = name, [str(c) for c in configs], Path(work_dir)
        self.override = {"dataset_dir": dataset_dir, "ckpt_dir": work_dir, "output_dir": work_dir, **override}
        self.algo: MonaiAlgo | None = None
        self.tasks = {
            "describe": self.describe,
            "train": self.train,
            "validate": self.validate,
            "moments": self.moments,
            "residuals": self.residuals,
            "effect": self.effect,
            "harmonize": self.harmonize,
            "step": self.step,
            "finish": self.finish,
        }

    def answer(self, task: str, question: Message) -> Message:
        """Return the answer to a question of the server, by the name of its task."""
        if task not in self.tasks:
            raise ValueError(f"site {self.name} knows no task {task}: server and site have different versions of custom.")
        return self.tasks[task](question)

    def describe(self, question: Message) -> Message:
        """Counts of subjects, scans and classes, and the values of text covariates.

        Raises:
            ValueError: the datalist holds other sites, or a covariate is missing; the message, which may name a subject, stays
                in the site's log.
        """
        parser = self._workflow().parser
        datalist = parser.get_parsed_content("datalist")
        others = {str(row.get("site")) for part in PARTS for row in datalist[part]} - {self.name}
        if others:
            raise ValueError(
                f"client {self.name} has subjects of site {', '.join(sorted(others))}: one client per site, named after it."
            )
        training = pd.DataFrame(datalist["training"]).drop_duplicates("subject")
        columns, num_classes = (parser.get_parsed_content(key) for key in ("covariates", "num_classes"))
        return {
            "training": len(training),
            "validation": len(names(datalist["validation"])),
            "classes": np.bincount(training["label"], minlength=num_classes),
            "levels": covariate_levels(training.reindex(columns=columns), training["subject"].tolist()),
        }

    def train(self, question: Message) -> Message:
        """Judge the weights on the site's validation subjects, train on from them, return the new ones.

        A site of one class returns what it was sent.
        """
        algo = self._algo(question)
        # set, not counted: a client that was restarted goes on where it was
        state = algo.trainer.state
        state.epoch = question["round"] * question["local_epochs"]
        state.iteration = state.epoch * len(algo.trainer.data_loader)
        before = self.validate(question)
        if self.class_weights is None:
            return {**before, "weights": question["weights"]}
        algo.local_epochs = question["local_epochs"]
        algo.train(ExchangeObject(weights=question["weights"]))
        return {**before, "weights": {key: w.numpy().copy() for key, w in algo.get_weights().weights.items()}}

    def validate(self, question: Message) -> Message:
        """Mean log loss of the weights over the site's validation subjects; they are kept as ``extractor.pt``."""
        metrics = self._algo(question).evaluate(ExchangeObject(weights=question["weights"])).metrics
        return {"log_loss": float(metrics["val_log_loss"])}

    def moments(self, question: Message) -> Message:
        """Compute the features of the final extractor, keep them, return the sums for ComBat."""
        self.validate(question)
        self._algo(question).eval_workflow.parser.get_parsed_content("train::harmonization::evaluator").run()
        return moments_of_site(*self._rows(question))

    def residuals(self, question: Message) -> Message:
        """Sums of squared residuals under the effects of the columns."""
        return {"squares": residuals_of_site(*self._rows(question), question["beta"])}

    def effect(self, question: Message) -> Message:
        """The site's own effect, shrunk over its features."""
        gamma, delta = effect_of_site(*self._rows(question), question["standard"])
        return {"gamma": gamma, "delta": delta}

    def harmonize(self, question: Message) -> Message:
        """Keep the harmonizer; return mean and scatter of the harmonized features."""
        with written_whole(self.folder / "harmonizer.pt") as temporary:
            torch.save(state_of(question["harmonizer"]), temporary)
        return scaler_sums(self._harmonized()[0])

    def step(self, question: Message) -> Message:
        """Loss, gradient and Hessian of the head."""
        x, labels = self._harmonized()
        x = (x - question["mean"]) / question["scale"]
        return logistic_sums(x, labels, question["class_weights"], question["coefficients"])

    def finish(self, question: Message) -> Message:
        """Keep the whole network as ``model.pt``, beside it whom of this site it has seen."""
        network = self._workflow().parser.get_parsed_content("network_def")
        network.load_state_dict(state_of(question["network"]))
        known = read_json(self.folder / "extractor.json", AGAIN)
        of_all_sites = {key: value for key, value in known.items() if key not in ("key_metric", "epoch")}
        save_network(network, self.folder / "model.pt", of_all_sites, {})
        return {"done": True}

    def _workflow(self, **more: Any) -> ConfigWorkflow:
        settings = {**self.override, **more}
        return ConfigWorkflow(config_file=self.configs, workflow_type="train", logging_file=False, **settings)

    def _algo(self, question: Message) -> MonaiAlgo:
        """Return MONAI's client, made at the first question."""
        if self.algo is None:
            weights, begun = self.class_weights, question.get("round", 0) > 0
            if not begun and "round" in question:
                (self.folder / "last.pt").unlink(missing_ok=True)
            if begun and weights and not (self.folder / "last.pt").is_file():
                raise ValueError(f"{self.folder / 'last.pt'} of the rounds before is gone: {AGAIN}")
            settings = {"class_weights": weights or [1.0, 1.0], "resume": begun and bool(weights)}
            self.algo = MonaiAlgo(
                bundle_root=str(Path(self.configs[0]).resolve().parents[1]),
                send_weight_diff=False,
                train_workflow=self._workflow(**settings),
                eval_workflow=self._workflow(**settings),
            )
            self.algo.initialize({ExtraItems.CLIENT_NAME: self.name})
        return self.algo

    @cached_property
    def class_weights(self) -> list[float] | None:
        """Of this site's own scans, ``None`` if they are of one class.

        With weights of the whole study, sites of opposed shares would pull the average apart: one would learn to say ASD, the
        next control.
        """
        labels = [row["label"] for row in self._workflow().parser.get_parsed_content("datalist")["training"]]
        return class_weights(labels, 2).tolist() if len(set(labels)) == 2 else None

    def _table(self) -> pd.DataFrame:
        table = read_features(self.folder / "features.csv")
        return table[table["part"] == "training"].reset_index(drop=True)

    def _rows(self, question: Message) -> tuple[np.ndarray, np.ndarray]:
        """Features (n, F) and coded columns (n, K) of the training subjects."""
        table, columns = self._table(), feature_columns(self._table())
        design = apply_coding(table, question["coding"])
        if question["label_in_fit"]:
            design[LABEL] = table["label"].to_numpy(float)
        return check_features(table[columns].to_numpy(), table["subject"].tolist(), columns), design.to_numpy(float)

    def _harmonized(self) -> tuple[np.ndarray, np.ndarray]:
        """Harmonized features (n, F) and labels (n,) of the training subjects."""
        table = self._table()
        state = load_tensors(self.folder / "harmonizer.pt", AGAIN)
        harmonizer = SiteAffine(state["scale"].shape[1])
        harmonizer.load_state_dict(state)
        return apply_to_table(harmonizer, table[feature_columns(table)].to_numpy(), table["site"]), table["label"].to_numpy()


def arrays_of(state: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return a state dict as arrays, which is how it travels."""
    return {key: value.detach().cpu().numpy().copy() for key, value in state.items()}


def state_of(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Return the state dict of :func:`arrays_of`."""
    return {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}
