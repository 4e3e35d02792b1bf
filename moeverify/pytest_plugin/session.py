"""The plugin's part in one pytest session: items, the cases behind them, and one merged report."""

from __future__ import annotations

import datetime
import time
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moeverify.base.foreign import guarded_exits
from moeverify.base.versions import versions
from moeverify.base.words import words
from moeverify.checks.selection import select_checks
from moeverify.errors import MoEVerifyError, UsageError
from moeverify.pytest_plugin.options import settings_of
from moeverify.report.caveats import caveats
from moeverify.report.result import VerificationResult
from moeverify.report.text import describe_problem, nothing_checked
from moeverify.subjects.load import subject_kind
from moeverify.verdict import LOAD, CaseFacts, Status, Verdict
from moeverify.verification.case import Case, verdict_of
from moeverify.verification.events import CaseFinished, Event, VerdictReached
from moeverify.verification.limits import limits_of
from moeverify.verification.verify import plan_cases
from moeverify.verification.worker import Worker

ROOT = "moeverify"
EXAMPLES = {"none": 0, "ci": 20, "nightly": 500}
_SECONDS_A_SPEC = 10.0


class ProblemFound(Exception):
    """A check did not pass; carries the verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.message)
        self.verdict = verdict


class SourceRoot(pytest.Collector):
    """Parent of all models."""

    def collect(self) -> Iterable[pytest.Item]:
        """Models are added by the session."""
        return []


class SourceNode(pytest.Collector):
    """One model; its items are the checks."""

    def __init__(self, *, case: Case, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.case = case

    def collect(self) -> Iterable[pytest.Item]:
        """One item a check."""
        for name in self.case.check_names():
            yield CheckItem.from_parent(self, name=name)


class CheckItem(pytest.Item):
    """One check on one model."""

    def runtest(self) -> None:
        """Ask the session for the verdict."""
        session: MoEVerifySession = self.config.pluginmanager.get_plugin("moeverify-session")  # type: ignore[assignment]
        assert isinstance(self.parent, SourceNode)
        verdict = session.verdict(self.parent.case, self.name)
        if verdict.status is Status.SKIP:
            pytest.skip(verdict.message)
        if verdict.status is Status.INCONCLUSIVE and not self.parent.case.strict:
            pytest.skip(f"inconclusive: {verdict.message}")
        if verdict.status is not Status.PASS:
            raise ProblemFound(verdict)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The verdict with its evidence and a line to reproduce it, instead of a traceback of ours."""
        if isinstance(excinfo.value, ProblemFound):
            return describe_problem(excinfo.value.verdict)
        if isinstance(excinfo.value, MoEVerifyError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, None, str]:
        """The name in test reports."""
        assert self.parent is not None
        return self.config.rootpath, None, f"{ROOT}::{self.parent.name}::{self.name}"


class PropertyItem(pytest.Item):
    """One property of synthetic models, on specs that Hypothesis draws."""

    def runtest(self) -> None:
        """Search; what falsifies the property is saved and shown as a script."""
        session: MoEVerifySession = self.config.pluginmanager.get_plugin("moeverify-session")  # type: ignore[assignment]
        session.search(self.name)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The smallest failing spec instead of a traceback of ours."""
        if isinstance(excinfo.value, FalsifiedProperty):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, None, str]:
        """The name in test reports."""
        return self.config.rootpath, None, self.nodeid


class FalsifiedProperty(Exception):
    """A property does not hold; the text gives the spec, and how to run it again."""


class MoEVerifySession:
    """Hooks of one process; under pytest-xdist every worker has one, and the controller draws the report."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.begin = time.monotonic()
        self.created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        try:
            self.cases = self._plan()
        except MoEVerifyError as error:
            raise pytest.UsageError(str(error)) from error
        self.worker: Worker | None = None
        self.result: VerificationResult | None = None
        self.path: Path | None = None
        self.reached: dict[str, dict[str, Verdict]] = {}
        self.facts: dict[str, CaseFacts] = {}
        self.errors: dict[str, MoEVerifyError] = {}

    def _option(self, name: str) -> Any:
        return self.config.getoption(f"--moeverify-{name}")

    def _words(self, name: str) -> list[str]:
        return words(self._option(name))

    def _plan(self) -> list[Case]:
        if self._option("profile") not in EXAMPLES:
            raise UsageError(f"unknown profile {self._option('profile')!r}; use {', '.join(EXAMPLES)}")
        expected = self._words("expect-fail")
        select_checks([word.rpartition("::")[2] for word in expected] or None)
        self.settings = settings_of(self.config, expect_fail="").validated()
        subject_kind(self.settings.subject)
        return [
            replace(case, expect_fail=tuple(sorted(self._expected(case.source))))
            for case in plan_cases(self._words("sources"), self.settings)
        ]

    def _expected(self, source: str) -> set[str]:
        """Checks of a source that must fail."""
        named = [word.rpartition("::") for word in self._words("expect-fail")]
        return {check for of, _, check in named if of in ("", source)}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Add our items; ``-k``, ``--lf`` and the rest see them like any other."""
        root = SourceRoot.from_parent(session, name=ROOT, nodeid=ROOT)
        for case in self.cases:
            node = SourceNode.from_parent(root, name=case.source, nodeid=f"{ROOT}::{case.source}", case=case)
            for item in node.collect():
                if item.name in case.expect_fail:
                    item.add_marker(pytest.mark.xfail(reason="expected to fail", strict=True, raises=ProblemFound))
                items.append(item)

        if EXAMPLES[self._option("profile")]:
            from moeverify.suites.properties import PROPERTIES

            specs = SourceRoot.from_parent(root, name="specs", nodeid=f"{ROOT}::specs")
            ours = self._option("subject") == "moe"
            for name, property_of_ours in PROPERTIES.items():
                if ours or not property_of_ours.own:
                    items.append(PropertyItem.from_parent(specs, name=name))

    def search(self, name: str) -> None:
        """Try a property. Raises ``FalsifiedProperty`` with the smallest failing spec."""
        from moeverify.suites.properties.search import describe_failure, find_failure

        with guarded_exits():
            failure = find_failure(
                name,
                self.settings.subject,
                pruning_ratio=self.settings.pruning_ratio,
                seconds=min(self.settings.timeout, _SECONDS_A_SPEC),
                examples=EXAMPLES[self._option("profile")],
            )
        if failure is not None:
            folder = Path(self._option("report") or self.config.rootpath / "reports")
            path = failure.save(folder / "falsified" / f"{name}.json")
            raise FalsifiedProperty(describe_failure(failure, path))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Under ``-n`` the checks of one model go to one worker, since they share one pruning."""
        if config.getoption("dist") != "load":
            return None
        from xdist.scheduler import LoadScopeScheduling

        class CaseScheduling(LoadScopeScheduling):
            def _split_scope(self, nodeid: str) -> str:
                return nodeid.rpartition("::")[0] if nodeid.startswith(models) else nodeid

        models = tuple(f"{ROOT}::{case.source}::" for case in self.cases)

        return CaseScheduling(config, log)

    def verdict(self, case: Case, check: str) -> Verdict:
        """The verdict of one check; the case runs at the first call.

        Raises the ``MoEVerifyError`` of a source that cannot be loaded.
        """
        if case.source not in self.reached:
            self.reached[case.source] = {}
            if self.worker is None or not self.worker.alive:
                self.worker = Worker()
            try:
                self.worker.run(case, limits_of(case), self._listen)
            except MoEVerifyError as error:
                self.errors[case.source] = error
        if case.source in self.errors:
            raise self.errors[case.source]
        return self.reached[case.source][check]

    def _listen(self, event: Event) -> None:
        if isinstance(event, VerdictReached):
            self.reached[event.case.source].setdefault(event.verdict.check, event.verdict)
        elif isinstance(event, CaseFinished) and event.facts is not None:
            self.facts[event.case.source] = event.facts

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let the verdict travel with the test report, from a worker to the controller."""
        report = yield
        if isinstance(item, CheckItem) and report.when == "call":
            source = item.parent.name  # type: ignore[union-attr]
            case = item.parent.case  # type: ignore[union-attr]
            verdict = self.reached.get(source, {}).get(item.name)
            if error := self.errors.get(source):
                verdict = verdict_of(case, LOAD, Status.ERROR, str(error), {})
            facts = self.facts.get(source)
            report.moeverify = {  # type: ignore[attr-defined]
                "verdict": verdict.to_dict() if verdict else None,
                "facts": facts.to_dict() if facts else None,
            }
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect what the workers found."""
        facts = getattr(report, "moeverify", None)
        if facts and facts["verdict"]:
            verdict = Verdict.from_dict(facts["verdict"])
            if hasattr(report, "wasxfail") or (report.failed and verdict.status is Status.PASS):
                verdict = verdict.expected_to_fail()
            self.reached.setdefault(verdict.source, {})[verdict.check] = verdict
        if facts and facts["facts"]:
            self.facts[facts["facts"]["source"]] = CaseFacts(**facts["facts"])

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Write the merged report, once, where the whole session is known."""
        if self.worker is not None:
            self.worker.close()
        if hasattr(self.config, "workerinput"):
            return
        self.result = VerificationResult(
            verdicts=tuple(
                self.reached[case.source][name]
                for case in self.cases
                for name in (LOAD, *case.check_names())
                if name in self.reached.get(case.source, {})
            ),
            cases=tuple(self.facts[case.source] for case in self.cases if case.source in self.facts),
            settings={**self.settings.describe(), "expect_fail": self._words("expect-fail")},
            versions=versions(),
            created=self.created,
            seconds=time.monotonic() - self.begin,
        )
        if self._option("report") is not None and self.result.verdicts:
            self.path = self.result.write(self._option("report"))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print what passes leave open, why nothing was checked, and where the report is."""
        if self.result is not None:
            lines = nothing_checked(self.result.verdicts) if self.result.verdicts else []
            lines += [f"note: {line}" for line in caveats(self.result.to_dict())]
            for line in lines:
                terminalreporter.write_line(f"moeverify {line}" if not line.startswith(" ") else line)
        if self.path is not None:
            terminalreporter.write_line(f"moeverify report: {self.path}")
