"""Statistics of every routed expert on calibration data, and the document that stores them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from moeverify.base.documents import DocumentLimits, read_document
from moeverify.base.files import write_text
from moeverify.base.versions import versions
from moeverify.errors import UsageError
from moeverify.pruning.choice.criteria.registry import LayerStatistics

SCHEMA_VERSION = "1.0"
_FIELDS = tuple(field.name for field in fields(LayerStatistics))
_NUMBERS = {"type": "array", "minItems": 1, "items": {"type": "number"}}
_SCHEMA = {
    "type": "object",
    "required": ["schema_version", "model_digest", "data_digest", "settings", "layers"],
    "properties": {
        "schema_version": {"const": SCHEMA_VERSION},
        "model_digest": {"type": "string"},
        "data_digest": {"type": "string"},
        "settings": {"type": "object"},
        "layers": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": list(_FIELDS),
                "properties": dict.fromkeys(_FIELDS, _NUMBERS),
            },
        },
    },
}


@dataclass(frozen=True, eq=False)
class ExpertStatistics:
    """Statistics by MoE layer, with what they were gathered from.

    ``model_digest`` and ``data_digest`` identify weights and calibration data, ``settings`` is how the data was cut.
    """

    layers: Mapping[str, LayerStatistics]
    model_digest: str
    data_digest: str
    settings: Mapping[str, Any]

    def unseen(self) -> list[str]:
        """Experts that got no token, as ``layer[expert]``."""
        return [f"{name}[{n}]" for name, one in self.layers.items() for n in (one.tokens == 0).nonzero()[:, 0].tolist()]

    def check_model(self, digest: str) -> None:
        """Raises ``UsageError`` unless the statistics were gathered from the weights of this digest."""
        if digest != self.model_digest:
            raise UsageError(
                f"these statistics were gathered from other weights (digest {self.model_digest[:19]}…, here "
                f"{digest[:19]}…); gather them anew with calibration data"
            )

    def to_json(self) -> str:
        """The document."""
        data = {
            "schema_version": SCHEMA_VERSION,
            "versions": versions(),
            "model_digest": self.model_digest,
            "data_digest": self.data_digest,
            "settings": dict(self.settings),
            "layers": {
                name: {field: getattr(one, field).tolist() for field in _FIELDS} for name, one in self.layers.items()
            },
        }
        return json.dumps(data, indent=1) + "\n"

    def write(self, path: str | Path) -> Path:
        """Write the document atomically."""
        return write_text(Path(path), self.to_json())

    @classmethod
    def read(cls, path: str | Path) -> ExpertStatistics:
        """Read a document. Raises ``UsageError`` with one line for any other file."""
        data = read_document(path, _SCHEMA, DocumentLimits(), kind="document of expert statistics", error=UsageError)
        layers = {}
        for name, one in data["layers"].items():
            fields = {field: torch.tensor(one[field], dtype=torch.float64) for field in _FIELDS}
            if len({len(values) for values in fields.values()}) > 1:
                raise UsageError(f"{path}: the statistics of {name} are of different numbers of experts")
            layers[name] = LayerStatistics(**fields)
        return cls(layers, data["model_digest"], data["data_digest"], data["settings"])
