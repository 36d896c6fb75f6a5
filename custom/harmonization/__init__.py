"""ComBat harmonization of features over sites: fit, apply, unseen sites, and figures of what it did."""

from __future__ import annotations

from .affine import SiteAffine, UnseenSite
from .classifier import HarmonizedClassifier, SiteInput
from .design import check_covariates
from .fit import CombatEstimates, estimate_combat, fit_combat
from .head import apply_to_table, fit_head, logistic_ridge
from .quality import compare, site_quality
from .unseen import UNSEEN_POLICIES, admit_sites

__all__ = [
    "UNSEEN_POLICIES",
    "CombatEstimates",
    "HarmonizedClassifier",
    "SiteAffine",
    "SiteInput",
    "UnseenSite",
    "admit_sites",
    "apply_to_table",
    "check_covariates",
    "compare",
    "estimate_combat",
    "fit_combat",
    "fit_head",
    "logistic_ridge",
    "site_quality",
]
