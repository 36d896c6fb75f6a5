from .cnn_transformer import CNNTransformer
from .drop_connect import DropConnectLinear, drop_connect
from .gaussian_denoiser import GaussianDenoiser
from .initial_weights import load_initial_weights
from .linear_probe import LinearProbe
from .noise_level import NoiseLevels
from .onnx_network import OnnxNetwork, export_onnx
from .residual_denoiser import ResidualDenoiser
from .signal_scale import SignalScale
from .simple_cnn3d import Simple3DCNN
from .slice_classifier import BACKBONES, SliceClassifier
from .slice_cnn_lstm import SliceCNNLSTM
from .slice_vit import SliceViT
from .spatiotemporal_unet import SpatioTemporalDiffusionUNet

__all__ = [
    "BACKBONES",
    "CNNTransformer",
    "DropConnectLinear",
    "GaussianDenoiser",
    "LinearProbe",
    "NoiseLevels",
    "OnnxNetwork",
    "ResidualDenoiser",
    "SignalScale",
    "Simple3DCNN",
    "SliceCNNLSTM",
    "SliceClassifier",
    "SliceViT",
    "SpatioTemporalDiffusionUNet",
    "drop_connect",
    "export_onnx",
    "load_initial_weights",
]
