from .initial_weights import load_initial_weights
from .linear_probe import LinearProbe
from .simple_cnn3d import Simple3DCNN
from .slice_classifier import BACKBONES, SliceClassifier

__all__ = ["BACKBONES", "LinearProbe", "Simple3DCNN", "SliceClassifier", "load_initial_weights"]
