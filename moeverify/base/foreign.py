"""Code of others, run in our process: whatever way it leaves by is an error of its own, never the end of the run."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from moeverify.errors import MoEVerifyError

_MOST = 300
EXIT_HINT = "; put what exits behind `if __name__ == '__main__':`"
# Set where a KeyboardInterrupt may be the user's: unless `guarded_exits` watches and saw no signal, it is.
_interrupted = threading.Event()
_interrupted.set()


class ForeignExit(BaseException):
    """``os._exit`` was called where an exit would have ended the run without a verdict."""


def left_by(error: BaseException) -> str:
    r"""Describe an exception in one line, also one without words.

    >>> left_by(SystemExit(0))
    'left by SystemExit(0)'
    >>> left_by(ValueError("no such\nkernel"))
    'ValueError: no such kernel'
    >>> left_by(ValueError())
    'ValueError: no message'
    """
    if isinstance(error, ForeignExit):
        return f"left by {error}"
    if not isinstance(error, Exception):
        words = ", ".join(repr(word) for word in error.args if isinstance(word, str | int))
        return f"left by {type(error).__name__}({words})"[:_MOST]
    try:
        text = " ".join(str(error).split())[:_MOST]
    except Exception:  # a class whose __str__ fails
        text = ""
    return f"{type(error).__name__}: {text or 'no message'}"


def by_user(error: BaseException) -> bool:
    """Whether an exception is the user's own Ctrl-C, which ends the run whatever code was running."""
    return isinstance(error, KeyboardInterrupt) and _interrupted.is_set()


@contextlib.contextmanager
def foreign_code(what: str, kind: type[MoEVerifyError], hint: str = "") -> Iterator[None]:
    """Raise ``kind`` with one line for whatever the code inside raises, exits included.

    Errors of ours pass through, and so does the user's Ctrl-C.
    """
    try:
        yield
    except MoEVerifyError:
        raise
    except BaseException as error:
        if by_user(error):
            raise
        raise kind(f"{what}: {left_by(error)}{hint if isinstance(error, Exception) else EXIT_HINT}") from error


@contextlib.contextmanager
def guarded_exits() -> Iterator[None]:
    """Turn ``os._exit`` in this process into an exception, and remember a Ctrl-C of the user.

    A process that code inside forks may still leave by ``os._exit``.
    """
    owner, leave = os.getpid(), os._exit

    def refuse(status: int) -> NoReturn:
        if os.getpid() != owner:
            leave(status)
        raise ForeignExit(f"os._exit({status})")

    os._exit = refuse
    try:
        with _noticed_interrupts():
            yield
    finally:
        os._exit = leave


@contextlib.contextmanager
def _noticed_interrupts() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)
    ignored = handler is signal.SIG_IGN  # in the background, with nohup: no Ctrl-C comes at all
    if threading.current_thread() is not threading.main_thread() or not (callable(handler) or ignored):
        yield
        return

    def notice(number: int, frame: Any) -> Any:
        _interrupted.set()
        return handler(number, frame) if callable(handler) else None

    before = _interrupted.is_set()
    _interrupted.clear()
    if not ignored:
        signal.signal(signal.SIGINT, notice)
    try:
        yield
    finally:
        if not ignored:
            signal.signal(signal.SIGINT, handler)
        if before:
            _interrupted.set()
