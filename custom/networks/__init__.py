from .initial_weights import load_initial_weights
from .linear_probe import LinearProbe
from .simple_cnn3d import Simple3DCNN
from .slice_classifier import BACKBONES, SliceClassifier
from .slice_cnn_lstm import SliceCNNLSTM

__all__ = ["BACKBONES", "LinearProbe", "Simple3DCNN", "SliceCNNLSTM", "SliceClassifier", "load_initial_weights"]
