"""Signals are recorded and handled between two steps."""

import pickle
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from vae.utils.signals import InterruptedRun, Interrupts

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def handlers():
    """Puts the handlers of this process back; until then, SIGTERM and SIGUSR1 would raise."""

    def end(number, frame):
        raise SystemExit(number)

    handlers = (signal.default_int_handler, end, end)
    before = [signal.signal(number, handler) for number, handler in zip(ALL, handlers, strict=True)]
    yield
    for number, handler in zip(ALL, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("first", ALL)
def test_the_first_signal_is_recorded_and_ctrl_c_then_acts_immediately(first):
    """A scheduler may send further ones."""
    told = []
    with Interrupts(on_first=lambda: told.append(first)) as interrupts:
        assert interrupts.received is None
        for number in (first, signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1):
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupts.received is first
    assert told == [first]


def test_other_signals_are_left_alone():
    with Interrupts([signal.SIGTERM]) as interrupts:
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGUSR1)
        assert interrupts.received is None


def test_handlers_are_restored():
    before = [signal.getsignal(number) for number in ALL]
    Interrupts()  # installs none before it is entered
    assert [signal.getsignal(number) for number in ALL] == before
    for received in ((), (signal.SIGINT,), (signal.SIGTERM,), (signal.SIGTERM, signal.SIGTERM)):
        with Interrupts():
            for number in received:
                signal.raise_signal(number)
        assert [signal.getsignal(number) for number in ALL] == before


def test_ignored_signals_stay_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.received is None
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_it_can_be_entered_outside_of_the_main_thread():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(Interrupts().__enter__).result()  # Python would refuse a handler there


def test_an_interrupted_run_is_no_exception_subclass():
    """Hydra, joblib and the like go on after an Exception; after this they must not."""
    assert issubclass(InterruptedRun, KeyboardInterrupt)
    assert not issubclass(InterruptedRun, Exception)
    assert [InterruptedRun(number).exit_code for number in ALL] == [130, 143, 138]
    assert str(InterruptedRun(signal.SIGUSR1)) == "SIGUSR1"


def test_an_interrupted_run_can_be_pickled():
    """As joblib does with what a worker raises."""
    again = pickle.loads(pickle.dumps(InterruptedRun(signal.SIGTERM)))
    assert (str(again), again.exit_code) == ("SIGTERM", 143)
