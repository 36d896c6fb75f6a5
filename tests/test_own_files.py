from __future__ import annotations

from pathlib import Path

import pytest
import torch

from custom.own_files import load_tensors, read_json, read_table


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


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"subject\n1,2,3\n", b"scan,f0\n1,2\n"])
def test_a_damaged_table_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.csv is damaged \((?s:.)*\): run it again"):
        read_table(tmp_path / "a.csv", "run it again", columns=("subject", "f0"))


def test_a_table_keeps_names_as_text_and_numbers_to_the_last_bit(tmp_path: Path):
    (tmp_path / "a.csv").write_text(f"subject,site,f0\n007,1,{0.1 + 0.2!r}\n")
    assert read_table(tmp_path / "a.csv", "run it again").values.tolist() == [["007", "1", 0.1 + 0.2]]
