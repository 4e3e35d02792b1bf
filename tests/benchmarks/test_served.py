"""The table of engines: what is served, what is refused, and what differs only in the pruned model."""

import json

import torch
from safetensors.torch import load_file, save_file

from benchmarks.served import BASE, not_renumbered, table

DATA = {
    "engines": {"vllm": "1.0", "llama.cpp": "2.0"},
    "versions": {"torch": "3.0"},
    "seconds": 60.0,
    "results": {
        "a": {
            "vllm": {
                BASE: {"word": "agrees", "gap": 1e-6},
                "experts 0.5": {"word": "differs", "gap": 0.5, "message": "computes something else"},
                "channels 0.5": {"word": "not pruned", "message": "no class is free"},
            },
            "llama.cpp": {BASE: {"word": "refused", "message": "unknown architecture"}},
        },
        "b": {engine: {BASE: {"word": "refused", "message": "unknown"}} for engine in ("vllm", "llama.cpp")},
    },
    "wrong": {
        "a": {"vllm": {BASE: {"word": "agrees", "gap": 0.0}, "swapped": {"word": "refused", "message": "KeyError"}}}
    },
}


def test_a_row_for_each_type_that_an_engine_serves_and_the_words_of_those_that_do_not():
    text = table(DATA)
    assert "1 of 2 types are served" in text
    assert "| a | agrees | differs 0.5 | not pruned | – |" in text
    assert "Refused before pruning: b." in text
    assert "Refused before pruning: a, b." in text
    assert "| a | swapped | refused | – |" in text
    assert "- vllm, a, experts 0.5: computes something else" in text
    assert "unknown architecture" not in text


def test_experts_keep_their_old_numbers_in_the_wrong_pruning(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"num_experts": 4}))
    tensors = {f"m.experts.{n}.w": torch.full((2,), float(n)) for n in range(4)}
    save_file({**tensors, "m.gate.weight": torch.arange(4.0)[:, None]}, base / "model.safetensors")
    found = load_file(not_renumbered(base, tmp_path / "wrong") / "model.safetensors")
    assert sorted(found) == ["m.experts.1.w", "m.experts.3.w", "m.gate.weight"]
    assert found["m.gate.weight"].flatten().tolist() == [1.0, 3.0]
    assert json.loads((tmp_path / "wrong" / "config.json").read_text()) == {"num_experts": 2}
