"""Hypothesis profiles, chosen by ``MOEVERIFY_HYPOTHESIS_PROFILE``: ``ci`` (the default) and ``nightly``."""

import os

import pytest
from hypothesis import HealthCheck, settings

# A machine's load is no property of the code: no deadline, and slow drawing is no failure.
UNHURRIED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}

settings.register_profile("ci", derandomize=True, max_examples=20, **UNHURRIED)
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
