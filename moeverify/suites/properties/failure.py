"""A falsified property as a document that is run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moeverify.base.documents import check_schema
from moeverify.base.files import write_text
from moeverify.base.versions import versions
from moeverify.errors import UsageError
from moeverify.suites.properties import NotApplicable, PropertyFailed, check_property
from synthetic_models import Spec

FORMAT = "moeverify-failure-1"
_TEXT = {"type": "string"}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["property"],
    "properties": {
        "property": _TEXT,
        "spec": {"type": "object"},
        "subject": _TEXT,
        "pruning_ratio": {"type": "number"},
        "seed": {"type": "integer", "minimum": 0},
        "message": _TEXT,
    },
}


@dataclass(frozen=True)
class Failure:
    """A property that did not hold for a spec and a subject, with its message."""

    property: str
    spec: Spec
    subject: str = "moe"
    pruning_ratio: float = 0.5
    seed: int = 0
    message: str = ""

    def script(self) -> str:
        """Five lines of Python that fail in the same way.

        >>> print(Failure("truth", Spec(router="hash")).script())
        from moeverify import check_property
        from synthetic_models import Cycle, Spec
        <BLANKLINE>
        spec = Spec(router='hash')
        check_property('truth', spec, subject='moe', pruning_ratio=0.5, seed=0)
        """
        return (
            "from moeverify import check_property\n"
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
        check_schema(data, _SCHEMA, name="the file", kind="falsified property", error=UsageError)
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        try:
            return cls(**{**known, "spec": Spec.from_dict(known.get("spec", {}))})
        except ValueError as error:
            raise UsageError(f"the file does not describe a falsified property: {error}") from error

    def still(self) -> str | None:
        """Try again: the message of the property now, or ``None`` if it holds."""
        try:
            check_property(
                self.property, self.spec, subject=self.subject, pruning_ratio=self.pruning_ratio, seed=self.seed
            )
        except PropertyFailed as error:
            return str(error)
        except NotApplicable as error:
            return f"nothing was shown, the property does not apply: {error}"
        return None
