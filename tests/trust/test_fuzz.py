"""Every reader on damaged files: nothing but the documented errors, no hang, no memory beyond the file's own need.

A file that is read all the same is no fault of the reader where the format has no checksum. What comes out of it is finite.
Where it has one, no damage gives other values.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Engine, Events
from PIL import Image
from scipy.io import savemat
from torch import nn
from trust.faults import chain, in_child, limit_memory, peak
from trust.mutations import FEWEST, MEMORY, check, fuzz

from custom.bids import repetition_time
from custom.data.abide_table import read_phenotypes
from custom.data.bids_tables import read_events, read_participants
from custom.data.datalist import read_datalist
from custom.data.haxby_layouts import _frames, _read_labels
from custom.data.oasis_table import read_table
from custom.data.roi_series import read_roi_series
from custom.diffusion import AnomalyScorer, LinearProbeInferer, load_calibration
from custom.errors import BadScan
from custom.handlers import SameGrid, TrainingState, load_verified
from custom.harmonization import SiteAffine
from custom.networks import NoiseLevels
from custom.networks.weights_digest import weights_digest
from custom.own_files import load_tensors
from custom.transforms import CheckBOLDd, CheckScand, LoadBOLDd, LoadScand
from custom.transforms.temporal_window import map_bold

GRID = (8, 9, 10)


# ---- what is fuzzed


@dataclass(frozen=True)
class Reader:
    """A reader and a good file for it.

    Args:
        file: its name.
        write: makes a good one.
        read: gives what is compared with what the good one holds.
        documented: the errors that its docstring names.
        refused: whether the undamaged file is refused as well.
        checksum: whether the format has checksums of all that is read.
    """

    file: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    documented: tuple[type[Exception], ...] = (ValueError,)
    refused: bool = False
    checksum: bool = False


def bold() -> np.ndarray:
    return np.random.default_rng(0).normal(900, 20, (*GRID, 12)).astype(np.float32)


def write_bold(path: Path) -> None:
    image = nib.Nifti1Image(bold(), np.diag([3.0, 3.0, 3.5, 1.0]))
    image.header.set_zooms((3.0, 3.0, 3.5, 2.0))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def write_analyze(path: Path) -> None:
    header = nib.AnalyzeHeader(endianness=">")
    header.set_data_dtype(np.int16)
    nib.AnalyzeImage(np.arange(np.prod(GRID)).reshape(GRID).astype(np.int16), None, header).to_filename(path)


def write_mgz(path: Path) -> None:
    nib.save(nib.MGHImage(bold()[..., 0], np.diag([3.0, 3.0, 3.5, 1.0])), path)


def write_picture(path: Path) -> None:
    Image.fromarray(bold()[:, :, 0, 0].astype(np.uint8)).resize((60, 50)).save(path)


def write_mat(path: Path, compression: str | None = "gzip") -> None:
    with h5py.File(path, "w") as file:
        group = file.create_group("fMRIdata")
        group.create_dataset("orig", data=bold().transpose(3, 2, 1, 0), compression=compression)
        group.create_dataset("mask", data=np.ones(GRID[::-1], np.uint8), compression=compression)
        group["dx"] = np.array([[1.0]])


def write_series(path: Path) -> None:
    series = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    if path.suffix == ".npz":
        np.savez_compressed(path, series=series)
    else:
        np.savetxt(path, series, header="1 2 3 4 5 6")


def write_datalist(path: Path) -> None:
    (path.parent / "images").mkdir(exist_ok=True)
    rows = [{"image": f"images/s{i}.nii", "label": i % 2, "subject": f"s{i}"} for i in range(6)]
    for row in rows:
        (path.parent / str(row["image"])).touch()
    lists = {"training": rows[:2], "validation": rows[2:4], "test": rows[4:]}
    split = {"split": {"method": "HoldOut", "seed": 0, "digest": dict.fromkeys(lists, "0" * 64)}}
    path.write_text(json.dumps({"study": "a", "class_names": ["a", "b"], **split, **lists}, indent=1))


def write_sites(path: Path) -> None:
    torch.save(sites().state_dict(), path)


def sites() -> SiteAffine:
    ones = torch.ones(2, 5, dtype=torch.float64)
    affine = SiteAffine(5)
    affine.scale, affine.shift, affine.count = ones, ones.clone(), torch.tensor([4, 5])
    affine.sites, affine.origins = ["A", "B"], ["fitted", "fitted"]
    return affine


def load_sites(path: Path) -> list[float]:
    """As a stage of training loads them: through the checksums of the file and of the names."""
    harmonizer = SiteAffine(5)
    try:
        harmonizer.load_state_dict(load_tensors(path, "run train.json again."))
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit: {error}") from error
    return harmonizer.scale.flatten().tolist()


def scan(path: Path, load: Callable[[dict], dict], check: Callable[[dict], dict]) -> list[float]:
    """Read and check a scan as preparation does; return a few of its numbers."""
    data = check(load({"image": str(path)}))
    return data["image"].as_tensor().double().flatten().tolist()


def read_scan(path: Path) -> list[float]:
    return scan(path, LoadScand("image", reader="NibabelReader", ensure_channel_first=True), CheckScand("image", 3))


def read_picture(path: Path) -> list[float]:
    return scan(path, LoadScand("image", reader="PILReader", ensure_channel_first=True), CheckScand("image", 2))


def read_bold(path: Path) -> list[float]:
    return scan(path, LoadBOLDd(), CheckBOLDd(max_nan_fraction=0))


def read_mapped(path: Path) -> list[float]:
    run = map_bold(path)
    return run.frames(0, min(4, run.shape[0])).as_tensor().nan_to_num(0, 0, 0).flatten().tolist()


def weights_of(network: nn.Module) -> list[list[float]]:
    return [value.double().flatten().tolist() for value in network.state_dict().values()]


def write_weights(path: Path) -> None:
    torch.manual_seed(0)
    torch.save(nn.Linear(40, 8).state_dict(), path)


ROWS = [{"image": "images/s0.nii", "label": 0, "subject": "s0"}]
LIST = {"class_names": ["a", "b"], "split": {"digest": {"test": "0"}}, "training": [], "validation": [], "test": ROWS}


def write_provenance(path: Path) -> None:
    """Write the file that stands beside weights, with the weights."""
    write_weights(path.with_suffix(".pt"))
    grid = {"shape": [8, 9, 10], "spacing": [3.0, 3.0, 3.0]}
    path.write_text(json.dumps({"class_names": ["a", "b"], "grid": grid, "seen_subjects": ["ab" * 8], "windows": None}))


def read_provenance(path: Path) -> list:
    """As an evaluation and an inference read it."""
    network, engine = nn.Linear(40, 8), Engine(lambda engine, batch: None)
    load_verified(str(path.with_suffix(".pt")), network, datalist=LIST)
    SameGrid(str(path.with_suffix(".pt"))).attach(engine)
    return [handler[1] for handler in engine._event_handlers[Events.ITERATION_COMPLETED]][0][1:]


def training_state(path: Path, resume: bool = False) -> tuple[TrainingState, nn.Module, Engine]:
    torch.manual_seed(0)
    network, evaluator, engine = nn.Linear(40, 8), Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = 0.5, 1
    engine.state.epoch, engine.state.iteration, engine.state.device = 2, 10, "cpu"
    return TrainingState(str(path), {"model": network}, evaluator, LIST, resume), network, engine


def write_state(path: Path) -> None:
    handler, _, engine = training_state(path)
    handler.save(engine)


def read_state(path: Path) -> list:
    handler, network, engine = training_state(path, resume=True)
    handler.load(engine)
    return [weights_of(network), engine.state.epoch, engine.state.iteration, handler.evaluator.state.best_metric]


def write_probe(path: Path) -> None:
    torch.manual_seed(0)
    lines = {name: torch.rand(8, 40) for name in ("weight", "bias", "mean", "scale")}
    facts = {"class_names": ["a", "b"], "timesteps": [1.0], "num_noises": 1, "seed": 0}
    torch.save({**lines, **facts, "weights": weights_digest(probed())}, path)


def probed() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(3, 2)


def read_probe(path: Path) -> list:
    probe = LinearProbeInferer(str(path), LEVELS, ["a", "b"])._read(probed())
    return [value.tolist() if isinstance(value, torch.Tensor) else value for value in probe.values()]


LEVELS = NoiseLevels(torch.linspace(0.99, 0.01, 20), "epsilon")


def write_calibration(path: Path) -> None:
    """Write a state dict of the right names and shapes; how it is calibrated is no matter here."""
    scorer = AnomalyScorer(LEVELS)
    for name, value in scorer.summary.named_buffers(recurse=False):
        setattr(scorer.summary, name, torch.ones(3, 4).to(value))
    torch.save(scorer.state_dict(), path)


def read_calibration(path: Path) -> list:
    return weights_of(load_calibration(AnomalyScorer(LEVELS), str(path)))


TSV = "onset\tduration\ttrial_type\tresponse\n" + "".join(f"{10 * i}.5\t9\t{i % 3}\tn/a\n" for i in range(8))
PARTICIPANTS = "participant_id\tage\tsex\n" + "".join(f"sub-{i:02d}\t{20 + i}\t{'MF'[i % 2]}\n" for i in range(8))
ABIDE = "SUB_ID,SITE_ID,DX_GROUP,AGE_AT_SCAN,SEX\n" + "".join(f"5000{i},PITT,{1 + i % 2},2{i}.5,1\n" for i in range(8))
OASIS = "ID,M/F,Age,CDR,nWBV\n" + "".join(f"OAS1_000{i}_MR1,F,7{i},0.5,0.7\n" for i in range(8))
LABELS = "labels chunks\n" + "".join(f"{('face', 'rest')[i // 3 % 2]} {i // 12}\n" for i in range(24))


def table(frame: pd.DataFrame) -> str:
    return frame.to_csv()


def text(content: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(content)


READERS = {
    "NIfTI .nii": Reader("a_bold.nii", write_bold, read_bold, (BadScan,)),
    "NIfTI .nii.gz": Reader("a_bold.nii.gz", write_bold, read_bold, (BadScan,), checksum=True),
    "NIfTI .nii.gz, its header": Reader("a_bold.nii.gz", write_bold, lambda p: _frames(p, None)),
    "NIfTI .nii, its header": Reader("a_bold.nii", write_bold, lambda p: _frames(p, None)),
    "prepared .nii, memory-mapped": Reader("a.nii", write_bold, read_mapped, (BadScan,)),
    "Analyze .hdr": Reader(
        "a.hdr", lambda p: write_analyze(p.with_suffix(".img")), lambda p: read_scan(p.with_suffix(".img")), (BadScan,)
    ),
    "Analyze .img": Reader("a.img", write_analyze, read_scan, (BadScan,)),
    "FreeSurfer's .mgz": Reader("a.mgz", write_mgz, read_scan, (BadScan,), checksum=True),
    "PNG": Reader("a.png", write_picture, read_picture, (BadScan,), checksum=True),
    "JPEG": Reader("a.jpg", write_picture, read_picture, (BadScan,)),
    "MATLAB v7.3, compressed": Reader("a.mat", write_mat, read_bold, (BadScan,)),
    "MATLAB v7.3": Reader("a.mat", partial(write_mat, compression=None), read_bold, (BadScan,)),
    "MATLAB v5": Reader("a.mat", lambda p: savemat(p, {"fMRIdata": {"orig": bold()}}), read_bold, (BadScan,), refused=True),
    "ROI series .npz": Reader("a.npz", write_series, lambda p: read_roi_series(p).tolist(), checksum=True),
    "ROI series .1D": Reader("a.1D", write_series, lambda p: read_roi_series(p).tolist()),
    "events.tsv": Reader("a_events.tsv", text(TSV), lambda p: table(read_events(p))),
    "participants.tsv": Reader("participants.tsv", text(PARTICIPANTS), read_participants),
    "phenotypic CSV": Reader("p.csv", text(ABIDE), lambda p: table(read_phenotypes(p))),
    "OASIS table": Reader("oasis.csv", text(OASIS), read_table),
    "labels.txt": Reader("labels.txt", text(LABELS), lambda p: _read_labels(p, 24, p)),
    "bold.json": Reader(
        "a_bold.json", text('{"RepetitionTime": 2.5, "EchoTime": 0.03}'), lambda p: repetition_time(p.with_name("a_bold.nii"))
    ),
    "datalist.json": Reader("datalist.json", write_datalist, read_datalist, (ValueError, FileNotFoundError)),
    "model.json": Reader("model.json", write_provenance, read_provenance, (ValueError,)),
    "weights model.pt": Reader(
        "model.pt", write_weights, lambda p: weights_of(load_verified(str(p), nn.Linear(40, 8))), checksum=True
    ),
    "state of training last.pt": Reader("last.pt", write_state, read_state, checksum=True),
    "probe.pt": Reader("probe.pt", write_probe, read_probe, checksum=True),
    "anomaly.pt": Reader("anomaly.pt", write_calibration, read_calibration, checksum=True),
    "ComBat's harmonizer.pt": Reader("harmonizer.pt", write_sites, load_sites, checksum=True),
}


@pytest.mark.parametrize("name", READERS)
def test_reader(name: str, tmp_path: Path, rounds: int, record: Callable[..., None]) -> None:
    reader = READERS[name]
    file = tmp_path / reader.file
    reader.write(file)
    good = None if reader.refused else reader.read(file)

    def judge(error: Exception) -> bool:
        """Documented, and it names the file; MONAI wraps what a transform raises."""
        while isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        return isinstance(error, reader.documented) and file.stem in str(error)

    assert reader.refused or good == reader.read(file)
    work = partial(fuzz, [file], max(FEWEST, rounds), name, reader.read, judge, good, reader.checksum)
    check(work, tmp_path / "log", name, record)


def claim_voxels(path: Path) -> None:
    """Let a header speak of 10000³ voxels; what the file holds stays as it is."""
    if path.suffix == ".mat":
        with h5py.File(path, "w") as file:
            shapes = {"orig": (100, 100, 10_000, 10_000), "mask": (100, 10_000, 10_000)}
            for name, shape in shapes.items():
                file.create_dataset(f"fMRIdata/{name}", shape, np.float32, chunks=(10,) * len(shape), compression="gzip")
        return
    header = path.with_suffix(".hdr") if path.suffix == ".img" else path
    blob = header.read_bytes()
    plain = bytearray(gzip.decompress(blob) if path.suffix == ".gz" else blob)
    plain[40:56] = struct.pack(">8h" if path.suffix == ".img" else "<8h", 4, 10_000, 10_000, 10_000, 1, 1, 1, 1)
    header.write_bytes(gzip.compress(bytes(plain)) if path.suffix == ".gz" else bytes(plain))


@pytest.mark.parametrize("name", ["NIfTI .nii", "NIfTI .nii.gz", "Analyze .img", "MATLAB v7.3, compressed"])
def test_a_claim_of_a_billion_voxels(name: str, tmp_path: Path, record: Callable[..., None]) -> None:
    reader = READERS[name]
    file = tmp_path / reader.file
    reader.write(file)
    claim_voxels(file)

    def work() -> int:
        before = peak()
        limit_memory(MEMORY)
        with pytest.raises((BadScan, RuntimeError)) as caught:  # MONAI wraps
            reader.read(file)
        assert re.search("BadScan: .*(Expected|claims) 4?[0-9]{11,} bytes", chain(caught.value)), chain(caught.value)
        return peak() - before

    outcome = in_child(work, tmp_path / "log")
    assert outcome.succeeded, f"signal {outcome.signal} {outcome.error}"
    assert outcome.result < 50 * 2**20
    record("header claims 10^12 voxels", name, "refused by BadScan before memory is asked for")


@pytest.mark.parametrize("name", ["NIfTI .nii", "NIfTI .nii.gz"])
def test_a_head_of_a_kilometre(name: str, tmp_path: Path, record: Callable[..., None]) -> None:
    file = tmp_path / READERS[name].file
    nib.save(nib.Nifti1Image(bold(), np.diag([3e5, 3.0, 3.5, 1.0])), file)
    with pytest.raises(BadScan, match="its field of view is 2.4e.06 x 27 x 35 mm, more than 1000"):
        read_bold(file)
    record("header claims a field of view of kilometres", name, "refused by BadScan")
