"""ABIDE and studies laid out like it: raw files and phenotypic table → records.

Two layouts, named in the configuration, none guessed:

``mat``
    ``<raw>/<SITE>/<subject>.mat``, see :py:mod:`custom.mat_file`. The folder is the site, ``dx`` in the file the diagnosis; a
    phenotypic table, if one is given, adds age, sex and motion.
``nifti``
    BIDS (``sub-0050004/func/*_bold.nii.gz``) or the flat names of the Preprocessed Connectomes Project
    (``Pitt_0050003_func_preproc.nii.gz``), with brain masks beside them. Site and diagnosis come from the phenotypic table.

A subject stands for one person at one site: a second file of it is an error, unless BIDS calls it another session or run.
Records are sorted by path, whatever the file system's order. Voxels are not read.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import BadScan
from ..mat_file import dataset, fmri_data
from .abide_table import QC, read_phenotypes, subject_of
from .records import Column, Record, Study
from .roi_series import find_roi_series

__all__ = ["PHENOTYPES", "list_scans", "read_study"]

logger = logging.getLogger(__name__)

PHENOTYPES = "Phenotypic_V1_0b_preprocessed1.csv"
BOLD = re.compile(r"(?:(?:_desc-[a-zA-Z0-9]+)?_bold|_func_preproc)$")
MASKS = ("_desc-brain_mask", "_mask", "_func_mask")  # of the same scan, best first
MASK = re.compile(r"_mask$")
COLUMNS = ("age", "sex", *QC)

Classes = Mapping[str, Sequence[int]]
Rows = Mapping[str, Mapping[str, Any]]
# a record without its label, and the code that will give it one
Scan = tuple[Record, float]


def read_study(
    raw_dir: str, classes: Classes, layout: str = "mat", table: str | None = None, roi_dir: str | None = None
) -> Study:
    """Return the labelled scans of a raw study.

    Args:
        raw_dir: the raw study.
        classes: class name → its DX codes, ``{"control": [2], "ASD": [1]}`` in ABIDE.
        layout: ``mat`` or ``nifti``.
        table: the phenotypic CSV; by default ``<raw_dir>/Phenotypic_V1_0b_preprocessed1.csv``, which ``nifti`` needs
            and ``mat``, whose files hold the diagnosis, can do without.
        roi_dir: folder of ROI series, whose paths become the column ``roi_series``.

    Raises:
        FileNotFoundError: if there is no table or no scan where the layout has them.
        ValueError: for a DX code that no class holds, a subject that the table lacks, or a subject with two files.
    """
    if layout not in _LAYOUTS:
        raise ValueError(f"layout '{layout}' is not one of {', '.join(_LAYOUTS)}.")
    root = Path(raw_dir).absolute()  # the datalist keeps the scans' paths, whoever reads it from wherever
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder: give --raw_dir the folder of the raw ABIDE study.")
    scans, dropped = _LAYOUTS[layout](root, Path(table) if table else None)
    if not scans:
        raise FileNotFoundError(f"no scan in layout '{layout}' below {root}; reasons: {dict(dropped) or 'no such file'}.")
    records = [replace(record, label=_label(record, dx, classes)) for record, dx in scans]
    _refuse_second_files(((r.subject, r.columns.get("session"), r.columns.get("run")), r.image) for r in records)
    synthetic = (root / "SYNTHETIC").is_file()
    return Study(
        name="ABIDE phantom" if synthetic else f"ABIDE ({layout})",
        records=_with_series(records, roi_dir) if roi_dir else records,
        class_names=list(classes),
        dropped=dict(dropped),
        synthetic=synthetic,
    )


def list_scans(path: str, site: str | None = None) -> list[dict[str, str]]:
    """Return image, subject, site and, where it is there, mask of one scan, or of every scan below a folder.

    Args:
        path: a ``.mat``, a NIfTI of any name, or a folder of either layout.
        site: where the scans were made; a ``.mat`` without it is of the site its folder names.

    Raises:
        FileNotFoundError: if there is no scan.
        ValueError: for NIfTI without a site: nothing in the file says it; for two files of one name.
    """
    root = Path(path).absolute()
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.suffix == ".mat" or _is_bold(p))
    if not files:
        raise FileNotFoundError(f"no scan (*.mat, *_bold.nii.gz, *_func_preproc.nii.gz) at {root}: give --dataset_dir one.")
    unknown = [f for f in files if f.suffix != ".mat"]
    if unknown and site is None:
        raise ValueError(f"{unknown[0]}: a NIfTI file does not say where it was made: give --site.")
    scans = [{"image": str(f), **_entities(f), "site": str(site or f.parent.name), **_mask_beside(f)} for f in files]
    _refuse_second_files(((s["subject"], s["site"], s.get("session"), s.get("run")), s["image"]) for s in scans)
    for scan in scans:
        if "mask" not in scan and not scan["image"].endswith(".mat"):
            logger.warning(f"{scan['image']}: no mask beside it, named …{' or …'.join(MASKS)}: the brain is estimated.")
    return [{key: scan[key] for key in ("image", "subject", "site", "mask") if key in scan} for scan in scans]


def _label(record: Record, dx: float, classes: Classes) -> int:
    for label, codes in enumerate(classes.values()):
        if dx in codes:
            return label
    raise ValueError(
        f"{record.image}: the diagnosis of subject {record.subject} is coded {dx:g}, the known codes are "
        f"{ {name: list(codes) for name, codes in classes.items()} }: correct the data, or the classes."
    )


def _refuse_second_files(named: Iterable[tuple[tuple, str]]) -> None:
    """Refuse two files of one name (subject first): two people would become one, or a copy counts twice."""
    files: dict[tuple, str] = {}
    for name, image in named:
        if files.setdefault(name, image) != image:
            raise ValueError(
                f"{files[name]} and {image} are both of subject {name[0]}: keep one of them, or name the files after their "
                "subjects (sub-01_bold.nii.gz)."
            )


def _with_series(records: Sequence[Record], roi_dir: str) -> list[Record]:
    series = find_roi_series(roi_dir)
    return [replace(r, columns={**r.columns, "roi_series": series.get(r.subject)}) for r in records]


def _mat(root: Path, table: Path | None) -> tuple[list[Scan], Counter[str]]:
    """Find ``<SITE>/<subject>.mat``; a file whose diagnosis cannot be read is dropped by name."""
    if table is None and (root / PHENOTYPES).is_file():
        table = root / PHENOTYPES
    rows = _rows(table) if table else None
    dropped: Counter[str] = Counter()
    found: set[str] = set()
    scans: list[Scan] = []
    for file in sorted(root.rglob("*.mat")):
        if len(file.relative_to(root).parts) != 2:
            dropped["a .mat that is not <SITE>/<subject>.mat"] += 1
            continue
        subject = subject_of(file.stem)
        found.add(subject)
        try:
            dx = _read_dx(file)
        except BadScan as error:
            logger.warning(f"dropped {error}")
            dropped[str(error)] += 1
            continue
        columns = _columns(_row(rows, subject, dx, file, table)) if rows is not None else dict.fromkeys(("age", "sex"))
        scans.append((Record(f"{file.parent.name}_{file.stem}", subject, str(file), None, _at(file.parent.name, columns)), dx))
    return scans, dropped + _without_scan(rows or {}, found)


def _read_dx(file: Path) -> float:
    with fmri_data(str(file)) as group:
        dx = dataset(group, "dx")[()]
    if dx.size != 1:
        raise BadScan(f"{file}: dx has shape {dx.shape}, one number is wanted.")
    return float(dx.item())


def _nifti(root: Path, table: Path | None) -> tuple[list[Scan], Counter[str]]:
    """Find the BOLD scans by their names; the table gives site and diagnosis."""
    file = table or root / PHENOTYPES
    rows = _rows(file)
    dropped: Counter[str] = Counter()
    found: set[str] = set()
    scans: list[Scan] = []
    for image in sorted(p for p in root.rglob("*") if _is_nifti(p) and not MASK.search(_stem(p))):
        if not _is_bold(image):
            dropped["NIfTI that is not named *_bold or *_func_preproc"] += 1
            continue
        entities = _entities(image)
        subject = entities.pop("subject")
        found.add(subject)
        row = _row(rows, subject, None, image, file)
        if row["dx"] is None or row["site"] is None:
            dropped["no diagnosis or no site in the table"] += 1
            continue
        columns = _at(row["site"], {**entities, **_columns(row)})
        scans.append((Record(_stem(image), subject, str(image), None, columns, _mask_beside(image)), row["dx"]))
    return scans, dropped + _without_scan(rows, found)


def _rows(table: Path) -> Rows:
    frame = read_phenotypes(table)
    return frame.set_index("subject").to_dict("index")


def _row(rows: Rows, subject: str, dx: float | None, image: Path, table: Path | None) -> Mapping[str, Any]:
    """Return the subject's row; ``dx`` is what the scan itself says, if it says anything."""
    if subject not in rows:
        raise ValueError(f"{image}: phenotypic row missing, {table} has no subject {subject}: complete it, or remove the scan.")
    row = rows[subject]
    if dx is not None and row["dx"] not in (None, dx):
        raise ValueError(f"{image}: dx of subject {subject} is {dx:g}, but {row['dx']:g} in {table}: correct one of them.")
    return row


def _columns(row: Mapping[str, Any]) -> dict[str, Column]:
    return {column: row[column] for column in COLUMNS if column in row}


def _at(site: str, columns: Mapping[str, Column]) -> dict[str, Column]:
    return {"site": str(site), **columns}


def _without_scan(rows: Rows, found: set[str]) -> Counter[str]:
    """Count the table's subjects of whom no file was found; the PCP calls those it could not process ``no_filename``."""
    absent = set(rows) - found
    return Counter(
        "no_filename in the table" if rows[subject]["file_id"] == "no_filename" else "in the table, without a scan"
        for subject in absent
    )


def _entities(image: Path) -> dict[str, str]:
    """Return subject, and session and run where BIDS names them."""
    stem = _stem(image)
    bids = dict(re.findall(r"(sub|ses|run)-([a-zA-Z0-9]+)", stem))
    found = {"subject": subject_of(bids.get("sub") or BOLD.sub("", stem))}
    return found | {new: bids[old] for old, new in (("ses", "session"), ("run", "run")) if old in bids}


def _mask_beside(image: Path) -> dict[str, str]:
    base = BOLD.sub("", _stem(image))
    candidates = (image.with_name(base + mask + suffix) for mask in MASKS for suffix in (".nii.gz", ".nii"))
    mask = next((c for c in candidates if c.is_file()), None) if image.suffix != ".mat" else None
    return {"mask": str(mask)} if mask else {}


def _is_nifti(path: Path) -> bool:
    return path.name.endswith((".nii", ".nii.gz")) and path.is_file()


def _is_bold(path: Path) -> bool:
    return _is_nifti(path) and BOLD.search(_stem(path)) is not None


def _stem(path: Path) -> str:
    return re.sub(r"\.(nii\.gz|nii|mat)$", "", path.name)


_LAYOUTS: dict[str, Callable[[Path, Path | None], tuple[list[Scan], Counter[str]]]] = {"mat": _mat, "nifti": _nifti}
