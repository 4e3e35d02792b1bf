"""The pytest plugin: a regression suite for a pruner, one test a model and check, and fixtures for suites of one's own.

``pytest --moeverify-subject my_fork:make_pruner`` adds the items ``moeverify::SOURCE::CHECK``. Nothing is computed
here: a case runs once, in a process of its own, when the first of its items is due.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from moeverify.base.words import words
from moeverify.pytest_plugin.options import option, pytest_addoption, roles_told

__all__ = ["pytest_addoption"]  # a hook of pytest's, found by its name

MARKER = "moeverify_expect_fail(*checks): verify_pruning expects these checks to fail in this test"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the session's part if a subject is named."""
    config.addinivalue_line("markers", MARKER)
    if option(config, "subject") is None:
        return
    from moeverify.base.imports import importing
    from moeverify.errors import DependencyError

    try:
        with importing():
            from moeverify.pytest_plugin.session import MoEVerifySession
    except DependencyError as error:
        raise pytest.UsageError(str(error)) from error

    config.pluginmanager.register(MoEVerifySession(config), "moeverify-session")


@pytest.fixture(scope="session")
def _verify_settings(pytestconfig: pytest.Config) -> dict[str, Any]:
    return {
        "subject": option(pytestconfig, "subject") or "moe",
        "pruning_ratio": option(pytestconfig, "pruning-ratio"),
        "seed": option(pytestconfig, "seed"),
        "dtype": option(pytestconfig, "dtype"),
        "timeout": option(pytestconfig, "timeout"),
        "roles": roles_told(pytestconfig),
        "checks": words(option(pytestconfig, "checks")) or None,
        "skip_checks": words(option(pytestconfig, "skip-checks")),
        "strict": option(pytestconfig, "strict"),
    }


@pytest.fixture
def verify_pruning(request: pytest.FixtureRequest, _verify_settings: dict[str, Any]) -> Callable[..., Any]:
    """A function with the arguments of ``moeverify.verify`` that fails the test if a check fails.

    The options of the command line are its defaults; checks named by the marker ``moeverify_expect_fail`` must fail.
    Returns the ``VerificationResult``.

    Example::

        def test_my_model(verify_pruning):
            verify_pruning(MyModel(), example_inputs=inputs, subject=my_prune, pruning_ratio=0.25)
    """
    from moeverify.report.text import describe_problem
    from moeverify.verdict import PROBLEMS, Status
    from moeverify.verification.verify import verify

    expected = [name for mark in request.node.iter_markers("moeverify_expect_fail") for name in mark.args]

    def check(sources: Any = (), **arguments: Any) -> Any:
        __tracebackhide__ = True
        result = verify(sources, **{**_verify_settings, "expect_fail": expected, **arguments})
        refused = (*PROBLEMS, Status.INCONCLUSIVE) if result.settings.get("strict") else PROBLEMS
        problems = [describe_problem(v) for v in result.verdicts if v.status in refused]
        if problems or not result.ok:
            pytest.fail("\n\n".join(problems) or "no check could be carried out", pytrace=False)
        return result

    return check


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``moe_spec`` stands for each model of the default synthetic family in turn."""
    if "moe_spec" in metafunc.fixturenames:
        from synthetic_models import default_specs

        specs = default_specs()
        metafunc.parametrize("moe_spec", list(specs.values()), ids=list(specs))
