"""The ABIDE bundle trained over sites that keep their scans: what a site answers, and what a server makes of the answers.

It stands above the handlers, as a bundle's JSON does. NVFlare is named in :mod:`.flare` alone, which nothing here imports.
"""

from __future__ import annotations

from .datalists import cut_by_site
from .server import Ask, federate
from .site import Site

__all__ = ["Ask", "Site", "cut_by_site", "federate"]
