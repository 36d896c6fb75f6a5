"""What can be wrong with a scan, as opposed to with the program."""

from __future__ import annotations

__all__ = ["BadScan"]


class BadScan(ValueError):
    """A scan that cannot be used; preparation lists it in ``rejected.csv`` with this message and goes on."""
