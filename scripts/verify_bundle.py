"""What the model zoo's CI asks of a bundle, offline: ``python scripts/verify_bundle.py FOLDER_OR_ARCHIVE…``.

One line per check; the process ends with 1 if any has failed, and every complaint is named. The checks of
:py:mod:`bundle_checks` only read. Those of :py:mod:`run_bundle` run the bundle's own code, with its own copy of ``custom``, in
a process of their own but **with your rights**: for an archive that you do not trust give ``--execute False``, and read its
code before you go on.

An archive is unpacked into a temporary folder, see :py:mod:`safe_archive`; what its ``large_files.yml`` lists is taken from
beside it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import bundle_checks
import fire
from safe_archive import UnsafeArchive, unpack

__all__ = ["executed", "verify"]

SCRIPTS = Path(__file__).resolve().parent
EXECUTED = ("code", "keys", "network", "export", "trial")
TIMEOUT = 3600  # s for all checks of one process
Found = tuple[str, list[str]]


def verify(path: str, execute: bool = True) -> Iterator[Found]:
    """Yield the name of every check with its complaints, as each ends.

    Args:
        path: of a bundle's folder or archive.
        execute: whether to run the bundle's code too: imports, configurations, shapes, export, a short run on its phantom.
    """
    with tempfile.TemporaryDirectory() as work:
        folder = Path(path).resolve()
        if not folder.is_dir():
            try:
                folder = Path(unpack(path, f"{work}/archive")).resolve()
            except (UnsafeArchive, zipfile.BadZipFile, OSError) as error:
                yield "archive", [str(error)]
                return
            yield "archive", [*_complaints_of_name(Path(path), folder), *bundle_checks.check_packed(folder)]
            _bring_large_files(folder, Path(path).resolve().parent)
        failed = set()
        for name, complaints in bundle_checks.read_checks(folder):
            failed |= {name} if complaints else set()
            yield name, complaints
        if execute and not failed & {"files", "metadata", "configs"}:  # what cannot be read cannot be run
            yield from executed(folder, Path(work), [name for name in EXECUTED if _applies(folder, name)])


def _complaints_of_name(archive: Path, folder: Path) -> Iterator[str]:
    """The archive is called after bundle and version, or after the bundle alone, as ``monai.bundle download`` calls it."""
    version = bundle_checks.metadata_of(folder).get("version")
    if archive.stem not in (folder.name, f"{folder.name}_v{version}"):
        yield f"{archive.name} holds {folder.name} in version {version}: its name is {folder.name}_v{version}.zip"


def _bring_large_files(folder: Path, beside: Path) -> None:
    """Copy what is not in the archive from beside it; whether it is the right file is checked with the weights."""
    try:
        entries = bundle_checks.large_files(folder)
    except ValueError:  # which check_large_files complains of
        return
    for entry in filter(bundle_checks.is_large_file, entries):
        source, target = beside / PurePosixPath(entry["url"]).name, folder / entry["path"]
        if source.is_file() and not target.exists() and target.resolve().is_relative_to(folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def executed(folder: Path, work: Path, names: Sequence[str]) -> Iterator[Found]:
    """Run checks of :py:mod:`run_bundle` in a process, and those after one that has ended it in another."""
    pending = list(names)
    while pending:
        results = work / f"results{len(pending)}"
        ended = _process(folder, work / f"work{len(pending)}", results, pending)
        found = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
        if len(found) < len(pending) and not (found and found[-1][1]):
            found.append([pending[len(found)], [ended]])
        for name, complaints in found:
            pending.remove(name)
            yield name, complaints


def _applies(folder: Path, check: str) -> bool:
    """Without weights there is nothing to export; a trial needs a phantom, which the metadata names."""
    if check == "export":
        return (folder / bundle_checks.WEIGHTS).is_file()
    return check != "trial" or bool(bundle_checks.metadata_of(folder).get("trial", {}).get("phantom"))


def _process(folder: Path, work: Path, results: Path, names: list[str]) -> str:
    """Run checks with the bundle's own ``custom``, or the repository's for a folder that has none; tell how it ended."""
    code = folder if (folder / "custom").is_dir() else SCRIPTS.parent
    work.mkdir()
    environment = {"PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(SCRIPTS / "run_bundle.py"), *map(str, (folder, results, work)), *names]
    with (work / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=work, env=os.environ | environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            end = f"ended with {process.wait(TIMEOUT)}"
        except subprocess.TimeoutExpired:
            end = f"had no result within {TIMEOUT} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it has started too
            process.wait()
    lines = (work / "log").read_text(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f"the process {end} before it was done" + (f": {last.strip()}" if last else "")


def main(*paths: str, execute: bool = True, **unknown: Any) -> None:
    """Print a line per check; end with 1 if one has failed.

    Args:
        paths: of bundles' folders or archives.
        execute: whether to run the bundles' code too, see above.
        unknown: nothing else: a misspelt ``--execute`` must not run what is not trusted.
    """
    if unknown or not paths or not isinstance(execute, bool):
        given = ", ".join(f"--{name}" for name in unknown) or (f"--execute {execute!r}" if paths else "nothing")
        raise ValueError(f"give folders or archives, and --execute True or False, nothing else: {given} was given.")
    failed = [_told(str(path), execute) for path in paths]
    sys.exit(any(failed))


def _told(path: str, execute: bool) -> bool:
    """Print what one bundle's checks say; return whether one has failed."""
    failed, not_run = [], [*bundle_checks.CHECKS, *EXECUTED]
    for name, complaints in verify(path, execute):
        not_run = [other for other in not_run if other != name]
        failed += [f"{name}: {complaint}" for complaint in complaints]
        print(f"{'FAIL' if complaints else 'ok':5}{name}", *complaints, sep="\n     - ", flush=True)
    if not_run:
        print(f"     not run: {', '.join(not_run)}")
    print(f"{path}: {f'{len(failed)} complaints' if failed else 'nothing to complain of'}")
    return bool(failed)


if __name__ == "__main__":
    if {"-", "--"} & set(sys.argv):  # fire keeps to itself what follows, such as --execute False
        sys.exit("give folders or archives, and --execute True or False, without - or --")
    fire.Fire(main)
