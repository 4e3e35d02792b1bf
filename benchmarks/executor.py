"""What an executor adds to each case: this machine's workers against a Ray cluster of two nodes, with the same results.

``python -m benchmarks.executor`` runs the same cases three times, two at a time, each run in a process of its own: by
the local executor, on a Ray cluster of two nodes with one core each on this machine, and on such a cluster whose second
node is killed when the first case is over. It writes ``executor.json`` and ``executor.md``. Needs ``moeverify[ray]``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moeverify.base.files import write_text
from moeverify.base.versions import versions
from moeverify.verification.events import CaseFinished, Event

ZOO = ("zoo:mixtral", "zoo:qwen3_moe", "zoo:olmoe", "zoo:deepseek_v3")
CHECKS = ("terminates", "something-pruned", "shapes", "masked-equivalence")
AT_A_TIME = 2
RUNS = {
    "local": "local",
    "ray": "ray, two nodes",
    "killed": "ray, one of two nodes killed after the first case",
}


@dataclass(frozen=True)
class Ran:
    """One run: wall-clock seconds, and those inside of its cases together.

    ``found`` has source, check, status and message of each verdict.
    """

    name: str
    cases: int
    seconds: float
    inside: float
    found: Sequence[Sequence[str]]

    @property
    def overhead(self) -> float:
        """Seconds that a place for cases spent on one case beside running it."""
        return (self.seconds * AT_A_TIME - self.inside) / self.cases


def run(name: str, sources: Sequence[str]) -> Ran:
    """Run all cases in this process by one of ``RUNS``."""
    asked: dict[str, Any] = {"checks": CHECKS, "workers": AT_A_TIME}
    if name == "local":
        return _timed(name, sources, asked)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        asked |= {"executor": "ray", "address": cluster.address}
        if name == "killed":
            asked |= {"listen": _after_the_first(lambda: cluster.remove_node(second, allow_graceful=False))}
        return _timed(name, sources, asked)
    finally:
        cluster.shutdown()


def _timed(name: str, sources: Sequence[str], asked: Mapping[str, Any]) -> Ran:
    import moeverify as mv

    begin = time.perf_counter()
    result = mv.verify(list(sources), **asked)
    seconds = time.perf_counter() - begin
    found = [(v.source, v.check, v.status.value, v.message) for v in result.verdicts]
    inside = sum(sum(case.facts["seconds"].values()) for case in result.cases)
    return Ran(name, len(sources), seconds, inside, found)


def _after_the_first(action: Any) -> Any:
    done = threading.Event()

    def listen(event: Event) -> None:
        if isinstance(event, CaseFinished) and not done.is_set():
            done.set()
            action()

    return listen


def sources_of(cases: int) -> list[str]:
    """So many sources at most: the synthetic models, and a few types of the zoo."""
    from synthetic_models import default_specs

    return [*(f"synthetic:{name}" for name in default_specs()), *ZOO][:cases]


def table(ran: Sequence[Ran], packages: Mapping[str, str]) -> str:
    """The report as Markdown."""
    first = ran[0]
    lines = [
        "# What an executor adds to a case",
        "",
        f"Made by `python -m benchmarks.executor` with {', '.join(f'{n} {v}' for n, v in packages.items())}.",
        f"{first.cases} cases with the checks {', '.join(f'`{check}`' for check in CHECKS)}, {AT_A_TIME} at a time.",
        "A place is what runs one case at a time: a local worker, or a core of a node. Both nodes are on this machine,",
        "with other work beside. The overhead is the time of a place that is not inside of a case, per case: above",
        "all the start of its fork server, once for all of its cases, and of the connection to Ray.",
        "",
        "| executor | seconds | seconds inside of cases | overhead per case (s) | against local (s) | results |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for one in ran:
        same = "" if one is first else "the same" if one.found == first.found else "OTHER RESULTS"
        against = "" if one is first else f"{one.overhead - first.overhead:+.2f}"
        lines.append(
            f"| {RUNS[one.name]} | {one.seconds:.1f} | {one.inside:.1f} | {one.overhead:.2f} | {against} | {same} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run, print and write; 1 if a run has other results than the local one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("reports/baselines"), help="folder of the results")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run:
        print(json.dumps(asdict(run(options.run, sources_of(options.cases)))))
        return 0
    held = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    ran = []
    for name in RUNS:
        words = [sys.executable, "-m", "benchmarks.executor", "--run", name, "--cases", str(options.cases)]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **held})
        ran.append(Ran(**json.loads(done.stdout.strip().splitlines()[-1])))
    import ray

    packages = {**versions(), "ray": ray.__version__}
    text = table(ran, packages)
    print(text)
    data = {"versions": packages, "runs": [asdict(one) for one in ran]}
    write_text(options.output / "executor.json", json.dumps(data, indent=1) + "\n")
    write_text(options.output / "executor.md", text)
    return int(any(one.found != ran[0].found for one in ran))


if __name__ == "__main__":
    sys.exit(main())
