"""``tokenizer.json`` as plain data: which number each token's text has. Nothing of it is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moeverify.base.documents import DocumentLimits, parse_document, read_text
from moeverify.base.files import stays_inside
from moeverify.errors import FileError

TOKENIZER = "tokenizer.json"
# The largest published ones are 35 MB with two million items.
_LIMITS = DocumentLimits(size=1 << 27, items=10_000_000, not_finite=True)
_LARGEST = 1 << 31


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """``numbers``: the number of each token by its text. ``texts``: the text of each number; of two the added one.

    ``merges``: pairs that byte-pair encoding joins, in its order. ``added``: entries of added tokens by text, without
    their numbers. ``document``: everything.
    """

    numbers: Mapping[str, int]
    texts: Mapping[int, str]
    merges: tuple[tuple[str, ...], ...]
    added: Mapping[str, Mapping[str, Any]]
    document: Mapping[str, Any]


def tokenizer_text(folder: Path) -> str | None:
    """The text of a folder's ``tokenizer.json``; ``None`` if there is none. Raises ``FileError``."""
    file = folder / TOKENIZER
    if not file.is_file():
        return None
    if not stays_inside(file, folder):
        raise FileError(f"{TOKENIZER} is a link out of the folder; put the file itself there (cp -L follows links)")
    return read_text(file, _LIMITS)


def parse_tokenizer(text: str) -> Tokenizer:
    """Read tokens and merges. Raises ``FileError`` in one line for what is no tokenizer."""
    document = parse_document(text, None, _LIMITS, name=TOKENIZER)
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(model, dict):
        raise FileError(f"{TOKENIZER} has no model with a vocabulary")
    numbers: dict[str, int] = {}
    texts: dict[int, str] = {}
    added: dict[str, Mapping[str, Any]] = {}
    for token, number in _vocabulary(model.get("vocab")):
        numbers[_token(token)] = _number(number)
        texts[number] = token
    entries = document.get("added_tokens")
    if not isinstance(entries, list | None):
        raise FileError(f"{TOKENIZER}: its added_tokens are no list")
    for entry in entries or ():
        if not isinstance(entry, dict):
            raise FileError(f"{TOKENIZER}: an entry of added_tokens is no object")
        token, number = _token(entry.get("content")), _number(entry.get("id"))
        numbers[token], texts[number] = number, token
        added[token] = {key: value for key, value in entry.items() if key != "id"}
    return Tokenizer(numbers, texts, tuple(_merges(model.get("merges"))), added, document)


def _vocabulary(vocabulary: Any) -> Iterator[tuple[Any, Any]]:
    """Texts and numbers: an object of them, or a list of ``[text, score]`` in the order of the numbers."""
    if isinstance(vocabulary, dict):
        yield from vocabulary.items()
    elif isinstance(vocabulary, list):
        for number, entry in enumerate(vocabulary):
            if not isinstance(entry, list) or not entry:
                raise FileError(f"{TOKENIZER}: entry {number} of its vocabulary has no text")
            yield entry[0], number
    else:
        raise FileError(f"{TOKENIZER} has no vocabulary")


def _merges(merges: Any) -> Iterator[tuple[str, ...]]:
    """Pairs, which are lists of two or one text with a space between."""
    if not isinstance(merges, list | None):
        raise FileError(f"{TOKENIZER}: its merges are no list")
    for pair in merges or ():
        parts = tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) if isinstance(pair, list) else ()
        if len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise FileError(f"{TOKENIZER}: a merge is no pair of texts")
        yield parts


def _token(value: Any) -> str:
    if not isinstance(value, str):
        raise FileError(f"{TOKENIZER}: a token has no text")
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LARGEST:
        raise FileError(f"{TOKENIZER}: a token has the number {str(value)[:40]}")
    return value
