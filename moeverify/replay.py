"""One failing case again: a falsified property saved as a file, or the failures of a ``report.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moeverify.errors import UsageError
from moeverify.properties import NotApplicable, PropertyFailed, check_property
from moeverify.report.files import write_text
from moeverify.roles import Roles
from moeverify.verdict import LOAD, PROBLEMS, VerificationResult
from moeverify.versions import versions
from synthetic_models import Spec

FORMAT = "moeverify-failure-1"


@dataclass(frozen=True)
class Failure:
    """A property that did not hold for a spec and a subject, and what it said."""

    property: str
    spec: Spec
    subject: str = "moe"
    pruning_ratio: float = 0.5
    seed: int = 0
    message: str = ""

    def script(self) -> str:
        """Five lines of Python that fail in the same way.

        >>> print(Failure("truth", Spec(router="hash")).script())
        from moeverify.properties import check_property
        from synthetic_models import Cycle, Spec
        <BLANKLINE>
        spec = Spec(router='hash')
        check_property('truth', spec, subject='moe', pruning_ratio=0.5, seed=0)
        """
        return (
            "from moeverify.properties import check_property\n"
            "from synthetic_models import Cycle, Spec\n\n"
            f"spec = {self.spec!r}\n"
            f"check_property({self.property!r}, spec, subject={self.subject!r}, "
            f"pruning_ratio={self.pruning_ratio!r}, seed={self.seed!r})"
        )

    def to_json(self) -> str:
        """A document that ``moeverify replay`` runs."""
        data = {**asdict(self), "spec": self.spec.to_dict(), "format": FORMAT, "versions": versions()}
        return json.dumps(data, indent=2) + "\n"

    def save(self, path: str | Path) -> Path:
        """Write the document; a reader never sees half of it."""
        return write_text(Path(path), self.to_json())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Failure:
        """Read a document's data. Raises ``UsageError`` with one line."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        try:
            failure = cls(**{**known, "spec": Spec.from_dict(known.get("spec", {}))})
        except (TypeError, ValueError) as error:
            raise UsageError(f"the file does not describe a falsified property: {error}") from error
        numbers = isinstance(failure.pruning_ratio, int | float) and isinstance(failure.seed, int)
        if not numbers or not isinstance(failure.subject, str):
            raise UsageError("the file does not describe a falsified property: wrong type of subject, ratio or seed")
        return failure

    def still(self) -> str | None:
        """Try again: what the property says now, or ``None`` if it holds (or no longer applies)."""
        try:
            check_property(
                self.property, self.spec, subject=self.subject, pruning_ratio=self.pruning_ratio, seed=self.seed
            )
        except PropertyFailed as error:
            return str(error)
        except NotApplicable:
            return None
        return None


@dataclass(frozen=True)
class Replayed:
    """What became of one failure: ``now`` is what it says today, ``None`` if it is fixed."""

    title: str
    now: str | None
    script: str = ""


def replay(path: str | Path) -> Iterator[Replayed]:
    """Run each failure of a file again, one after the other.

    Raises ``UsageError`` with one line for a file that is neither a saved failure nor a report with failures.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON: {error}") from error
    if isinstance(data, dict) and data.get("format") == FORMAT:
        return _replay_failure(Failure.from_dict(data))
    if isinstance(data, dict) and "schema_version" in data:
        return _replay_report(path, VerificationResult.from_json(path.read_text("utf-8")))
    raise UsageError(f"{path} is neither a saved failure ({FORMAT}) nor a report.json")


def _replay_failure(failure: Failure) -> Iterator[Replayed]:
    now = failure.still()
    yield Replayed(f"{failure.property} of {failure.subject} on {failure.spec!r}", now, failure.script())


def _replay_report(path: Path, result: VerificationResult) -> Iterator[Replayed]:
    from moeverify.run import verify

    failed = [v for v in result.verdicts if v.status in PROBLEMS]
    if not failed:
        raise UsageError(f"{path} holds no failure to replay")
    settings = {k: result.settings[k] for k in ("pruning_ratio", "seed", "dtype") if k in result.settings}
    if roles := result.settings.get("roles"):
        settings["roles"] = Roles(**roles)
    for source, subject in dict.fromkeys((v.source, v.subject) for v in failed):
        mine = [v for v in failed if (v.source, v.subject) == (source, subject)]
        checks = None if any(v.check == LOAD for v in mine) else [v.check for v in mine]
        again = verify(source, subject=subject, checks=checks, **settings)
        now = {v.check: v for v in again.verdicts if v.status in PROBLEMS}
        for verdict in mine:
            found = now.get(verdict.check) or now.get(LOAD)
            message = None if found is None else f"{found.status.value}: {found.message}"
            yield Replayed(f"{verdict.check} of {subject} on {source}", message, verdict.reproduce)
