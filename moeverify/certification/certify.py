"""Certification of a pruned checkpoint folder against its base: two folders in, verdicts out."""

from __future__ import annotations

import datetime
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import moeverify.certification.relations  # noqa: F401  registers the relations
from moeverify.base.versions import versions
from moeverify.certification.evidence import Evidence, NotVisible, Options
from moeverify.certification.oracle.running import one_line
from moeverify.certification.relations.registry import inconclusive, relations_for
from moeverify.certification.relations.values import classes_of
from moeverify.certification.summary import case_facts
from moeverify.checks.registry import Finding
from moeverify.errors import MoEVerifyError, SourceError, UsageError
from moeverify.models.device import check_device
from moeverify.models.folder.inventory import resolve_folder
from moeverify.models.roles import Roles
from moeverify.serving.engines import engines_named
from moeverify.serving.settings import SECONDS
from moeverify.verdict import CaseFacts, Verdict

ORACLES = ("full", "sample", "none")
SUBJECT = "certify"


@dataclass(frozen=True)
class Certified:
    """Verdicts on a pair of folders, and the evidence that they rest on. ``headline`` is the class of the folder."""

    verdicts: tuple[Verdict, ...]
    facts: CaseFacts
    headline: str
    evidence: Evidence
    settings: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=versions)
    created: str = ""
    seconds: float = 0.0


def examine(
    base: str | Path,
    pruned: str | Path,
    *,
    oracle: str = "sample",
    device: str = "cpu",
    seed: int = 0,
    engines: tuple[str, ...] = (),
    engine_timeout: float = SECONDS,
    roles: Roles | None = None,
    on_event: Callable[[str], None] = lambda name: None,
) -> Certified:
    """Judge every relation between two folders.

    ``roles`` names experts, routers and shared experts where the usual names do not find them. ``on_event`` is called
    with the name of each relation before it is judged. Raises ``UsageError`` for an unknown
    oracle or device, ``SourceError`` if one of the folders is no checkpoint or the base is no model.
    """
    if oracle not in ORACLES:
        raise UsageError(f"unknown oracle {oracle!r}; use --oracle {', '.join(ORACLES)}")
    check_device(device)
    engines_named(engines)
    started = time.perf_counter()
    options = Options(oracle, device, seed, tuple(engines), engine_timeout, roles)
    evidence = Evidence(resolve_folder(base), resolve_folder(pruned), options)
    if evidence.base_inventory.problems:
        raise SourceError(f"the base {base} is damaged: {evidence.base_inventory.problems[0]}; download it again")
    try:
        _ = evidence.base
    except SourceError as error:
        raise SourceError(f"the base {base}: {error}") from error
    _ = evidence.inventory
    source, again = str(pruned), _reproduce(base, pruned, options)
    verdicts = []
    for name, judge in relations_for(options).items():
        on_event(name)
        begun = time.perf_counter()
        finding = _judged(judge, evidence)
        verdicts.append(
            Verdict(
                source,
                SUBJECT,
                name,
                finding.status,
                finding.message,
                finding.evidence,
                again,
                time.perf_counter() - begun,
            )
        )
    headline = _headline(evidence)
    return Certified(
        tuple(verdicts),
        CaseFacts(source, SUBJECT, {**case_facts(evidence, headline), **evidence.facts}),
        headline,
        evidence,
        {
            "subject": SUBJECT,
            "base": str(base),
            "pruned": str(pruned),
            "oracle": oracle,
            "device": device,
            **({"engines": list(engines)} if engines else {}),
        },
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=time.perf_counter() - started,
    )


def _reproduce(base: str | Path, pruned: str | Path, options: Options) -> str:
    """The command that judges the same again; settings at their defaults are left out, but for the oracle."""
    words = ["moeverify", "certify", str(base), str(pruned), "--oracle", options.oracle]
    usual = Options()
    for name in ("device", "seed", "engine_timeout"):
        if (value := getattr(options, name)) != getattr(usual, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    if options.engines:
        words += ["--engines", ",".join(options.engines)]
    return shlex.join(words)


def _judged(judge: Callable[[Evidence], Finding], evidence: Evidence) -> Finding:
    try:
        return judge(evidence)
    except NotVisible as error:
        return inconclusive(str(error))
    except MoEVerifyError as error:
        return inconclusive(f"cannot be judged: {error}")
    except Exception as error:  # folders of strangers: one relation less is judged, and the fault is ours
        return inconclusive(f"cannot be judged, please report it: {one_line(error)}")


def _headline(evidence: Evidence) -> str:
    try:
        return classes_of(evidence).headline.value
    except Exception:  # the relations have said why
        return "not comparable"
