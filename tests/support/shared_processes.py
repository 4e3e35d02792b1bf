"""Processes that tests share: the one that loads what was saved, and the fork servers that cases run in.

Each takes seconds of processor time to import torch and transformers. A run of many cases shares them as well.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import pytest

from moeverify.checks.evidence.fresh_process import KEPT, SOCKET, Kept, kept_process
from moeverify.errors import MoEVerifyError
from moeverify.verification.worker import Worker


class ReloadProcess:
    """The process in which reloads of all tests are forked; the first reload starts it. ``folder``: for its socket."""

    def __init__(self, folder: str) -> None:
        self._kept = Kept(folder)
        self._socket = ""

    def place(self) -> tuple[str, str | None]:
        """Socket and pid of the process: of the fork server's one in a case, else of the one that tests share."""
        if found := kept_process():
            return found
        with pytest.MonkeyPatch.context() as patch:
            for name in (SOCKET, KEPT):  # tests and what they start find both as they were
                patch.setenv(name, "")
            pid = self._kept.start()
            self._socket = os.environ[SOCKET] or self._socket  # set as the process starts
        return self._socket, str(pid)

    def end(self) -> None:
        """Kill the process, if any test has started it."""
        self._kept.end()


# Free servers that are kept: each takes some hundred MB.
MOST = 2


class ForkServers:
    """Fork servers that runs borrow and give back; one is lent where it is as a new one would be."""

    def __init__(self) -> None:
        self._free: list[_Lent] = []
        self._lock = threading.Lock()

    def lend(self, threads: int = 1) -> Worker:
        """A server for as many threads, with this environment, folder and search path."""
        place = (threads, tuple(sys.path), os.getcwd(), _environment())
        with self._lock:
            for server in self._free:
                if server.place == place and server.alive:
                    self._free.remove(server)
                    return server
        return _Lent(self, place)

    def give_back(self, server: _Lent) -> None:
        """Keep ``server`` for the next run."""
        with self._lock:
            self._free.append(server)
            spare = self._free.pop(0) if len(self._free) > MOST else None
        if spare is not None:
            spare.end()

    def close(self) -> None:
        """End all servers that were given back."""
        for server in self._free:
            server.end()


class _Lent(Worker):
    """A fork server that is kept if its last case ended by itself."""

    def __init__(self, owner: ForkServers, place: tuple[Any, ...]) -> None:
        super().__init__(place[0])
        self.place, self._owner, self._sound = place, owner, False

    def run(self, *arguments: Any, **more: Any) -> None:
        self._sound = False
        try:
            super().run(*arguments, **more)
        except MoEVerifyError:  # source or subject could not be loaded; a run goes on with the same server
            self._sound = True
            raise
        self._sound = True

    def close(self) -> None:
        if self._sound and self.alive:
            self._owner.give_back(self)
        else:
            self.end()

    def end(self) -> None:
        """End the server, whoever asks."""
        super().close()


def _environment() -> frozenset[tuple[str, str]]:
    """Variables that a server passes on to its cases; it names the process that loads models by itself."""
    return frozenset(item for item in os.environ.items() if item[0] not in ("PYTEST_CURRENT_TEST", SOCKET, KEPT))
