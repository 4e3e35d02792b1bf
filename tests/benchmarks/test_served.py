"""The table of engines: what is served, what is refused, and what differs only in the pruned model."""

import json

from benchmarks.served import Built, _decided, told_by_plan
from benchmarks.served_table import BASE, table
from moeverify.serving.engines import engine_named

DATA = {
    "engines": {"vllm": "1.0", "llama.cpp": "2.0"},
    "versions": {"torch": "3.0"},
    "seconds": 60.0,
    "cpu_seconds": 30.0,
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


def test_what_only_a_plan_gives_is_marked():
    rows = {BASE: {"word": "agrees", "gap": 0.0}, "hidden 0.5": {"word": "refused", "message": "shape", "told": True}}
    text = table({**DATA, "results": {"a": {"vllm": rows}}})
    assert "| a | agrees | – | – | refused (told by --for) |" in text


def test_a_width_that_its_engine_cannot_take_is_marked(tmp_path):
    folders = {}
    for name, hidden in ((BASE, 256), ("hidden 0.5", 128)):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        config = {"model_type": "qwen2_moe", "hidden_size": hidden, "num_attention_heads": 4, "head_dim": 64}
        (folders[name] / "config.json").write_text(json.dumps(config))
    item = Built("qwen2_moe", folders, {})
    assert told_by_plan(engine_named("vllm"), item, "hidden 0.5")
    assert not told_by_plan(engine_named("vllm"), item, BASE)


def test_types_that_were_not_asked_yet_are_counted():
    assert "So far 2 of the zoo's 62 types were asked;" in table({**DATA, "types": 62})
    assert "So far" not in table({**DATA, "types": 2})


def test_a_type_that_was_not_answered_in_time_is_asked_again():
    assert not _decided(None)
    assert not _decided({"vllm": {BASE: {"word": "undecided", "message": "no answer within 1200 s"}}})
    assert _decided({"vllm": {BASE: {"word": "refused", "message": "unknown"}}})
