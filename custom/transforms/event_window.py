"""The frames of events: of one event in training, of all events of a run in inference.

A row of the datalist names its window by ``start`` and ``frames`` (:py:mod:`custom.data.windows`); the haemodynamic delay is in
``start`` already. Every window is padded at its end to one length, so that windows make a batch, and ``frame_mask`` tells which
frames were measured.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable

from ..data.records import Event
from ..data.windows import Window, Windows
from ..errors import BadScan
from .bold_item import scan_name
from .temporal_window import MappedBOLD, temporal_window

__all__ = ["EventWindowd", "RandEventWindowd", "SplitEventsd", "event_window", "located_windows"]


def event_window(
    scan: MappedBOLD | torch.Tensor, start: int, frames: int, length: int | None = None, name: str | None = None
) -> tuple[MetaTensor, torch.Tensor]:
    """Read the frames [start, start + frames) of a run and pad them with frames of zeros.

    Args:
        scan: handle or image (T, X, Y, Z).
        start: first frame of the window.
        frames: of the event; the last ones may lie beyond the run's end.
        length: frames F of the result; None takes ``frames``.
        name: of the window, for messages; None takes the scan's.

    Returns:
        The window (F, X, Y, Z), float32, and the frame mask (F,), bool: True where a frame is of the event and was measured.
        The window of an image may share its memory, that of a handle is new.

    Raises:
        ValueError: if the event is longer than F, or none of its frames was measured.
    """
    length = frames if length is None else length
    if frames > length:
        raise ValueError(
            f"{name or scan_name(scan)}: its window has {frames} frames, the network takes {length}: raise the frames of the "
            "configuration, or prepare the study with shorter windows."
        )
    window, valid = temporal_window(scan, frames, start)
    if length > frames:
        window = torch.cat([window, window.new_zeros((length - frames, *window.shape[1:]))])
        valid = torch.cat([valid, valid.new_zeros(length - frames)])
    return window, valid


def located_windows(image: torch.Tensor, events: Sequence[Event], windows: Windows) -> list[Window]:
    """Return where the events of a run (T, X, Y, Z) are, see :py:meth:`custom.data.windows.Windows.locate`.

    Raises:
        BadScan: if the time between frames is not known, an event is not in the run, or no event has frames in it.
    """
    name = scan_name(image)
    found = windows.locate(events, len(image), getattr(image, "meta", {}).get("repetition_time"), name)
    if not found:
        raise BadScan(f"{name}: none of its {len(events)} events has a window within its {len(image)} frames.")
    return found


class EventWindowd(MapTransform):
    """Cut the window of a datalist's row out of its run, :py:func:`event_window`; adds ``frame_mask`` (F,).

    Args:
        keys: handles of :py:class:`.MapBOLDd`, or images (T, X, Y, Z).
        frames: length F of every window; None takes the row's own, which makes batches only where all rows are equal.

    Raises:
        ValueError: if a row's window is longer than F; names the row's ``block``.
    """

    def __init__(self, keys: KeysCollection, frames: int | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.frames = frames

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return self.cut(data, data["start"])

    def cut(self, data: Mapping[Hashable, Any], start: int) -> dict[Hashable, Any]:
        """Return the item with the window that begins at the given frame."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key], d["frame_mask"] = event_window(d[key], start, d["frames"], self.frames, d.get("block"))
        return d


class RandEventWindowd(Randomizable, EventWindowd):
    """:py:class:`EventWindowd` for training: the window begins up to ``max_shift`` frames earlier or later, all equally likely.

    What is drawn is clipped to the run: no more frames are padded than without a shift. ``shift`` tells the last one.

    Args:
        keys: handles of :py:class:`.MapBOLDd`, or images (T, X, Y, Z).
        frames: length F of every window.
        max_shift: in frames.
    """

    def __init__(
        self, keys: KeysCollection, frames: int | None = None, max_shift: int = 0, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, frames, allow_missing_keys)
        if max_shift < 0:
            raise ValueError(f"max_shift is a number of frames, not {max_shift}.")
        self.max_shift, self.shift = max_shift, 0

    def randomize(self, data: Mapping[Hashable, Any]) -> None:
        """Draw the shift of an item's window."""
        start, total = data["start"], data[self.first_key(dict(data))].shape[0]
        latest = max(start, total - data["frames"])
        drawn = start + int(self.R.randint(-self.max_shift, self.max_shift + 1))
        self.shift = int(np.clip(drawn, 0, latest)) - start

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        self.randomize(data)
        return self.cut(data, data["start"] + self.shift)


class SplitEventsd(MapTransform):
    """Cut a whole run into the windows of its events: one item → a list of items, which MONAI's DataLoader makes one batch of.

    The item holds a run (T, X, Y, Z) whose meta tells ``repetition_time``, its ``events`` and its name ``scan``. Every window's
    item has ``frame_mask``, ``onset`` (seconds), ``start`` (first frame), ``block`` (as the events say, or
    ``<scan>_<number>``), ``label`` if all events of the run have one, and of the run's item what is a number, a text or a truth
    value.

    Args:
        keys: of the run.
        windows: which frames belong to an event; those of the training.
        frames: length F of every window, as in training; None takes the event's own.

    Raises:
        BadScan: if the run tells no time between frames, an event is not in it, or no event has a window.
        ValueError: if a window is longer than F.
    """

    def __init__(
        self, keys: KeysCollection, windows: Windows, frames: int | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.windows, self.frames = windows, frames

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        d = dict(data)
        events = d["events"]
        found = located_windows(d[self.first_key(d)], events, self.windows)
        kept = {key: value for key, value in d.items() if isinstance(value, (str, bool, int, float))}
        items = []
        for window in found:
            columns = _columns(window.event, events, f"{d['scan']}_{window.number:03d}")
            item: dict[Hashable, Any] = {**kept, **columns, "start": window.start}
            for key in self.key_iterator(d):
                item[key], item["frame_mask"] = event_window(d[key], window.start, window.frames, self.frames, item["block"])
            items.append(item)
        return items


def _columns(event: Event, events: Sequence[Event], name: str) -> dict[Hashable, Any]:
    """Return what tells an event; windows of one batch have the same columns."""
    labelled = all(other.label is not None for other in events)
    label: dict[Hashable, Any] = {"label": event.label} if labelled else {}
    return {"block": event.columns.get("block", name), "onset": event.onset, **label}
