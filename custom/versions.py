"""Versions of what results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import version

__all__ = ["versions"]

LIBRARIES = ("monai", "torch", "pytorch-ignite", "scikit-learn", "numpy", "nibabel")


def versions() -> dict[str, str]:
    """Return name -> version of Python and of the libraries that compute."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
