"""Events in seconds → windows in frames: the one place where the haemodynamic delay and the TR meet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import BadScan
from .records import Event

__all__ = ["Window", "Windows"]

ROUNDED_OFF = 2  # frames that resampling in time may take off a run's end


@dataclass(frozen=True)
class Window:
    """The frames of one event.

    Args:
        event: it belongs to.
        number: of the event in its run, from 0.
        start: first frame.
        frames: length; the last ones may lie beyond the run's end, where a network's mask is false.
    """

    event: Event
    number: int
    start: int
    frames: int


@dataclass(frozen=True)
class Windows:
    """Which frames show the response to an event.

    Args:
        shift: seconds from an event's onset to the window's start, for the haemodynamic delay; 0 where labels are aligned.
        seconds: length of a window; None takes the event's own duration.
        frames: length of a window in frames, in place of ``seconds``.

    Raises:
        ValueError: for a negative shift, a length of nothing, or both lengths.
    """

    shift: float = 0.0
    seconds: float | None = None
    frames: int | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and self.frames is not None:
            raise ValueError(f"a window is {self.seconds} seconds or {self.frames} frames long: give one of them.")
        if self.shift < 0 or (self.seconds is not None and self.seconds <= 0) or (self.frames is not None and self.frames < 1):
            raise ValueError(f"{self} has no frames after the onset: shift must not be negative, lengths must be above 0.")

    def describe(self) -> dict[str, Any]:
        """Return the rule as the datalist keeps it."""
        return asdict(self)

    def locate(self, events: Sequence[Event], num_frames: int, repetition_time: float | None, name: str) -> list[Window]:
        """Return the windows of a run's events.

        A window of which the run holds less than half is left out: of an event at the very end too little was recorded.

        Args:
            events: of the run.
            num_frames: of the run.
            repetition_time: seconds from frame to frame.
            name: of the run, for messages.

        Raises:
            BadScan: if the time between frames is not known, or an event begins outside the run.
        """
        if not repetition_time:
            raise BadScan(
                f"{name}: the time between two frames is not known, which places the events: put RepetitionTime into the BIDS "
                "json, or give --repetition_time."
            )
        windows = []
        for number, event in enumerate(events):
            if not 0 <= event.onset < (num_frames + ROUNDED_OFF) * repetition_time:
                raise BadScan(
                    f"{name}: event {number} begins at {event.onset:g} s, the run has {num_frames} frames of "
                    f"{repetition_time:g} s: its events file is of another run, or in other units."
                )
            start = _nearest((event.onset + self.shift) / repetition_time)
            length = event.duration if self.seconds is None else self.seconds
            frames = self.frames or max(1, _nearest(length / repetition_time))
            if num_frames - start >= max(1, frames / 2):
                windows.append(Window(event, number, start, frames))
        return windows


def _nearest(frames: float) -> int:
    """Round halves up: Python rounds them to even numbers, which would move every other block."""
    return math.floor(frames + 0.5)
