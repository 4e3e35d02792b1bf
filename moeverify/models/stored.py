"""Content of a checkpoint folder, from its index and the headers of its files alone; no tensor is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from moeverify.base.documents import CONFIGURATION, DocumentLimits, read_document
from moeverify.base.files import file_errors, stays_inside
from moeverify.errors import SourceError
from moeverify.models.limits import check_sizes

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_INDEX_SCHEMA = {
    "type": "object",
    "required": ["metadata", "weight_map"],
    "properties": {
        "metadata": {"type": "object"},
        "weight_map": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}},
    },
}
_INDEX_LIMITS = DocumentLimits(size=256 << 20, depth=20)


@dataclass(frozen=True)
class Stored:
    """The tensors of a folder by name: ``files`` gives the file that holds each, ``shapes`` its shape."""

    files: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]


def read_configuration(folder: Path, name: str) -> dict[str, Any]:
    """The ``config.json`` of a folder, or a file that is one itself, within the limits of such documents and sizes.

    Raises ``SourceError`` with one line if it is not one.
    """
    file = folder if folder.is_file() else folder / "config.json"
    if folder.is_dir() and not os.path.lexists(file):
        raise SourceError(f"{name} is not a checkpoint folder: it has no config.json (save_pretrained writes one)")
    document = read_document(file, {"type": "object"}, CONFIGURATION, kind="configuration", error=SourceError)
    if not isinstance(document.get("model_type"), str) or not document["model_type"]:
        raise SourceError(f"{file} has no model_type; take the config.json that save_pretrained wrote")
    architectures = document.get("architectures")
    if architectures is not None and not (
        isinstance(architectures, list) and all(isinstance(a, str) for a in architectures)
    ):
        raise SourceError(f"{file}: architectures is no list of names; take the config.json that save_pretrained wrote")
    check_sizes(document, str(file))
    return document


def read_stored(folder: Path) -> Stored:
    """Index of the tensors in a folder of weights.

    Raises ``SourceError`` for weights outside of the folder, a tensor in two files, or an index that does not fit its
    files. It is also raised for a broken header, and for other formats, with how to convert them.
    """
    single = folder / SINGLE
    if os.path.lexists(single):
        listed = None
        files = [single]
    elif os.path.lexists(folder / INDEX):
        index = read_document(folder / INDEX, _INDEX_SCHEMA, _INDEX_LIMITS, kind="index", error=SourceError)
        listed = index["weight_map"]
        files = [folder / file for file in sorted(set(listed.values()))]
    else:
        raise SourceError(_without_safetensors(folder))
    result: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        _check_file(file, folder)
        with file_errors(f"read {file}", error=SourceError), safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118  not a mapping
                if key in result:
                    raise SourceError(f"{folder} holds {key} twice, in {result[key].name} and {file.name}")
                result[key] = file
                shapes[key] = tuple(tensors.get_slice(key).get_shape())
    for key, file_name in (listed or {}).items():
        if key not in result or result[key].name != file_name:
            raise SourceError(f"{folder / INDEX} names {key} in {file_name}, which does not hold it")
    return Stored(result, shapes)


def _check_file(file: Path, folder: Path) -> None:
    if file.parent != folder or file.name in ("", ".", ".."):
        raise SourceError(f"{folder / INDEX} names {str(file)[:200]}, which is not a file of the folder")
    if not os.path.exists(file):
        raise SourceError(f"{folder} lacks {file.name}, which its index names")
    if not stays_inside(file, folder):
        raise SourceError(f"{file} is a link out of the folder; put the file itself there (cp -L follows links)")
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise SourceError(f"{file} is not a regular file")


def _without_safetensors(folder: Path) -> str:
    pickled = sorted(p.name for p in folder.glob("*.bin")) or sorted(p.name for p in folder.glob("*.pt*"))
    if not pickled:
        return f"{folder} has no weights: neither {SINGLE} nor {INDEX}"
    return (
        f"{folder} has its weights as pickles only ({pickled[0]}), which are not loaded; convert them: "
        + resave_command(folder, "use_safetensors=False")
    )


def resave_command(folder: Path | str, *arguments: str) -> str:
    """The command that loads a folder by plain transformers and saves what its model takes in safetensors."""
    words = ", ".join([repr(str(folder)), *arguments])
    return (
        f'python -c "from transformers import AutoModelForCausalLM as M; M.from_pretrained({words})'
        f'.save_pretrained({str(folder).rstrip("/") + "-converted"!r})"'
    )
