from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, Orientationd, RandFlipd, Transform
from nilearn.signal import clean
from trust.faults import in_child

from custom.data import PARTS, Record, Study, prepare, read_datalist
from custom.data.prepare_record import PASSING, Run, prepare_record, save_image, scale_path
from custom.errors import BadScan
from custom.transforms import (
    AxialSlicesd,
    CheckScand,
    CleanBOLDd,
    LoadBOLDd,
    LoadScand,
    MaskBOLDd,
    ScaleBrainPercentilesd,
    TemporalZScored,
)

SHAPE = (8, 9, 10)
CALLS: list[str] = []
STEPS = [
    {"_target_": "custom.transforms.LoadScand", "keys": "image", "reader": "NibabelReader"},
    {"_target_": "EnsureChannelFirstd", "keys": "image"},
    {"_target_": "custom.transforms.AxialSlicesd", "keys": "image", "num_slices": 2},
]


class AllTraining:
    """Everything is trained on: these tests are not about splits."""

    group = "subject"

    def parts(self, records: Sequence[Record]) -> list[str]:
        return ["training"] * len(records)

    def describe(self) -> dict[str, Any]:
        return {"method": "AllTraining"}


class Counted(Transform):
    """Note every scan that is worked on, and call ``then`` with the number of calls so far."""

    then: Callable[[int], Any] = staticmethod(lambda calls: None)

    def __call__(self, data: dict) -> dict:
        CALLS.append(Path(data["image"]).stem)
        Counted.then(len(CALLS))
        return data


@pytest.fixture(autouse=True)
def _fresh_count(monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    monkeypatch.setattr(Counted, "then", staticmethod(lambda calls: None))


def voxels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 1000, SHAPE).astype(np.int16)


def write_analyze(path: Path, array: np.ndarray) -> Path:
    header = nib.AnalyzeHeader(endianness=">")
    header.set_data_dtype(array.dtype)
    nib.AnalyzeImage(array, None, header).to_filename(path)
    return path


def make_study(raw: Path, num_scans: int = 4) -> Study:
    raw.mkdir(exist_ok=True)
    images = [write_analyze(raw / f"s{i}.img", voxels(i)[..., None]) for i in range(num_scans)]
    return Study("study", [Record(p.stem, p.stem, str(p), i % 2) for i, p in enumerate(images)], ["a", "b"])


def steps() -> list[Callable]:
    return [
        Counted(),
        LoadScand("image", reader="NibabelReader"),
        EnsureChannelFirstd("image"),
        CheckScand("image", spatial_dims=3),
        Orientationd("image", axcodes="RAS", labels=None),
        ScaleBrainPercentilesd("image"),
    ]


def run(study: Study, folder: Path, *more: Callable, num_workers: int = 1, transform: Callable | None = None) -> dict:
    transform = transform or Compose([*steps(), *more])
    return prepare(study, transform, AllTraining(), str(folder), str(folder / "datalist.json"), num_workers)


def rejected(folder: Path) -> list[dict[str, str]]:
    with (folder / "rejected.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_images_are_written_as_they_left_the_transforms(tmp_path: Path):
    study = make_study(tmp_path / "raw")
    run(study, tmp_path / "data")
    rows = read_datalist(tmp_path / "data" / "datalist.json")["training"]
    assert [row["subject"] for row in rows] == ["s0", "s1", "s2", "s3"]
    for record, row in zip(study.records, rows, strict=True):
        expected = Compose(steps())({"image": record.image})["image"]
        written = nib.load(row["image"])
        assert written.get_data_dtype() == np.float32
        np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(expected[0]))
        np.testing.assert_allclose(written.affine, np.asarray(expected.affine), atol=1e-6)
        assert nib.aff2axcodes(written.affine) == ("R", "A", "S")
    assert rejected(tmp_path / "data") == []


def test_a_picture_without_third_axis_gets_its_affine(tmp_path: Path):
    affine = np.diag([2.0, 3.0, 1.0])
    affine[:2, 2] = 5, 6
    save_image(tmp_path / "slice.nii", MetaTensor(torch.ones(1, 4, 5, 1), affine=torch.as_tensor(affine)))
    np.testing.assert_array_equal(
        nib.load(tmp_path / "slice.nii").affine, [[2, 0, 0, 5], [0, 3, 0, 6], [0, 0, 1, 0], [0, 0, 0, 1]]
    )


def test_slices_come_as_several_rows(tmp_path: Path):
    run(make_study(tmp_path / "raw"), tmp_path / "data", AxialSlicesd("image", num_slices=3))
    rows = read_datalist(tmp_path / "data" / "datalist.json")["training"]
    assert len(rows) == 12
    assert [row["slice"] for row in rows if row["subject"] == "s1"] == [2, 5, 7]
    assert {nib.load(row["image"]).shape for row in rows} == {(8, 9, 1)}
    whole = Compose(steps())({"image": str(tmp_path / "raw" / "s1.img")})["image"]
    one = next(row for row in rows if row["subject"] == "s1" and row["slice"] == 5)
    np.testing.assert_array_equal(np.asarray(nib.load(one["image"]).dataobj), np.asarray(whole[0, :, :, 5:6]))


def test_a_second_run_redoes_nothing(tmp_path: Path):
    study, slices = make_study(tmp_path / "raw"), AxialSlicesd("image", num_slices=2)
    transform = Compose([*steps(), slices])
    first = run(study, tmp_path / "data", transform=transform)
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "data" / "images").iterdir()}
    second = run(study, tmp_path / "data", transform=transform)
    assert CALLS == ["s0", "s1", "s2", "s3"]
    assert second == first
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "data" / "images").iterdir()} == times


def test_a_run_that_was_killed_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def kill(calls: int) -> None:
        if calls == 3:
            raise KeyboardInterrupt

    study = make_study(tmp_path / "raw")
    monkeypatch.setattr(Counted, "then", staticmethod(kill))
    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path / "data")
    assert not (tmp_path / "data" / "datalist.json").exists()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "data" / "images").glob("s[01].*")}
    assert len(kept) == 4
    run(study, tmp_path / "data")
    assert CALLS == ["s0", "s1", "s2", "s2", "s3"]
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert len(read_datalist(tmp_path / "data" / "datalist.json")["training"]) == 4


def test_an_image_that_went_missing_is_made_again(tmp_path: Path):
    study = make_study(tmp_path / "raw")
    run(study, tmp_path / "data")
    (tmp_path / "data" / "images" / "s2.nii").unlink()
    run(study, tmp_path / "data")
    assert CALLS[4:] == ["s2"]


def test_a_new_scan_is_added_to_the_old_ones(tmp_path: Path):
    run(make_study(tmp_path / "raw", 2), tmp_path / "data")
    run(make_study(tmp_path / "raw", 4), tmp_path / "data")
    assert CALLS == ["s0", "s1", "s2", "s3"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def nan_volume(path: Path) -> None:
    write_analyze(path, np.where(np.arange(10) == 3, np.nan, voxels()).astype(np.float32))


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated .img": (truncate, "Expected 1440 bytes, got 1340"),
    "empty .img": (lambda p: p.write_bytes(b""), "s1.img"),
    "missing .hdr": (lambda p: p.with_suffix(".hdr").unlink(), "Cannot work out file type"),
    "garbage in .hdr": (lambda p: p.with_suffix(".hdr").write_bytes(b"x" * 348), "Cannot work out file type"),
    "missing .img": (lambda p: p.unlink(), "No such file"),
    "several frames": (lambda p: write_analyze(p, np.stack([voxels()] * 3, -1)), "a single 3D image is wanted"),
    "one slice": (lambda p: write_analyze(p, voxels()[..., 0]), "a single 3D image is wanted"),
    "all zero": (lambda p: write_analyze(p, 0 * voxels()), "every voxel is 0"),
    "constant": (lambda p: write_analyze(p, 0 * voxels() + 7), "every voxel is 7"),
    "NaN": (nan_volume, "72 of 720 voxels are NaN"),
    "nothing above the background": (lambda p: write_analyze(p, -voxels()), "no voxel is brighter than 0"),
}


@pytest.mark.parametrize(("fault", "reason"), FAULTS.values(), ids=FAULTS.keys())
def test_a_bad_scan_is_listed_and_the_run_goes_on(tmp_path: Path, fault: Callable[[Path], Any], reason: str):
    study = make_study(tmp_path / "raw", 3)
    fault(tmp_path / "raw" / "s1.img")
    run(study, tmp_path / "data")
    (row,) = rejected(tmp_path / "data")
    assert (row["name"], row["subject"], row["file"]) == ("s1", "s1", str(tmp_path / "raw" / "s1.img"))
    assert reason in row["reason"]
    assert "\n" not in row["reason"]
    assert len(row["reason"]) < 300
    content = read_datalist(tmp_path / "data" / "datalist.json")
    assert [r["subject"] for part in PARTS for r in content[part]] == ["s0", "s2"]
    assert sorted(p.name for p in (tmp_path / "data" / "images").glob("s1*")) == []


def test_a_truncated_compressed_scan_is_listed(tmp_path: Path):
    study = make_study(tmp_path / "raw", 3)
    path = tmp_path / "raw" / "s1.nii.gz"
    nib.save(nib.Nifti1Image(voxels(), np.eye(4)), path)
    truncate(path)
    study.records[1] = Record("s1", "s1", str(path), 0)
    run(study, tmp_path / "data")
    assert [row["subject"] for row in rejected(tmp_path / "data")] == ["s1"]


def test_a_repaired_scan_is_taken_at_the_next_run(tmp_path: Path):
    study = make_study(tmp_path / "raw", 3)
    truncate(tmp_path / "raw" / "s1.img")
    run(study, tmp_path / "data")
    make_study(tmp_path / "raw", 3)
    run(study, tmp_path / "data")
    assert rejected(tmp_path / "data") == []
    assert CALLS == ["s0", "s1", "s2", "s1"]


def test_all_rejected_is_an_error(tmp_path: Path):
    study = make_study(tmp_path / "raw", 2)
    for record in study.records:
        truncate(Path(record.image))
    with pytest.raises(ValueError, match=r"none of the 2 scans could be prepared: see .*rejected\.csv"):
        run(study, tmp_path / "data")
    assert len(rejected(tmp_path / "data")) == 2
    assert not (tmp_path / "data" / "datalist.json").exists()


@pytest.mark.parametrize("fault", [TypeError, AttributeError, KeyError, AssertionError, RuntimeError])
def test_a_fault_of_the_program_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]):
    def raise_fault(calls: int) -> None:
        raise fault("our own fault")

    study = make_study(tmp_path / "raw", 2)
    monkeypatch.setattr(Counted, "then", staticmethod(raise_fault))
    with pytest.raises((RuntimeError, fault)) as error:  # MONAI wraps it
        run(study, tmp_path / "data")
    causes = [error.value, error.value.__cause__]
    assert any(isinstance(cause, fault) and "our own fault" in str(cause) for cause in causes)
    assert not (tmp_path / "data" / "rejected.csv").exists()


def test_images_of_other_transforms_are_not_mixed_in(tmp_path: Path):
    study = make_study(tmp_path / "raw", 2)
    run(study, tmp_path / "data")
    before = contents(tmp_path / "data")
    with pytest.raises(ValueError, match="was prepared by other transforms: give another --dataset_dir, or delete it"):
        run(study, tmp_path / "data", RandFlipd("image", prob=0.5))
    changed = [*steps()[:-1], ScaleBrainPercentilesd("image", upper=98)]
    with pytest.raises(ValueError, match="other transforms"):
        run(study, tmp_path / "data", transform=Compose(changed))
    assert contents(tmp_path / "data") == before


ANOTHER_PROCESS = """
import json, sys
from monai.bundle import ConfigParser
from custom.data import HoldOut, Record, Study, prepare
steps, folder, images = json.loads(sys.argv[1])
records = [Record(f"s{i}", f"s{i}", image, i % 2) for i, image in enumerate(images)]
transform = ConfigParser({"t": {"_target_": "Compose", "transforms": steps}}).get_parsed_content("t")
thirds = HoldOut(test=1 / 3, validation=1 / 2)
prepare(Study("study", records, ["a", "b"]), transform, thirds, folder, folder + "/datalist.json")
"""


def test_another_process_takes_up_the_folder(tmp_path: Path):
    """The hash of the transforms must not depend on the process, hash seed and memory addresses included."""
    study = make_study(tmp_path / "raw", 6)
    parser = ConfigParser({"t": {"_target_": "Compose", "transforms": STEPS}})
    run(study, tmp_path / "data", transform=parser.get_parsed_content("t"))
    before = contents(tmp_path / "data" / "images")
    argument = json.dumps([STEPS, str(tmp_path / "data"), [r.image for r in study.records]])
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    result = subprocess.run([sys.executable, "-c", ANOTHER_PROCESS, argument], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "data" / "images") == before
    assert read_datalist(tmp_path / "data" / "datalist.json")["split"]["method"] == "HoldOut"


def test_two_processes_write_the_same_bytes_as_one(tmp_path: Path):
    study = make_study(tmp_path / "raw", 4)
    truncate(Path(study.records[2].image))
    transform = Compose([*steps()[1:], AxialSlicesd("image", num_slices=2)])
    one = run(study, tmp_path / "one", transform=transform)
    two = run(study, tmp_path / "two", transform=transform, num_workers=2)
    assert one == two
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one" / "images")) == 3 * (2 + 1) + 1


def test_images_of_another_study_are_not_taken_up(tmp_path: Path):
    """The same names below another folder."""
    run(make_study(tmp_path / "raw"), tmp_path / "data")
    with pytest.raises(ValueError, match="is called s0 too: give another --dataset_dir"):
        run(make_study(tmp_path / "other"), tmp_path / "data")


# the scale beside a run

BRAIN = np.arange(4 * 3 * 2).reshape(4, 3, 2) % 5 != 0
AFFINE = np.diag([-3.5, 3.75, 3.75, 1.0]) + np.outer([80, -100, -60, 0], [0, 0, 0, 1])


def make_runs(raw: Path, num_runs: int = 2) -> Study:
    """Runs of 40 frames with drift, noise in the air, and one voxel of the brain that is a straight line."""
    raw.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(BRAIN.astype(np.uint8), AFFINE), raw / "mask.nii")
    for i in range(num_runs):
        voxels = np.random.default_rng(i).normal(900, 20, (*BRAIN.shape, 40)) + 0.5 * np.arange(40)
        voxels[0, 0, 1] = 800 - 0.5 * np.arange(40)
        image = nib.Nifti1Image(voxels.astype(np.float32), AFFINE)
        image.header.set_zooms((3.5, 3.75, 3.75, 2.5))
        image.header.set_xyzt_units("mm", "sec")
        nib.save(image, raw / f"r{i}.nii.gz")
    names = [f"r{i}" for i in range(num_runs)]
    mask = {"mask": str(raw / "mask.nii")}
    return Study("runs", [Record(name, name, str(raw / f"{name}.nii.gz"), 0, inputs=mask) for name in names], ["a"])


def run_steps(scale_key: str | None = "scale") -> Compose:
    keys = ["image", "mask"]
    return Compose(
        [
            Counted(),
            LoadBOLDd(keys),
            MaskBOLDd("image", mask_key="mask"),
            CleanBOLDd("image", keep_mean=True),
            TemporalZScored("image", scale_key=scale_key),
        ]
    )


def array_of(path: str | Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj, dtype=np.float64)


@pytest.mark.parametrize(("dtype", "off"), [("float32", 1e-3), ("int16", 0.02)])
def test_a_run_times_its_scale_is_the_cleaned_run(tmp_path: Path, dtype: str, off: float):
    study, folder = make_runs(tmp_path / "raw"), tmp_path / "data"
    prepare(study, run_steps(), AllTraining(), str(folder), str(folder / "datalist.json"), dtype=dtype)
    rows = read_datalist(folder / "datalist.json")["training"]
    for record, row in zip(study.records, rows, strict=True):
        raw = array_of(record.image)[BRAIN].T
        expected = np.zeros((*BRAIN.shape, 40))
        expected[BRAIN] = (clean(raw, standardize=None) + raw.mean(0)).T
        run, scale = array_of(row["image"]), array_of(folder / "images" / f"{record.name}_scale.nii")
        assert scale.shape == (*BRAIN.shape, 2)
        np.testing.assert_allclose(run * scale[..., 1:] + scale[..., :1], expected, atol=off)
        straight = np.zeros(BRAIN.shape, bool)
        straight[0, 0, 1] = True
        np.testing.assert_array_equal(scale[..., 1] > 0, BRAIN & ~straight)
        np.testing.assert_allclose(scale[0, 0, 1], [800 - 0.5 * 19.5, 0], rtol=1e-6)


def test_a_scale_is_float32_on_the_grid_of_its_run_and_no_row(tmp_path: Path):
    folder = tmp_path / "data"
    prepare(make_runs(tmp_path / "raw"), run_steps(), AllTraining(), str(folder), str(folder / "datalist.json"), dtype="int16")
    rows = read_datalist(folder / "datalist.json")["training"]
    assert [Path(row["image"]).name for row in rows] == ["r0.nii", "r1.nii"]
    for row in rows:
        run, scale = nib.load(row["image"]), nib.load(scale_path(row["image"]))
        assert (run.get_data_dtype(), scale.get_data_dtype()) == (np.int16, np.float32)
        np.testing.assert_allclose(scale.affine, AFFINE, atol=1e-5)
        assert not {"scale", "scales"} & set(row)


def test_where_a_scale_lies():
    assert scale_path("/data/images/sub-1_run-01.nii") == Path("/data/images/sub-1_run-01_scale.nii")
    assert scale_path(Path("images") / "sub-1.5.nii") == Path("images/sub-1.5_scale.nii")


def test_without_a_scale_key_there_is_no_scale(tmp_path: Path):
    run(make_runs(tmp_path / "raw"), tmp_path / "data", transform=run_steps(scale_key=None))
    assert sorted(contents(tmp_path / "data" / "images")) == ["r0.json", "r0.nii", "r1.json", "r1.nii", "transforms.hash"]


def test_a_scale_that_went_missing_is_made_again(tmp_path: Path):
    study, images = make_runs(tmp_path / "raw"), tmp_path / "data" / "images"
    run(study, tmp_path / "data", transform=run_steps())
    before = contents(images)
    (images / "r1_scale.nii").unlink()
    run(study, tmp_path / "data", transform=run_steps())
    assert CALLS == ["r0.nii", "r1.nii", "r1.nii"]
    assert contents(images) == before
    run(study, tmp_path / "data", transform=run_steps())
    assert len(CALLS) == 3


# a run that was killed, and its workers


def test_a_worker_whose_run_was_killed_writes_nothing(tmp_path: Path):
    """The folder's lock is free then, and another run may be preparing into it."""
    (record,) = make_study(tmp_path / "raw", 1).records
    transform = Compose(steps())
    run = Run.of_this_process(tmp_path / "data", transform, "float32")
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    orphaned = replace(run, owner=(process.pid, run.owner[1]))
    with pytest.raises(SystemExit, match="was killed"):
        prepare_record(record, transform, orphaned)
    assert not (tmp_path / "data").exists()
    for owner in (run.owner, (process.pid, "another machine")):  # of whose processes nothing is known here
        assert isinstance(prepare_record(record, transform, replace(run, owner=owner))[1], list)
        (tmp_path / "data/images/s0.json").unlink()


def test_a_worker_whose_run_is_killed_while_it_writes_leaves_nothing_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (record,) = make_study(tmp_path / "raw", 1).records
    transform = Compose([*steps(), AxialSlicesd("image", num_slices=3)])
    asked = []

    def killed_at_the_end(self: Run) -> None:
        asked.append(1)
        if len(asked) == 4:
            raise SystemExit

    monkeypatch.setattr(Run, "go_on", killed_at_the_end)
    with pytest.raises(SystemExit):
        prepare_record(record, transform, Run.of_this_process(tmp_path, transform, "float32"))
    assert sorted(contents(tmp_path / "images")) == [f"s0_slice-{i:03d}.nii" for i in (2, 5, 7)]


def test_an_image_by_another_recipe_is_made_again(tmp_path: Path):
    """A worker that outlived its run has written it into the folder since it was emptied."""
    study = make_study(tmp_path / "raw", 2)
    run(study, tmp_path / "new")
    other = Run.of_this_process(tmp_path / "old", RandFlipd("image"), "float32")
    prepare_record(study.records[0], Compose(steps()), other)
    for name, content in contents(tmp_path / "old" / "images").items():
        (tmp_path / "new" / "images" / name).write_bytes(content)
    before = contents(tmp_path / "new")
    CALLS.clear()
    run(study, tmp_path / "new")
    assert CALLS == ["s0"]
    assert contents(tmp_path / "new")["images/s0.json"] != before["images/s0.json"]


SLOW = """
import sys, time
from pathlib import Path
import torch
from monai.data import MetaTensor
from custom.data import Record, Study, prepare
class Slow:
    def __init__(self, value): self.value = value
    def __call__(self, item):
        Path(item["image"]).touch()
        time.sleep(1)
        return {"image": MetaTensor(torch.full((1, 2, 2, 2), self.value))}
class AllTraining:
    def parts(self, records): return ["training"] * len(records)
    def describe(self): return {}
folder, raw, value, workers = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
records = [Record(f"s{i}", f"s{i}", f"{raw}/s{i}.nii", 0) for i in range(4)]
prepare(Study("s", records, ["a"]), Slow(value), AllTraining(), folder, folder + "/datalist.json", workers)
"""


@pytest.mark.slow  # workers of their own import for seconds
def test_a_killed_run_and_its_workers(tmp_path: Path):
    """Killed alone, not with its workers; the folder is deleted, and prepared by another recipe while they still live."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, str(tmp_path / "slow.py"), str(tmp_path / "data"), str(tmp_path / "raw")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    first = subprocess.Popen([*command, "1.0", "2"], env=environment)
    while not list((tmp_path / "raw").iterdir()):  # a worker works
        assert first.poll() is None
        time.sleep(0.01)
    first.kill()
    first.wait()
    shutil.rmtree(tmp_path / "data")
    time.sleep(2)
    assert not list(tmp_path.glob("data/images/*")), "written after its run was killed"
    subprocess.run([*command, "2.0", "1"], env=environment, check=True)
    assert {float(array_of(file).max()) for file in (tmp_path / "data/images").glob("*.nii")} == {2.0}


# what is wrong with the machine


@pytest.mark.parametrize("number", PASSING, ids=lambda number: errno.errorcode[number])
def test_a_passing_fault_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int):
    """The scan is as good as before: listed as rejected it would be missing from the study."""
    study = make_study(tmp_path / "raw", 2)

    def fail(calls: int) -> None:
        if calls == 2:
            raise BadScan("could not be read") from OSError(number, os.strerror(number), study.records[1].image)

    monkeypatch.setattr(Counted, "then", staticmethod(fail))
    with pytest.raises(OSError, match=r"run the same command again.*s1\.img") as caught:
        run(study, tmp_path / "data")
    assert caught.value.errno == number
    assert not (tmp_path / "data" / "rejected.csv").exists()
    monkeypatch.setattr(Counted, "then", staticmethod(lambda calls: None))
    run(study, tmp_path / "data")
    assert rejected(tmp_path / "data") == []


def test_too_many_open_files_are_no_fault_of_the_scan(tmp_path: Path):
    """nibabel says of a file that it cannot open that its type is unknown."""
    (record,) = make_study(tmp_path / "raw", 1).records

    def work() -> None:
        transform = Compose(steps()[1:])
        run = Run.of_this_process(tmp_path / "data", transform, "float32")
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        taken = []
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        prepare_record(record, transform, run)

    outcome = in_child(work, tmp_path / "log")
    assert "OSError: [Errno 24] Too many open files: raise the limit of open files" in outcome.error
    assert record.image in outcome.error


@pytest.mark.parametrize("content", ["{}", '{"source": "s0.img", "images": [{}]}', '{"source": "s0.img", "images": 5}'])
def test_a_damaged_note_of_what_was_written_is_named(tmp_path: Path, content: str):
    study = make_study(tmp_path / "raw")
    run(study, tmp_path / "data")
    (tmp_path / "data/images/s0.json").write_text(content)
    with pytest.raises(ValueError, match=r"s0\.json is damaged .*: delete it, and the scan is prepared again"):
        run(study, tmp_path / "data")
