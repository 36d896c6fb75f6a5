"""How much of the site is left in the features: ``harmonization.json`` and a picture, for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..harmonization import SiteAffine, apply_to_table, compare
from ..metrics.features import feature_columns, read_features
from ..paths import written_whole
from .harmonization import pca_picture

__all__ = ["write_site_effects"]


def write_site_effects(harmonizer: SiteAffine, features: str, class_names: list[str], output_dir: str) -> dict[str, Any]:
    """Compare features before and after harmonization, of subjects that the harmonizer was not fitted on.

    Args:
        harmonizer: with its state loaded.
        features: path of the table of test subjects that ``custom.handlers.FeatureTable`` wrote, with the column ``site``.
        class_names: in the order of the labels.
        output_dir: gets ``harmonization.json`` and ``harmonization.png``.

    Returns:
        What ``harmonization.json`` holds, see :py:func:`custom.harmonization.compare`; ``origins`` says per site how the
        harmonizer came to know it.
    """
    folder = Path(output_dir)
    table = read_features(features)
    before, sites = table[feature_columns(table)].to_numpy(), table["site"].tolist()
    after = apply_to_table(harmonizer, before, sites)
    found = compare(before, after, sites, table["subject"].tolist(), table["label"].tolist())
    found["origins"] = {
        site: origin for site, origin in zip(harmonizer.sites, harmonizer.origins, strict=True) if site in sites
    }
    found["covariates"] = harmonizer.covariates
    with written_whole(folder / "harmonization.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1, allow_nan=False))
    with written_whole(folder / "harmonization.png") as temporary:
        pca_picture(before, after, sites, table["label"].tolist(), class_names).savefig(temporary, dpi=130, bbox_inches="tight")
    return found
