from .datalist import read_datalist, split_again, write_datalist
from .other_windows import frame_datalist, single_frames, sliding_windows
from .prepare import prepare
from .prepare_scans import prepare_scans
from .records import Event, Record, Study
from .sampling import balanced_weights
from .scans import images_within, list_scans, sample_test_scans
from .splits import PARTS, HoldOut, KFold, LeaveOneGroupOut, LeaveOneRunOut
from .windows import Window, Windows

__all__ = [
    "Event",
    "HoldOut",
    "KFold",
    "LeaveOneGroupOut",
    "LeaveOneRunOut",
    "PARTS",
    "Record",
    "Study",
    "Window",
    "Windows",
    "balanced_weights",
    "frame_datalist",
    "images_within",
    "list_scans",
    "prepare",
    "prepare_scans",
    "read_datalist",
    "sample_test_scans",
    "single_frames",
    "sliding_windows",
    "split_again",
    "write_datalist",
]
