"""Cases on a Ray cluster of two nodes on this machine."""

import json
import threading

import pytest

import moeverify as mv
from moeverify.errors import UsageError
from moeverify.verdict import Status
from moeverify.verification.events import CaseFinished

ray = pytest.importorskip("ray", reason="ray is not installed; `tox run -e ray` runs these")
pytestmark = [
    pytest.mark.slow,
    # Ray's own processes and sockets end with the cluster.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SOURCES = ["synthetic:listed", "synthetic:fused", "synthetic:soft", "synthetic:latent"]
CHECKS = ["terminates", "something-pruned", "shapes"]


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield found
    ray.shutdown()
    found.shutdown()


def told(result):
    """What a run found, without what differs from run to run."""
    return [(v.source, v.check, v.status, v.message) for v in result.verdicts]


def test_the_results_are_those_of_this_machine(cluster, tmp_path):
    here = mv.verify(SOURCES[:2], checks=CHECKS, workers=1)
    there = mv.verify(SOURCES[:2], checks=CHECKS, executor="ray", address=cluster.address, report=tmp_path / "report")
    assert told(there) == told(here)
    assert json.loads((tmp_path / "report" / "report.json").read_text())["summary"]["pass"] == 6
    missing = mv.verify(["synthetic:listed", "zoo:none"], checks=CHECKS, executor="ray", address=cluster.address)
    assert [v.status for v in missing.verdicts if v.source == "zoo:none"] == [Status.ERROR]


def test_a_subject_that_exits_takes_no_task_with_it(cluster):
    found = mv.verify(
        SOURCES[:1], subject="hostile_subjects:leaves_from_c", checks=CHECKS, executor="ray", address=cluster.address
    )
    assert found.verdicts[0].status is Status.ERROR
    assert "ended with exit status 0 in stage prune" in found.verdicts[0].message


def test_a_node_that_dies_costs_no_case(cluster):
    node = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    killed = threading.Event()

    def kill_after_the_first(event):
        if isinstance(event, CaseFinished) and not killed.is_set():
            killed.set()
            cluster.remove_node(node, allow_graceful=False)

    found = mv.verify(SOURCES, checks=CHECKS, executor="ray", address=cluster.address, listen=kill_after_the_first)
    assert killed.is_set()
    assert told(found) == told(mv.verify(SOURCES, checks=CHECKS, workers=2))


def test_no_cluster_is_one_line():
    with pytest.raises(UsageError, match=r"no Ray cluster at '127\.0\.0\.1:1'"):
        mv.verify(SOURCES[:1], executor="ray", address="127.0.0.1:1")
