"""Pictures and the report."""

from __future__ import annotations

from .displays import calibration_curve, confusion_matrix, precision_recall_curves, probability_strips, roc_curves
from .history import read_scalars, training_history
from .report import write_report
from .site_effects import write_site_effects

__all__ = [
    "calibration_curve",
    "confusion_matrix",
    "precision_recall_curves",
    "probability_strips",
    "read_scalars",
    "roc_curves",
    "training_history",
    "write_report",
    "write_site_effects",
]
