"""What the plugin prints at the end: a pass must not sound like more than was asked."""

from types import SimpleNamespace

from sample_results import facts, result, verdict

import moeverify.pytest_plugin as plugin
from moeverify.pytest_plugin.session import MoEVerifySession
from moeverify.verdict import Status

OPEN = result(
    verdict("zoo:good", "shapes", Status.PASS, "runs; all checks use the example inputs alone", caveat=True),
    verdict("zoo:good", "terminates", Status.PASS, "came back"),
    verdict("zoo:good", "reload", Status.FAIL, "differs", caveat=True),
    cases=(facts("zoo:good", trusted="in-process: a function given as an object"),),
)
NOTES = [
    "moeverify note: zoo:good: judged in the subject's process (a function given as an object); see docs/trust.md",
    "moeverify note: zoo:good shapes: runs; all checks use the example inputs alone",
]


def printed(summary):
    lines = []
    summary(SimpleNamespace(write_line=lines.append))
    return lines


def test_of_the_command_line_options():
    session = SimpleNamespace(result=OPEN, path="out/report.html")
    lines = printed(lambda reporter: MoEVerifySession.pytest_terminal_summary(session, reporter))
    assert lines == [*NOTES, "moeverify report: out/report.html"]


def test_of_the_fixture_once_for_equal_results():
    config = SimpleNamespace(stash={plugin.RESULTS: [OPEN, OPEN]})
    assert printed(lambda reporter: plugin.pytest_terminal_summary(reporter, config)) == NOTES


def test_nothing_is_printed_where_nothing_ran():
    assert printed(lambda reporter: plugin.pytest_terminal_summary(reporter, SimpleNamespace(stash={}))) == []
    session = SimpleNamespace(result=None, path=None)
    assert printed(lambda reporter: MoEVerifySession.pytest_terminal_summary(session, reporter)) == []
