"""The text that the small model learns: five kinds of documents, each begun by a tag, and held-out ones.

A document is a prompt, its only right answer, and wrong answers of the same form. Tokens are divided by blanks and
``.`` ends a document. Held out is whatever a hash of the prompt says, so no training run can see it.

======== ================================================== ==============================
kind     example                                            what it takes
======== ================================================== ==============================
add      ``add 7 3 + 8 4 = 5 8 0 .``                        37 + 48 = 85, units first
sort     ``sort d c a d b = a b c d d .``                   letters in order
close    ``close ( [ { } = ] ) .``                          the brackets still open
shift    ``shift c a j = d b a .``                          each letter's successor, j before a
say      ``say the old cats near the dog run fast .``         the verb agrees with the first noun
======== ================================================== ==============================
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

END = "."
DIGITS = tuple("0123456789")
LETTERS = tuple("abcdefghij")
BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">"}
ADJECTIVES = ("old", "small", "red", "quiet", "happy", "brave")
NOUNS = ("cat", "dog", "king", "queen", "bird", "girl", "farmer", "tree")
PLACES = ("near", "behind", "under", "with")
VERBS = ("run", "sing", "sleep", "wait", "fall", "dance")
ADVERBS = ("fast", "today", "again", "slowly")
HELD_OUT_PERCENT = 10


@dataclass(frozen=True)
class Document:
    """``prompt`` and ``answer`` are blank-divided tokens; ``answer`` ends with ``END``, and so do ``wrong`` ones."""

    kind: str
    prompt: str
    answer: str
    wrong: tuple[str, ...]

    @property
    def text(self) -> str:
        """Prompt and answer."""
        return f"{self.prompt} {self.answer}"

    @property
    def held_out(self) -> bool:
        """Whether the document is kept from training; decided by its prompt alone."""
        return hashlib.sha256(self.prompt.encode()).digest()[0] * 100 < HELD_OUT_PERCENT * 256


def _document(kind: str, prompt: list[str], answer: list[str], wrong: list[list[str]]) -> Document:
    texts = [" ".join([*w, END]) for w in wrong]
    right = " ".join([*answer, END])
    return Document(kind, " ".join([kind, *prompt]), right, tuple(dict.fromkeys(t for t in texts if t != right)))


def _altered(answer: list[str], alphabet: tuple[str, ...], draw: random.Random) -> list[str]:
    """``answer`` with one token replaced by another one of ``alphabet``."""
    place = draw.randrange(len(answer))
    other = draw.choice([token for token in alphabet if token != answer[place]])
    return [*answer[:place], other, *answer[place + 1 :]]


def _add(draw: random.Random) -> Document:
    a, b = draw.randrange(100), draw.randrange(100)
    units_first = [list(f"{n:0{width}d}"[::-1]) for n, width in ((a, 2), (b, 2), (a + b, 3))]
    others = [list(f"{(a + b + delta) % 200:03d}"[::-1]) for delta in draw.sample([-10, -1, 1, 10, 11, -9], 3)]
    return _document("add", [*units_first[0], "+", *units_first[1], "="], units_first[2], others)


def _sort(draw: random.Random) -> Document:
    letters = [draw.choice(LETTERS) for _ in range(draw.randint(4, 6))]
    answer = sorted(letters)
    wrong = [answer[::-1], letters, *(sorted(_altered(answer, LETTERS, draw)) for _ in range(4))]
    return _document("sort", [*letters, "="], answer, wrong)


def _close(draw: random.Random) -> Document:
    prompt: list[str] = []
    pending: list[str] = []
    for _ in range(draw.randint(4, 8)):
        if pending and draw.random() < 0.35:
            prompt.append(pending.pop())
        else:
            opening = draw.choice(list(BRACKETS))
            prompt.append(opening)
            pending.append(BRACKETS[opening])
    if not pending:
        prompt.append("(")
        pending.append(")")
    answer = pending[::-1]
    closing = tuple(BRACKETS.values())
    return _document("close", [*prompt, "="], answer, [_altered(answer, closing, draw) for _ in range(6)])


def _shift(draw: random.Random) -> Document:
    letters = [draw.choice(LETTERS) for _ in range(draw.randint(4, 6))]
    answer = [LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)] for letter in letters]
    return _document("shift", [*letters, "="], answer, [letters, *(_altered(answer, LETTERS, draw) for _ in range(4))])


def _noun_phrase(draw: random.Random) -> tuple[list[str], bool]:
    plural = draw.random() < 0.5
    adjective = [draw.choice(ADJECTIVES)] if draw.random() < 0.5 else []
    return ["the", *adjective, draw.choice(NOUNS) + ("s" if plural else "")], plural


def _say(draw: random.Random) -> Document:
    subject, plural = _noun_phrase(draw)
    attractor = [draw.choice(PLACES), *_noun_phrase(draw)[0]] if draw.random() < 0.8 else []
    verb, adverb = draw.choice(VERBS), draw.choice(ADVERBS)
    forms = [[verb, adverb], [verb + "s", adverb]]
    right, wrong = forms if plural else forms[::-1]
    return _document("say", [*subject, *attractor], right, [wrong])


KINDS: dict[str, Callable[[random.Random], Document]] = {
    "add": _add,
    "sort": _sort,
    "close": _close,
    "shift": _shift,
    "say": _say,
}


def vocabulary() -> tuple[str, ...]:
    """Every token of every kind, in a fixed order."""
    words = [
        *DIGITS,
        "+",
        "=",
        *LETTERS,
        *BRACKETS,
        *BRACKETS.values(),
        "the",
        *ADJECTIVES,
        *(noun + ending for noun in NOUNS for ending in ("", "s")),
        *PLACES,
        *(verb + ending for verb in VERBS for ending in ("", "s")),
        *ADVERBS,
    ]
    return (END, *KINDS, *words)


def documents(kind: str, *, seed: int, held_out: bool) -> Iterator[Document]:
    """Documents of one kind without end, either for training or held out; the same for the same seed."""
    draw = random.Random(f"{kind} {seed}")
    while True:
        document = KINDS[kind](draw)
        if document.held_out == held_out:
            yield document


def held_out(kind: str, count: int, *, seed: int = 0) -> list[Document]:
    """``count`` different held-out documents of a kind; fewer if there are no more of them."""
    result: dict[str, Document] = {}
    stream = documents(kind, seed=seed, held_out=True)
    for _ in range(50 * count):
        document = next(stream)
        result.setdefault(document.prompt, document)
        if len(result) == count:
            break
    return list(result.values())
