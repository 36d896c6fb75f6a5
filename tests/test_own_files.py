from __future__ import annotations

from pathlib import Path

import pytest
import torch

from custom.own_files import load_tensors, read_json


def test_too_deep_a_json_is_damaged(tmp_path: Path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"a\.json is damaged \(.*\): run it again"):
        read_json(tmp_path / "a.json", "run it again")


def test_what_is_wrong_with_a_device_is_no_damage(tmp_path: Path):
    """CUDA's lack of memory is a RuntimeError, as is a damaged file; so is a device that is not there."""
    torch.save({"a": torch.ones(3)}, tmp_path / "a.pt")
    with pytest.raises(RuntimeError, match="CUDA"):
        load_tensors(tmp_path / "a.pt", "run it again", "cuda:99")


def test_tensors_come_to_the_device_that_is_named(tmp_path: Path):
    torch.save({"a": torch.ones(3)}, tmp_path / "a.pt")
    assert load_tensors(tmp_path / "a.pt", "run it again")["a"].device.type == "cpu"
    assert load_tensors(tmp_path / "a.pt", "run it again", torch.device("meta"))["a"].device.type == "meta"


def test_a_damaged_file_is_damaged_on_any_device(tmp_path: Path):
    (tmp_path / "a.pt").write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"a\.pt is damaged"):
        load_tensors(tmp_path / "a.pt", "run it again", "meta")
