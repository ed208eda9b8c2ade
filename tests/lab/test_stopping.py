from __future__ import annotations

import os
import signal

import pytest

from layerpace.lab.errors import Stopped
from layerpace.lab.stopping import StopSignals


def test_while_polling_a_first_signal_waits_and_a_second_does_not() -> None:
    with StopSignals() as signals, signals.polling():
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)


def test_elsewhere_a_signal_is_raised_at_once_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignals(), pytest.raises(Stopped) as stop:
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.value.signum == signal.SIGINT
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
