from .cnn_transformer import CNNTransformer
from .drop_connect import DropConnectLinear, drop_connect
from .initial_weights import load_initial_weights
from .linear_probe import LinearProbe
from .simple_cnn3d import Simple3DCNN
from .slice_classifier import BACKBONES, SliceClassifier
from .slice_cnn_lstm import SliceCNNLSTM
from .slice_vit import SliceViT

__all__ = [
    "BACKBONES",
    "CNNTransformer",
    "DropConnectLinear",
    "LinearProbe",
    "Simple3DCNN",
    "SliceCNNLSTM",
    "SliceClassifier",
    "SliceViT",
    "drop_connect",
    "load_initial_weights",
]
