from .early_stopping import EarlyStopping
from .gradient_clipping import GradientClipping
from .predictions import PredictionsTable, SubjectMetric
from .tensorboard import TensorBoardGraph
from .training_state import EpochSeed, TrainingState
from .weights import BestModel, InitialWeights, VerifiedCheckpointLoader

__all__ = [
    "BestModel",
    "EarlyStopping",
    "EpochSeed",
    "GradientClipping",
    "InitialWeights",
    "PredictionsTable",
    "SubjectMetric",
    "TensorBoardGraph",
    "TrainingState",
    "VerifiedCheckpointLoader",
]
