from __future__ import annotations

import errno
import os
import struct

import pytest

from custom.errors import BadScan, reading


@pytest.mark.parametrize("error", [OSError("Expected 5 bytes"), KeyError(3), struct.error("short"), OverflowError("inf")])
def test_what_a_library_makes_of_a_damaged_file(error: Exception):
    told = rf"a\.nii: damaged, or no NIfTI \({type(error).__name__}: .*: fetch it again\."
    with pytest.raises(BadScan, match=told) as caught, reading("a.nii", "no NIfTI", "fetch it again"):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EACCES, errno.EMFILE, errno.EIO])
def test_what_the_system_says_is_no_damage(code: int):
    with pytest.raises(OSError, match=os.strerror(code)) as caught, reading("a.nii"):
        raise OSError(code, os.strerror(code), "a.nii")
    assert caught.value.errno == code


@pytest.mark.parametrize(
    "error", [BadScan("b.nii: no brain"), FileNotFoundError("b.nii"), MemoryError(), RuntimeError("no GPU")]
)
def test_any_other_error_passes(error: Exception):
    with pytest.raises(type(error)) as caught, reading("a.nii"):
        raise error
    assert caught.value is error
