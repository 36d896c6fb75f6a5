from .datalist import read_datalist, split_again, write_datalist
from .prepare import prepare
from .records import Record, Study
from .scans import images_within, list_scans, sample_test_scans
from .splits import PARTS, HoldOut, KFold, LeaveOneGroupOut

__all__ = [
    "PARTS",
    "HoldOut",
    "KFold",
    "LeaveOneGroupOut",
    "Record",
    "Study",
    "images_within",
    "list_scans",
    "prepare",
    "read_datalist",
    "split_again",
    "sample_test_scans",
    "write_datalist",
]
