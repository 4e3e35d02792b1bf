"""Profiles of Hypothesis, and processes that tests share.

``MOEVERIFY_HYPOTHESIS_PROFILE`` chooses ``ci`` (the default), ``quick`` or ``nightly``. All tests share the process
that loads what was saved, and the fork servers that cases run in: either takes seconds to start.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

# A machine's load is no property of the code: no deadline, and slow drawing is no failure.
UNHURRIED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}

settings.register_profile("ci", derandomize=True, max_examples=20, **UNHURRIED)
settings.register_profile("quick", derandomize=True, max_examples=4, **UNHURRIED)
settings.register_profile("nightly", max_examples=500, print_blob=True, **UNHURRIED)
# A rule that fails must not pass for an operation that has none.
os.environ.setdefault("MOEVERIFY_RULES_RAISE", "1")

PROFILE = os.environ.get("MOEVERIFY_HYPOTHESIS_PROFILE", "ci")
settings.load_profile(PROFILE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave what takes minutes to the nightly run."""
    if PROFILE != "nightly":
        later = pytest.mark.skip(reason="takes minutes; `tox run -e nightly` runs it")
        for item in items:
            if item.get_closest_marker("nightly"):
                item.add_marker(later)


def pytest_configure(config: pytest.Config) -> None:
    """The account of the property suite, printed at the end."""
    from property_runs import PropertyLogPlugin

    config.pluginmanager.register(PropertyLogPlugin(config), "property-log")


@pytest.fixture(scope="session", autouse=True)
def _reload_process(tmp_path_factory):
    """Reloads of all tests share one process, which forks for each."""
    from shared_processes import ReloadProcess

    process = ReloadProcess(str(tmp_path_factory.mktemp("reload")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moeverify.checks.evidence.fresh_process.kept_process", process.place)
        yield
    process.end()


@pytest.fixture(scope="session", autouse=True)
def _fork_servers():
    """Runs of all tests borrow fork servers instead of starting their own."""
    from shared_processes import ForkServers

    servers = ForkServers()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moeverify.verification.executors.local.Worker", servers.lend)
        yield
    servers.close()
