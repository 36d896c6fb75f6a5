from .combat import ComBat, UnseenSites
from .early_stopping import EarlyStopping
from .features import FeatureTable
from .gradient_clipping import GradientClipping
from .mixup import WindowInput
from .precision import BFloat16
from .predictions import PredictionsTable, SubjectMetric
from .tensorboard import TensorBoardGraph
from .tracking import WandB
from .training_state import EpochSeed, TrainingState
from .weights import BestModel, InitialWeights, SameGrid, VerifiedCheckpointLoader

__all__ = [
    "BFloat16",
    "BestModel",
    "ComBat",
    "EarlyStopping",
    "EpochSeed",
    "FeatureTable",
    "GradientClipping",
    "InitialWeights",
    "PredictionsTable",
    "SameGrid",
    "SubjectMetric",
    "TensorBoardGraph",
    "TrainingState",
    "UnseenSites",
    "VerifiedCheckpointLoader",
    "WandB",
    "WindowInput",
]
