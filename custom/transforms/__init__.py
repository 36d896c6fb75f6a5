from .bold_check import CheckBOLDd, check_bold
from .bold_mask import MaskBOLDd, mask_bold
from .brain_scale import ScaleBrainPercentiles, ScaleBrainPercentilesd
from .centre_run import CentreRund, centre_run
from .check import CheckScand, check_scan
from .clean_bold import CleanBOLDd, clean_bold
from .event_window import EventWindowd, RandEventWindowd, SplitEventsd
from .inpaint import InpaintNaN, InpaintNaNd, inpaint_nan
from .load import LoadScand
from .load_bold import LoadBOLDd
from .resample_time import ResampleTimed, resample_time
from .seeded_compose import SeededCompose
from .slices import AxialSlicesd, PictureToSliced, slice_positions
from .smooth_bold import SmoothBOLDd, smooth_bold
from .temporal_mask import RandFrameMaskd
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
    "CentreRund",
    "CheckBOLDd",
    "CheckScand",
    "CleanBOLDd",
    "EventWindowd",
    "InpaintNaN",
    "InpaintNaNd",
    "LoadBOLDd",
    "LoadScand",
    "MapBOLDd",
    "MappedBOLD",
    "MaskBOLDd",
    "PictureToSliced",
    "RandEventWindowd",
    "RandFrameMaskd",
    "RandTemporalWindow",
    "RandTemporalWindowd",
    "ResampleTimed",
    "ScaleBrainPercentiles",
    "ScaleBrainPercentilesd",
    "SeededCompose",
    "SmoothBOLDd",
    "SplitEventsd",
    "TemporalWindow",
    "TemporalWindowd",
    "TemporalZScore",
    "TemporalZScored",
    "centre_run",
    "check_bold",
    "check_scan",
    "clean_bold",
    "inpaint_nan",
    "mask_bold",
    "resample_time",
    "slice_positions",
    "smooth_bold",
    "temporal_window",
    "temporal_zscore",
]
