"""OASIS-1 and what is derived from it: raw layout and table → records.

Four layouts, named in the configuration, none guessed:

``discs``
    ``disc*/OAS1_XXXX_MR1/PROCESSED/MPRAGE/T88_111/*masked_gfc.img`` and the fallbacks of :py:data:`FOLDERS`.
``named``
    images anywhere below that carry an OASIS id in their names (``axial/OAS1_0001_MR1_axial.jpg``, NIfTI).
``class_folders``
    Kaggle's ``NonDemented``, ``VeryMildDemented``, ``MildDemented``, ``ModerateDemented`` with JPG or NIfTI. The files bear no
    subject: near-duplicates are kept together and the study is marked "subjects unknown".

Reference: Marcus et al., Open Access Series of Imaging Studies (OASIS), J Cogn Neurosci 19 (2007) 1498-1507.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from ..claimed_size import refuse_claims
from ..errors import reading
from ..inflate import voxels_of
from .near_duplicates import near_duplicate_groups
from .oasis_table import read_table
from .records import Column, Record, Study

__all__ = ["FOLDERS", "read_study"]

OASIS_ID = re.compile(r"OAS1_\d{4}_MR\d")
# where a session's image is looked for, best first: Talairach space and skull-stripped, native space, anything
FOLDERS = ("PROCESSED/MPRAGE/T88_111", "PROCESSED/MPRAGE/SUBJ_111", "PROCESSED/MPRAGE", "mri", ".")
PATTERNS = ("*masked_gfc.img", "*masked_gfc.nii.gz", "*masked_gfc.nii", "*.img", "*.nii.gz", "*.nii")
VOLUMES = (".img", ".nii.gz", ".nii")
PICTURES = (".jpg", ".jpeg", ".png")
CLASS_FOLDERS = {"NonDemented": 0.0, "VeryMildDemented": 0.5, "MildDemented": 1.0, "ModerateDemented": 2.0}

Classes = Mapping[str, Sequence[float]]


def read_study(
    raw_dir: str, classes: Classes, layout: str = "discs", table: str | None = None, age_min: float | None = None
) -> Study:
    """Return the labelled scans of a raw study.

    A scan without a CDR is dropped and counted, never called healthy: in OASIS-1 those are the young, and the label would be
    their age. MR2 rescans keep the subject of MR1.

    Args:
        raw_dir: the raw study.
        classes: class name → its CDR values, for instance ``{"CDR 0": [0], "CDR above 0": [0.5, 1, 2]}``.
        layout: ``discs``, ``named`` or ``class_folders``.
        table: the CSV; by default ``<raw_dir>/oasis_cross-sectional.csv``. ``class_folders`` has none.
        age_min: drop younger subjects; 60 leaves the clean question, since nobody younger has a CDR above 0.

    Raises:
        FileNotFoundError: if there is no table or no image where the layout has them.
        ValueError: for a table without its columns, a CDR that no class holds, or an ambiguous folder; in ``class_folders``
            also for a damaged image, since nothing says then which others are its subject's.
    """
    if layout not in _LAYOUTS:
        raise ValueError(f"layout '{layout}' is not one of {', '.join(_LAYOUTS)}.")
    root = Path(raw_dir).absolute()  # the datalist keeps the scans' paths, whoever reads it from wherever
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder: give --raw_dir the folder of the raw OASIS study.")
    scans, dropped = _LAYOUTS[layout](root, Path(table) if table else root / "oasis_cross-sectional.csv")
    if not scans:
        raise FileNotFoundError(f"no image in layout '{layout}' below {root}; reasons: {dict(dropped) or 'no such file'}.")
    records = [r for r in (_labelled(scan, classes, age_min, dropped) for scan in scans) if r is not None]
    synthetic = (root / "SYNTHETIC").is_file()
    return Study(
        name="OASIS-1 phantom" if synthetic else f"OASIS-1 ({layout})",
        records=records,
        class_names=list(classes),
        dropped=dict(dropped),
        synthetic=synthetic,
        subjects_known=layout != "class_folders",
    )


def _labelled(scan: Record, classes: Classes, age_min: float | None, dropped: Counter[str]) -> Record | None:
    """Give a scan the class of its CDR, or count why it is dropped."""
    cdr, age = scan.columns.get("CDR"), scan.columns.get("Age")
    if cdr is None:
        dropped["no CDR"] += 1
        return None
    if age_min is not None:
        if age is None:
            raise ValueError(f"{scan.image}: subject {scan.subject} has no age, which age_min needs.")
        if float(age) < age_min:
            dropped[f"younger than {age_min:g}"] += 1
            return None
    for label, values in enumerate(classes.values()):
        if float(cdr) in [float(v) for v in values]:
            return Record(scan.name, scan.subject, scan.image, label, scan.columns)
    raise ValueError(f"subject {scan.subject} has CDR {cdr}, which no class of {dict(classes)} holds: correct the table.")


def _discs(root: Path, table: Path) -> tuple[list[Record], Counter[str]]:
    """Find one image per session folder below ``disc*`` (or below the root itself)."""
    rows = read_table(table)
    dropped: Counter[str] = Counter()
    scans = []
    for session in sorted(p for p in root.glob("**/OAS1_*_MR*") if p.is_dir() and OASIS_ID.fullmatch(p.name)):
        image = _session_image(session)
        if image is None:
            dropped["session folder without an image"] += 1
        elif session.name not in rows:
            dropped["session not in the table"] += 1
        else:
            found = str(image.parent.relative_to(session))
            scans.append(_scan(session.name, session.name, image, {**rows[session.name], "space": found}))
    return scans, dropped


def _session_image(session: Path) -> Path | None:
    """Return the best image of a session; two candidates of equal rank are an error."""
    for folder in FOLDERS:
        for pattern in PATTERNS:
            found = sorted((session / folder).glob(pattern))
            if len(found) > 1:
                raise ValueError(
                    f"{session / folder} holds {len(found)} images like {pattern} and nothing says which is meant: "
                    f"keep one of {[p.name for p in found]}."
                )
            if found:
                return found[0]
    return None


def _named(root: Path, table: Path) -> tuple[list[Record], Counter[str]]:
    """Find every image whose name carries an OASIS id; the folder it lies in is its plane."""
    rows = read_table(table)
    dropped: Counter[str] = Counter()
    scans = []
    for image in _images(root):
        session = OASIS_ID.search(image.name)
        if session is None:
            dropped["no OASIS id in the name"] += 1
        elif session.group() not in rows:
            dropped["session not in the table"] += 1
        else:
            plane = str(image.parent.relative_to(root))
            name = _stem(image) if plane == "." else f"{plane.replace('/', '-')}_{_stem(image)}"
            scans.append(_scan(name, session.group(), image, {**rows[session.group()], "plane": plane}))
    return scans, dropped


def _scan(name: str, session: str, image: Path, columns: Mapping[str, Column]) -> Record:
    subject, visit = session.rsplit("_", 1)
    return Record(name, subject, str(image), columns={"session": visit, **columns})


def _class_folders(root: Path, table: Path) -> tuple[list[Record], Counter[str]]:
    """Find Kaggle's images; the folder gives the CDR, groups of near-duplicates the subject."""
    found = [(image, cdr) for folder, cdr in CLASS_FOLDERS.items() for image in _images(root / folder)]
    if not found:
        return [], Counter()
    groups = near_duplicate_groups([_picture(image) for image, _ in found])
    return [
        Record(f"{image.parent.name}_{_stem(image)}", f"unknown-{group:05d}", str(image), columns={"CDR": cdr})
        for (image, cdr), group in zip(found, groups, strict=True)
    ], Counter()


def _picture(image: Path) -> Image.Image:
    """Return a grey picture of an image file: itself, or a volume's middle slice."""
    with reading(image, "no image", "copy or fetch it again, or take it out of the study"):
        if image.suffix.lower() in PICTURES:
            with Image.open(image) as picture:  # Kaggle has 6400, more than a process may hold open
                return picture.convert("L")
        volume = nib.load(image)
        refuse_claims(volume, image)
        with voxels_of(volume) as voxels:
            return _middle_slice(np.squeeze(np.asarray(voxels)))


def _middle_slice(volume: np.ndarray) -> Image.Image:
    middle = volume[..., volume.shape[-1] // 2].astype(np.float32)
    return Image.fromarray(np.uint8(255 * (middle - middle.min()) / max(float(np.ptp(middle)), 1e-6)))


def _images(folder: Path) -> Iterator[Path]:
    return (p for p in sorted(folder.rglob("*")) if p.name.lower().endswith(VOLUMES + PICTURES) and p.is_file())


def _stem(image: Path) -> str:
    return re.sub(r"\.(nii\.gz|\w+)$", "", image.name)


_LAYOUTS: dict[str, Callable[[Path, Path], tuple[list[Record], Counter[str]]]] = {
    "discs": _discs,
    "named": _named,
    "class_folders": _class_folders,
}
