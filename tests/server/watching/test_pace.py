"""Work beside queries: how much of the time it takes, and that it ends when it is told to."""

from __future__ import annotations

import threading
import time

import pytest

from server.watching.pace import Pace, Stopped


@pytest.mark.parametrize(("share", "times"), [(0.1, 9.0), (0.5, 1.0), (0.02, 49.0)])
def test_the_pause_is_as_long_as_the_share_demands(share: float, times: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pace, pauses, now = Pace(share), list[float](), [100.0]
    monkeypatch.setattr(time, "thread_time", lambda: now[0])

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        return False

    monkeypatch.setattr(pace._stop, "wait", wait)
    pace.begin()
    for worked in (0.25, 0.0, 2.0):
        now[0] += worked
        pace.rest()
    assert pauses == pytest.approx([0.25 * times, 0.0, 2.0 * times])


def test_time_in_which_the_thread_did_not_run_is_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    pace, pauses = Pace(0.01), list[float]()

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        return False

    monkeypatch.setattr(pace._stop, "wait", wait)
    pace.begin()
    time.sleep(1)
    pace.rest()
    assert pauses[0] < 20  # of wall time it would be 99 s


def test_a_pause_ends_at_once_when_the_work_is_to_stop() -> None:
    pace = Pace(1e-9)
    pace.begin()
    threading.Timer(0.05, pace.stop).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        pace.rest()
    with pytest.raises(Stopped):
        pace.rest()
    assert time.monotonic() - began < 5
