"""Harmonization of a network's features over sites, as handlers of an evaluator.

ComBat is fitted once, after the extractor is final, by a pass over the training part in evaluation mode: any later step of the
extractor invalidates the map, which therefore carries the digest of the extractor's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events

from ..folder_lock import FolderLock
from ..harmonization import HarmonizedClassifier, SiteAffine, admit_sites, fit_combat
from ..metrics.features import feature_columns
from ..networks.weights_digest import weights_digest
from ..paths import written_whole
from ..processes import together
from .features import FeatureTable

__all__ = ["ComBat", "UnseenSites"]


class ComBat:
    """Fit ComBat on the training subjects' features when the evaluator has completed, and store it.

    Every process fits on the same table, so that all of them succeed, or raise the same error, together.

    Args:
        network: whose harmonizer is fitted and whose extractor the evaluator runs.
        features: the evaluator's table of features; subjects of other parts than ``training`` do not enter the fit.
        path: of the harmonizer's state.
        covariates: columns of the table whose effect is kept, such as age and sex.
        label_in_fit: whether the training labels are kept too. On features of the very subjects that the extractor was
            trained on, a fit without them takes most of the learnt difference for a site effect where site and label are
            associated. No label enters when the map is applied.
        min_site_n: fewest training subjects of a site.
        reference_site: site to which the others are moved; ``None``: the mean of all.
    """

    def __init__(
        self,
        network: HarmonizedClassifier,
        features: FeatureTable,
        path: str,
        covariates: Sequence[str] = (),
        label_in_fit: bool = True,
        min_site_n: int = 3,
        reference_site: str | None = None,
    ) -> None:
        self.network, self.features, self.path, self.covariates = network, features, path, list(covariates)
        self.label_in_fit, self.min_site_n, self.reference_site = label_in_fit, min_site_n, reference_site

    def attach(self, engine: Engine) -> None:
        self.features.attach(engine)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        harmonizer = self.fit(self.features.table[self.features.table["part"] == "training"])
        self.network.harmonizer.load_state_dict(harmonizer.state_dict())
        if idist.get_rank() == 0:
            with FolderLock(Path(self.path).parent), written_whole(self.path) as temporary:
                torch.save(harmonizer.state_dict(), temporary)
        idist.barrier()  # the next stage reads the file in every process
        engine.logger.info(f"ComBat fitted over {len(harmonizer.sites)} sites, stored in {self.path}.")

    def fit(self, table: pd.DataFrame) -> SiteAffine:
        """Return the map of a table of training subjects; see :py:func:`custom.harmonization.fit_combat` for the errors."""
        harmonizer = fit_combat(
            table[feature_columns(table)].to_numpy(),
            table["site"].astype(str).tolist(),
            table[self.covariates].reset_index(drop=True) if self.covariates else None,
            table["label"].tolist() if self.label_in_fit else None,
            subjects=table["subject"].tolist(),
            min_site_n=self.min_site_n,
            reference_site=self.reference_site,
        )
        harmonizer.feature_digest = weights_digest(self.network.extractor)
        return harmonizer


class UnseenSites:
    """Before an evaluator runs, settle what happens to scans of sites that the harmonizer was not fitted on.

    Args:
        network: whose weights an earlier handler loads.
        dataloader: of the scans; each item of its dataset's ``data`` has a ``site``.
        policy: ``error``, ``identity`` or ``adapt``, see :py:func:`custom.harmonization.admit_sites`.
    """

    def __init__(self, network: HarmonizedClassifier, dataloader: Any, policy: str = "error") -> None:
        self.network, self.dataloader, self.policy = network, dataloader, policy

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        sites = [str(row["site"]) for row in self.dataloader.dataset.data]
        unseen = set(sites) - set(self.network.harmonizer.sites)
        if not (unseen and self.policy == "adapt"):
            admit_sites(self.network.harmonizer, sites, self.policy)
            return
        names, features = self._extract(unseen, engine.state.device)
        admit_sites(self.network.harmonizer, names, self.policy, features)

    def _extract(self, wanted: set[str], device: torch.device) -> tuple[list[str], torch.Tensor]:
        """Return site and feature of every scan of the wanted sites, from all processes: they adapt alike."""
        self.network.eval()
        found: list[tuple[str, torch.Tensor]] = []
        with torch.no_grad():
            for batch in self.dataloader:
                chosen = [i for i, site in enumerate(batch["site"]) if str(site) in wanted]
                if chosen:
                    image, mask = (torch.as_tensor(batch[key])[chosen].to(device) for key in ("image", "frame_mask"))
                    features = self.network.extractor.forward_features(image, mask)
                    found += [(str(batch["site"][i]), f.cpu().clone()) for i, f in zip(chosen, features, strict=True)]
        names, rows = zip(*together(found), strict=True)
        return list(names), torch.stack(rows).to(device)
