"""ComBat as it is applied: one affine map per site and feature, x* = x a_s + c_s (Johnson et al. 2007; Fortin et al. 2018).

Invariants, tested:
* one scan needs its site and nothing else: no covariate, no diagnosis, no other scan;
* rows do not depend on each other: one scan, one site and the whole set give the same result;
* the state is tensors only (``torch.load(weights_only=True)``) and holds nothing about a single subject;
* a site that is not known is an error, never a NaN and never a neighbour's row.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .empirical_bayes import site_effect, varies

__all__ = ["MIN_ADAPT", "SiteAffine", "UnseenSite", "affine_of"]

logger = logging.getLogger(__name__)

# scans of a new site from which its effect may be estimated
MIN_ADAPT = 10
ROWS = ("scale", "shift", "count")


class UnseenSite(ValueError):
    """A scan comes from a site that the harmonizer does not know."""


class SiteAffine(nn.Module):
    """Per-site scale and shift of features; what :func:`.fit_combat` returns and a checkpoint holds.

    The sites given here begin as identity rows; fitted rows come from :func:`.fit_combat` or from a state dict, which may
    have another number of sites.

    Args:
        num_features: F.
        sites: names of the sites.

    Attributes:
        scale, shift: (S, F) float64 buffers.
        count: (S,) int64 buffer, training subjects per site; 0 for identity rows.
        mean, sigma: (F,) float64 buffers, the fitted α at mean covariates and σ, which :meth:`adapt` needs. ``sigma`` is 0
            where a feature is not harmonized.
        sites: names in the order of the rows.
        origins: per site ``fitted``, ``identity`` or ``adapted``.
        covariates: names of what was regressed out in the fit.
        feature_names: names of the features, empty if they have none.
        feature_digest: of the extractor's weights, see :func:`.weights_digest`; empty if unknown.
    """

    scale: torch.Tensor
    shift: torch.Tensor
    count: torch.Tensor
    mean: torch.Tensor
    sigma: torch.Tensor

    def __init__(self, num_features: int, sites: Sequence[str] = ()) -> None:
        super().__init__()
        n = len(sites)
        self.register_buffer("scale", torch.ones(n, num_features, dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(n, num_features, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(n, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(num_features, dtype=torch.float64))
        self.register_buffer("sigma", torch.zeros(num_features, dtype=torch.float64))
        self.sites = [str(site) for site in sites]
        if len(set(self.sites)) < n:
            raise ValueError(f"a site is named twice: {self.sites}.")
        self.origins = ["identity"] * n
        self.covariates: list[str] = []
        self.feature_names: list[str] = []
        self.feature_digest = ""

    def forward(self, features: torch.Tensor, site: torch.Tensor) -> torch.Tensor:
        """(B, F) features and (B,) int64 rows of :meth:`index` → (B, F) in the dtype of the features.

        The arithmetic is float64: in float32 the shift of a feature far from 0 would cost digits.
        """
        # index_select, not [site]: a negative index is an error then
        scale, shift = (rows.to(torch.float64).index_select(0, site) for rows in (self.scale, self.shift))
        return torch.addcmul(shift, features.to(torch.float64), scale).to(features.dtype)

    def index(self, names: Sequence[str]) -> torch.Tensor:
        """Return the rows of the sites, (B,) int64 on the device of the buffers.

        Raises:
            UnseenSite: naming the sites that are not known.
        """
        row = {site: i for i, site in enumerate(self.sites)}
        unseen = sorted({str(name) for name in names} - row.keys())
        if unseen:
            raise UnseenSite(
                f"site {', '.join(map(repr, unseen))} is unknown to the harmonizer, whose sites are "
                f"{', '.join(self.sites) or 'none'}: pass --unseen_site identity to leave its features as they are, "
                f"or --unseen_site adapt if there are at least {MIN_ADAPT} scans of it."
            )
        return torch.tensor([row[str(name)] for name in names], dtype=torch.int64, device=self.count.device)

    @property
    def unadjusted(self) -> list[int]:
        """Indices of the features that the fit passed through, because they were constant at some site."""
        return torch.nonzero(self.sigma == 0).flatten().tolist()

    def add_identity(self, site: str) -> None:
        """Add a row that changes nothing, with a warning: this site's features keep their site effect."""
        ones = torch.ones_like(self.mean)
        self._add(site, ones, torch.zeros_like(ones), 0, "identity")
        logger.warning("the features of site %s are not harmonized: it was not among the sites of the fit.", site)

    def adapt(self, site: str, features: torch.Tensor) -> None:
        """Add a row for a new site, its effect estimated against the fitted mean and scale; other rows stay as they are.

        Transductive: the row depends on the scans it will be applied to. They need no label, and their covariates are taken
        to be those of the training set, so that a site of older people loses part of what age does.

        Args:
            site: name.
            features: (n, F), one row per scan of that site, at least :py:data:`MIN_ADAPT`.

        Raises:
            ValueError: too few scans, NaN, a wrong number of features, a site that is known, or a harmonizer not fitted.
        """
        self._check_adaptable(site, features)
        x = features.detach().to(self.mean)
        used = (self.sigma > 0) & torch.from_numpy(varies(x.cpu().numpy())).to(x.device)
        gamma, delta = torch.zeros_like(self.mean), torch.ones_like(self.mean)
        standardized = ((x - self.mean) / self.sigma)[:, used]
        gamma[used], delta[used] = (torch.from_numpy(e).to(x) for e in site_effect(standardized.cpu().numpy()))
        scale, shift = affine_of(self.mean, self.sigma, gamma, delta)
        self._add(site, scale, shift, len(x), "adapted")
        logger.warning("site %s was adapted to from %d scans: report figures on them as transductive.", site, len(x))

    def _check_adaptable(self, site: str, features: torch.Tensor) -> None:
        if not (self.sigma > 0).any():
            raise ValueError(f"cannot adapt to site {site}: the harmonizer is not fitted, load its state first.")
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f"site {site}: features of shape (n, {len(self.mean)}) wanted, not {tuple(features.shape)}.")
        if len(features) < MIN_ADAPT:
            raise ValueError(
                f"site {site} has {len(features)} scans, and adapting needs {MIN_ADAPT}: give more, or --unseen_site identity."
            )
        bad = torch.nonzero(~torch.isfinite(features))
        if len(bad):
            raise ValueError(f"site {site}: feature {int(bad[0, 1])} of scan {int(bad[0, 0])} is not finite: leave it out.")

    def _add(self, site: str, scale: torch.Tensor, shift: torch.Tensor, count: int, origin: str) -> None:
        if site in self.sites:
            raise ValueError(f"site {site} is known to the harmonizer already ({self.origins[self.sites.index(site)]}).")
        self.scale = torch.cat([self.scale, scale[None]])
        self.shift = torch.cat([self.shift, shift[None]])
        self.count = torch.cat([self.count, self.count.new_tensor([count])])
        self.sites.append(str(site))
        self.origins.append(origin)

    def get_extra_state(self) -> torch.Tensor:
        """Return the names as JSON in a uint8 tensor: a checkpoint of tensors passes every loader."""
        names = ("sites", "origins", "covariates", "feature_names", "feature_digest")
        state = {name: getattr(self, name) for name in names} | {"checksum": self._checksum()}
        return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Take the names from what :meth:`get_extra_state` returned."""
        for name, value in _parse(state).items():
            if name != "checksum":
                setattr(self, name, value)

    def _checksum(self) -> str:
        rows = torch.cat([self.scale, self.shift]).to("cpu", torch.float64).contiguous()
        return hashlib.sha256(rows.numpy().tobytes()).hexdigest()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ROWS:
            new, old = state_dict.get(prefix + name), getattr(self, name)
            if new is not None and new.shape[1:] == old.shape[1:]:
                setattr(self, name, old.new_empty(new.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
        # checked even if the loader is not strict: rows under the names of other sites would be silently wrong
        if prefix + "_extra_state" not in state_dict:
            wrong = prefix + "scale" in state_dict
        else:
            wrong = _parse(state_dict[prefix + "_extra_state"])["checksum"] != self._checksum()
        if wrong:
            args[-1].append(f"the site names of {prefix}_extra_state are absent or belong to other rows: load the whole state.")


def _parse(state: torch.Tensor) -> dict[str, Any]:
    try:
        return json.loads(bytes(state.cpu().tolist()))
    except ValueError as error:  # in load_state_dict a RuntimeError is what says that a state does not fit
        raise RuntimeError(f"the names of the sites cannot be read ({error}): the file is damaged.") from error


def affine_of(
    mean: torch.Tensor, sigma: torch.Tensor, gamma: torch.Tensor, delta: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale δ^-½ and shift α(1 - δ^-½) - σ γ δ^-½ of ComBat's adjustment α + σ (z - γ) / δ^½, with z = (x - α) / σ.

    Args:
        mean: (F,) α, at the covariates to which the map belongs.
        sigma: (F,) σ.
        gamma: (..., F) location γ* of the sites.
        delta: (..., F) squared scale δ* of the sites.

    Returns:
        Scale and shift, each (..., F).
    """
    scale = delta.rsqrt()
    return scale, mean * (1 - scale) - sigma * gamma * scale
