"""Denoising diffusion: samplers, decoding and anomaly scores beyond what MONAI has."""

from __future__ import annotations

from .anomaly import AnomalyScorer, calibrate, detect, score_function
from .calibrate_anomaly import load_calibration
from .class_inferer import ClassDiffusionInferer
from .classifier import DiffusionClassifierInferer, fit_temperature
from .dpm_solver import DPMSolverScheduler
from .features import BottleneckFeatures
from .fit_classifier import fit_classifier, read_temperature
from .generate import generate
from .linear_probe import LinearProbeInferer, ShrinkageLDA, fit_probe
from .sampling_evaluator import SamplingEvaluator
from .write_samples import write_samples

__all__ = [
    "AnomalyScorer",
    "calibrate",
    "detect",
    "score_function",
    "fit_classifier",
    "read_temperature",
    "BottleneckFeatures",
    "ClassDiffusionInferer",
    "DPMSolverScheduler",
    "DiffusionClassifierInferer",
    "LinearProbeInferer",
    "SamplingEvaluator",
    "ShrinkageLDA",
    "fit_probe",
    "fit_temperature",
    "generate",
    "load_calibration",
    "write_samples",
]
