"""Calibration data: text, JSON lines, a ``datasets`` data set, or tensors, as batches that a model takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from moeverify.base.documents import DocumentLimits, parse_document, read_text
from moeverify.errors import FileError, UsageError
from moeverify.models.device import input_device, move_inputs

_LIMITS = DocumentLimits(size=4 << 30)  # text for calibration may be large
_TEXT_FIELDS = ("text", "content", "prompt", "document")


@dataclass(frozen=True, eq=False)
class Calibration:
    """Data that criteria rank by.

    Args:
        source: A ``.txt`` file, a ``.jsonl`` file (texts, or rows of ``input_ids``), or a folder or object
            of ``datasets``. Also a tensor of token ids ``[samples, length]``, or batches as the model takes them.
        samples: How many samples to draw; batches are taken as they are.
        length: Tokens of a sample.
        seed: Which samples are drawn.
        tokenizer: A tokenizer, or where one is loaded from, for text; the model's own folder or name if not given.

    Example::

        mv.MoEPruner(model, inputs, ratios={"experts": 0.5}, calibration=mv.Calibration("c4.jsonl", samples=64))

    """

    source: Any
    samples: int = 128
    length: int = 512
    seed: int = 0
    tokenizer: Any = None

    def __post_init__(self) -> None:
        for name in ("samples", "length"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{name} of the calibration data must be a positive whole number, not {value!r}")

    @classmethod
    def of(cls, given: Any) -> Calibration:
        """``given`` itself, or a calibration with it as the source."""
        return given if isinstance(given, cls) else cls(given)

    def settings(self) -> dict[str, Any]:
        """Settings by which the data was cut, as plain data."""
        source = str(self.source) if isinstance(self.source, str | Path) else type(self.source).__name__
        return {"source": source, "samples": self.samples, "length": self.length, "seed": self.seed}

    def batches(self, model: nn.Module) -> Iterator[Any]:
        """Batches for ``model``: one sample each.

        Raises ``UsageError`` for a source that cannot be read, is too short, or needs a tokenizer that is not there.
        """
        source = self.source
        if isinstance(source, torch.Tensor):
            yield from self._drawn(source, model)
        elif isinstance(source, str | Path) or _is_data_set(source):
            yield from self._drawn(self._ids(model), model)
        elif isinstance(source, Mapping):
            yield source
        elif isinstance(source, Sequence):
            yield from source
        else:
            raise UsageError(
                f"calibration data cannot be read from {type(source).__name__}; give a file, a data set, a tensor of "
                "token ids, or a list of batches"
            )

    def digest(self, model: nn.Module) -> str:
        """SHA-256 of what ``batches`` gives."""
        digest = hashlib.sha256()
        for batch in self.batches(model):
            for leaf in tree_leaves(batch):
                if isinstance(leaf, torch.Tensor):
                    digest.update(str((tuple(leaf.shape), leaf.dtype)).encode())
                    digest.update(leaf.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return f"sha256:{digest.hexdigest()}"

    def _drawn(self, ids: torch.Tensor, model: nn.Module) -> Iterator[Any]:
        """Rows of ``ids [samples, length]``, drawn without repetition."""
        known = _vocabulary(model)
        if ids.dim() != 2 or ids.is_floating_point() or not len(ids):
            raise UsageError(f"calibration tensors hold token ids [samples, length], not {list(ids.shape)} {ids.dtype}")
        if known and not 0 <= int(ids.min()) <= int(ids.max()) < known:
            raise UsageError(
                f"the calibration data holds token ids from {int(ids.min())} to {int(ids.max())}, and the model knows "
                f"0 to {known - 1}; give data for its own tokenizer"
            )
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(self.seed))[: self.samples]
        for row in ids[order]:
            yield move_inputs({"input_ids": row[None, : self.length]}, input_device(model))

    def _ids(self, model: nn.Module) -> torch.Tensor:
        tokenizer: Any = None  # loaded when the first text comes
        needed = self.samples * self.length * 4  # enough to draw from
        stream: list[int] = []
        for piece in _pieces(self.source):
            if isinstance(piece, str):
                tokenizer = tokenizer or self._tokenizer(model)
                end = getattr(tokenizer, "eos_token_id", None)
                piece = [*tokenizer(piece, add_special_tokens=False)["input_ids"], *([] if end is None else [end])]
            stream += piece
            if len(stream) >= needed:
                break
        rows = len(stream) // self.length
        if not rows:
            raise UsageError(
                f"the calibration data has {len(stream)} tokens, one sample needs {self.length}; give a smaller length "
                "or more text"
            )
        return torch.tensor(stream[: rows * self.length]).reshape(rows, self.length)

    def _tokenizer(self, model: nn.Module) -> Any:
        if self.tokenizer is not None and not isinstance(self.tokenizer, str | Path):
            return self.tokenizer
        where = self.tokenizer or getattr(getattr(model, "config", None), "_name_or_path", "")
        if not where:
            raise UsageError(
                'text needs a tokenizer, and the model has none; give a .jsonl file with rows of {"input_ids": [...]}, '
                "or pass Calibration(..., tokenizer=FOLDER)"
            )
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        except Exception as error:
            line = " ".join(str(error).split())[:200]
            raise UsageError(
                f"no tokenizer can be loaded from {where} ({line}); pass Calibration(..., tokenizer=FOLDER)"
            ) from error


def _is_data_set(source: Any) -> bool:
    return type(source).__module__.partition(".")[0] == "datasets"


def _vocabulary(model: nn.Module) -> int | None:
    """Number of tokens that a transformers model knows; ``None`` where its configuration does not give it."""
    try:
        return getattr(model.get_input_embeddings(), "num_embeddings", None)  # type: ignore[operator]
    except (AttributeError, NotImplementedError, TypeError):
        return None


def _pieces(source: Any) -> Iterator[str | list[int]]:
    """Texts or token ids of a file, of a folder that ``datasets`` saved, or of a data set."""
    if not isinstance(source, str | Path):
        yield from _of_rows(source)
        return
    path = Path(source).expanduser()
    if path.is_dir():
        try:
            from datasets import load_from_disk
        except ImportError as error:
            raise UsageError(
                f"{path} is a folder, and datasets is not installed; give a .txt or .jsonl file"
            ) from error
        yield from _of_rows(load_from_disk(str(path)))
        return
    try:
        text = read_text(path, _LIMITS)
    except FileError as error:
        raise UsageError(f"cannot read the calibration data {path}: {error}") from error
    if path.suffix not in (".jsonl", ".json"):
        yield text
        return
    try:
        yield from _of_rows(parse_document(line, None, _LIMITS) for line in text.split("\n") if line.strip())
    except FileError as error:
        raise UsageError(f"{path} does not hold one JSON document a line: {error}") from error


def _of_rows(rows: Iterable[Any]) -> Iterator[str | list[int]]:
    for row in rows:
        if isinstance(row, str):
            yield row
            continue
        if isinstance(row, Mapping):
            ids = row.get("input_ids")
            if isinstance(ids, list) and all(type(number) is int for number in ids):
                yield ids
                continue
            if isinstance(row.get("messages"), list):
                yield "\n".join(str(m.get("content", "")) for m in row["messages"] if isinstance(m, Mapping))
                continue
            field = next((name for name in _TEXT_FIELDS if isinstance(row.get(name), str)), None)
            if field is not None:
                yield row[field]
                continue
        raise UsageError(
            f"a row of the calibration data has none of the fields {', '.join(_TEXT_FIELDS)}, messages, input_ids"
        )
