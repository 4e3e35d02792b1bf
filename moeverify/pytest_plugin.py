"""The pytest plugin: a regression suite for a pruner, one test a model and check, and fixtures for suites of one's own.

``pytest --moeverify-subject my_fork:make_pruner`` adds the items ``moeverify::SOURCE::CHECK``. Nothing is computed
here: a case runs once, in a process of its own, when the first of its items is due.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from moeverify.words import words

if TYPE_CHECKING:
    from moeverify.roles import Roles

OPTIONS = (
    (
        "subject",
        str,
        None,
        "pruner under test: moe, torch-pruning, a fork's folder, module:attribute; adds one test a model and check",
    ),
    ("sources", str, "", "models, separated by commas (default: moeverify's default set)"),
    ("pruning-ratio", float, 0.5, "share of the channels to remove"),
    ("checks", str, "", "only these checks, separated by commas"),
    ("skip-checks", str, "", "all but these checks, separated by commas"),
    ("expect-fail", str, "", "CHECK or SOURCE::CHECK that must fail, separated by commas"),
    (
        "profile",
        str,
        "ci",
        "specs drawn for each property: none, ci (20) or nightly (500); the smallest failing one is shown",
    ),
    ("seed", int, 0, "seed of weights, inputs and pruning"),
    ("dtype", str, "float32", "precision that models are stored in"),
    ("roles", str, None, "TOML file whose [roles] table says who is an expert, router, shared expert"),
    ("experts-pattern", str, None, "regular expression of the routed experts' container: last part of its path"),
    ("routers-pattern", str, None, "regular expression of routers: last part of their path"),
    ("shared-experts-pattern", str, None, "regular expression of shared experts: last part of their path"),
    ("timeout", float, 120.0, "seconds that one model may take"),
    ("report", str, None, "folder for report.html, report.json and junit.xml"),
)
MARKER = "moeverify_expect_fail(*checks): verify_pruning expects these checks to fail in this test"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, all under ``--moeverify-``."""
    group = parser.getgroup("moeverify", "verification of MoE pruning")
    for name, kind, default, text in OPTIONS:
        group.addoption(f"--moeverify-{name}", type=kind, default=default, help=text)


def _option(config: pytest.Config, name: str) -> Any:
    return config.getoption(f"--moeverify-{name}")


def roles_told(config: pytest.Config) -> Roles | None:
    """The naming rules that the options give, ``None`` if they give none.

    Raises ``UsageError`` as ``moeverify.roles_file.roles_from`` does.
    """
    from moeverify.roles_file import roles_from

    kinds = ("experts", "routers", "shared_experts")
    patterns = {kind: _option(config, f"{kind.replace('_', '-')}-pattern") for kind in kinds}
    return roles_from(_option(config, "roles"), **patterns)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the session's part if a subject is named."""
    config.addinivalue_line("markers", MARKER)
    if _option(config, "subject") is None:
        return
    from moeverify.errors import DependencyError
    from moeverify.imports import importing

    try:
        with importing():
            from moeverify.pytest_session import MoEVerifySession
    except DependencyError as error:
        raise pytest.UsageError(str(error)) from error

    config.pluginmanager.register(MoEVerifySession(config), "moeverify-session")


@pytest.fixture(scope="session")
def _verify_settings(pytestconfig: pytest.Config) -> dict[str, Any]:
    return {
        "subject": _option(pytestconfig, "subject") or "moe",
        "pruning_ratio": _option(pytestconfig, "pruning-ratio"),
        "seed": _option(pytestconfig, "seed"),
        "dtype": _option(pytestconfig, "dtype"),
        "timeout": _option(pytestconfig, "timeout"),
        "roles": roles_told(pytestconfig),
        "checks": words(_option(pytestconfig, "checks")) or None,
        "skip_checks": words(_option(pytestconfig, "skip-checks")),
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
    from moeverify.run import verify
    from moeverify.verdict import PROBLEMS

    expected = [name for mark in request.node.iter_markers("moeverify_expect_fail") for name in mark.args]

    def check(sources: Any = (), **arguments: Any) -> Any:
        __tracebackhide__ = True
        result = verify(sources, **{**_verify_settings, "expect_fail": expected, **arguments})
        problems = [describe_problem(v) for v in result.verdicts if v.status in PROBLEMS]
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
