"""Figures with intervals, baselines, class weights, calibration and the leak detector."""

from __future__ import annotations

from .aggregate import probabilities, probability_columns, read_predictions, subject_table
from .anomaly import evaluate_anomalies
from .baselines import Baseline, LinearSVM
from .bootstrap import bootstrap, paired_difference
from .connectivity import Connectivity
from .cost import Cost, cost_of, seconds_per_step
from .evaluation import evaluate, evaluate_folds, summarise_permutations
from .features import BlockMeans, StoredFeatures, Unavailable
from .figures import expected_calibration_error, figures
from .frame_votes import FrameVotes
from .generation import evaluate_generation
from .leak import permute_labels
from .response_maps import EventResponse, GLMMaps, WindowMeans
from .weights import class_weights

__all__ = [
    "Baseline",
    "BlockMeans",
    "Connectivity",
    "Cost",
    "EventResponse",
    "FrameVotes",
    "GLMMaps",
    "LinearSVM",
    "StoredFeatures",
    "Unavailable",
    "WindowMeans",
    "bootstrap",
    "class_weights",
    "cost_of",
    "evaluate",
    "evaluate_anomalies",
    "evaluate_folds",
    "evaluate_generation",
    "expected_calibration_error",
    "figures",
    "paired_difference",
    "permute_labels",
    "probabilities",
    "probability_columns",
    "read_predictions",
    "seconds_per_step",
    "subject_table",
    "summarise_permutations",
]
