"""OpenNeuro datasets in BIDS as they are published, from the archive's public bucket, by boto3.

The bucket holds the newest version of every dataset, its derivatives included. boto3 repeats the part of a transfer that breaks
off, and a file gets its name when it is whole, so an interrupted fetch is taken up by repeating it: of the files that are there
only the size is compared. OpenNeuro's client in Python is passed over: its HTTP library replaces the urllib3 that nilearn's
fetchers use.

Reference: Markiewicz et al., The OpenNeuro resource for sharing of neuroscience data, eLife 10 (2021) e71774.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import boto3
from boto3.exceptions import RetriesExceededError
from boto3.s3.transfer import TransferConfig
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from tqdm import tqdm

__all__ = ["fetch_openneuro", "select"]

BUCKET = "openneuro.org"
LEARNING = ("ds000002", "ds000011", "ds000017", "ds000052")


def fetch_openneuro(
    raw_dir: str,
    datasets: Sequence[str] = LEARNING,
    subjects: Sequence[str] = (),
    include: Sequence[str] = ("sub-*/func/*",),
    url: str | None = None,
    jobs: int = 8,
) -> str:
    """Fetch BOLD runs, events and tables of datasets; return the folder to give as ``raw_dir``.

    Args:
        raw_dir: receives one folder per dataset.
        datasets: accession numbers; by default the four of classification learning. ``ds004044`` is the motor study.
        subjects: such as ``sub-01``; all by default.
        include: patterns of paths within a dataset, in which ``*`` goes across folders; one of them must fit.
            ``*_task-weatherprediction_*`` takes a task, ``derivatives/fmriprep/*_space-T1w_desc-preproc_bold.nii.gz``
            what fMRIPrep made. The tables and descriptions in a dataset's uppermost folder always come along.
        url: of a mirror that speaks S3; by default the archive's own address.
        jobs: files at the same time.

    Raises:
        FileNotFoundError: if a dataset is not there, or nothing fits a subject or a pattern.
        ConnectionError: if the archive cannot be reached.
        OSError: if files are missing after all; the others stay.
    """
    client, folder = _client(url, jobs), Path(raw_dir)
    with _reachable(client.meta.endpoint_url):
        datasets, subjects, include = _listed(datasets), _listed(subjects), _listed(include)
        files = select({name: _list(client, name) for name in datasets}, subjects, include)
        reasons = _fetch_files(client, _incomplete(files, folder), folder, jobs)
    missing = _incomplete(files, folder)
    if missing:
        first = "; ".join(f"{key}: {reasons.get(key, 'its size differs')}" for key in list(missing)[:3])
        raise OSError(
            f"{len(missing)} of {len(files)} files are missing in {raw_dir}: {first}. Repeat the command: it fetches these."
        )
    return raw_dir


def select(listings: Mapping[str, Mapping[str, int]], subjects: Sequence[str], include: Sequence[str]) -> dict[str, int]:
    """Return the files that are asked for, ``<dataset>/<path>`` → bytes.

    Args:
        listings: dataset → path within it → bytes.
        subjects: with ``sub-``; all if there are none.
        include: patterns of paths.

    Raises:
        FileNotFoundError: if a dataset holds no file, or nothing fits a subject or a pattern.
    """
    for dataset, listing in listings.items():
        if not listing:
            raise FileNotFoundError(f"OpenNeuro holds no public dataset {dataset!r}: see its number in the dataset's address.")
    paths = [path for listing in listings.values() for path in listing]
    for subject in subjects:
        if not any(subject in PurePosixPath(path).parts for path in paths):
            raise FileNotFoundError(f"no subject {subject!r} in {', '.join(listings)}: subjects are given as sub-01.")
    for pattern in include:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise FileNotFoundError(f"no file of {', '.join(listings)} fits {pattern!r}: a pattern is one of a whole path.")
    return {
        f"{dataset}/{path}": size
        for dataset, listing in listings.items()
        for path, size in listing.items()
        if _wanted(path, subjects, include)
    }


def _wanted(path: str, subjects: Sequence[str], include: Sequence[str]) -> bool:
    folders = PurePosixPath(path).parts[:-1]
    if not folders:
        return True
    others = subjects and any(name.startswith("sub-") and name not in subjects for name in folders)
    return not others and any(fnmatchcase(path, pattern) for pattern in include)


def _client(url: str | None, jobs: int) -> Any:
    """Client of the public bucket: no credentials are looked for, none are sent."""
    config = Config(
        signature_version=UNSIGNED,
        connect_timeout=10,
        retries={"mode": "standard"},
        max_pool_connections=jobs,
        s3={"addressing_style": "path"},  # a certificate for *.s3.amazonaws.com does not hold for a name with a dot
    )
    return boto3.client("s3", region_name="us-east-1", endpoint_url=url, config=config)


@contextmanager
def _reachable(address: str) -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise ConnectionError(
            f"OpenNeuro's bucket cannot be read at {address}: {error}; check the network and HTTPS_PROXY, then repeat "
            "the command: what is there stays."
        ) from error


def _list(client: Any, dataset: str) -> dict[str, int]:
    """Path within a dataset → bytes."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{dataset}/")
    entries = [entry for page in pages for entry in page.get("Contents", ())]
    return {entry["Key"].removeprefix(f"{dataset}/"): entry["Size"] for entry in entries if not entry["Key"].endswith("/")}


def _incomplete(files: Mapping[str, int], folder: Path) -> dict[str, int]:
    def complete(path: Path, size: int) -> bool:
        return path.is_file() and path.stat().st_size == size

    return {key: size for key, size in files.items() if not complete(folder / key, size)}


def _fetch_files(client: Any, files: Mapping[str, int], folder: Path, jobs: int) -> dict[str, str]:
    """Fetch files at the same time; return the reasons of those that the archive does not give away."""
    reasons: dict[str, str] = {}
    with tqdm(total=sum(files.values()), unit="B", unit_scale=True, desc="OpenNeuro") as bar, ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(_fetch_file, client, key, folder / key): key for key in files}
        try:
            for future in as_completed(futures):
                if reason := future.result():
                    reasons[futures[future]] = reason
                bar.update(files[futures[future]])
        finally:
            pool.shutdown(cancel_futures=True)  # without a network no file after the first is waited for
    return reasons


def _fetch_file(client: Any, key: str, path: Path) -> str | None:
    """Fetch one file under a temporary name, then rename it; return why it cannot be had."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        client.download_file(BUCKET, key, str(path), Config=TransferConfig(use_threads=False))
    except (ClientError, RetriesExceededError) as error:
        return str(error)
    return None


def _listed(value: Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value  # one name on the command line
