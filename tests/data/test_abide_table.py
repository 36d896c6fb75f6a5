from __future__ import annotations

from pathlib import Path

import pytest

from custom.data.abide_table import QC, read_phenotypes, subject_of

HEADER = "SITE_ID,SUB_ID,DX_GROUP,AGE_AT_SCAN ,SEX,FILE_ID,func_mean_fd"


def table(folder: Path, *rows: str, header: str = HEADER, encoding: str = "utf-8") -> Path:
    path = folder / "table.csv"
    path.write_bytes("\n".join([header, *rows]).encode(encoding))
    return path


def test_abide_one(real_data: Path):
    frame = read_phenotypes(real_data / "abide" / "Phenotypic_V1_0b_preprocessed1.csv")
    assert len(frame) == frame["subject"].nunique() == 1112
    assert frame["site"].nunique() == 20
    assert (frame["file_id"] == "no_filename").sum() == 77
    assert frame["dx"].value_counts().to_dict() == {1: 539, 2: 573}
    assert frame["sex"].value_counts().to_dict() == {"M": 948, "F": 164}
    assert {"UM_1", "UM_2", "LEUVEN_1", "LEUVEN_2", "UCLA_1", "UCLA_2"} < set(frame["site"])
    assert set(QC) < set(frame)
    row = frame.set_index("subject").loc["0050003"]
    assert (row["site"], row["age"], row["func_mean_fd"]) == ("PITT", 24.45, 0.3220915328)
    assert frame["func_mean_fd"].isna().sum() == 13


def test_abide_two_with_its_blank_and_its_encoding(real_data: Path):
    frame = read_phenotypes(real_data / "abide" / "abide2_phenotypic.csv")
    assert len(frame) == frame["subject"].nunique() == 1114
    assert frame["site"].nunique() == 19
    assert frame["dx"].value_counts().to_dict() == {1: 521, 2: 593}
    assert frame["sex"].value_counts().to_dict() == {"M": 856, "F": 258}
    assert frame["age"].min() == 5.128
    assert frame["file_id"].isna().all()
    assert set(QC).isdisjoint(frame)


def test_what_is_missing_is_none(tmp_path: Path):
    path = table(tmp_path, "NYU,50952,1,-9999,1,,-9999", "NYU,50953,,,,NYU_0050953,0.5", ",,,,,,", "")
    first, second = read_phenotypes(path).to_dict("records")
    assert first == {
        "subject": "0050952", "site": "NYU", "dx": 1, "age": None, "sex": "M", "file_id": None, "func_mean_fd": None
    }  # fmt: skip
    assert (second["dx"], second["age"], second["sex"], second["func_mean_fd"]) == (None, None, None, 0.5)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_encodings_of_spreadsheet_programs(tmp_path: Path, encoding: str):
    path = table(tmp_path, "Zürich,50952,1,12,2,,", encoding=encoding)
    assert read_phenotypes(path).loc[0, ["site", "sex"]].tolist() == ["Zürich", "F"]


def test_plain_names_of_a_table_made_by_hand(tmp_path: Path):
    path = table(tmp_path, "sub-01,A,2,31.5,F", header="subject,site,dx,age,sex")
    assert read_phenotypes(path).loc[0].tolist() == ["sub-01", "A", 2, 31.5, "F", None]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("NYU,50952,1,old,1,,", r"table.csv: age of subject 0050952 is 'old', not a number"),
        ("NYU,50952,x,9,1,,", r"dx of subject 0050952 is 'x'"),
        ("NYU,50952,1,9,3,,", r"sex of subject 0050952 is '3'; 1 is male, 2 is female"),
        ("NYU,,1,9,1,,", r"row 2 names no subject"),
        ("NYU,0050950,1,9,1,,", r"lists subject 0050950 twice"),
    ],
)
def test_a_wrong_cell_is_named(tmp_path: Path, row: str, message: str):
    with pytest.raises(ValueError, match=message):
        read_phenotypes(table(tmp_path, "NYU,50950,1,9,1,,", row))


def test_a_table_without_subjects_or_none_at_all(tmp_path: Path):
    with pytest.raises(ValueError, match="has no column SUB_ID or subject; its columns are"):
        read_phenotypes(table(tmp_path, "1", header="SITE_ID"))
    with pytest.raises(FileNotFoundError, match="absent.csv does not exist"):
        read_phenotypes(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("50004", "0050004"),
        ("0050004", "0050004"),
        ("Pitt_0050004", "0050004"),
        ("OLIN_0050102_aal116", "0050102"),
        ("7", "0000007"),
        ("sub-01", "sub-01"),
        ("0050004_0050005", "0050004_0050005"),
        ("scan123456", "scan123456"),
    ],
)
def test_the_subject_of_a_name(name: str, subject: str):
    assert subject_of(name) == subject
