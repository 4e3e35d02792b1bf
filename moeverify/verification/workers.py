"""Cases on several worker processes, begun in order."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from moeverify.errors import MoEVerifyError, SourceError
from moeverify.verdict import LOAD, Status
from moeverify.verification.case import Case, verdict_of
from moeverify.verification.events import CaseFinished, Listener, VerdictReached
from moeverify.verification.limits import Limits
from moeverify.verification.worker import Worker


def not_loaded(case: Case, error: MoEVerifyError, listen: Listener) -> None:
    """Give a source that cannot be loaded its verdict."""
    listen(VerdictReached(case, verdict_of(case, LOAD, Status.ERROR, str(error), {})))
    listen(CaseFinished(case, None))


def run_isolated(
    cases: Sequence[Case], limits: Limits | Callable[[Case], Limits], workers: int | None, listen: Listener
) -> None:
    """Cases in processes of their own, several at a time, begun in order; ``listen`` hears them from several threads.

    ``limits`` are the same for all cases, or a function of the case.
    Raises the ``MoEVerifyError`` of a subject that cannot be loaded; a source that cannot be is a verdict.
    """
    cores = os.cpu_count() or 1
    count = max(1, min(workers or cores, len(cases)))
    waiting: queue.SimpleQueue[Case] = queue.SimpleQueue()
    for case in cases:
        waiting.put(case)
    stop = threading.Event()

    def serve() -> None:
        worker = None
        try:
            while not stop.is_set():
                try:
                    case = waiting.get_nowait()
                except queue.Empty:
                    return
                if worker is None or not worker.alive:
                    worker = Worker(threads=max(1, min(cores // count, torch.get_num_threads())))
                try:
                    worker.run(case, limits if isinstance(limits, Limits) else limits(case), listen, stop)
                except SourceError as error:
                    not_loaded(case, error, listen)
        except BaseException:
            stop.set()
            raise
        finally:
            if worker is not None:
                worker.close()

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(serve) for _ in range(count)]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stop.set()
            raise
