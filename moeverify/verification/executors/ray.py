"""Cases on a Ray cluster: each is one task, which runs it in processes of its own on whatever machine it lands.

Source: Ray's tasks, which a cluster runs again elsewhere when the machine that ran them is lost. Ray gives the tasks of
a run to the same few processes. Each of them keeps its fork server from one case to the next, as a local run does.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

from moeverify.base.extensions import VARIABLE
from moeverify.errors import DependencyError, MoEVerifyError, SourceError, UsageError
from moeverify.verification.case import Case
from moeverify.verification.events import Event
from moeverify.verification.executors.registry import Work, executor, not_loaded
from moeverify.verification.limits import Limits
from moeverify.verification.unfinished import Unfinished
from moeverify.verification.worker import Worker

RETRIES = 3
# At most one, by the folder that it was started in. Its fork server ends with this process, however that ends.
_WORKERS: dict[str, Worker] = {}


@executor("ray")
def run_on_ray(work: Work) -> None:
    """Run cases as tasks of the cluster at ``work.address``; one that a lost machine ran is run again elsewhere.

    The machines need this package at the same version, the sources and the subject under the same names. Events of a
    case arrive when it is over.
    """
    with _cluster(work.address) as ray:
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_run_case)
        waiting = deque(work.cases)
        running: dict[Any, Case] = {}
        try:
            while waiting or running:
                while waiting and (work.workers is None or len(running) < work.workers):
                    case = waiting.popleft()
                    running[task.remote(case.to_dict(), work.limits(case), os.getcwd())] = case
                done, _ = ray.wait(list(running), num_returns=1)
                for reference in done:
                    _forward_events(ray, reference, running.pop(reference), work)
        except BaseException:
            for reference in running:
                with contextlib.suppress(Exception):
                    ray.cancel(reference, force=True)
            raise


def _forward_events(ray: Any, reference: Any, case: Case, work: Work) -> None:
    """Forward the events of a task. A case whose machines were lost on every try becomes an error."""
    try:
        events, refused = ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
        unfinished = Unfinished(case, work.listen)
        unfinished.lost(f"{RETRIES + 1} times, last by {type(error).__name__}")
        unfinished.end()
        return
    for event in events:
        work.listen(event)
    if refused is not None:
        raise refused


def _run_case(case_data: dict[str, Any], limits: Limits, folder: str) -> tuple[list[Event], MoEVerifyError | None]:
    """One case on the machine of the task; its events, and the error of a subject that cannot be loaded."""
    with contextlib.suppress(OSError):  # another machine may not have it
        os.chdir(folder)
    case, events = Case.from_dict(case_data), list[Event]()
    try:
        _worker_of_this_process(os.getcwd()).run(case, limits, events.append)
    except SourceError as error:
        not_loaded(case, error, events.append)
    except MoEVerifyError as error:
        return events, error
    return events, None


def _worker_of_this_process(folder: str) -> Worker:
    """The worker of this process, started anew where it ended or where cases run in another folder now."""
    worker = _WORKERS.get(folder)
    if worker is None or not worker.alive:
        _close_workers()
        worker = _WORKERS[folder] = Worker()
    return worker


@atexit.register
def _close_workers() -> None:
    while _WORKERS:
        _WORKERS.popitem()[1].close()


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Connect to a running cluster; a connection that existed before stays open."""
    try:
        import ray
    except ImportError as error:
        raise DependencyError("the executor ray needs Ray; run: pip install 'moeverify[ray]'") from error
    mine = not ray.is_initialized()
    if mine:
        paths = os.pathsep.join(dict.fromkeys(path or os.getcwd() for path in sys.path))
        environment = {"PYTHONPATH": paths} | {name: os.environ[name] for name in (VARIABLE,) if name in os.environ}
        try:
            _reach(address)
            ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": environment})
        except (OSError, ValueError, RuntimeError) as error:
            line = " ".join(str(error).split())[:200]
            raise UsageError(f"no Ray cluster at {address!r} ({line}); start one, or leave out --executor") from error
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


def _reach(address: str) -> None:
    """Raise ``OSError`` at once where nothing listens at ``host:port``: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()
