"""One writer a folder: a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from moeverify.errors import UsageError

_HELD: set[str] = set()
_GUARD = threading.Lock()


@contextlib.contextmanager
def only_one(lock: Path, busy: str) -> Iterator[None]:
    """Hold the lock file ``lock`` for the block.

    The lock is one of the system's record locks: it ends with the process, so what a killed run left is no obstacle.
    Raises ``UsageError`` with ``busy`` and the owner's process number if another run, or a thread of this process,
    holds it; ``OSError`` if the file cannot be made.
    """
    key = os.path.realpath(lock)
    with _GUARD:
        # A process does not lock itself out by a record lock, so threads are told apart here.
        if key in _HELD:
            raise UsageError(f"{busy} (process {os.getpid()}, this one)")
        _HELD.add(key)
    try:
        handle = _acquire(lock, busy)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.unlink(lock)
            os.close(handle)
    finally:
        with _GUARD:
            _HELD.discard(key)


def is_free(lock: Path) -> bool:
    """Whether a lock file is there that no process holds: what a killed run left."""
    if os.path.realpath(lock) in _HELD:
        return False
    try:
        handle = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _acquire(lock: Path, busy: str) -> int:
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            owner = os.read(handle, 20).decode("ascii", "replace").strip()
            os.close(handle)
            raise UsageError(f"{busy} (process {owner or 'unknown'})") from error
        except OSError:
            os.close(handle)
            raise
        # The owner before may have removed the file between our opening and locking it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(lock)):
                os.ftruncate(handle, 0)
                os.write(handle, f"{os.getpid()}\n".encode())
                return handle
        os.close(handle)
