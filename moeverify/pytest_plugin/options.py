"""The plugin's options and what they give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from moeverify.models.roles import Roles

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


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, all under ``--moeverify-``."""
    group = parser.getgroup("moeverify", "verification of MoE pruning")
    for name, kind, default, text in OPTIONS:
        group.addoption(f"--moeverify-{name}", type=kind, default=default, help=text)
    group.addoption("--moeverify-strict", action="store_true", help="inconclusive verdicts count as failures")


def option(config: pytest.Config, name: str) -> Any:
    """The value of ``--moeverify-NAME``."""
    return config.getoption(f"--moeverify-{name}")


def roles_told(config: pytest.Config) -> Roles | None:
    """The naming rules that the options give, ``None`` if they give none.

    Raises ``UsageError`` as ``moeverify.models.roles_file.roles_from`` does.
    """
    from moeverify.models.roles_file import roles_from

    kinds = ("experts", "routers", "shared_experts")
    patterns = {kind: option(config, f"{kind.replace('_', '-')}-pattern") for kind in kinds}
    return roles_from(option(config, "roles"), **patterns)
