"""A handler that other parts of a configuration refer to."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine

__all__ = ["Attached"]


class Attached:
    """Attach a handler that has a key of its own: MONAI's check of a bundle's properties takes no reference in a list of them.

    Args:
        handler: with ``attach``.
    """

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def attach(self, engine: Engine) -> None:
        """Attach the handler."""
        self.handler.attach(engine)
