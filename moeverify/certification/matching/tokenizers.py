"""What both tokenizers say of tokens that went or got other numbers: the same text is the same token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from moeverify.base.text import printable
from moeverify.errors import FileError
from moeverify.models.folder.tokenizer import TOKENIZER, Tokenizer, parse_tokenizer, tokenizer_text

# Parts beside the vocabulary that decide how a text is divided into tokens.
_PARTS = ("normalizer", "pre_tokenizer", "decoder")


@dataclass(frozen=True, eq=False)
class TokenClaims:
    """Both tokenizers, or the ``reason`` why they are not compared."""

    before: Tokenizer | None = None
    after: Tokenizer | None = None
    reason: str = ""

    @cached_property
    def numbers(self) -> Mapping[int, int]:
        """The base's number of each number that the pruned folder's tokenizer gives to a text of both."""
        if self.before is None or self.after is None:
            return {}
        there = self.before.numbers
        return {number: there[text] for number, text in self.after.texts.items() if text in there}

    @property
    def renumber(self) -> bool:
        """Whether any token has another number than in the base."""
        return any(number != other for number, other in self.numbers.items())

    def as_array(self, count: int) -> np.ndarray:
        """``numbers`` of the first ``count`` tokens; -1 where nothing is said."""
        result = np.full(count, -1, dtype=np.int64)
        for number, other in self.numbers.items():
            if number < count:
                result[number] = other
        return result


def read_claims(base: Path, pruned: Path, *, same_size: bool) -> TokenClaims:
    """Read the ``tokenizer.json`` of both folders; equal ones say nothing unless the vocabulary changed its size."""
    sides, texts = (("base", base), ("pruned folder", pruned)), []
    for name, folder in sides:
        try:
            texts.append(tokenizer_text(folder))
        except FileError as error:
            return TokenClaims(reason=f"that of the {name}: {error}")
        if texts[-1] is None:
            return TokenClaims(reason=f"a {TOKENIZER} in both folders would show it, and the {name} has none")
    if same_size and texts[0] == texts[1]:
        return TokenClaims()
    read: list[Tokenizer] = []
    for (name, _), text in zip(sides, texts, strict=True):
        try:
            read.append(parse_tokenizer(text or ""))
        except FileError as error:
            return TokenClaims(reason=f"that of the {name}: {error}")
    return TokenClaims(read[0], read[1])


def shown(number: int, side: Tokenizer) -> str:
    """A token in words: its number, and its text if it has one."""
    text = side.texts.get(number)
    return str(number) if text is None else f"{number} ({quoted(text)})"


def quoted(text: str) -> str:
    """The text of a token in one short printable word."""
    return printable(repr(text if len(text) <= 40 else f"{text[:40]}..."))


def stale_numbers(claims: TokenClaims) -> Iterator[str]:
    """Numbers that the post-processor puts around texts and that are of other tokens, if the base's are right."""
    if claims.before is None or claims.after is None:
        return
    before, after = claims.before, claims.after
    if any(before.numbers.get(text, number) != number for text, number in _inserted(before)):
        return
    for text, number in _inserted(after):
        if (wanted := after.numbers.get(text, number)) != number:
            yield f"the post_processor of {TOKENIZER} inserts {quoted(text)} as {number}, but it is token {wanted}"


def _inserted(side: Tokenizer) -> Iterator[tuple[str, int]]:
    """Texts and numbers in a post-processor: of templates, of BERT's and RoBERTa's, and of several in a row."""
    for part in _post_processors(side):
        templates = part.get("special_tokens")
        for entry in templates.values() if isinstance(templates, dict) else ():
            if isinstance(entry, dict) and isinstance(entry.get("ids"), list) and isinstance(entry.get("tokens"), list):
                pairs = zip(entry["tokens"], entry["ids"], strict=False)
                yield from ((text, number) for text, number in pairs if _is_pair(text, number))
        for pair in (part.get("sep"), part.get("cls")):
            if isinstance(pair, list) and len(pair) == 2 and _is_pair(*pair):
                yield pair[0], pair[1]


def _is_pair(text: Any, number: Any) -> bool:
    return isinstance(text, str) and isinstance(number, int)


def _post_processors(side: Tokenizer) -> list[Mapping[str, Any]]:
    whole = side.document.get("post_processor")
    several = whole.get("processors") if isinstance(whole, dict) else None
    parts = [whole, *(several if isinstance(several, list) else ())]
    return [part for part in parts if isinstance(part, dict)]


def doubts(claims: TokenClaims) -> Iterator[str]:
    """Differences by which a text is divided into other tokens, although every token that stayed has its text."""
    if claims.before is None or claims.after is None:
        return
    before, after = claims.before, claims.after
    expected = [merge for merge in before.merges if _still_made(merge, before, after)]
    if list(after.merges) != expected:
        yield f"merges of {TOKENIZER} are not the base's between the tokens that stayed"
    for text in before.added.keys() & after.added.keys():
        if before.added[text] != after.added[text]:
            yield f"the added token {quoted(text)} has other settings than in the base"
    both = [(part, before.document.get(part), after.document.get(part)) for part in _PARTS]
    both += [
        (f"model.{key}", value, after.document["model"].get(key, value))
        for key, value in before.document["model"].items()
        if key not in ("vocab", "merges", "unk_id")
    ]
    for part, one, other in both:
        if one != other:
            yield f"{part} of {TOKENIZER} is another than in the base"
    scores = (_scores(before), _scores(after))
    if any(scores[0].get(text, score) != score for text, score in scores[1].items()):
        yield f"scores of {TOKENIZER} are not the base's"


def _still_made(merge: tuple[str, ...], before: Tokenizer, after: Tokenizer) -> bool:
    """Whether both parts of a merge, and what it makes, are tokens that stayed."""
    prefix = before.document["model"].get("continuing_subword_prefix")
    tail = merge[1].removeprefix(prefix) if isinstance(prefix, str) else merge[1]
    return all(text in after.numbers for text in (*merge, merge[0] + tail))


def _scores(side: Tokenizer) -> dict[str, Any]:
    """Scores of a unigram model, by text."""
    vocabulary = side.document["model"].get("vocab")
    return {entry[0]: entry[1:] for entry in vocabulary} if isinstance(vocabulary, list) else {}
