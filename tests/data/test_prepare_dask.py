"""Preparation by a Dask cluster: the same bytes as by this machine's processes, taken up again, with the bad scans listed."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_cases import CASES, Paths, run_workflow
from distributed import LocalCluster
from monai.transforms import Compose, EnsureChannelFirstd

from custom.data import HoldOut, Record, Study, prepare
from custom.data.prepare import _refuse_absent
from custom.transforms import CheckScand, LoadScand

SHAPE = (8, 9, 10)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler with two workers, processes of their own that stand in another directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as started:
            yield started.scheduler_address


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Six scans, the second of them no image."""
    records = []
    for i in range(6):
        path = tmp_path / "raw" / f"s{i}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(np.random.default_rng(i).integers(1, 1000, SHAPE).astype(np.int16), np.eye(4)), path)
        records.append(Record(f"s{i}", f"s{i}", str(path), i % 2))
    Path(records[1].image).write_bytes(b"no image")
    return Study("study", records, ["a", "b"])


def run(study: Study, folder: Path | str, **options) -> dict:
    steps = [LoadScand("image", reader="NibabelReader"), EnsureChannelFirstd("image"), CheckScand("image", spatial_dims=3)]
    split = HoldOut(test=1 / 3, validation=1 / 2)
    return prepare(study, Compose(steps), split, str(folder), str(Path(folder) / "datalist.json"), **options)


def where(data: dict) -> dict:
    """A transform that notes in which process it was at work."""
    return data | {"report": {"process": os.getpid()}}


def contents(folder: Path) -> dict[str, bytes]:
    """Without the record of the run, which holds the folder's name."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.parent.name != "runs")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_a_cluster_writes_the_same_bytes(cluster: str, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below a relative folder too, though the worker stands elsewhere."""
    monkeypatch.chdir(tmp_path)
    assert run(study, "far", dask_scheduler=cluster) == run(study, "near")
    assert contents(tmp_path / "far") == contents(tmp_path / "near")
    assert len(list((tmp_path / "far/images").glob("*.nii"))) == 5
    (rejected,) = csv.DictReader((tmp_path / "far/rejected.csv").open())
    assert rejected["subject"] == "s1"


def test_it_takes_up_what_is_there(cluster: str, study: Study, tmp_path: Path) -> None:
    """Begun by this machine, a scan lost since: only that one is made, by the cluster."""
    run(study, tmp_path / "data")
    before = contents(tmp_path / "data")
    (tmp_path / "data/images/s3.nii").unlink()
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "data/images").glob("*.nii")}
    run(study, tmp_path / "data", dask_scheduler=cluster)
    assert contents(tmp_path / "data") == before
    assert {p: p.stat().st_mtime_ns for p in times} == times


def test_a_bundle_is_told_by_one_key(cluster: str, tmp_path: Path) -> None:
    case, far = next(c for c in CASES if "oasis" in c.name), Paths(tmp_path / "far")
    case.write_study(far.raw)
    near = Paths(tmp_path / "near").preprocess | {"raw_dir": far.raw}
    run_workflow(case, "preprocess", dask_scheduler=cluster, **far.preprocess, **case.preprocess)
    run_workflow(case, "preprocess", **near, **case.preprocess | {"num_workers": 1})
    assert contents(Path(far.data)) == contents(tmp_path / "near/data")


def test_the_work_is_done_by_the_workers(cluster: str, study: Study, tmp_path: Path) -> None:
    """joblib does it all itself where it finds a single worker."""
    noted = Compose([LoadScand("image", reader="NibabelReader"), EnsureChannelFirstd("image"), where])
    options = {"split": HoldOut(test=1 / 3, validation=1 / 2), "dask_scheduler": cluster}
    content = prepare(study, noted, dataset_dir=str(tmp_path), datalist=str(tmp_path / "datalist.json"), **options)
    assert os.getpid() not in {row["process"] for part in ("training", "validation", "test") for row in content[part]}


def test_a_cluster_of_one_is_refused(study: Study, tmp_path: Path) -> None:
    alone = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None)
    with alone, pytest.raises(ValueError, match="has 1 worker threads: start two workers or more"):
        run(study, tmp_path / "data", dask_scheduler=alone.scheduler_address)


def test_what_a_worker_wrote_where_nobody_sees_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="s0.nii was written by a worker and is not here: let all workers share"):
        _refuse_absent(tmp_path, {"s0": [{"image": "images/s0.nii"}], "s1": "BadScan: no image"})


def test_without_dask_the_remedy_is_named(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ModuleNotFoundError, match="pip install dask distributed"):
        run(study, tmp_path / "data", dask_scheduler="tcp://127.0.0.1:1")
