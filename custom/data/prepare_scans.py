"""Scans without a study: prepared one by one for a trained model, without parts and without labels that it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .other_windows import NO_CLASS
from .prepare_record import save_image
from .windows import Windows

__all__ = ["prepare_scans"]


def prepare_scans(
    scans: Sequence[Mapping[str, Any]],
    transform: Callable[[dict], dict],
    windows: Windows,
    class_names: Sequence[str],
    output_dir: str,
) -> list[dict[str, Any]]:
    """Prepare runs and return a row per window of their events, as a datalist has them.

    Args:
        scans: ``image``, ``subject``, ``scan``, ``events`` and further inputs of the transform, as ``list_scans`` gives them.
        transform: of a scan to a prepared run (T, X, Y, Z).
        windows: which frames belong to an event, as in training.
        class_names: an event whose ``trial_type`` is one of them has its index as label, any other -1.
        output_dir: receives ``<scan>.nii``.

    Raises:
        BadScan: if an event does not lie in its run; as the transform, where MONAI's ``Compose`` wraps it in a RuntimeError.
        ValueError: if there is no window.
    """
    rows = []
    for scan in scans:
        image = transform({key: value for key, value in scan.items() if key not in ("scan", "subject")})["image"]
        path = Path(output_dir) / f"{scan['scan']}.nii"
        save_image(path, image)
        common = {"image": str(path), "subject": scan["subject"], "scan": scan["scan"]}
        for w in windows.locate(scan["events"], len(image), image.meta.get("repetition_time"), str(scan["image"])):
            kind = w.event.columns.get("trial_type")
            label = list(class_names).index(str(kind)) if kind in class_names else NO_CLASS
            place = {"onset": w.event.onset, "duration": w.event.duration, "start": w.start, "frames": w.frames}
            rows.append({**common, "label": label, "block": f"{scan['scan']}_{w.number:03d}", **place})
    if not rows:
        raise ValueError(f"none of the {len(scans)} runs has an event with a window in it: give other events, or --every.")
    return rows
