"""The plugin's options: those of ``Settings`` under ``--moeverify-``, and a few of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from moeverify.base.options import Option
from moeverify.verification.settings import OPTIONS, Settings

# Without a subject the plugin adds no tests; `--moeverify-expect-fail` may name one source's check.
_CHANGED: dict[str, dict[str, Any]] = {
    "subject": {"default": None, "help": "{}; adds one test a model and check"},
    "expect_fail": {"help": "CHECK or SOURCE::CHECK that must fail, separated by commas."},
}
OWN = (
    Option("sources", str, "", "Models, separated by commas; moeverify's default set."),
    Option("profile", str, "ci", "Specs drawn for each property: none, ci (20) or nightly (500)."),
    Option("report", str, None, "Folder for report.html, report.json and junit.xml."),
)


def _plugin_option(option: Option) -> Option:
    changed = _CHANGED.get(option.name, {})
    text = str(changed.get("help", option.help)).format(option.help.rstrip("."))
    return replace(option, default=changed.get("default", option.default), help=text)


ALL = (*map(_plugin_option, OPTIONS), *OWN)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, all under ``--moeverify-``."""
    group = parser.getgroup("moeverify", "verification of MoE pruning")
    for option in ALL:
        words: dict[str, Any] = {"default": option.default, "help": option.help.replace("%", "%%")}
        if option.kind is bool:
            words["action"] = "store_true"
        else:
            words |= {"type": _typed(option), "metavar": option.metavar or option.kind.__name__.upper()}
            if option.repeated:
                words["action"] = "append"
        group.addoption(f"--moeverify-{option.flag[2:]}", **words)


def _typed(option: Option) -> Callable[[str], Any]:
    """A parser of the option's word that holds it to its bounds."""

    def parse(text: str) -> Any:
        value = option.kind(text)
        if (option.low is not None and value < option.low) or (option.high is not None and value > option.high):
            raise ValueError(text)
        return value

    parse.__name__ = option.kind.__name__  # argparse names it in its message
    return parse


def option(config: pytest.Config, name: str) -> Any:
    """The value of ``--moeverify-NAME``."""
    return config.getoption(f"--moeverify-{name}")


def settings_of(config: pytest.Config, **changes: Any) -> Settings:
    """Settings that the options give; ``changes`` replace values of options by name.

    Raises ``UsageError`` for values that cannot be meant.
    """
    values = {o.name: option(config, o.flag[2:]) for o in OPTIONS} | changes
    values["subject"] = values["subject"] or "moe"
    return Settings.read(values)
