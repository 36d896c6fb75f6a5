"""Every bundle on a disc that is full, or cannot be written: what is refused names file and remedy, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from bundle_cases import Case, Paths, run_workflow
from trust.faults import contents, half_written, no_room_for, remount, temporaries, why_no_mounts
from trust.runs import FULL, THOROUGH, assert_trained_alike, done, on_disc, preparation, refused, state, training

Record = Callable[..., None]


@pytest.fixture(scope="session")
def discs() -> None:
    """Skip where no small disc can be mounted."""
    reason = why_no_mounts()
    if reason:
        pytest.skip(f"no disc can be mounted: {reason}")


def test_full_disc_in_preparation(case: Case, prepared: Paths, discs: None, tmp_path: Path, record: Record) -> None:
    reference = contents(prepared.data)

    def scenario(disc: Path) -> None:
        work = partial(preparation, case, prepared.raw, disc / "data")
        assert refused(work, *FULL, str(disc / "data")) == ""
        kept = done(disc / "data")
        assert kept
        assert half_written(disc / "data", reference) == []
        assert not (disc / "data/datalist.json").exists()
        assert temporaries(disc) == []
        remount(disc, "size=1g")
        work()
        assert contents(disc / "data") == reference
        assert {name: done(disc / "data")[name] for name in kept} == kept

    size = sum(file.stat().st_size for file in Path(prepared.data).rglob("*") if file.is_file())
    on_disc(scenario, int(0.6 * size), tmp_path)
    record("full disc in preprocess", case.name, "OSError names file and remedy; bit-equal once there is room")


def test_full_disc_in_training(case: Case, trained: Paths, discs: None, tmp_path: Path, record: Record) -> None:
    """The first epoch's checkpoints fit, the second's temporary one does not."""

    def scenario(disc: Path) -> None:
        more = {"ckpt_dir": str(disc), "output_dir": str(tmp_path / "eval")}
        assert refused(partial(training, case, trained.data, tmp_path, **more), str(disc), "run the same command again") == ""
        assert all(state(file) for file in disc.glob("*.pt"))
        assert state(disc / "last.pt")["trainer"]["epoch"] >= 1
        assert temporaries(disc) == []
        remount(disc, "size=1g")
        training(case, trained.data, tmp_path, resume=True, **more)
        assert_trained_alike(disc, trained.models)

    best = next(file for name in ("extractor.pt", "model.pt") if (file := trained.models / name).exists())
    size = best.stat().st_size + (trained.models / "last.pt").stat().st_size
    on_disc(scenario, int(1.1 * size) + 32_768, tmp_path)
    record("full disc in train", case.name, "OSError names file and remedy; bit-equal after --resume once there is room")


def test_full_disc_in_evaluation(case: Case, trained: Paths, discs: None, tmp_path: Path, rounds: int, record: Record) -> None:
    """What an earlier evaluation wrote stays as it is: no room for the first table, and then none for the figures."""
    earlier = {"predictions.csv": "earlier", "metrics.json": "{}", "report.html": "earlier"}
    items = json.loads(Path(case.config("evaluate")).read_text())["run"]
    # without lock and record of the run, which would be refused before, and without what comes after the figures
    writing = [item for item in items[: items.index("@figures") + 1] if not isinstance(item, dict)]

    def scenario(disc: Path) -> None:
        for name, text in earlier.items():
            (disc / name).write_text(text)
        with pytest.raises(OSError, match="No space"):
            (disc / "filler").write_bytes(bytes(2**20))
        override = trained.train | {"output_dir": str(disc)} | case.evaluate
        work = partial(run_workflow, case, "train", "evaluate", **override)
        assert refused(work, *FULL, str(disc / ".lock")) == ""
        parts = partial(work, run=writing)
        assert refused(parts, *FULL, f"{disc}/", ".csv'") == ""
        assert {name: (disc / name).read_text() for name in earlier} == earlier
        remount(disc, "size=1g")
        with no_room_for("metrics.json"):
            assert refused(parts, *FULL, str(disc / "metrics.json")) == ""
        now = {name: (disc / name).read_text() for name in earlier}
        assert now["predictions.csv"].count("\n") > 1
        assert now == earlier | {"predictions.csv": now["predictions.csv"]}
        if rounds >= THOROUGH:
            work()
            assert json.loads((disc / "metrics.json").read_text())["models"]
        assert temporaries(disc) == []

    on_disc(scenario, 65_536, tmp_path)
    record("full disc in evaluate", case.name, "OSError names file and remedy; earlier results intact", 3)


def test_read_only_output(case: Case, prepared: Paths, discs: None, tmp_path: Path, record: Record) -> None:
    def scenario(disc: Path) -> None:
        remount(disc, "ro")
        told = ("Read-only file system", "give a folder that can be written", str(disc))
        assert refused(partial(preparation, case, prepared.raw, disc / "data"), *told) == ""
        more = {"ckpt_dir": str(disc / "models"), "output_dir": str(tmp_path / "eval")}
        assert refused(partial(training, case, prepared.data, tmp_path, **more), *told) == ""
        more = {"ckpt_dir": str(tmp_path / "models"), "output_dir": str(disc / "eval")}
        tensorboard = partial(training, case, prepared.data, tmp_path, **more)
        assert refused(tensorboard, "Read-only file system", str(disc / "eval")) == ""

    on_disc(scenario, 65_536, tmp_path)
    record("read-only output, preprocess and train", case.name, "OSError names file and remedy", 3)
