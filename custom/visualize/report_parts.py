"""What the sections of the report share: figures as text, JSON and pictures of the evaluation folder."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["UNDEFINED", "compared", "data_uri", "number", "pictures", "plain", "read_json", "signed"]

UNDEFINED = "–"
WIDE = 650  # pixels

Interval = Mapping[str, float | None]


def plain(value: float | None, digits: int = 2) -> str:
    """Return a figure with a true minus sign; ``None`` is a dash."""
    # adding 0 turns the minus zero of rounding into zero
    return UNDEFINED if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def number(interval: Interval, with_interval: bool = False) -> str:
    """Return ``value``, and on demand ``low`` to ``high`` where they are known."""
    if not with_interval or interval["value"] is None:
        return plain(interval["value"])
    return plain(interval["value"]) + _bounds(interval)


def signed(interval: Interval) -> str:
    """Return a difference with its sign, and its interval where that is known."""
    value = interval["value"]
    if value is None:
        return UNDEFINED
    return ("+" if value > 0 else "") + plain(value) + _bounds(interval)


def compared(difference: Interval) -> str | None:
    """Return what the interval of a difference says, in words; ``None`` where there is no interval."""
    if difference["value"] is None or difference["low"] is None or difference["high"] is None:
        return None
    return "better than" if difference["low"] > 0 else "worse than" if difference["high"] < 0 else "not distinguishable from"


def read_json(path: Path) -> dict[str, Any] | None:
    """Return what a file holds, ``None`` if it is not there."""
    return json.loads(path.read_text()) if path.is_file() else None


def data_uri(png: bytes) -> str:
    """Return a picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def pictures(folder: Path, captions: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return those of the pictures (file name → caption) that the folder has.

    Returns:
        Of each ``name``, ``uri``, ``caption``, and ``wide``: whether it needs the width of the page.
    """
    there = [folder / name for name in captions if (folder / name).is_file()]
    return [
        {
            "name": path.stem.replace("_", " "),
            "uri": data_uri(path.read_bytes()),
            "caption": captions[path.name],
            "wide": int.from_bytes(path.read_bytes()[16:20], "big") > WIDE,  # where a PNG has its width
        }
        for path in there
    ]


def _bounds(interval: Interval) -> str:
    return "" if interval["low"] is None else f" ({plain(interval['low'])} to {plain(interval['high'])})"
