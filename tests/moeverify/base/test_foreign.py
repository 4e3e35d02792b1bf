"""Code of others may leave in any way: it is one line, and the user's own Ctrl-C still ends the run."""

import multiprocessing
import os
import signal
import sys

import pytest

from moeverify.base.foreign import ForeignExit, by_user, foreign_code, guarded_exits, left_by
from moeverify.errors import SourceError, UsageError


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (SystemExit(), "left by SystemExit()"),
        (SystemExit(3), "left by SystemExit(3)"),
        (SystemExit(object()), "left by SystemExit()"),
        (KeyboardInterrupt(), "left by KeyboardInterrupt()"),
        (ForeignExit("os._exit(0)"), "left by os._exit(0)"),
        (ValueError("two\nlines"), "ValueError: two lines"),
        (ValueError(), "ValueError: no message"),
        (Unspeakable(), "Unspeakable: no message"),
        (ValueError("x" * 1000), "ValueError: " + "x" * 300),
    ],
)
def test_every_exception_is_one_line(error, line):
    assert left_by(error) == line


@pytest.mark.parametrize("leave", [lambda: sys.exit(0), lambda: os._exit(0), lambda: {}["key"]])
def test_whatever_code_raises_becomes_the_error_that_is_asked_for(leave):
    with guarded_exits(), pytest.raises(SourceError, match="the factory: "), foreign_code("the factory", SourceError):
        leave()


def test_an_error_of_ours_passes_through():
    with pytest.raises(UsageError, match="as it was"), foreign_code("the factory", SourceError):
        raise UsageError("as it was")


@pytest.fixture
def interruptible():
    """Interrupts arrive, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_of_the_users_passes_through_and_one_that_code_raises_does_not(interruptible):
    with guarded_exits():
        with pytest.raises(SourceError, match=r"left by KeyboardInterrupt\(\)"), foreign_code("code", SourceError):
            raise KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt) as caught, foreign_code("code", SourceError):
            signal.raise_signal(signal.SIGINT)
        assert by_user(caught.value)
    assert by_user(KeyboardInterrupt())  # outside nobody can tell


def test_where_interrupts_are_ignored_none_is_the_users():
    """In the background (``nohup``, a script of a CI) no Ctrl-C arrives."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with guarded_exits(), pytest.raises(SourceError, match="left by KeyboardInterrupt"):  # noqa: SIM117
            with foreign_code("code", SourceError):
                raise KeyboardInterrupt
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_child_process_may_leave_as_it_likes():
    with guarded_exits():
        child = multiprocessing.get_context("fork").Process(target=os._exit, args=(7,))
        child.start()
        child.join(10)
    assert child.exitcode == 7
    assert os._exit.__name__ == "_exit"
