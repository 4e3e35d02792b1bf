"""Certification as a result: the same document, report and exit code as a verification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from moeverify.certification.certify import examine
from moeverify.certification.evidence import Evidence
from moeverify.certification.matching.maps import KeepMap
from moeverify.certification.picture import keep_picture
from moeverify.certification.plan_document import write_plan
from moeverify.report.result import VerificationResult
from moeverify.serving.settings import SECONDS


@dataclass(frozen=True)
class Certification(VerificationResult):
    """Verdicts on a pair of folders.

    ``headline`` is the class of the pruned folder, such as ``pure selection``.
    """

    headline: str = ""
    evidence: Evidence | None = field(default=None, repr=False, compare=False)

    @property
    def keep_map(self) -> KeepMap | None:
        """Kept parts of the base; ``None`` if the values of the folders cannot be compared."""
        try:
            return None if self.evidence is None else self.evidence.keep
        except Exception:  # the verdicts say why
            return None

    def write_keep_map(self, path: str | Path) -> Path:
        """Write the keep map as a plan for ``moeverify apply-plan``. Raises ``PlanError`` if no plan gives it."""
        assert self.evidence is not None
        return write_plan(self.evidence, Path(path))


def certify(
    base: str | Path,
    pruned: str | Path,
    *,
    oracle: str = "sample",
    device: str = "cpu",
    seed: int = 0,
    engines: Sequence[str] = (),
    engine_timeout: float = SECONDS,
    strict: bool = False,
    on_event: Callable[[str], None] = lambda name: None,
) -> Certification:
    """Judge whether the folder ``pruned`` was pruned correctly from the folder ``base``.

    Args:
        base: Folder or hub name of the unpruned checkpoint.
        pruned: Folder or hub name of the pruned one, made by any tool.
        oracle: ``full`` runs both models whatever their size, ``sample`` a few layers of large ones, ``none`` nothing.
        device: Where models are run.
        seed: Seed of the tokens that models are run on.
        engines: Engines that serve both folders, such as ``vllm`` and ``llama.cpp``; see ``moeverify engines list``.
        engine_timeout: Seconds that one engine may take.
        strict: Whether an inconclusive verdict keeps the result from being ``ok``.
        on_event: Called with the name of each relation before it is judged.

    Returns:
        The verdicts, with ``headline`` and ``keep_map``.

    Raises:
        SourceError: One of the folders is no checkpoint, or the base is damaged.
        UsageError: An oracle, device or engine that does not exist.

    Example::

        result = mv.certify("Qwen3-30B-A3B", "Qwen3-30B-A3B-pruned")
        assert result.ok, result.headline

    """
    examination = examine(
        base,
        pruned,
        oracle=oracle,
        device=device,
        seed=seed,
        engines=tuple(engines),
        engine_timeout=engine_timeout,
        on_event=on_event,
    )
    facts = examination.facts
    try:
        facts = replace(facts, facts={**facts.facts, "kept_picture": keep_picture(examination.evidence.keep)})
    except Exception:  # values that cannot be compared have no picture
        facts = examination.facts
    return Certification(
        verdicts=examination.verdicts,
        cases=(facts,),
        settings={**examination.settings, "strict": strict},
        versions=examination.versions,
        created=examination.created,
        seconds=examination.seconds,
        headline=examination.headline,
        evidence=examination.evidence,
    )
