"""Small synthetic studies, written in each study's own raw layout, with an effect of known size."""

from __future__ import annotations

__all__ = ["abide", "anomalies", "artefacts", "bold", "haxby", "head", "learning_stage", "motor", "oasis", "task_bold"]
