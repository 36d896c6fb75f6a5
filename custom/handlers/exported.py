"""An exported network in an engine."""

from __future__ import annotations

from collections.abc import Sequence

from ignite.engine import Engine, Events

from ..data.windows import Windows
from ..networks import OnnxNetwork
from .weights import refuse_other_training

__all__ = ["VerifiedExport"]


class VerifiedExport:
    """Refuse an ONNX file of other classes, windows or weights than ``model.json`` beside it tells.

    It takes the place of :py:class:`.VerifiedCheckpointLoader`.

    Args:
        network: that the file computes.
        path: of the file.
        class_names: that the predictions will bear.
        windows: by which the scans' events are cut, where they are.
    """

    def __init__(self, network: OnnxNetwork, path: str, class_names: Sequence[str], windows: Windows | None = None) -> None:
        self.network, self.path = network, path
        self.wanted = {"class_names": list(class_names), "windows": windows and windows.describe()}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Raise ValueError naming what differs."""
        refuse_other_training(self.path, self.wanted | {"weights_sha256": self.network.metadata["weights_sha256"]})
