"""A handover on disk: one JSON document and one file of tensors in a private folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from moeverify.checks.context import Saved
from moeverify.errors import HandoverError
from moeverify.models.outputs import float_outputs

DOCUMENT, ARRAYS, OUTPUTS = "handover.json", "arrays.safetensors", "outputs.safetensors"
SAVED, SAVE_PROBLEM = "saved", "save-problem.txt"
_MOST_BYTES = 1 << 30
_COMPLEX = {torch.complex64, torch.complex128}

_ENTRY = {"type": "object", "required": ["name", "kind"], "properties": {
    "name": {"type": "string"}, "kind": {"enum": ["parameter", "buffer", "unsaved", "plain"]},
    "grad": {"type": "boolean"}, "key": {"type": "string"}, "same": {"type": "string"}}}  # fmt: skip
_MODULE = {"type": "object", "required": ["path", "class"], "properties": {
    "path": {"type": "string"}, "class": {"type": "string"}, "training": {"type": "boolean"},
    "attributes": {"type": "object", "required": ["$", "items"]}}}  # fmt: skip
SCHEMA = {
    "type": "object",
    "required": ["model", "outcome", "digest", "complex", "seconds"],
    "properties": {
        "model": {"type": "object", "required": ["modules", "tensors"], "properties": {
            "modules": {"type": "array", "items": _MODULE}, "tensors": {"type": "array", "items": _ENTRY}}},
        "outcome": {"type": "object"},
        "digest": {"type": "string"},
        "complex": {"type": "array", "items": {"type": "string"}},
        "seconds": {"type": "number", "minimum": 0},
        "written": {"type": "boolean"},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Handover:
    """Data of a subject, checked against the schema; its claims are not yet checked.

    ``outputs``: outputs of its live model, by input length; empty for a length at which it did not run.
    ``EXAMPLE_LENGTH`` marks the unchanged example.
    """

    document: Mapping[str, Any]
    arrays: Mapping[str, torch.Tensor] = field(repr=False)
    outputs: Mapping[int, Mapping[str, torch.Tensor]] = field(repr=False)
    saved: Saved | None = None


def write_handover(folder: Path, document: Mapping[str, Any], arrays: Mapping[str, torch.Tensor]) -> None:
    """Write a handover. Raises ``HandoverError`` for tensors without data."""
    if any(tensor.device.type == "meta" for tensor in arrays.values()):
        raise HandoverError("a tensor of the pruned model has no data")
    plain = {}
    for key, tensor in arrays.items():
        values = torch.view_as_real(tensor.resolve_conj()) if tensor.dtype in _COMPLEX else tensor
        plain[key] = values.detach().cpu().contiguous().clone()  # safetensors refuses tensors that share memory
    save_file(plain, folder / ARRAYS)
    complexes = [key for key, tensor in arrays.items() if tensor.dtype in _COMPLEX]
    (folder / DOCUMENT).write_text(json.dumps({**document, "complex": complexes}), encoding="utf-8")


def read_handover(folder: Path) -> Handover:
    """Read a handover back. Raises ``HandoverError`` for files of another form, or that are too large."""
    path = folder / DOCUMENT
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            raise HandoverError("the subject's process wrote no document of a sensible size")
        document = json.loads(path.read_text("utf-8"))
        jsonschema.validate(document, SCHEMA)
        arrays = load_file(folder / ARRAYS)
        arrays |= {key: torch.view_as_complex(arrays[key]) for key in document["complex"]}
        outputs = _by_length(load_file(folder / OUTPUTS))
    except jsonschema.ValidationError as error:
        raise HandoverError(f"the handed over document is malformed: {error.message[:200]}") from error
    except (OSError, ValueError, RecursionError, KeyError, SafetensorError, RuntimeError) as error:
        raise HandoverError(f"what was handed over cannot be read: {error!r}"[:300]) from error
    return Handover(document, arrays, outputs, _saved(folder, bool(document.get("written"))))


def _saved(folder: Path, written: bool) -> Saved | None:
    problem = folder / SAVE_PROBLEM
    if problem.is_file():
        with problem.open(encoding="utf-8", errors="replace") as file:
            return Saved(folder / SAVED, file.read(1000))
    return Saved(folder / SAVED, by_subject=written) if (folder / SAVED).is_dir() else None


def write_outputs(folder: Path, outputs: Mapping[int, Mapping[str, torch.Tensor]]) -> None:
    """Write outputs by length: key ``65/logits`` each, and ``65`` for the length itself."""
    arrays = {str(length): torch.zeros(0) for length in outputs}
    for length, outputs_there in outputs.items():
        arrays |= {f"{length}/{name}": tensor.cpu().contiguous() for name, tensor in outputs_there.items()}
    save_file(arrays, folder / OUTPUTS)


def _by_length(arrays: Mapping[str, torch.Tensor]) -> dict[int, dict[str, torch.Tensor]]:
    result: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in arrays.items():
        length, inside, name = key.partition("/")
        outputs = result.setdefault(int(length), {})
        if inside:
            outputs[name] = tensor
    return result


def outputs_of(output: Any) -> dict[str, torch.Tensor]:
    """Float outputs of a forward, detached."""
    return {name: tensor.detach().clone() for name, tensor in float_outputs(output).items()}
