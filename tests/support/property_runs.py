"""Runs properties over many specs, saves what falsifies them, and keeps account for the summary."""

from __future__ import annotations

import gc
import json
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings

from moeverify.base.files import write_text
from moeverify.suites.properties import PROPERTIES, NotApplicable, PropertyFailed, check_property
from moeverify.suites.properties.failure import Failure
from synthetic_models.coverage import SpecCoverage, all_kinds
from synthetic_models.strategies import specs


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


def markdown(document: dict) -> str:
    """A document as a page to read."""
    coverage = document["coverage"]
    drawn = len(all_kinds()) - len(coverage["kinds_never_drawn"])
    lines = [
        f"# Property suite, profile `{document['profile']}`",
        "",
        f"{document['examples']:,} examples. Made by `MOEVERIFY_HYPOTHESIS_PROFILE={document['profile']} pytest "
        "tests/properties -n auto`, which writes `reports/properties.json` and this page.",
        "",
        "| property | subject | examples | applied | result |",
        "| --- | --- | ---: | ---: | --- |",
        *(
            f"| {row['property']} | {row['subject']} | {row['examples']:,} | "
            f"{row['examples'] - row['not_applicable']:,} | {row['failure'] or 'holds'} |"
            for row in document["properties"]
        ),
        "",
        "## Coverage of the space of specs",
        "",
        f"{coverage['specs']:,} specs; {drawn} of {len(all_kinds())} kinds and "
        f"{coverage['pairs'] - len(coverage['pairs_never_drawn']):,} of {coverage['pairs']:,} pairs of kinds drawn.",
        "",
        "| kind | specs |",
        "| --- | ---: |",
        *(f"| {kind} | {number:,} |" for kind, number in coverage["kinds"].items()),
        "",
        *(f"Never drawn: {kind}." for kind in coverage["kinds_never_drawn"]),
        *(f"Pair never drawn: {pair}." for pair in coverage["pairs_never_drawn"][:40]),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


PROPERTY = "moeverify-properties"


class PropertyLogPlugin:
    """Collects the logs that tests record, also those of pytest-xdist's workers; prints the summary and keeps
    ``reports/properties.json`` (and ``.md``) as far as the run has come.
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
                document = self.log.document(settings.get_current_profile_name())
                folder = Path(self.config.rootpath, "reports")
                write_text(folder / "properties.json", json.dumps(document, indent=2) + "\n")
                write_text(folder / "properties.md", markdown(document))

    def pytest_terminal_summary(self, terminalreporter) -> None:
        """Print the result."""
        if self.log.counts:
            terminalreporter.section("properties")
            for line in self.log.lines():
                terminalreporter.write_line(line)


# A long run is cut into items that pytest-xdist spreads: the properties that share a graph are tried on so many times
# the profile's examples, each dearer one on as many as the profile says, in quarters. A short run draws
# half as many for the dearer ones: each example takes a second or more.
CHEAP_SHARDS, DEAR_SHARDS = 13, 4


def shards() -> list[tuple[tuple[str, ...], int]]:
    """Test items: the properties that share a graph together, each other one by itself, and a number of the shard."""
    nightly = settings.get_current_profile_name() == "nightly"
    together = tuple(name for name, found in PROPERTIES.items() if found.groups)
    alone = [(name,) for name, found in PROPERTIES.items() if not found.groups]
    cheap = [(together, n) for n in range(CHEAP_SHARDS if nightly else 1)]
    dear = [(names, n) for n in range(DEAR_SHARDS if nightly else 1) for names in alone]
    return [*dear[: len(alone)], *cheap, *dear[len(alone) :]]


def examples(names: Sequence[str]) -> int:
    """How many specs an item draws."""
    nightly = settings.get_current_profile_name() == "nightly"
    dear = not all(PROPERTIES[name].groups for name in names)
    return settings().max_examples // (DEAR_SHARDS if nightly else 2) if dear else settings().max_examples


def run_properties(names: Sequence[str], subject: str, shard: int, log: PropertyLog, folder: Path, **drawn) -> None:
    """Try properties on as many specs as the profile says; ``drawn`` are arguments of the strategy.

    The smallest falsifying spec is saved in ``folder``, and the assertion shows how to run it again. Each property
    and shard draws other specs, the same ones every time.
    """

    def holds(spec) -> None:
        log.coverage.add(spec)
        for name in names:
            _try(name, spec, subject, log, folder)

    gc.collect()
    gc.freeze()  # the libraries' objects are not looked through again and again
    holds.__name__ = holds.__qualname__ = f"{'_'.join(names).replace('-', '_')}_hold"
    # Seeded rather than derandomised, which would draw the same few specs for every property.
    drawn = {"spare": PROPERTIES[names[0]].spare, **drawn}
    given_specs = seed(zlib.crc32(f"{names[0]} {shard}".encode()))(given(specs(**drawn))(holds))
    settings(
        derandomize=False,
        max_examples=examples(names),
        report_multiple_bugs=False,
        database=None,
        suppress_health_check=list(HealthCheck),
    )(given_specs)()


def _try(name: str, spec, subject: str, log: PropertyLog, folder: Path) -> None:
    key = f"{name}|{subject}"
    begin = time.perf_counter()
    log.counts[f"{key}|examples"] += 1
    try:
        check_property(name, spec, subject=subject)
    except NotApplicable:
        log.counts[f"{key}|not applicable"] += 1
    except PropertyFailed as error:
        failure = Failure(name, spec, subject, message=str(error))
        log.failures[key] = f"{error} ({spec!r})"
        path = folder / f"{name}-{subject.replace(':', '-').replace('/', '-')}.json"
        failure.save(path)  # Hypothesis ends with the smallest, so that is what stays
        raise AssertionError(
            f"{name} does not hold for {subject}: {error}\n\nmoeverify replay {path}\n\n{failure.script()}\n"
        ) from error
    finally:
        log.counts[f"{key}|ms"] += round(1000 * (time.perf_counter() - begin))
