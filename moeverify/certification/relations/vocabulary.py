"""Tokens that went or have other numbers: rows of embedding and head against what the tokenizers say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moeverify.certification.evidence import Evidence
from moeverify.certification.matching.tokenizers import doubts, quoted, shown, stale_numbers
from moeverify.certification.relations.registry import inconclusive
from moeverify.checks.registry import Finding, passed


def token_faults(evidence: Evidence) -> Iterator[str]:
    """Tokens whose row is another token's, or that have none; numbers in the tokenizer that are another token's."""
    tokens, claims = evidence.keep.tokens, evidence.token_claims
    if tokens is None or claims.before is None or claims.after is None:
        return
    claimed = claims.as_array(len(tokens))
    for number in np.flatnonzero((claimed >= 0) & (tokens >= 0) & (tokens != claimed)).tolist():
        here, there = shown(number, claims.after), shown(int(tokens[number]), claims.before)
        yield f"token {here} holds the row of the base's token {there}; its text is the base's {claimed[number]}"
    size = _size(evidence)
    for number, before in claims.numbers.items():
        if number >= len(tokens) and before < size:
            yield f"token {shown(number, claims.after)} has no row: the vocabulary has {len(tokens)}"
    yield from stale_numbers(claims)


def judge_tokens(evidence: Evidence, text: str) -> Finding:
    """A pass in words, or what cannot be seen of the tokens. ``text`` says what holds of everything else."""
    tokens, claims = evidence.keep.tokens, evidence.token_claims
    if tokens is None:
        if claims.renumber:
            return inconclusive("the tokenizer gives tokens other numbers; their rows could not be compared")
        return passed(text)
    size, facts = _size(evidence), {"tokens": len(tokens)}
    if (tokens < 0).any():
        return inconclusive(
            f"{int((tokens < 0).sum())} tokens were added, whose scores compete with the others': whether a generation "
            "leaves them out cannot be seen",
            **facts,
        )
    moved = np.flatnonzero(tokens != np.arange(len(tokens)))
    known = claims.before is not None and claims.after is not None
    if len(moved) and not known:
        first = int(moved[0])
        return inconclusive(
            f"{len(tokens)} of {size} tokens stayed under other numbers (token {first} is the base's {tokens[first]}): "
            f"whether the tokenizer follows cannot be seen; {claims.reason}",
            **facts,
        )
    if not known:
        return passed(f"{text}; of the vocabulary the first {len(tokens)} of {size} tokens stayed")
    if lines := [*_nameless(evidence, tokens), *doubts(claims)]:
        return inconclusive(f"{lines[0]}: whether that is meant cannot be seen", problems=lines[:40], **facts)
    how = "under other numbers, " if len(moved) else ""
    return passed(f"{text}; {len(tokens)} of {size} tokens stayed, {how}as tokenizer.json says", **facts)


def _size(evidence: Evidence) -> int:
    """Number of tokens in the base."""
    return next(evidence.keep.base[name][dim] for name, dim in evidence.keep.token_axes if name in evidence.keep.base)


def _nameless(evidence: Evidence, tokens: np.ndarray) -> Iterator[str]:
    """Tokens whose row stayed and whose text did not, and new texts without a row."""
    claims = evidence.token_claims
    assert claims.before is not None
    assert claims.after is not None
    for number in np.flatnonzero(claims.as_array(len(tokens)) < 0).tolist():
        if (before := int(tokens[number])) in claims.before.texts:
            now = claims.after.texts.get(number)
            what = "has no text" if now is None else f"has the text {quoted(now)}"
            yield f"the row of the base's token {shown(before, claims.before)} {what} in tokenizer.json"
    for number in claims.after.texts:
        if number >= len(tokens):
            yield f"token {shown(number, claims.after)} has no row"
