"""Cases on several worker processes of this machine, begun in order."""

from __future__ import annotations

import os
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from moeverify.errors import SourceError
from moeverify.verification.case import Case
from moeverify.verification.executors.registry import Work, executor, not_loaded
from moeverify.verification.worker import Worker


@executor("local")
def run_locally(work: Work) -> None:
    """Run cases in separate processes, ``work.workers`` at a time, or as many as there are cores."""
    cores = os.cpu_count() or 1
    count = max(1, min(work.workers or cores, len(work.cases)))
    waiting: queue.SimpleQueue[Case] = queue.SimpleQueue()
    for case in work.cases:
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
                    worker.run(case, work.limits(case), work.listen, stop)
                except SourceError as error:
                    not_loaded(case, error, work.listen)
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
