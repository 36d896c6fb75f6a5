"""Pictures and the report."""

from __future__ import annotations

from .anomaly import write_anomaly_pictures
from .attention_maps import write_attention_maps
from .displays import calibration_curve, confusion_matrix, precision_recall_curves, probability_strips, roc_curves
from .generation import write_generation_pictures
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
    "write_anomaly_pictures",
    "write_attention_maps",
    "write_generation_pictures",
    "write_report",
    "write_site_effects",
]
