"""The pytest plugin: a regression suite for a pruner, one test a model and check, and fixtures for suites of one's own.

``pytest --moeverify-subject my_fork:make_pruner`` adds the items ``moeverify::SOURCE::CHECK``. Nothing is computed
here: a case runs once, in a process of its own, when the first of its items is due.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import pytest

from moeverify.pytest_plugin.options import option, pytest_addoption, settings_of

__all__ = ["pytest_addoption"]  # a hook of pytest's, found by its name

RESULTS: pytest.StashKey[list[Any]] = pytest.StashKey()
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
    from moeverify.errors import MoEVerifyError
    from moeverify.models.roles import Roles

    try:
        settings = settings_of(pytestconfig, expect_fail="").arguments()
    except MoEVerifyError as error:
        raise pytest.UsageError(str(error)) from error
    return {**settings, "roles": Roles(**settings["roles"]) if settings["roles"] else None}


@pytest.fixture
def verify_pruning(request: pytest.FixtureRequest, _verify_settings: dict[str, Any]) -> Callable[..., Any]:
    """A function with the arguments of ``moeverify.verify`` that fails the test if a check fails.

    The options of the command line are its defaults; checks named by the marker ``moeverify_expect_fail`` must fail.
    Returns the ``VerificationResult``. Where no command can name the model or the subject, the test itself is what
    reproduces a failure.

    Example::

        def test_my_model(verify_pruning):
            verify_pruning(MyModel(), example_inputs=inputs, subject=my_prune, pruning_ratio=0.25)
    """
    from moeverify.report.text import describe_problem, nothing_checked
    from moeverify.verdict import PROBLEMS, Status
    from moeverify.verification.verify import verify

    expected = [name for mark in request.node.iter_markers("moeverify_expect_fail") for name in mark.args]
    again = shlex.join(["pytest", request.node.nodeid])

    def check(sources: Any = (), **arguments: Any) -> Any:
        __tracebackhide__ = True
        given = {**_verify_settings, "expect_fail": expected, "reproduce": again, **arguments}
        result = verify(sources, **given)
        request.config.stash.setdefault(RESULTS, []).append(result)
        refused = (*PROBLEMS, Status.INCONCLUSIVE) if result.settings.get("strict") else PROBLEMS
        problems = [describe_problem(v) for v in result.verdicts if v.status in refused]
        if problems or not result.ok:
            pytest.fail("\n\n".join(problems) or "\n".join(nothing_checked(result.verdicts)), pytrace=False)
        return result

    return check


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the caveats of ``verify_pruning`` calls that passed."""
    results = config.stash.get(RESULTS, [])
    if not results:
        return
    from moeverify.report.caveats import caveats

    for line in dict.fromkeys(line for result in results for line in caveats(result.to_dict())):
        terminalreporter.write_line(f"moeverify note: {line}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``moe_spec`` is each model of the default synthetic family in turn."""
    if "moe_spec" in metafunc.fixturenames:
        from synthetic_models import default_specs

        specs = default_specs()
        metafunc.parametrize("moe_spec", list(specs.values()), ids=list(specs))


@pytest.fixture
def certify_pruning() -> Callable[..., Any]:
    """A function with the arguments of ``moeverify.certify`` that fails the test if a relation fails.

    Returns the result, with ``headline`` and ``keep_map``.

    Example::

        def test_the_checkpoint_that_we_release(certify_pruning):
            certify_pruning("base", "pruned")
    """
    from moeverify.report.text import describe_problem
    from moeverify.verdict import PROBLEMS
    from moeverify.verification.certify import certify

    def check(base: Any, pruned: Any, **arguments: Any) -> Any:
        __tracebackhide__ = True
        result = certify(base, pruned, **arguments)
        problems = [describe_problem(v) for v in result.verdicts if v.status in PROBLEMS]
        if problems or not result.ok:
            pytest.fail("\n\n".join(problems) or "no relation could be judged", pytrace=False)
        return result

    return check
