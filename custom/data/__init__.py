from .datalist import read_datalist, split_again, write_datalist
from .prepare import prepare
from .records import Event, Record, Study
from .sampling import balanced_weights
from .scans import images_within, list_scans, sample_test_scans
from .splits import PARTS, HoldOut, KFold, LeaveOneGroupOut, LeaveOneRunOut
from .windows import Window, Windows

__all__ = [
    "PARTS",
    "Event",
    "HoldOut",
    "KFold",
    "LeaveOneGroupOut",
    "LeaveOneRunOut",
    "Record",
    "Study",
    "Window",
    "Windows",
    "balanced_weights",
    "images_within",
    "list_scans",
    "prepare",
    "read_datalist",
    "sample_test_scans",
    "split_again",
    "write_datalist",
]
