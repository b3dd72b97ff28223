"""SIGTERM and SIGINT: at once, but where a checkpoint would not be whole."""

from __future__ import annotations

import os
import signal

import pytest

from trainer.stopping import Stopped, Stopping

NUMBERS = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)


@NUMBERS
def test_a_signal_ends_it_at_once(number: signal.Signals, code: int) -> None:
    with Stopping(), pytest.raises(Stopped) as stopped:
        os.kill(os.getpid(), number)
    assert (stopped.value.exit_code, str(stopped.value)) == (code, number.name)


@NUMBERS
def test_where_it_is_gentle_it_ends_at_the_next_check(number: signal.Signals, code: int) -> None:
    with Stopping() as stopping:
        stopping.check()
        with stopping.gently():
            os.kill(os.getpid(), number)
            with pytest.raises(Stopped) as stopped:
                stopping.check()
    assert stopped.value.exit_code == code


def test_the_second_signal_is_not_waited_with() -> None:
    with Stopping() as stopping, stopping.gently():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)


def test_afterwards_signals_do_what_they_did_before() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Stopping():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
