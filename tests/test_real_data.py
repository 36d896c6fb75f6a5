"""The OASIS bundle on real images, which lie beside the repository."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_cases import CASES, Paths, run_workflow
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd
from nilearn.datasets import load_mni152_brain_mask, load_mni152_template
from nilearn.image import resample_img

from custom.data import read_datalist
from custom.data.oasis import read_study
from custom.data.oasis_table import read_table

CASE = next(c for c in CASES if c.name.startswith("oasis"))
BINARY = {"CDR 0": [0], "CDR above 0": [0.5, 1, 2]}


@pytest.fixture
def analyze(real_data: Path, tmp_path: Path) -> Path:
    """The true big-endian Analyze pair, unzipped."""
    for suffix in ("hdr", "img"):
        with gzip.open(real_data / f"oasis/analyze/avg152T1.{suffix}.gz") as packed:
            (tmp_path / f"avg152T1.{suffix}").write_bytes(packed.read())
    return tmp_path / "avg152T1.img"


def oriented(path: Path, reader: str) -> MetaTensor:
    load = Compose(
        [LoadImaged("image", reader=reader), EnsureChannelFirstd("image"), Orientationd("image", "RAS", labels=None)]
    )
    return load({"image": str(path)})["image"]


def test_analyze_ends_up_in_ras_with_the_eyes_in_front(analyze: Path) -> None:
    """The file is in MNI space, so it must look like nilearn's MNI template there, and worse when turned."""
    brain = load_mni152_brain_mask(2)
    found = oriented(analyze, "NibabelReader")
    grid = {"target_affine": np.asarray(found.affine), "target_shape": found.shape[1:], "force_resample": True}
    template = resample_img(load_mni152_template(2), copy_header=True, **grid).get_fdata()
    inside = resample_img(brain, interpolation="nearest", copy_header=True, **grid).get_fdata() > 0

    def likeness(volume: np.ndarray) -> float:
        return float(np.corrcoef(volume[inside], template[inside])[0, 1])

    volume = np.asarray(found[0])
    assert likeness(volume) > 0.75
    assert likeness(volume[:, ::-1]) < 0.6, "front and back cannot be told apart"
    assert likeness(volume[:, :, ::-1]) < 0.6, "top and bottom cannot be told apart"


def test_the_two_readers_disagree_on_analyze(analyze: Path) -> None:
    """The reason why every config names its reader: what ITK calls RAS is turned by 180 degrees about the vertical."""
    nibabel, itk = (np.asarray(oriented(analyze, r)[0]) for r in ("NibabelReader", "ITKReader"))
    assert np.corrcoef(nibabel.ravel(), itk[::-1, ::-1].ravel())[0, 1] > 0.999
    assert np.corrcoef(nibabel.ravel(), itk.ravel())[0, 1] < 0.9


def test_every_config_names_its_reader() -> None:
    for path in (CASE.folder / "configs").glob("*.json"):
        for step in _loaders(json.loads(path.read_text())):
            assert step["_target_"] == "custom.transforms.LoadScand", f"{path.name}: MONAI's would fall back on other readers"
            assert step["reader"] in ("NibabelReader", "PILReader"), path.name


def _loaders(config: object) -> list[dict]:
    if isinstance(config, dict):
        own = [config] if str(config.get("_target_")).endswith(("LoadImaged", "LoadScand")) else []
        return own + [x for value in config.values() for x in _loaders(value)]
    return [x for value in config for x in _loaders(value)] if isinstance(config, list) else []


def test_table(real_data: Path) -> None:
    rows = read_table(real_data / "oasis/oasis_cross-sectional.csv")
    assert len(rows) == 436
    assert sum(name.endswith("MR2") for name in rows) == 20
    cdr = [r["CDR"] for r in rows.values()]
    assert [cdr.count(v) for v in (0, 0.5, 1, 2, None)] == [135, 70, 28, 2, 201]
    assert min(r["Age"] for r in rows.values() if (r["CDR"] or 0) > 0) >= 60


def test_slices_study(real_data: Path) -> None:
    study = read_study(str(real_data / "oasis/slices"), BINARY, "named", str(real_data / "oasis/oasis_cross-sectional.csv"))
    labels = {r.subject: r.label for r in study.records}
    assert len(study.records) == 396
    assert sorted(labels.values()).count(1) == 66
    assert len(labels) == 132
    assert {r.columns["plane"] for r in study.records} == {"axial", "coronal", "sagittal"}


def test_kaggle_folders(real_data: Path) -> None:
    classes = {"none": [0], "very mild": [0.5], "mild": [1], "moderate": [2]}
    study = read_study(str(real_data / "oasis/kaggle4class"), classes, "class_folders")
    assert [sum(r.label == c for r in study.records) for c in range(4)] == [60, 60, 60, 52]
    assert not study.subjects_known
    moderate = [r.subject for r in study.records if r.label == 3]
    assert len(set(moderate)) < 20, "the neighbouring slices of Kaggle's two moderate patients were not found"


@pytest.fixture(scope="module")
def slices(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """Sixty real subjects, coronal, prepared by the bundle."""
    paths = Paths(tmp_path_factory.mktemp("slices"))
    folder = Path(paths.raw) / "coronal"
    folder.mkdir(parents=True)
    for jpg in sorted((real_data / "oasis/slices/coronal").glob("*.jpg"))[:60]:
        shutil.copy(jpg, folder)
    override = {"layout": "named", "table": str(real_data / "oasis/oasis_cross-sectional.csv"), "slice_size": 64}
    run_workflow(CASE, "preprocess", "binary", "pictures", "kfold", **paths.preprocess | override)
    return paths


def test_prepared_pictures_are_upright_and_scaled(slices: Paths) -> None:
    """Coronal: the vertex is a dome, the temporal lobes leave a gap between them below."""
    mean = np.mean(
        [nib.load(r["image"]).get_fdata()[..., 0] for r in read_datalist(f"{slices.data}/datalist.json")["training"]], 0
    )
    inside = mean > 0.2
    assert mean.min() >= 0
    assert mean.max() <= 1
    rows = np.flatnonzero(inside.any(0))
    centre = slice(mean.shape[0] // 2 - 2, mean.shape[0] // 2 + 2)
    assert inside[centre, rows[-1] - 3].all(), "the top of the head is not where it belongs"
    assert not inside[centre, rows[0] + 1].all(), "the gap between the temporal lobes is not below"


def test_real_slices_from_preparation_to_explanation(slices: Paths) -> None:
    small = {"batch_size": 16, "learning_rate": 1e-3}
    run_workflow(CASE, "train", "resnet18", "binary", epochs=2, **slices.train, **small)
    run_workflow(CASE, "train", "resnet18", "binary", "evaluate", **slices.train)
    metrics = json.loads((slices.eval / "metrics.json").read_text())
    assert not metrics["synthetic"]
    assert {"network", "majority class", "age", "nWBV + age", "linear SVM on voxels"} <= set(metrics["models"])
    configs = ("inference", "resnet18", "binary", "pictures", "explain")
    run_workflow(CASE, *configs, num_subjects=2, slice_size=64, **slices.inference)
    maps = json.loads((slices.eval / "explain/maps.json").read_text())
    assert len(maps["maps"]) == 2


def test_table_alone_does_as_well_as_published(real_data: Path, slices: Paths) -> None:
    """nWBV and age of the real table: the yardstick stands where it was measured, 0.70 on 132 subjects."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    study = read_study(
        str(real_data / "oasis/slices/axial"), BINARY, "named", str(real_data / "oasis/oasis_cross-sectional.csv")
    )
    x = [[r.columns["nWBV"], r.columns["Age"]] for r in study.records]
    y = [r.label for r in study.records]
    model = make_pipeline(StandardScaler(), LogisticRegression())
    auc = cross_val_score(model, x, y, cv=StratifiedKFold(5, shuffle=True, random_state=0), scoring="roc_auc").mean()
    assert auc == pytest.approx(0.70, abs=0.05)


def test_stanford_t1_keeps_its_place(real_data: Path) -> None:
    """A NIfTI head goes through the 3D preparation; the affine still says where a voxel is."""
    parser = ConfigParser()
    parser.read_config(CASE.config("preprocess"))
    path = real_data / "oasis/T1w/ds114_sub009_T1brain.nii"
    image = parser.get_parsed_content("preprocessing")({"image": str(path)})["image"]
    assert image.shape == (1, 128, 128, 128)
    raw = nib.load(path)
    centres = []
    for array, affine in ((raw.get_fdata(), raw.affine), (np.asarray(image[0]), np.asarray(image.affine))):
        brain = np.argwhere(array > 0.3 * np.percentile(array[array > 0], 95))
        centres.append(nib.affines.apply_affine(affine, brain.mean(0)))
    np.testing.assert_allclose(*centres, atol=2.0)


def test_kaggle_four_classes_from_preparation_to_report(real_data: Path, tmp_path: Path) -> None:
    """Images without subjects: four classes, groups of near-duplicates in one part, and the report says so."""
    paths = Paths(tmp_path)
    override = {"raw_dir": str(real_data / "oasis/kaggle4class"), "layout": "class_folders", "slice_size": 64}
    run_workflow(CASE, "preprocess", "pictures", "four_class", **paths.preprocess | override)
    run_workflow(CASE, "train", "linear_probe", "four_class", epochs=1, batch_size=16, **paths.train)
    run_workflow(CASE, "train", "linear_probe", "four_class", "evaluate", **paths.train)
    metrics = json.loads((paths.eval / "metrics.json").read_text())
    assert len(metrics["confusion"]) == 4
    assert "age" in metrics["unavailable"]
    assert not metrics["subjects_known"]
    assert "unknown" in (paths.eval / "report.html").read_text()
