"""One process that loads what was saved, for all examples of a test."""

import contextlib

import pytest

from moeverify.checks.evidence.fresh_process import KEPT, SOCKET, Kept


@contextlib.contextmanager
def kept_process(folder):
    """Reloads within share a process, whose socket lies in ``folder``."""
    kept = Kept(str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SOCKET, "")  # both are as they were afterwards
        patch.setenv(KEPT, "")
        kept.start()
        try:
            yield
        finally:
            kept.end()
