"""Runs properties over many specs, saves what falsifies them, and keeps account for the summary."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

from moeverify.properties import PROPERTIES
from moeverify.properties.search import NOT_APPLICABLE, describe_failure, find_failure
from moeverify.report.files import write_text
from synthetic_models.coverage import SpecCoverage


class PropertyLog:
    """Examples, failures and the coverage of the space of specs, over all processes of a pytest run."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # "property|what"
        self.failures: dict[str, str] = {}
        self.coverage = SpecCoverage()

    def data(self) -> dict:
        """Plain data to hand to another process."""
        return {"counts": dict(self.counts), "failures": self.failures, "coverage": dict(self.coverage.counts)}

    def merge(self, data: dict) -> None:
        """Add what another process counted."""
        self.counts.update(data["counts"])
        self.failures.update(data["failures"])
        self.coverage.merge(data["coverage"])

    def rows(self) -> list[dict]:
        """One row for each property and subject that was tried."""
        names = sorted({key.rpartition("|")[0] for key in self.counts})
        return [
            {
                "property": name.partition("|")[0],
                "subject": name.partition("|")[2],
                "examples": self.counts[f"{name}|examples"],
                "not_applicable": self.counts[f"{name}|not applicable"],
                "failure": self.failures.get(name),
                "seconds": self.counts[f"{name}|ms"] / 1000,
            }
            for name in names
        ]

    def lines(self) -> list[str]:
        """The summary to print."""
        rows = self.rows()
        total = sum(row["examples"] for row in rows)
        lines = [f"{total} examples of {len(rows)} properties, {len(self.failures)} falsified"]
        for row in rows:
            applied = row["examples"] - row["not_applicable"]
            lines.append(
                f"{row['property']:20} {row['subject']:14} {row['examples']:6} examples, {applied:6} applied, "
                f"{row['seconds']:7.1f} s  {row['failure'] or 'holds'}"
            )
        return [*lines, *self.coverage.lines()]

    def document(self, profile: str) -> dict:
        """The result table and the coverage, as JSON data."""
        pairs, missing = self.coverage.pairs()
        kinds = {k: n for k, n in sorted(self.coverage.counts.items()) if " & " not in k and k != "specs"}
        return {
            "profile": profile,
            "examples": sum(row["examples"] for row in self.rows()),
            "properties": self.rows(),
            "coverage": {
                "specs": self.coverage.counts["specs"],
                "kinds": kinds,
                "kinds_never_drawn": self.coverage.missing_kinds(),
                "pairs": pairs,
                "pairs_never_drawn": missing,
            },
        }


PROPERTY = "moeverify-properties"


class PropertyLogPlugin:
    """Collects the logs that tests record, also those of pytest-xdist's workers; prints the summary and keeps
    ``reports/properties.json`` as far as the run has come.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.log = PropertyLog()

    def pytest_runtest_logreport(self, report) -> None:
        """Add what a test recorded. Workers leave that to the controller."""
        if report.when != "call" or hasattr(self.config, "workerinput"):
            return
        for name, data in report.user_properties:
            if name == PROPERTY:
                self.log.merge(data)
                path = Path(self.config.rootpath, "reports", "properties.json")
                write_text(path, json.dumps(self.log.document(settings.get_current_profile_name()), indent=2) + "\n")

    def pytest_terminal_summary(self, terminalreporter) -> None:
        """Print the result."""
        if self.log.counts:
            terminalreporter.section("properties")
            for line in self.log.lines():
                terminalreporter.write_line(line)


def run_property(name: str, subject: str, shard: int, log: PropertyLog, folder: Path, **drawn) -> None:
    """Try a property on as many specs as the profile says; ``drawn`` are arguments of the strategy.

    The smallest falsifying spec is saved in ``folder``, and the assertion shows how to run it again. Each shard
    draws other specs, unless the profile is derandomised.
    """
    path = folder / f"{name}-{subject.replace(':', '-').replace('/', '-')}.json"
    key = f"{name}|{subject}"

    def count(spec, said, seconds) -> None:
        log.coverage.add(spec)
        log.counts[f"{key}|examples"] += 1
        log.counts[f"{key}|ms"] += round(1000 * seconds)
        if said == NOT_APPLICABLE:
            log.counts[f"{key}|not applicable"] += 1

    failure = find_failure(name, subject, shard=shard, tell=count, **drawn)
    if failure is not None:
        log.failures[key] = f"{failure.message} ({failure.spec!r})"
        raise AssertionError(describe_failure(failure, failure.save(path)))


def shards() -> list[tuple[str, int]]:
    """Test items: each property once, or in the nightly profile as many times as its share."""
    nightly = settings.get_current_profile_name() == "nightly"
    return [(name, n) for name, found in PROPERTIES.items() for n in range(found.share if nightly else 1)]
