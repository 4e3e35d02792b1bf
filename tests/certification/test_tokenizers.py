"""``tokenizer.json`` of both folders: which token each number is, and what hostile or missing files lead to."""

import json
import random

import pytest
from pruned_folders.catalogue import base_of
from pruned_folders.tokenizers import END, KEPT, START, TURNED, renumbered, tokenizer
from tokenizers import Tokenizer

from moeverify.certification.certify import examine
from moeverify.certification.matching.tokenizers import doubts, read_claims, stale_numbers
from moeverify.verdict import Status


def claims(folder, after, before=None):
    for name, document in (("base", tokenizer() if before is None else before), ("pruned", after)):
        (folder / name).mkdir(exist_ok=True)
        if document is not None:
            (folder / name / "tokenizer.json").write_text(
                document if isinstance(document, str) else json.dumps(document)
            )
    return read_claims(folder / "base", folder / "pruned", same_size=False)


@pytest.mark.parametrize("order", [None, KEPT, TURNED, range(126)])
def test_the_files_of_these_tests_are_tokenizers(order):
    loaded = Tokenizer.from_str(json.dumps(tokenizer(order)))
    assert loaded.encode("az<end>").tokens == ["<start>", "az", "<end>"]


@pytest.mark.parametrize("order", [KEPT, TURNED, range(126)])
def test_the_same_text_is_the_same_token(tmp_path, order):
    found = claims(tmp_path, tokenizer(order))
    assert found.as_array(len(order)).tolist() == list(order)
    assert [*doubts(found), *stale_numbers(found)] == []


def test_unigram_vocabularies_number_their_entries(tmp_path):
    def unigram(order):
        return {"model": {"type": "Unigram", "unk_id": 0, "vocab": [[f"t{n}", -float(n)] for n in order]}}

    found = claims(tmp_path, unigram([0, 3, 1]), unigram(range(4)))
    assert found.as_array(3).tolist() == [0, 3, 1]
    assert list(doubts(found)) == []
    other = unigram([0, 3, 1])
    other["model"]["vocab"][1][1] = 0.0
    assert list(doubts(claims(tmp_path, other, unigram(range(4))))) == ["scores of tokenizer.json are not the base's"]


def without_a_merge(document):
    document["model"]["merges"].pop()


def other_normalizer(document):
    document["normalizer"] = {"type": "Lowercase"}


def added_token_with_spaces(document):
    document["added_tokens"][0]["lstrip"] = True


def byte_fallback(document):
    document["model"]["byte_fallback"] = True


@pytest.mark.parametrize("spoil", [without_a_merge, other_normalizer, added_token_with_spaces, byte_fallback])
def test_other_divisions_of_a_text_are_left_open(tmp_path, spoil):
    document = tokenizer(KEPT)
    spoil(document)
    assert len(list(doubts(claims(tmp_path, document)))) == 1


def test_merges_may_be_texts_and_new_options_may_be_there(tmp_path):
    document = tokenizer(KEPT)
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    document["model"]["ignore_merges"] = False
    assert list(doubts(claims(tmp_path, document))) == []


@pytest.mark.parametrize("kind", ["RobertaProcessing", "Sequence"])
def test_a_number_that_is_another_token_by_now(tmp_path, kind):
    def having(document, number):
        one = {"type": "RobertaProcessing", "sep": ["<start>", number], "cls": ["a", 0]}
        document["post_processor"] = one if kind != "Sequence" else {"type": kind, "processors": [one]}
        return document

    before = having(tokenizer(), START)
    stale = claims(tmp_path, having(tokenizer(KEPT), START), before)
    assert list(stale_numbers(stale)) == [
        f"the post_processor of tokenizer.json inserts '<start>' as {START}, but it is token {KEPT.index(START)}"
    ]
    assert list(stale_numbers(claims(tmp_path, having(tokenizer(KEPT), KEPT.index(START)), before))) == []
    wrong_before = having(tokenizer(), END)  # the base does so as well
    assert list(stale_numbers(claims(tmp_path, having(tokenizer(KEPT), START), wrong_before))) == []


HOSTILE = (None, -1, 0, 2**70, "x", [], {}, 1.5, True, [["a"]], [5], {"a": {}}, {"a": -3}, {"\n\x1b[31m": 2**40})


@pytest.mark.parametrize("seed", range(4))
def test_hostile_files_give_a_reason_and_no_traceback(tmp_path, seed):
    chance = random.Random(seed)
    for _ in range(60):
        document = tokenizer(KEPT)
        for part in (document, document["model"], document["added_tokens"][0], document["post_processor"]):
            part[chance.choice(sorted(part))] = chance.choice(HOSTILE)
        found = claims(tmp_path, document)
        assert (found.after is None) == bool(found.reason)
        lines = [found.reason, *doubts(found), *stale_numbers(found)]
        assert all("\n" not in line and len(line) < 400 for line in lines)
        found.as_array(128)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 5000, "nested deeper"),
        ("{", "not valid JSON"),
        ("[]", "no model"),
        ('{"model": {"vocab": {"a": 1, "a": 2}}}', "stands twice"),
        (None, "the pruned folder has none"),
    ],
)
def test_a_file_that_cannot_be_read_is_the_reason(tmp_path, text, words):
    assert words in claims(tmp_path, text).reason


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    claims(tmp_path, None)
    (tmp_path / "pruned" / "tokenizer.json").symlink_to(tmp_path / "base" / "tokenizer.json")
    found = read_claims(tmp_path / "base", tmp_path / "pruned", same_size=True)
    assert "link out of the folder" in found.reason


def renamed_token(folder):
    file = folder / "pruned" / "tokenizer.json"
    file.write_text(file.read_text().replace("<tool>", "<new>"))


def no_tokenizer(folder):
    (folder / "pruned" / "tokenizer.json").unlink()


def broken_tokenizer(folder):
    (folder / "pruned" / "tokenizer.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "order", "words"),
    [
        (renamed_token, [*KEPT, 127], "the row of the base's token 127 ('<tool>') has the text '<new>'"),
        (no_tokenizer, KEPT, "whether the tokenizer follows cannot be seen; a tokenizer.json in both folders would"),
        (broken_tokenizer, KEPT, "whether the tokenizer follows cannot be seen; that of the pruned folder"),
    ],
)
def test_what_stays_open_says_which_file_would_decide(tmp_path, change, order, words):
    renumbered(tmp_path, base_of("qwen3_moe").copy(), order)
    change(tmp_path)
    found = {v.check: v for v in examine(tmp_path / "base", tmp_path / "pruned", oracle="none").verdicts}
    assert not any(v.status is Status.FAIL for v in found.values())
    assert found["untouched"].status is Status.INCONCLUSIVE
    assert words in found["untouched"].message
