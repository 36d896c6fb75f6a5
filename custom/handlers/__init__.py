from .attached import Attached
from .combat import ComBat, UnseenSites
from .diffusion_input import DiffusionInput, FixedLevels
from .early_stopping import EarlyStopping
from .exported import VerifiedExport
from .features import FeatureTable
from .fit_denoiser import FitDenoiser
from .generation_pictures import GenerationPictures
from .gradient_clipping import GradientClipping
from .mixup import WindowInput
from .noise_level_loss import NoiseLevelLoss
from .precision import BFloat16
from .predictions import PredictionsTable, SubjectMetric
from .tensorboard import TensorBoardGraph
from .tracking import WandB
from .training_state import EpochSeed, TrainingState
from .weights import BestModel, InitialWeights, SameGrid, VerifiedCheckpointLoader, load_verified

__all__ = [
    "Attached",
    "BFloat16",
    "BestModel",
    "ComBat",
    "DiffusionInput",
    "EarlyStopping",
    "EpochSeed",
    "FeatureTable",
    "FitDenoiser",
    "FixedLevels",
    "GenerationPictures",
    "GradientClipping",
    "InitialWeights",
    "NoiseLevelLoss",
    "PredictionsTable",
    "SameGrid",
    "SubjectMetric",
    "TensorBoardGraph",
    "TrainingState",
    "UnseenSites",
    "VerifiedCheckpointLoader",
    "VerifiedExport",
    "WandB",
    "WindowInput",
    "load_verified",
]
