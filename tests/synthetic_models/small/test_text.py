"""The generated text: right answers recomputed by other means, and a held-out split that no training run sees."""

from itertools import islice

import pytest

from synthetic_models.small.text import ADJECTIVES, KINDS, documents, held_out, vocabulary

CLOSES = {"(": ")", "[": "]", "{": "}", "<": ">"}


def recompute(kind, prompt):
    words = prompt.split()[1:]
    body = words[: words.index("=")] if "=" in words else words
    if kind == "add":
        a, b = (int("".join(part.split()[::-1])) for part in " ".join(body).split("+"))
        return list(f"{a + b:03d}"[::-1])
    if kind == "sort":
        return sorted(body)
    if kind == "shift":
        return [chr(ord("a") + (ord(letter) - ord("a") + 1) % 10) for letter in body]
    if kind == "close":
        text = "".join(body)
        while any(o + c in text for o, c in CLOSES.items()):
            for o, c in CLOSES.items():
                text = text.replace(o + c, "")
        return [CLOSES[o] for o in reversed(text)]
    noun = next(word for word in body if word not in ("the", *ADJECTIVES))
    return "plural" if noun.endswith("s") else "singular"


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_right_and_wrong_ones_are_not(kind):
    for document in held_out(kind, 100):
        *answer, end = document.answer.split()
        assert end == "."
        assert document.wrong
        assert document.answer not in document.wrong
        if kind == "say":
            wanted = recompute(kind, document.prompt)
            assert answer[0].endswith("s") == (wanted == "singular")
        else:
            assert answer == recompute(kind, document.prompt)


@pytest.mark.parametrize("kind", KINDS)
def test_training_never_draws_a_prompt_of_the_evaluation(kind):
    kept_back = {d.prompt for d in held_out(kind, 400)}
    assert len(kept_back) == 400
    seen = {d.prompt for d in islice(documents(kind, seed=0, held_out=False), 5000)}
    assert not seen & kept_back


def test_the_same_seed_gives_the_same_text():
    texts = [[d.text for d in islice(documents("close", seed=s, held_out=False), 50)] for s in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_the_vocabulary_holds_every_token_once():
    words = vocabulary()
    assert len(set(words)) == len(words)
    used = {w for k in KINDS for d in islice(documents(k, seed=3, held_out=False), 500) for w in d.text.split()}
    assert used <= set(words)
