from __future__ import annotations

from pathlib import Path

import pytest

from custom.data.oasis_table import read_table

HEADER = "ID,M/F,Hand,Age,Educ,SES,MMSE,CDR,eTIV,nWBV,ASF,Delay"
ROWS = ["OAS1_0001_MR1,F,R,74,2,3,29,0,1344,0.743,1.306,N/A", "OAS1_0004_MR1,M,R,28,,,,,1588,0.803,1.105,N/A"]


def write(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "oasis.csv", HEADER, *ROWS)


def test_the_original_table(table: Path):
    rows = read_table(table)
    assert list(rows) == ["OAS1_0001_MR1", "OAS1_0004_MR1"]
    assert rows["OAS1_0001_MR1"] == {
        "Age": 74, "Sex": "F", "Educ": 2, "SES": 3, "eTIV": 1344, "nWBV": 0.743, "ASF": 1.306, "CDR": 0,
    }  # fmt: skip


def test_a_missing_value_is_none(table: Path):
    young = read_table(table)["OAS1_0004_MR1"]
    assert [young[c] for c in ("CDR", "Educ", "SES")] == [None] * 3
    assert young["Age"] == 28


def test_the_examination_that_makes_the_diagnosis_is_left_out(table: Path):
    assert not {"MMSE", "Delay", "Hand"} & set(read_table(table)["OAS1_0001_MR1"])


def test_a_byte_order_mark_changes_nothing(table: Path, tmp_path: Path):
    assert read_table(write(tmp_path / "bom.csv", HEADER, *ROWS, encoding="utf-8-sig")) == read_table(table)


def test_blanks_around_names_and_values_change_nothing(table: Path, tmp_path: Path):
    spaced = [line.replace(",", " , ") for line in (HEADER, *ROWS)]
    assert read_table(write(tmp_path / "spaced.csv", *spaced)) == read_table(table)


def test_the_order_of_columns_changes_nothing(table: Path, tmp_path: Path):
    turned = [",".join(reversed(line.split(","))) for line in (HEADER, *ROWS)]
    assert read_table(write(tmp_path / "turned.csv", *turned)) == read_table(table)


def test_nwbv_in_thousandths_becomes_a_fraction(table: Path, tmp_path: Path):
    integers = [row.replace("0.743", "743").replace("0.803", "803") for row in ROWS]
    assert read_table(write(tmp_path / "integers.csv", HEADER, *integers)) == read_table(table)


def test_a_short_copy_of_the_table_has_what_it_has(tmp_path: Path):
    rows = read_table(write(tmp_path / "short.csv", "CDR,ID", "0.5,OAS1_0003_MR1"))
    assert rows == {"OAS1_0003_MR1": {"CDR": 0.5}}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("Subject,CDR", "OAS1_0001_MR1,0"), r"has no column \['ID'\]; its columns are \['Subject', 'CDR'\]"),
        (("ID,Age", "OAS1_0001_MR1,70"), r"has no column \['CDR'\]"),
        (("ID,CDR", "OAS1_0001_MR1,0", "OAS1_0001_MR1,1"), "lists OAS1_0001_MR1 twice"),
        (("ID,CDR", "OAS1_0001_MR1,0", "OAS1_0001_MR1 ,1"), "lists OAS1_0001_MR1 twice"),
        (("ID,CDR", "OAS1_0001_MR1,0", "OAS1_0002_MR1,mild"), "CDR of OAS1_0002_MR1 is 'mild', not a number"),
        (("ID,CDR,Age", "OAS1_0001_MR1,0,60+"), "Age of OAS1_0001_MR1 is '60\\+', not a number"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, lines: tuple[str, ...], message: str):
    with pytest.raises(ValueError, match=message) as error:
        read_table(write(tmp_path / "wrong.csv", *lines))
    assert "wrong.csv" in str(error.value)


def test_no_table(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="give --table"):
        read_table(tmp_path / "oasis.csv")
