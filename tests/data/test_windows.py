from __future__ import annotations

import pytest

from custom.data import Event, Windows
from custom.errors import BadScan


def located(windows: Windows, *onsets: float, duration: float = 16.0, frames: int = 100, tr: float | None = 2.0) -> list:
    return [(w.number, w.start, w.frames) for w in windows.locate([Event(o, duration) for o in onsets], frames, tr, "run")]


def test_a_window_begins_the_shift_after_the_onset_and_lasts_as_long_as_the_event():
    assert located(Windows(), 0, 16, 32) == [(0, 0, 8), (1, 8, 8), (2, 16, 8)]
    assert located(Windows(shift=5), 0, 16) == [(0, 3, 8), (1, 11, 8)]  # 2.5 frames are 3, as 10.5 are 11


@pytest.mark.parametrize(("windows", "frames"), [(Windows(seconds=12), 6), (Windows(frames=10), 10), (Windows(seconds=0.5), 1)])
def test_the_length_may_be_given_in_seconds_or_frames(windows: Windows, frames: int):
    assert located(windows, 4) == [(0, 2, frames)]


def test_an_event_of_which_less_than_half_was_recorded_makes_no_window():
    assert located(Windows(), 190, 192, 194, frames=100) == [(0, 95, 8), (1, 96, 8)][:2]
    assert located(Windows(shift=6), 198, frames=100) == []


def test_an_event_at_the_very_end_of_a_run_that_resampling_has_shortened_is_no_error():
    assert located(Windows(), 0, 203) == [(0, 0, 8)]


@pytest.mark.parametrize("onset", [-1.0, 204.0, 448.0])
def test_an_event_outside_the_run_is_refused(onset: float):
    with pytest.raises(BadScan, match=f"run: event 1 begins at {onset:g} s, the run has 100 frames of 2 s"):
        located(Windows(), 0, onset)


@pytest.mark.parametrize("tr", [None, 0.0])
def test_without_a_tr_events_have_no_place(tr: float | None):
    with pytest.raises(BadScan, match="run: the time between two frames is not known.*--repetition_time"):
        located(Windows(), 0, tr=tr)


@pytest.mark.parametrize("bad", [{"shift": -1}, {"seconds": 0}, {"frames": 0}, {"seconds": 4, "frames": 2}])
def test_a_rule_without_frames_is_refused(bad: dict):
    with pytest.raises(ValueError, match="window|frames"):
        Windows(**bad)
