"""Headers of strangers: every fault becomes one line, and nothing raises."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from moeverify.models.folder.headers import read_header
from moeverify.models.folder.reader import Reader


def write(file, header, data=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return file


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_written_file_reads_back_bit_for_bit(tmp_path):
    tensors = {"a": torch.randn(3, 5), "b": torch.arange(6, dtype=torch.int64), "c": torch.randn(2, 3).bfloat16()}
    tensors |= {"empty": torch.empty(0, 4), "scalar": torch.tensor(2.0)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    header, reader = read_header(tmp_path / "model.safetensors"), Reader()
    assert header.problems == ()
    assert {t.name for t in header.tensors} == set(tensors)
    assert all(torch.equal(reader.tensor(t), tensors[t.name]) for t in header.tensors)


def test_values_that_are_not_aligned_are_read(tmp_path):
    values = torch.randn(4)
    text = json.dumps({"a": entry([4], 0, 16)}).encode()
    while (len(text) + 8) % 4 != 1:
        text += b" "
    file = write(tmp_path / "x.safetensors", text, values.numpy().tobytes())
    header = read_header(file)
    assert header.problems == ()
    assert torch.equal(Reader().tensor(header.tensors[0]), values)


HOSTILE = {
    "no length": (b"", b"", 10**15, "announces a header of"),
    "length of 2**64-1": (b"{}", b"", 2**64 - 1, "announces a header of"),
    "no JSON": (b"{'a': 1}", b"", None, "not JSON"),
    "a list": (b"[]", b"", None, "no JSON object"),
    "deep nesting": (b"[" * 100_000, b"", None, "nested deeper"),
    "deep metadata": (b'{"__metadata__": {"a": ' + b"[" * 9 + b"]" * 9 + b"}}", b"", None, "nested deeper"),
    "number of 5000 digits": (b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b"]}}", b"", None, "19 digits"),
    "not a number": (b'{"a": {"dtype": "F32", "shape": [NaN]}}', b"", None, "NaN stands where"),
    "a hundred dimensions": ({"a": entry([1] * 100, 0, 4)}, b"1234", None, "no valid shape"),
    "not UTF-8": (b"\xff\xfe{}", b"", None, "not UTF-8"),
    "entry is a number": ({"a": 3}, b"", None, "no JSON object"),
    "unknown type": ({"a": entry([1], 0, 4, "F13")}, b"1234", None, "unknown type"),
    "type is a list": ({"a": {**entry([1], 0, 4), "dtype": []}}, b"1234", None, "unknown type"),
    "negative size": ({"a": entry([-1], 0, 4)}, b"1234", None, "no valid shape"),
    "size is true": ({"a": entry([True], 0, 4)}, b"1234", None, "no valid shape"),
    "size is a word": ({"a": entry(["x"], 0, 4)}, b"1234", None, "no valid shape"),
    "huge shape": ({"a": entry([10**9] * 9, 0, 4)}, b"1234", None, "needs"),
    "range past the end": ({"a": entry([100], 0, 400)}, b"1234", None, "lie outside"),
    "range backwards": ({"a": entry([1], 4, 0)}, b"1234", None, "lie outside"),
    "range of three": ({"a": {**entry([1], 0, 4), "data_offsets": [0, 4, 8]}}, b"1234", None, "no valid byte range"),
    "range is null": ({"a": {**entry([1], 0, 4), "data_offsets": None}}, b"1234", None, "no valid byte range"),
    "lying size": ({"a": entry([2], 0, 4)}, b"1234", None, "needs 8 bytes, its range has 4"),
    "overlap": ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"x" * 12, None, "overlap by 4"),
    "a hole": ({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, b"x" * 12, None, "belong to no tensor"),
    "bytes at the end": ({"a": entry([1], 0, 4)}, b"x" * 12, None, "8 bytes at the end"),
    "a name twice": (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],'
                     b'"data_offsets":[0,1]}}', b"x", None, "listed 2 times"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_one_line(tmp_path, name):
    header, data, length, expected = HOSTILE[name]
    found = read_header(write(tmp_path / "model.safetensors", header, data, length=length))
    assert len(found.problems) == 1
    assert expected in found.problems[0]
    assert found.problems[0].startswith("model.safetensors: ")
    assert "\n" not in found.problems[0]


def test_a_file_shorter_than_a_length(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"123")
    assert "only 3 bytes" in read_header(tmp_path / "x.safetensors").problems[0]
