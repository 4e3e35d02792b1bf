"""Cooperative scheduler of tasks that read a checkpoint block by block.

A block is a part of a checkpoint that fits into memory, such as a layer. A task is a function in a thread of its own.
It waits where it needs another block than the current one. One task runs at a time. When none can go on with the
current block, the next one takes its place. So tasks need no knowledge of the order of blocks, nor of each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Task:
    """Function that starts when ``begin`` is the current block."""

    begin: str
    work: Callable[[], None]


class _Stopped(BaseException):
    """Ends a waiting task after another one failed."""


@dataclass(eq=False)
class _TaskState:
    """State of a task. ``waits_for``: name of the block that it needs next, empty once the task has ended."""

    task: Task
    waits_for: str
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    thread: threading.Thread | None = None
    error: BaseException | None = None


class Turns:
    """Runs tasks in turns. ``hold`` makes a block the current one; ``order`` gives each its position in the files."""

    def __init__(self, hold: Callable[[str], None], order: Mapping[str, int]) -> None:
        self._hold = hold
        self._order = order
        self._back = threading.Semaphore(0)
        self._current: _TaskState | None = None
        self._stopping = False

    @property
    def inside(self) -> bool:
        """Whether the caller is one of the tasks."""
        return self._current is not None and self._current.thread is threading.current_thread()

    def wait_for(self, block: str) -> None:
        """Wait until a block is the current one; to be called by a task."""
        mine = self._current
        assert mine is not None
        mine.waits_for = block
        self._back.release()
        mine.go.acquire()
        if self._stopping:
            raise _Stopped

    def run(self, tasks: Sequence[Task]) -> None:
        """Run all tasks; raises the first error of one, after the others have ended."""
        waiting = [_TaskState(task, task.begin) for task in tasks]
        block: str | None = None
        try:
            while waiting:
                block = self._next_block(block, waiting)
                self._hold(block)
                while ready := [one for one in waiting if one.waits_for == block]:
                    for one in ready:
                        self._resume(one)
                    waiting = [one for one in waiting if one.waits_for]
        finally:
            self._stop(waiting)

    def _next_block(self, block: str | None, waiting: Sequence[_TaskState]) -> str:
        """The next block in file order that a task waits for; starts over after the last one."""
        here = -1 if block is None else self._order[block]
        wanted = sorted({one.waits_for for one in waiting}, key=lambda name: self._order[name])
        return next((name for name in wanted if self._order[name] > here), wanted[0])

    def _resume(self, one: _TaskState) -> None:
        """Let one task run until it waits again or ends."""
        self._current = one
        if one.thread is None:
            one.thread = threading.Thread(target=self._run_one, args=(one,), daemon=True)
            one.thread.start()
        else:
            one.go.release()
        self._back.acquire()
        self._current = None
        if not one.waits_for and one.thread is not None:
            one.thread.join()
        if one.error is not None:
            raise one.error

    def _run_one(self, one: _TaskState) -> None:
        try:
            with torch.no_grad():  # a mode of the thread
                one.task.work()
        except _Stopped:
            pass
        except BaseException as error:
            one.error = error
        one.waits_for = ""
        self._back.release()

    def _stop(self, waiting: Sequence[_TaskState]) -> None:
        self._stopping = True
        for one in waiting:
            if one.thread is not None and one.waits_for:
                self._current = one
                one.go.release()
                self._back.acquire()
                one.thread.join()
        self._current, self._stopping = None, False
