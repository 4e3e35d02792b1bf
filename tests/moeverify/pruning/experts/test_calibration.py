"""Calibration data from files, data sets and tensors: drawn by a seed, cut to one length, identified by a digest."""

import json

import pytest
import torch
from small_nets import TinyMoE, build

import moeverify as mv
from moeverify.errors import UsageError
from moeverify.models.zoo import build_zoo


class Letters:
    """A tokenizer: one token a letter."""

    eos_token_id = 0

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [ord(letter) % 60 + 1 for letter in text]}


def batches(source, **options):
    given = {"samples": 3, "length": 8, "tokenizer": Letters(), **options}
    return [batch["input_ids"] for batch in mv.Calibration(source, **given).batches(torch.nn.Linear(1, 1))]


def test_text_and_json_lines_give_the_same_samples(tmp_path):
    texts = ["one two three four", "five six seven eight nine", "ten eleven twelve"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    (tmp_path / "b.jsonl").write_text(
        "\n\n".join(json.dumps({"messages": [{"role": "user", "content": text}]}) for text in texts)
    )
    first, second = batches(tmp_path / "a.jsonl"), batches(str(tmp_path / "b.jsonl"))
    assert [tuple(ids.shape) for ids in first] == [(1, 8)] * 3
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    (tmp_path / "c.txt").write_text(texts[0] * 4)
    assert len(batches(tmp_path / "c.txt")) == 3


def test_rows_of_token_ids_need_no_tokenizer(tmp_path):
    rows = [list(range(start, start + 12)) for start in (0, 20, 40)]
    (tmp_path / "ids.jsonl").write_text("\n".join(json.dumps({"input_ids": row}) for row in rows))
    found = torch.cat(batches(tmp_path / "ids.jsonl", samples=9, tokenizer=None)).flatten().sort().values
    assert found.tolist() == [number for row in rows for number in row][:32]


def test_tokens_that_the_model_does_not_know_are_refused():
    model = build_zoo("mixtral")
    data = mv.Calibration(torch.full((2, 8), model.config.vocab_size))
    with pytest.raises(UsageError, match="token ids from 128 to 128, and the model knows 0 to 127"):
        list(data.batches(model))


def test_data_sets_in_memory_and_on_disk_give_the_same_batches(tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed; `tox run -e tests` installs it")
    data = datasets.Dataset.from_dict({"text": ["abcdefgh" * 4, "ijklmnop" * 4]})
    data.save_to_disk(str(tmp_path / "saved"))
    first, second = batches(data), batches(tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_tensors_are_drawn_by_the_seed():
    ids = torch.arange(200).reshape(20, 10)
    one, same, other = batches(ids), batches(ids), batches(ids, seed=1)
    assert torch.equal(torch.cat(one), torch.cat(same))
    assert not torch.equal(torch.cat(one), torch.cat(other))
    assert len({int(row[0, 0]) for row in one}) == 3


def test_the_digest_follows_the_data():
    model = build(TinyMoE)
    digests = [mv.Calibration([torch.full((2, 5), value)]).digest(model) for value in (1.0, 1.0, 2.0)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nowhere/data.jsonl", "cannot read the calibration data"),
        (torch.randn(3, 8), "calibration tensors hold token ids"),
        (7, "cannot be read from int"),
    ],
)
def test_sources_that_cannot_be_read(source, message):
    with pytest.raises(UsageError, match=message):
        batches(source)


def test_files_with_other_fields_or_too_little_text(tmp_path):
    (tmp_path / "odd.jsonl").write_text('{"words": "abc"}')
    with pytest.raises(UsageError, match="none of the fields text, content"):
        batches(tmp_path / "odd.jsonl")
    (tmp_path / "short.txt").write_text("abc")
    with pytest.raises(UsageError, match="has 4 tokens, one sample needs 8"):
        batches(tmp_path / "short.txt")
    (tmp_path / "broken.jsonl").write_text("{")
    with pytest.raises(UsageError, match="does not hold one JSON document a line"):
        batches(tmp_path / "broken.jsonl")


def test_text_without_a_tokenizer_and_sizes_that_cannot_be_meant(tmp_path):
    (tmp_path / "a.txt").write_text("text " * 20)
    with pytest.raises(UsageError, match="pass Calibration"):
        batches(tmp_path / "a.txt", tokenizer=None)
    with pytest.raises(UsageError, match="samples of the calibration data must be a positive whole number"):
        mv.Calibration("a.txt", samples=0)
