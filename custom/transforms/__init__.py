from .bold_check import CheckBOLDd, check_bold
from .bold_mask import MaskBOLDd, mask_bold
from .brain_scale import ScaleBrainPercentiles, ScaleBrainPercentilesd
from .check import CheckScand, check_scan
from .clean_bold import CleanBOLDd, clean_bold
from .inpaint import InpaintNaN, InpaintNaNd, inpaint_nan
from .load import LoadScand
from .load_bold import LoadBOLDd
from .slices import AxialSlicesd, PictureToSliced, slice_positions
from .temporal_window import (
    MapBOLDd,
    MappedBOLD,
    RandTemporalWindow,
    RandTemporalWindowd,
    TemporalWindow,
    TemporalWindowd,
    temporal_window,
)
from .temporal_zscore import TemporalZScore, TemporalZScored, temporal_zscore

__all__ = [
    "AxialSlicesd",
    "CheckBOLDd",
    "CheckScand",
    "CleanBOLDd",
    "InpaintNaN",
    "InpaintNaNd",
    "LoadBOLDd",
    "LoadScand",
    "MapBOLDd",
    "MappedBOLD",
    "MaskBOLDd",
    "PictureToSliced",
    "RandTemporalWindow",
    "RandTemporalWindowd",
    "ScaleBrainPercentiles",
    "ScaleBrainPercentilesd",
    "TemporalWindow",
    "TemporalWindowd",
    "TemporalZScore",
    "TemporalZScored",
    "check_bold",
    "check_scan",
    "clean_bold",
    "inpaint_nan",
    "mask_bold",
    "slice_positions",
    "temporal_window",
    "temporal_zscore",
]
