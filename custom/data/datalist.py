"""``datalist.json``: which prepared image belongs to which subject, label and part.

The invariants, checked at every reading: no group (the subject, or a coarser unit named in ``split``) stands in two parts, no
image (of a run: window) is listed twice, every image exists, every label is an index into ``class_names``.

A split within subjects (``LeaveOneRunOut``) says so, and then a subject stands in several parts, but a run in one only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..own_files import read_json
from ..paths import file_digest, written_whole
from .records import Record, Study
from .splits import PARTS, Split
from .windows import Windows

__all__ = ["digest", "hashed", "kept_apart", "names", "read_datalist", "split_again", "write_datalist"]

logger = logging.getLogger(__name__)


def write_datalist(
    path: str | Path,
    study: Study,
    split: Split,
    prepared: Mapping[str, Sequence[dict]],
    windows: Windows | None = None,
    steps: Sequence[str] = (),
) -> dict:
    """Split the prepared records and write the list.

    Args:
        path: ``<dataset_dir>/datalist.json``; the images are listed relative to its folder.
        study: where the records come from.
        split: how to split them.
        prepared: record name → what was written of it, a list of ``{"image": path relative to the folder, …}``; of a run with
            events also ``frames`` and ``repetition_time``.
        windows: which frames belong to an event. Of a run with events every window gets a row, named ``block``; ``scan`` is the
            run's name.
        steps: names of the transforms that made the images; the report tells what they use.

    Returns:
        The content of the file. A record that was rejected in preparation is in no part.
    """
    rows = [row for r in study.records for written in prepared.get(r.name, []) for row in _rows(r, written, windows)]
    content = {
        "study": study.name,
        "synthetic": study.synthetic,
        "subjects_known": study.subjects_known,
        "class_names": study.class_names,
        "dropped": dict(study.dropped),
        "preprocessing": list(steps),
        **({"windows": windows.describe()} if windows else {}),
        **_split(rows, split),
    }
    return _write(Path(path), content)


def _keep(path: Path, content: Mapping[str, Any]) -> None:
    """Keep the list that another split replaces: weights are evaluated with the list that they were trained with."""
    if not path.is_file():
        return
    old = read_json(path, "delete it, and run preprocess.json again.")
    if old.get("split", {}).get("digest") == content["split"]["digest"]:
        return
    kept = path.with_name(f"{path.stem}.{file_digest(path)[:8]}.json")
    with written_whole(kept) as temporary:
        shutil.copyfile(path, temporary)
    logger.warning(
        f"the scans or the split have changed, subjects of {path} may be in other parts now. Weights of the list before are "
        f"evaluated with --datalist_path {kept}."
    )


def _rows(record: Record, written: dict, windows: Windows | None) -> list[dict]:
    """Return the row of an image, or one per window of a run."""
    common = {"subject": record.subject, "source": record.image, **_inputs(record), **record.columns}
    if not record.events:
        return [{**written, "label": record.label, **common}]
    if windows is None:
        raise ValueError(f"{record.image} has events: preparation must be told by `windows` which frames belong to one.")
    image, frames, time = written["image"], written["frames"], written["repetition_time"]
    rest = {key: value for key, value in written.items() if key not in ("frames", "repetition_time")}
    return [
        {
            **rest,
            "label": w.event.label,
            **common,
            **w.event.columns,
            "scan": record.name,
            "block": f"{record.name}_{w.number:03d}",
            "onset": w.event.onset,
            "duration": w.event.duration,
            "start": w.start,
            "frames": w.frames,
        }
        for w in windows.locate(record.events, frames, time, image)
    ]


def _inputs(record: Record) -> dict[str, dict[str, str]]:
    return {"inputs": dict(record.inputs)} if record.inputs else {}


def split_again(source: str | Path, split: Split, path: str | Path) -> dict:
    """Write another split of the images of an existing datalist, which keeps lying where it is; return the content."""
    content = read_datalist(source)
    rows = [row for part in PARTS for row in content[part]]
    return _write(Path(path), content | _split(rows, split))


def _split(rows: Sequence[dict], split: Split) -> dict[str, Any]:
    """Return the three lists and the ``split`` block that says how they came about."""
    records = [Record(row["image"], row["subject"], row["image"], row["label"], row) for row in rows]
    lists: dict[str, list[dict]] = {part: [] for part in PARTS}
    for row, part in zip(rows, split.parts(records), strict=True):
        lists[part].append(row)
    described = split.describe()
    digests = {part: digest(names(lists[part], kept_apart(described))) for part in PARTS}
    return {"split": {**described, "digest": digests}, **lists}


def _write(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    check_datalist(content, str(path), path.parent)
    text = json.dumps(content, indent=1, allow_nan=False)
    _keep(path, content)
    with written_whole(path) as temporary:
        temporary.write_text(text)
    return content


def read_datalist(path: str | Path, class_names: Iterable[str] | None = None) -> dict[str, Any]:
    """Read and check a list; image paths come back absolute.

    Args:
        path: of ``datalist.json``.
        class_names: the classes that the configuration trains, which must be those of the list, in order.

    Raises:
        FileNotFoundError: if the list or one of its images is absent.
        ValueError: naming the subject, the image or the label that breaks an invariant.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: run preprocess.json first, or give --dataset_dir.")
    content = read_json(file, "run preprocess.json again, which keeps the images.")
    _check_form(content, str(file))
    if class_names is not None and list(class_names) != content["class_names"]:
        raise ValueError(
            f"{file} was prepared for the classes {content['class_names']}, the configuration has {list(class_names)}: "
            "run preprocess.json with the same overlay (the images are not prepared again)."
        )
    check_datalist(content, str(file), file.parent)
    for part in PARTS:
        content[part] = [{**row, "image": str(file.parent.absolute() / row["image"])} for row in content[part]]
    return content


def check_datalist(content: Mapping[str, Any], name: str, folder: Path) -> None:
    """Raise if the content breaks an invariant of this module."""
    _check_form(content, name)
    rows = [row for part in PARTS for row in content[part]]
    for key in ("image", "label", "subject"):
        if any(row.get(key) is None for row in rows):
            raise ValueError(f"{name}: a row has no '{key}': {next(r for r in rows if r.get(key) is None)}.")
    _check_groups(content, name)
    _check_images(rows, name, folder)
    classes = range(len(content["class_names"]))
    for row in rows:
        if row["label"] not in classes:
            raise ValueError(
                f"{name}: label {row['label']} of subject {row['subject']} is not an index into {content['class_names']}."
            )


def _check_form(content: Mapping[str, Any], name: str) -> None:
    """Raise unless everything has the form that it is about to be read by."""
    lists = [content.get(part) for part in PARTS]
    rows = [row for rows in lists if isinstance(rows, list) for row in rows]
    split: Any = content.get("split")
    whole = all(isinstance(rows, list) for rows in lists) and all(isinstance(row, dict) for row in rows)
    told = isinstance(split, dict) and (not split or isinstance(split.get("digest"), dict))
    if not (whole and told and isinstance(content.get("class_names"), list)):
        raise ValueError(f"{name} is damaged: it lacks one of {(*PARTS, 'class_names', 'split')}: run preprocess.json again.")
    units = {kept_apart(split), str(split.get("group", "subject"))} - {"subject"}
    for row in rows:
        wrong = [unit for unit in units if not isinstance(row.get(unit), (str, int))]
        wrong += [key for key in ("image", "subject", "label") if not isinstance(row.get(key), (str, int, type(None)))]
        if wrong:
            raise ValueError(f"{name} is damaged: '{wrong[0]}' of a row is {row.get(wrong[0])!r}: run preprocess.json again.")


def _check_groups(content: Mapping[str, Any], name: str) -> None:
    split = content["split"]
    for column in {kept_apart(split), split.get("group", "subject")}:
        home: dict[Any, str] = {}
        for part in PARTS:
            for row in content[part]:
                if home.setdefault(row[column], part) != part:
                    raise ValueError(
                        f"{name}: {column} {row[column]} is in {home[row[column]]} and in {part}: "
                        "split again, a model must not be tested on whom it has seen."
                    )


def _check_images(rows: Sequence[Mapping[str, Any]], name: str, folder: Path) -> None:
    listed = Counter((str(row["image"]), row.get("block")) for row in rows)
    for (image, block), times in listed.items():
        if times > 1:
            raise ValueError(f"{name}: {image} is listed twice{f' with the window {block}' if block else ''}.")
    for image in dict.fromkeys(image for image, _ in listed):
        if not (folder / image).is_file():
            raise FileNotFoundError(f"{name} lists {folder / image}, which does not exist: run preprocess.json again.")


def kept_apart(split: Mapping[str, Any]) -> str:
    """Return the column of which no value may stand in two parts: the subject, or the run in a split within subjects."""
    return "scan" if split.get("within_subjects") else "subject"


def names(rows: Iterable[Mapping[str, Any]], column: str = "subject") -> list[str]:
    """Return the values of a column, sorted, each once."""
    return sorted({str(row[column]) for row in rows})


def digest(members: Iterable[str]) -> str:
    """Return the SHA-256 over sorted names: equal for equal sets of subjects."""
    return hashlib.sha256("\n".join(sorted(members)).encode()).hexdigest()


def hashed(name: str) -> str:
    """Return a short hash of a subject, which tells whether a model has seen it without saying who it is."""
    return hashlib.sha256(f"subject:{name}".encode()).hexdigest()[:16]
