from .brain_scale import ScaleBrainPercentiles, ScaleBrainPercentilesd
from .check import CheckScand, check_scan
from .load import LoadScand
from .load_bold import LoadBOLDd
from .slices import AxialSlicesd, PictureToSliced, slice_positions

__all__ = [
    "AxialSlicesd",
    "CheckScand",
    "LoadBOLDd",
    "LoadScand",
    "PictureToSliced",
    "ScaleBrainPercentiles",
    "ScaleBrainPercentilesd",
    "check_scan",
    "slice_positions",
]
