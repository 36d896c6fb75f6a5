"""What to do with scans of a site that the harmonizer was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .affine import SiteAffine

__all__ = ["UNSEEN_POLICIES", "admit_sites"]

UNSEEN_POLICIES = ("error", "identity", "adapt")


def admit_sites(affine: SiteAffine, sites: Sequence[str], policy: str = "error", features: torch.Tensor | None = None) -> None:
    """Make the harmonizer know the sites of these scans, by the policy; sites it knows stay as they are.

    Args:
        affine: gets a row for every new site.
        sites: (n,) site of each scan.
        policy: ``error``; ``identity``: leave the features of that site as they are, with a warning; ``adapt``: estimate
            the site's effect from these scans, see :meth:`.SiteAffine.adapt`.
        features: (n, F) of the scans, for ``adapt``.

    Raises:
        UnseenSite: a site is unknown and the policy is ``error``.
        ValueError: no such policy, or too few scans to adapt.
    """
    if policy not in UNSEEN_POLICIES:
        raise ValueError(f"unseen_site is {policy!r}; it can be {', '.join(UNSEEN_POLICIES)}.")
    names = [str(site) for site in sites]
    new = sorted(set(names) - set(affine.sites))
    if policy == "error":
        affine.index(new)
    for site in new:
        if policy == "identity":
            affine.add_identity(site)
        elif policy == "adapt":
            if features is None:
                raise ValueError("unseen_site 'adapt' needs the features of the scans.")
            affine.adapt(site, features[torch.tensor([name == site for name in names])])
