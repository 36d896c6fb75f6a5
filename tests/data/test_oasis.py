from __future__ import annotations

import gzip
import os
import resource
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from custom.data import Study
from custom.data.oasis import read_study

CLASSES = {"CDR 0": [0], "CDR 0.5": [0.5], "CDR 1 or more": [1, 2]}
BEST = "PROCESSED/MPRAGE/T88_111/{id}_mpr_n4_anon_111_t88_masked_gfc.img"
TABLE = {
    "OAS1_0001_MR1": (74, 0.0),
    "OAS1_0002_MR1": (55, 0.0),
    "OAS1_0003_MR1": (73, 0.5),
    "OAS1_0003_MR2": (73, 0.5),
    "OAS1_0004_MR1": (28, None),
    "OAS1_0005_MR1": (80, 2.0),
}


def write_table(root: Path, rows: dict[str, tuple[float, float | None]] = TABLE) -> None:
    lines = [f"{i},{age},{'' if cdr is None else cdr},0.7" for i, (age, cdr) in rows.items()]
    (root / "oasis_cross-sectional.csv").write_text("\n".join(["ID,Age,CDR,nWBV", *lines]) + "\n")


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.fixture
def discs(tmp_path: Path) -> Path:
    """A raw study on two discs; the reader looks at names only, so the images are empty."""
    write_table(tmp_path)
    for number, session in enumerate(TABLE):
        touch(tmp_path / f"disc{1 + number // 3}" / session / BEST.format(id=session))
    return tmp_path


def only_session(root: Path, *images: str) -> Path:
    """Leave one session in the study, with these images."""
    write_table(root, {"OAS1_0001_MR1": (74, 0.0)})
    for image in images:
        touch(root / "disc1" / "OAS1_0001_MR1" / image)
    return root


def labels_of(study: Study) -> dict[str, int | None]:
    return {r.name: r.label for r in study.records}


# discs


def test_one_record_per_session_with_its_class(discs: Path):
    study = read_study(str(discs), CLASSES)
    expected = {"OAS1_0001_MR1": 0, "OAS1_0002_MR1": 0, "OAS1_0003_MR1": 1, "OAS1_0003_MR2": 1, "OAS1_0005_MR1": 2}
    assert labels_of(study) == expected
    assert study.class_names == list(CLASSES)
    assert all(Path(r.image).is_file() and r.name in r.image for r in study.records)
    assert not study.synthetic
    assert study.subjects_known


def test_a_record_carries_the_table(discs: Path):
    record = read_study(str(discs), CLASSES).records[0]
    assert record.columns == {
        "session": "MR1", "Age": 74, "CDR": 0, "nWBV": 0.7, "space": "PROCESSED/MPRAGE/T88_111"
    }  # fmt: skip


def test_a_rescan_stays_with_its_subject(discs: Path):
    study = read_study(str(discs), CLASSES)
    assert [(r.subject, r.columns["session"]) for r in study.records if "0003" in r.name] == [
        ("OAS1_0003", "MR1"),
        ("OAS1_0003", "MR2"),
    ]
    assert len({r.label for r in study.records if r.subject == "OAS1_0003"}) == 1


def test_a_missing_cdr_is_dropped_and_counted_never_called_healthy(discs: Path):
    study = read_study(str(discs), CLASSES)
    assert "OAS1_0004_MR1" not in labels_of(study)
    assert study.dropped == {"no CDR": 1}


def test_the_young_are_dropped_and_counted_on_demand(discs: Path):
    study = read_study(str(discs), CLASSES, age_min=60)
    assert "OAS1_0002_MR1" not in labels_of(study)
    assert study.dropped == {"no CDR": 1, "younger than 60": 1}
    assert "OAS1_0003_MR1" in labels_of(read_study(str(discs), CLASSES, age_min=73))


def test_without_an_age_no_age_can_be_asked_for(discs: Path):
    (discs / "oasis_cross-sectional.csv").write_text("ID,CDR\nOAS1_0001_MR1,0\n")
    with pytest.raises(ValueError, match="subject OAS1_0001 has no age, which age_min needs"):
        read_study(str(discs), CLASSES, age_min=60)


def test_other_classes_are_one_argument(discs: Path):
    binary = read_study(str(discs), {"healthy": [0], "demented": [0.5, 1, 2]})
    assert list(labels_of(binary).values()) == [0, 0, 1, 1, 1]


def test_a_cdr_that_no_class_holds_names_the_subject(discs: Path):
    with pytest.raises(ValueError, match=r"subject OAS1_0005 has CDR 2.0, which no class of"):
        read_study(str(discs), {"CDR 0": [0], "CDR 0.5": [0.5]})
    write_table(discs, TABLE | {"OAS1_0001_MR1": (74, 0.7)})
    with pytest.raises(ValueError, match="subject OAS1_0001 has CDR 0.7"):
        read_study(str(discs), CLASSES)


def test_what_has_no_image_or_no_row_is_counted(discs: Path):
    (discs / "disc1" / "OAS1_0007_MR1").mkdir()
    touch(discs / "disc1" / "OAS1_0008_MR1" / BEST.format(id="OAS1_0008_MR1"))
    dropped = read_study(str(discs), CLASSES).dropped
    assert dropped == {"session folder without an image": 1, "session not in the table": 1, "no CDR": 1}


def test_the_discs_may_be_missing(tmp_path: Path):
    write_table(tmp_path)
    touch(tmp_path / "OAS1_0001_MR1" / BEST.format(id="OAS1_0001_MR1"))
    assert labels_of(read_study(str(tmp_path), CLASSES)) == {"OAS1_0001_MR1": 0}


def test_the_table_may_lie_elsewhere(discs: Path):
    table = (discs / "oasis_cross-sectional.csv").rename(discs / "copy.csv")
    assert len(read_study(str(discs), CLASSES, table=str(table)).records) == 5
    with pytest.raises(FileNotFoundError, match="oasis_cross-sectional.csv does not exist"):
        read_study(str(discs), CLASSES)


CANDIDATES = [
    f"{folder}/{name}"
    for folder in ("PROCESSED/MPRAGE/T88_111", "PROCESSED/MPRAGE/SUBJ_111", "PROCESSED/MPRAGE", "mri", ".")
    for name in ("x_masked_gfc.img", "x_masked_gfc.nii.gz", "x_masked_gfc.nii", "x.img", "x.nii.gz", "x.nii")
]


@pytest.mark.parametrize("image", CANDIDATES)
def test_every_fallback_is_found(tmp_path: Path, image: str):
    record = read_study(str(only_session(tmp_path, image)), CLASSES).records[0]
    assert Path(record.image) == tmp_path / "disc1" / "OAS1_0001_MR1" / image
    assert record.columns["space"] == str(Path(image).parent)


@pytest.mark.parametrize(("better", "worse"), list(zip(CANDIDATES, CANDIDATES[1:], strict=False)))
def test_the_better_image_is_preferred(tmp_path: Path, better: str, worse: str):
    root = only_session(tmp_path, worse, better)
    assert read_study(str(root), CLASSES).records[0].image.endswith(str(Path(better)))


def test_two_images_of_equal_rank_are_not_guessed_between(tmp_path: Path):
    root = only_session(tmp_path, *(f"PROCESSED/MPRAGE/SUBJ_111/mpr-{i}.img" for i in (1, 2)))
    with pytest.raises(ValueError, match=r"SUBJ_111 holds 2 images like \*\.img.*mpr-1\.img.*mpr-2\.img"):
        read_study(str(root), CLASSES)


def test_several_raw_scans_beside_a_processed_one_are_no_ambiguity(tmp_path: Path):
    raw = [f"RAW/OAS1_0001_MR1_mpr-{i}_anon.img" for i in (1, 2, 3, 4)]
    root = only_session(tmp_path, BEST.format(id="OAS1_0001_MR1"), *raw)
    assert "T88_111" in read_study(str(root), CLASSES).records[0].image


def test_a_phantom_is_marked(discs: Path):
    touch(discs / "SYNTHETIC")
    study = read_study(str(discs), CLASSES)
    assert study.synthetic
    assert study.name == "OASIS-1 phantom"


# named


def test_pictures_by_name_in_folders_of_planes(tmp_path: Path):
    write_table(tmp_path)
    for plane in ("axial", "coronal"):
        touch(tmp_path / plane / f"OAS1_0001_MR1_{plane}.jpg")
        touch(tmp_path / plane / f"OAS1_0003_MR2_{plane}.JPG")
    touch(tmp_path / "axial" / "OAS1_0004_MR1_axial.jpg")
    touch(tmp_path / "axial" / "OAS1_9999_MR1_axial.jpg")
    touch(tmp_path / "axial" / "montage.png")
    touch(tmp_path / "axial" / "OAS1_0001_MR1_notes.txt")
    study = read_study(str(tmp_path), CLASSES, layout="named")
    assert [(r.subject, r.label, r.columns["plane"], r.columns["session"]) for r in study.records] == [
        ("OAS1_0001", 0, "axial", "MR1"),
        ("OAS1_0003", 1, "axial", "MR2"),
        ("OAS1_0001", 0, "coronal", "MR1"),
        ("OAS1_0003", 1, "coronal", "MR2"),
    ]
    assert len({r.name for r in study.records}) == 4
    assert study.dropped == {"no CDR": 1, "session not in the table": 1, "no OASIS id in the name": 1}
    assert study.subjects_known


def test_volumes_by_name(tmp_path: Path):
    write_table(tmp_path)
    touch(tmp_path / "OAS1_0001_MR1.nii.gz")
    touch(tmp_path / "OAS1_0005_MR1.img")
    touch(tmp_path / "OAS1_0005_MR1.hdr")
    assert labels_of(read_study(str(tmp_path), CLASSES, layout="named")) == {"OAS1_0001_MR1": 0, "OAS1_0005_MR1": 2}


# class_folders


def picture(seed: int) -> np.ndarray:
    """Return a smooth 64 x 64 picture, unlike that of any other seed."""
    coarse = np.random.default_rng(seed).integers(0, 255, (24, 24), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC))


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    for number, folder in enumerate(("NonDemented", "VeryMildDemented", "MildDemented", "ModerateDemented")):
        save(tmp_path / folder / "26 (19).jpg", picture(number))
    save(tmp_path / "NonDemented" / "copy.JPG", np.uint8(picture(0) * 0.8))
    return tmp_path


def test_folders_give_the_class(kaggle: Path):
    study = read_study(str(kaggle), CLASSES, layout="class_folders")
    assert [(Path(r.image).parent.name, r.label) for r in study.records] == [
        ("NonDemented", 0), ("NonDemented", 0), ("VeryMildDemented", 1), ("MildDemented", 2), ("ModerateDemented", 2)
    ]  # fmt: skip
    assert len({r.name for r in study.records}) == 5


def test_near_duplicates_stand_in_for_subjects(kaggle: Path):
    study = read_study(str(kaggle), CLASSES, layout="class_folders")
    assert not study.subjects_known
    subjects = [r.subject for r in study.records]
    assert subjects[0] == subjects[1]
    assert len(set(subjects)) == 4
    assert all(s.startswith("unknown-") for s in subjects)


def test_a_large_collection_needs_no_more_open_files_than_a_small_one(tmp_path: Path):
    for number in range(80):
        save(tmp_path / "NonDemented" / f"{number}.png", picture(number % 5))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 40, hard))
    try:
        study = read_study(str(tmp_path), CLASSES, layout="class_folders")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len({r.subject for r in study.records}) == 5


def test_volumes_in_class_folders_go_by_their_middle_slice(tmp_path: Path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        folder = tmp_path / "MildDemented"
        folder.mkdir(exist_ok=True)
        volume = np.stack([np.zeros((64, 64)), picture(seed), np.zeros((64, 64))], axis=-1)
        nib.save(nib.Nifti1Image(volume.astype(np.float32), np.eye(4)), folder / f"{name}.nii.gz")
    first, second, third = read_study(str(tmp_path), CLASSES, layout="class_folders").records
    assert first.subject == second.subject != third.subject
    assert first.name == "MildDemented_a"


@pytest.mark.parametrize("keep", [0, 400])
def test_a_truncated_picture_is_named(kaggle: Path, keep: int):
    file = kaggle / "NonDemented" / "copy.JPG"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(
        ValueError, match=r"NonDemented/copy\.JPG: damaged.*copy or fetch it again, or take it out of the study"
    ):
        read_study(str(kaggle), CLASSES, layout="class_folders")


def test_a_volume_that_claims_more_than_it_holds_is_named(kaggle: Path):
    content = bytearray(nib.Nifti1Image(np.zeros((9, 9, 9), np.float32), np.eye(4)).to_bytes())
    content[42:44] = (30_000).to_bytes(2, "little")
    (kaggle / "NonDemented" / "a.nii.gz").write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(ValueError, match=r"NonDemented/a\.nii\.gz: damaged. Expected .* bytes, got 3268"):
        read_study(str(kaggle), CLASSES, layout="class_folders")


# wrong


def test_a_layout_that_is_none(discs: Path):
    with pytest.raises(ValueError, match="layout 'kaggle' is not one of discs, named, class_folders"):
        read_study(str(discs), CLASSES, layout="kaggle")


def test_a_folder_that_is_none(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="give --raw_dir"):
        read_study(str(tmp_path / "raw"), CLASSES)


@pytest.mark.parametrize("layout", ["discs", "named", "class_folders"])
def test_a_folder_without_images(tmp_path: Path, layout: str):
    write_table(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no image in layout '{layout}' below"):
        read_study(str(tmp_path), CLASSES, layout=layout)
