from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from custom.data.openneuro_fetch import fetch_openneuro, select

BOLD = "sub-{:02}/func/sub-{:02}_task-{}_run-1_bold.nii.gz"
STUDY = {BOLD.format(s, s, task): bytes(500 * s) for s in (1, 2) for task in ("stopsignal", "weatherprediction")}
STUDY |= {f"sub-{s:02}/anat/sub-{s:02}_T1w.nii.gz": b"head" for s in (1, 2)}
STUDY |= {"participants.tsv": b"participant_id\nsub-01\nsub-02\n", "dataset_description.json": b"{}", "CHANGES": b""}
STUDY |= {"sub-01/func/sub-01_task-stopsignal_run-1_events.tsv": "onset\tduration\n0\t1 é&<\n".encode()}
MOTOR = {"README": b"motor", "derivatives/fmriprep/sub-01/ses-1/func/sub-01_ses-1_space-T1w_desc-preproc_bold.nii.gz": b"BOLD"}
MOTOR |= {"sub-01/ses-1/func/sub-01_ses-1_task-motor_run-01_bold.nii.gz": b"raw"}
OBJECTS = {f"ds000052/{path}": data for path, data in STUDY.items()} | {
    f"ds004044/{path}": data for path, data in MOTOR.items()
}
OBJECTS |= {
    "ds0000521/sub-09/func/sub-09_task-other_bold.nii.gz": b"the name of another dataset begins alike",
    "ds000052/": b"",
}
RUN_1 = "ds000052/" + BOLD.format(1, 1, "stopsignal")
RUN_2 = "ds000052/" + BOLD.format(2, 2, "stopsignal")


class Bucket(BaseHTTPRequestHandler):
    """What S3 answers to an anonymous client: pages of a listing, HEAD and GET of objects; remembers what was asked for."""

    protocol_version = "HTTP/1.1"
    asked: list[str] = []
    cut: dict[str, int] = {}  # key → how many answers break off in the middle
    lost: set[str] = set()
    sent: list[int] = []  # bytes of every answer

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        bucket, _, key = unquote(address.path).lstrip("/").partition("/")
        assert bucket == "openneuro.org"
        assert "Authorization" not in self.headers
        if not key:
            self._answer(200, self._listing({name: values[0] for name, values in parse_qs(address.query).items()}))
        elif key in self.lost or key not in OBJECTS:
            self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>")
        else:
            if self.command == "GET":
                self.asked.append(key)
            self._answer(200, OBJECTS[key], key)

    do_HEAD = do_GET

    def _listing(self, query: dict[str, str]) -> bytes:
        assert query["list-type"] == "2"
        keys = sorted(key for key in OBJECTS if key.startswith(query["prefix"]))
        start = int(query.get("continuation-token", 0))
        page, more = keys[start : start + 4], start + 4 < len(keys)
        entries = "".join(f"<Contents><Key>{escape(k)}</Key><Size>{len(OBJECTS[k])}</Size></Contents>" for k in page)
        token = f"<NextContinuationToken>{start + 4}</NextContinuationToken>" if more else ""
        return f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>".encode()

    def _answer(self, status: int, body: bytes, key: str = "") -> None:
        tag, asked = md5(body).hexdigest(), re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            status, body = 206, body[int(asked[1]) : int(asked[2]) + 1 if asked[2] else None]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{tag}"')
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.cut.get(key, 0) > 0:
            self.cut[key] -= 1
            body, self.close_connection = body[: len(body) // 2], True
        if key:
            self.sent.append(len(body))
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a server that stands for the archive's; the client is the real one."""
    for name, value in {"asked": [], "cut": {}, "lost": set(), "sent": []}.items():
        monkeypatch.setattr(Bucket, name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def found(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_fetched_are_the_runs_and_the_tables(archive: str, tmp_path: Path):
    raw = fetch_openneuro(str(tmp_path / "raw"), ["ds000052"], url=archive)
    expected = {key: data for key, data in OBJECTS.items() if key.startswith("ds000052/") and not key.endswith("/")}
    assert found(Path(raw)) == {key: data for key, data in expected.items() if "/anat/" not in key}
    assert len(found(Path(raw))) == 8  # two pages of the listing


def test_a_star_takes_everything_of_a_dataset_and_nothing_of_another(archive: str, tmp_path: Path):
    fetch_openneuro(str(tmp_path), ["ds000052"], include="*", url=archive)
    assert found(tmp_path) == {f"ds000052/{path}": data for path, data in STUDY.items()}


def test_derivatives_are_fetched_when_a_pattern_names_them(archive: str, tmp_path: Path):
    patterns = ["sub-*_events.tsv", "derivatives/fmriprep/*_space-T1w_desc-preproc_bold.nii.gz"]
    fetch_openneuro(str(tmp_path), ["ds000052", "ds004044"], include=patterns, url=archive)
    files = set(found(tmp_path))
    assert {key for key in files if "ds004044" in key} == {key for key in OBJECTS if "README" in key or "derivatives" in key}
    assert {key for key in files if "sub-" in key and "ds000052" in key} == {RUN_1.replace("bold.nii.gz", "events.tsv")}


@pytest.mark.parametrize("cuts", [1, 4])
def test_a_transfer_that_breaks_off_is_taken_up(archive: str, tmp_path: Path, cuts: int):
    Bucket.cut[RUN_1] = cuts
    fetch_openneuro(str(tmp_path), "ds000052", include="*_task-stopsignal_*", url=archive)
    assert Bucket.asked.count(RUN_1) == cuts + 1
    assert found(tmp_path)[RUN_1] == OBJECTS[RUN_1]


def test_of_a_large_file_only_the_part_that_broke_off_is_sent_again(
    archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    key, part = "ds000011/sub-01/func/sub-01_task-large_bold.nii.gz", 8 * 1024**2
    monkeypatch.setitem(OBJECTS, key, bytes(range(256)) * (20 * 1024**2 // 256))
    Bucket.cut[key] = 1
    fetch_openneuro(str(tmp_path), ["ds000011"], url=archive)
    assert sorted(Bucket.sent) == [part // 2, part // 2, part, part]  # the half, the rest of 20 MiB, two whole parts
    assert found(tmp_path) == {key: OBJECTS[key]}


def test_a_file_that_never_arrives_is_an_error_and_a_second_fetch_gets_only_that(archive: str, tmp_path: Path):
    Bucket.cut[RUN_1] = 1000
    with pytest.raises(OSError, match=f"1 of 8 files are missing in {tmp_path}: {RUN_1}: .*Repeat the command"):
        fetch_openneuro(str(tmp_path), ["ds000052"], url=archive)
    assert not [key for key in found(tmp_path) if key.startswith(RUN_1)]  # nor a part of it
    assert found(tmp_path)[RUN_2] == OBJECTS[RUN_2]
    Bucket.cut.clear()
    Bucket.asked.clear()
    fetch_openneuro(str(tmp_path), ["ds000052"], url=archive)
    assert Bucket.asked == [RUN_1]
    assert found(tmp_path)[RUN_1] == OBJECTS[RUN_1]
    Bucket.asked.clear()
    fetch_openneuro(str(tmp_path), ["ds000052"], url=archive)
    assert Bucket.asked == []


def test_a_file_of_another_size_is_fetched_again(archive: str, tmp_path: Path):
    fetch_openneuro(str(tmp_path), ["ds000052"], url=archive)
    (tmp_path / RUN_2).write_bytes(b"half of i")
    fetch_openneuro(str(tmp_path), ["ds000052"], url=archive)
    assert found(tmp_path)[RUN_2] == OBJECTS[RUN_2]


def test_a_lost_object_is_named_and_the_rest_arrives(archive: str, tmp_path: Path):
    Bucket.lost.add(RUN_2)
    with pytest.raises(OSError, match=f"1 of 8 files .*{RUN_2}: .*404"):
        fetch_openneuro(str(tmp_path), ["ds000052"], url=archive)
    assert len(found(tmp_path)) == 7


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ConnectionError, match=r"cannot be read at http://127\.0\.0\.1:9.*HTTPS_PROXY.*repeat"):
        fetch_openneuro(str(tmp_path), ["ds000052"], url="http://127.0.0.1:9")


def test_a_dataset_that_does_not_exist_is_named_before_anything_is_fetched(archive: str, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no public dataset 'ds999999'"):
        fetch_openneuro(str(tmp_path), ["ds000052", "ds999999"], url=archive)
    assert Bucket.asked == []


LISTINGS = {"a": dict.fromkeys(STUDY, 1), "b": dict.fromkeys(MOTOR, 2)}


def test_subjects_and_patterns_choose_together():
    chosen = select(LISTINGS, ["sub-01"], ["sub-*/func/*stop*", "derivatives/*"])
    assert {key for key in chosen if "sub-" in key} == {
        "a/" + BOLD.format(1, 1, "stopsignal"),
        "a/sub-01/func/sub-01_task-stopsignal_run-1_events.tsv",
        "b/derivatives/fmriprep/sub-01/ses-1/func/sub-01_ses-1_space-T1w_desc-preproc_bold.nii.gz",
    }
    assert {key for key in chosen if "sub-" not in key} == {
        "a/participants.tsv",
        "a/dataset_description.json",
        "a/CHANGES",
        "b/README",
    }
    assert {size for key, size in chosen.items() if key.startswith("b/")} == {2}
    second = select(LISTINGS, ["sub-02"], ["*"])
    assert {key for key in second if "sub-" in key} == {f"a/{path}" for path in STUDY if path.startswith("sub-02/")}


@pytest.mark.parametrize(
    ("subjects", "include", "message"),
    [
        (["sub-03"], ["*"], "no subject 'sub-03' in a, b"),
        (["01"], ["*"], "given as sub-01"),
        ([], ["*", "*_rest_*"], "fits '\\*_rest_"),
    ],
)
def test_what_fits_nothing_is_named(subjects: list[str], include: list[str], message: str):
    with pytest.raises(FileNotFoundError, match=message):
        select(LISTINGS, subjects, include)
