from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest

from custom.data import Study
from custom.data.abide import PHENOTYPES, list_scans, read_study

CLASSES = {"control": [2], "ASD": [1]}
HEADER = "SUB_ID,SITE_ID,FILE_ID,DX_GROUP,AGE_AT_SCAN,SEX,func_mean_fd"
ROWS = {
    "50004": "PITT,Pitt_0050004,1,19.1,1,0.1",
    "50005": "PITT,Pitt_0050005,2,-9999,2,-9999",
    "50002": "PITT,no_filename,1,16.8,1,0.3",
    "50276": "UM_1,UM_1_0050276,2,12.0,1,0.2",
}


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def write_table(path: Path, rows: dict[str, str] = ROWS) -> str:
    path.write_text("\n".join([HEADER, *(f"{subject},{row}" for subject, row in rows.items())]))
    return str(path)


def write_mat(path: Path, dx: object = 1, group: str = "fMRIdata") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file[f"{group}/orig"] = np.zeros((5, 2, 3, 4), np.int16)
        file[f"{group}/dx"] = np.atleast_2d(dx).astype(float)
    return path


def labels_of(study: Study) -> dict[str, int | None]:
    return {r.name: r.label for r in study.records}


@pytest.fixture
def mats(tmp_path: Path) -> Path:
    write_mat(tmp_path / "raw" / "UM_1" / "0050276.mat", 2)
    write_mat(tmp_path / "raw" / "PITT" / "0050005.mat", 2)
    write_mat(tmp_path / "raw" / "PITT" / "50004.mat", 1)
    return tmp_path / "raw"


@pytest.fixture
def pcp(tmp_path: Path) -> Path:
    """Return flat files of the PCP below a pipeline's folder, and the table at the root; nobody looks into the images."""
    folder = tmp_path / "raw" / "cpac" / "nofilt_noglobal"
    for name in ("UM_1_0050276", "Pitt_0050004", "Pitt_0050005"):
        touch(folder / f"{name}_func_preproc.nii.gz")
        touch(folder / f"{name}_func_mask.nii.gz")
    write_table(tmp_path / "raw" / PHENOTYPES)
    return tmp_path / "raw"


# mat


def test_site_and_diagnosis_of_a_mat(mats: Path):
    study = read_study(str(mats), CLASSES)
    assert labels_of(study) == {"PITT_0050005": 0, "PITT_50004": 1, "UM_1_0050276": 0}
    assert [r.subject for r in study.records] == ["0050005", "0050004", "0050276"]
    assert [r.columns for r in study.records] == [{"site": s, "age": None, "sex": None} for s in ("PITT", "PITT", "UM_1")]
    assert study.class_names == ["control", "ASD"]
    assert study.dropped == {}
    assert not study.synthetic


def test_a_table_adds_age_sex_and_motion(mats: Path, tmp_path: Path):
    study = read_study(str(mats), CLASSES, table=write_table(tmp_path / "t.csv"))
    assert [r.columns for r in study.records] == [
        {"site": "PITT", "age": None, "sex": "F", "func_mean_fd": None},
        {"site": "PITT", "age": 19.1, "sex": "M", "func_mean_fd": 0.1},
        {"site": "UM_1", "age": 12.0, "sex": "M", "func_mean_fd": 0.2},
    ]
    assert study.dropped == {"no_filename in the table": 1}


def test_a_subject_that_the_table_lacks_is_named(mats: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", {"50004": ROWS["50004"], "50276": ROWS["50276"]})
    with pytest.raises(ValueError, match=r"0050005.mat: phenotypic row missing, .*t.csv has no subject 0050005"):
        read_study(str(mats), CLASSES, table=table)


def test_a_table_of_other_diagnoses_is_refused(mats: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", ROWS | {"50276": "UM_1,x,1,12,1,0"})
    with pytest.raises(ValueError, match=r"0050276.mat: dx of subject 0050276 is 2, but 1 in .*t.csv"):
        read_study(str(mats), CLASSES, table=table)


def test_an_unknown_code_names_the_file_and_the_known_codes(mats: Path):
    write_mat(mats / "UM_1" / "0050277.mat", 3)
    with pytest.raises(ValueError, match=r"0050277.mat: .*coded 3, the known codes are \{'control': \[2\], 'ASD': \[1\]\}"):
        read_study(str(mats), CLASSES)


def damage(mats: Path, how: str) -> Path:
    path = write_mat(
        mats / "PITT" / "0050006.mat", [1, 2] if how == "two codes" else 1, "data" if how == "group" else "fMRIdata"
    )
    whole = path.read_bytes()
    contents = {"truncated": whole[:300], "overwritten": whole[:40] + b"\xff" * 60 + whole[100:], "v7": b"MATLAB 5.0 MAT-file"}
    path.write_bytes(contents.get(how, whole))
    if how == "no dx":
        with h5py.File(path, "a") as file:
            del file["fMRIdata/dx"]
    return path


@pytest.mark.parametrize("how", ["truncated", "overwritten", "v7", "group", "no dx", "two codes"])
def test_a_file_without_a_readable_diagnosis_is_dropped_by_name(mats: Path, how: str, caplog: pytest.LogCaptureFixture):
    path = damage(mats, how)
    with caplog.at_level(logging.WARNING):
        study = read_study(str(mats), CLASSES)
    assert len(study.records) == 3
    assert list(study.dropped.values()) == [1]
    assert all(str(path) in text for text in (*study.dropped, caplog.text))


def test_nothing_readable_is_an_error(tmp_path: Path):
    touch(tmp_path / "PITT" / "0050006.mat")
    with pytest.raises(FileNotFoundError, match=r"no scan in layout 'mat' below .*0050006.mat"):
        read_study(str(tmp_path), CLASSES)


@pytest.mark.parametrize("second", ["PITT/0050004.mat", "UM_1/50004.mat"])
def test_a_subject_twice_names_both_files(mats: Path, second: str):
    write_mat(mats / second)
    with pytest.raises(ValueError, match=r"50004.mat and .*50004.mat are both of subject 0050004"):
        read_study(str(mats), CLASSES)


def test_a_mat_in_no_site_folder_is_counted(mats: Path):
    write_mat(mats / "settings.mat")
    assert read_study(str(mats), CLASSES).dropped == {"a .mat that is not <SITE>/<subject>.mat": 1}


def test_a_phantom_is_marked(mats: Path):
    touch(mats / "SYNTHETIC")
    assert read_study(str(mats), CLASSES).synthetic


# nifti


def test_flat_names_of_the_pcp(pcp: Path):
    study = read_study(str(pcp), CLASSES, layout="nifti")
    assert labels_of(study) == {"Pitt_0050004_func_preproc": 1, "Pitt_0050005_func_preproc": 0, "UM_1_0050276_func_preproc": 0}
    assert [r.columns["site"] for r in study.records] == ["PITT", "PITT", "UM_1"]
    assert all(r.inputs == {"mask": r.image.replace("preproc", "mask")} for r in study.records)
    assert study.dropped == {"no_filename in the table": 1}


@pytest.mark.parametrize(
    ("scan", "mask"),
    [
        ("sub-0050004_task-rest_bold.nii.gz", "sub-0050004_task-rest_desc-brain_mask.nii.gz"),
        ("sub-0050004_task-rest_bold.nii", "sub-0050004_task-rest_mask.nii.gz"),
        ("sub-50004_space-MNI_desc-preproc_bold.nii.gz", "sub-50004_space-MNI_desc-brain_mask.nii.gz"),
        ("sub-0050004_task-rest_bold.nii.gz", None),
    ],
)
def test_bids(tmp_path: Path, scan: str, mask: str | None):
    touch(tmp_path / "sub-0050004" / "func" / scan)
    touch(tmp_path / "sub-0050004" / "anat" / "sub-0050004_T1w.nii.gz")
    if mask:
        touch(tmp_path / "sub-0050004" / "func" / mask)
    study = read_study(str(tmp_path), CLASSES, "nifti", table=write_table(tmp_path / "t.csv"))
    (record,) = study.records
    assert (record.subject, record.label, record.columns["age"]) == ("0050004", 1, 19.1)
    assert record.inputs == ({"mask": str(tmp_path / "sub-0050004" / "func" / mask)} if mask else {})
    assert study.dropped == {
        "NIfTI that is not named *_bold or *_func_preproc": 1, "no_filename in the table": 1, "in the table, without a scan": 2
    }  # fmt: skip


def test_sessions_and_runs_are_of_one_subject(tmp_path: Path):
    for entities in ("ses-1_run-1", "ses-1_run-2", "ses-2_run-1"):
        touch(tmp_path / f"sub-0050004_{entities}_bold.nii.gz")
    study = read_study(str(tmp_path), CLASSES, "nifti", table=write_table(tmp_path / "t.csv"))
    assert {r.subject for r in study.records} == {"0050004"}
    assert [(r.columns["session"], r.columns["run"]) for r in study.records] == [("1", "1"), ("1", "2"), ("2", "1")]


def test_two_files_of_one_run_are_not_guessed_between(pcp: Path):
    touch(pcp / "sub-0050004_bold.nii.gz")
    with pytest.raises(ValueError, match=r"Pitt_0050004_func_preproc.nii.gz and .*sub-0050004_bold.nii.gz are both of subject"):
        read_study(str(pcp), CLASSES, layout="nifti")


def test_a_scan_without_a_row_is_named(pcp: Path):
    touch(pcp / "Pitt_0050009_func_preproc.nii.gz")
    with pytest.raises(ValueError, match=r"Pitt_0050009_func_preproc.nii.gz: phenotypic row missing"):
        read_study(str(pcp), CLASSES, layout="nifti")


def test_a_row_without_diagnosis_is_counted_and_one_with_a_third_refused(pcp: Path):
    write_table(pcp / PHENOTYPES, ROWS | {"50004": "PITT,x,-9999,9,1,0"})
    assert read_study(str(pcp), CLASSES, "nifti").dropped["no diagnosis or no site in the table"] == 1
    write_table(pcp / PHENOTYPES, ROWS | {"50004": "PITT,x,3,9,1,0"})
    with pytest.raises(ValueError, match=r"Pitt_0050004.*coded 3"):
        read_study(str(pcp), CLASSES, "nifti")


def test_the_real_tables_know_the_real_file_names(real_data: Path, tmp_path: Path):
    touch(tmp_path / "MaxMun_a_0051321_func_preproc.nii.gz")
    touch(tmp_path / "Leuven_2_0050725_func_preproc.nii.gz")
    study = read_study(str(tmp_path), CLASSES, "nifti", str(real_data / "abide" / PHENOTYPES))
    assert [(r.subject, r.columns["site"]) for r in study.records] == [("0050725", "LEUVEN_2"), ("0051321", "MAX_MUN")]
    assert study.dropped == {"no_filename in the table": 77, "in the table, without a scan": 1112 - 77 - 2}
    touch(tmp_path / "two" / "sub-29006_ses-1_task-rest_run-1_bold.nii.gz")
    study = read_study(str(tmp_path / "two"), CLASSES, "nifti", str(real_data / "abide" / "abide2_phenotypic.csv"))
    assert [(r.subject, r.columns["site"]) for r in study.records] == [("0029006", "ABIDEII-BNI_1")]


# ROI series


def test_series_of_a_folder_become_a_column(mats: Path, tmp_path: Path):
    series = touch(tmp_path / "roi" / "PITT_0050004_aal116.npz")
    study = read_study(str(mats), CLASSES, roi_dir=str(tmp_path / "roi"))
    assert [r.columns["roi_series"] for r in study.records] == [None, str(series), None]


# wrong


def test_a_layout_or_a_folder_that_is_none(tmp_path: Path):
    with pytest.raises(ValueError, match="layout 'bids' is not one of mat, nifti"):
        read_study(str(tmp_path), CLASSES, layout="bids")
    with pytest.raises(FileNotFoundError, match="give --raw_dir"):
        read_study(str(tmp_path / "absent"), CLASSES)
    with pytest.raises(FileNotFoundError, match=f"{PHENOTYPES} does not exist"):
        read_study(str(tmp_path), CLASSES, layout="nifti")


# list_scans


def test_scans_to_predict(mats: Path, pcp: Path):
    one = mats / "PITT" / "50004.mat"
    assert list_scans(str(one)) == [{"image": str(one), "subject": "0050004", "site": "PITT"}]
    assert list_scans(str(one), site="NYU")[0]["site"] == "NYU"
    assert [s["site"] for s in list_scans(str(mats / "UM_1"))] == ["UM_1"]
    scans = list_scans(str(pcp / "cpac"), site="PITT")
    assert [s["subject"] for s in scans] == ["0050004", "0050005", "0050276"]
    assert all(s["site"] == "PITT" and s["mask"].endswith("_func_mask.nii.gz") for s in scans)


def test_two_people_whose_files_are_called_alike_stay_two(tmp_path: Path):
    for person in ("N888", "N999"):
        touch(tmp_path / person / "rest_bold.nii.gz")
    with pytest.raises(
        ValueError, match=r"N888.*N999.* are both of subject rest: keep one .* or name the files after their subjects"
    ):
        list_scans(str(tmp_path), site="PITT")
    for session in "12":
        touch(tmp_path / f"bids/sub-1_ses-{session}_bold.nii.gz")
    first, second = list_scans(str(tmp_path / "bids"), site="PITT")
    assert first["subject"] == second["subject"]


def test_a_mask_is_found_whatever_the_scan_is_called_or_missed_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    scan = touch(tmp_path / "rest.nii.gz")
    list_scans(str(scan), site="PITT")
    assert "rest.nii.gz: no mask beside it" in caplog.text
    mask = touch(tmp_path / "rest_mask.nii.gz")
    assert list_scans(str(scan), site="PITT")[0]["mask"] == str(mask)


def test_a_single_nifti_may_have_any_name_but_needs_a_site(tmp_path: Path):
    scan = touch(tmp_path / "rest.nii.gz")
    assert list_scans(str(scan), site="PITT") == [{"image": str(scan), "subject": "rest", "site": "PITT"}]
    with pytest.raises(ValueError, match=r"rest.nii.gz: .*give --site"):
        list_scans(str(scan))
    with pytest.raises(FileNotFoundError, match="no scan"):
        list_scans(str(tmp_path), site="PITT")
