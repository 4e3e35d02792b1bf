"""What engines would read from a configuration, and names of one entry that contradict each other."""

import pytest
from foundry import Draft, edit_config

import moeverify as mv
from moeverify.certification.relations.engines import contradictions, read_by


@pytest.mark.parametrize(
    ("config", "vllm", "llama"),
    [
        ({"num_experts": 8, "num_local_experts": 4}, ("num_experts", 8), ("num_local_experts", 4)),
        ({"n_routed_experts": 6}, ("n_routed_experts", 6), ("n_routed_experts", 6)),
        ({"text_config": {"moe_num_experts": 5, "num_experts": 3}}, ("num_experts", 3), ("num_experts", 3)),
        ({"moe_num_experts": 5}, ("moe_num_experts", 5), None),
        ({"num_experts": [4, 4], "num_local_experts": True}, None, None),
    ],
)
def test_each_engine_takes_its_first_name(config, vllm, llama):
    found = read_by(config)
    for engine, expected in (("vllm", vllm), ("llama.cpp", llama)):
        assert found.get(engine) == (
            None if expected is None else dict(zip(("entry", "experts"), expected, strict=True))
        )


def test_a_contradiction_names_what_engines_take():
    (line,) = contradictions({"num_experts": 8, "num_local_experts": 4}, {"num_experts": 8})
    assert line == (
        "config.json has num_experts = 8 and num_local_experts = 4: engines differ in which they read "
        "(vllm takes 8, llama.cpp takes 4)"
    )
    (line,) = contradictions({"num_experts_per_tok": 2, "moe_topk": 4}, {})
    assert line.endswith("engines differ in which they read")


def test_a_contradiction_of_the_base_is_no_fault_of_the_pruning():
    base = {"num_experts": 8, "num_local_experts": 4}
    assert list(contradictions({"num_experts": 4, "num_local_experts": 2}, base)) == []
    assert list(contradictions({"num_experts": 4, "num_local_experts": 4}, base)) == []


def test_a_folder_whose_old_count_stayed_under_its_other_name(tmp_path):
    base = Draft.of("qwen3_moe")
    base.write(tmp_path / "base")
    base.copy().keep_experts([0, 2, 4, 6], count="num_local_experts").write(tmp_path / "pruned")
    verdicts = {v.check: v for v in mv.certify(tmp_path / "base", tmp_path / "pruned", oracle="none").verdicts}
    read = verdicts["inventory"].evidence["read_by"]
    assert {engine: entry["experts"] for engine, entry in read.items()} == {"vllm": 4, "llama.cpp": 4}
    edit_config(tmp_path / "pruned", num_experts=8, num_local_experts=4)
    verdicts = {v.check: v for v in mv.certify(tmp_path / "base", tmp_path / "pruned", oracle="none").verdicts}
    assert verdicts["config-in-step"].message.startswith("config.json has num_experts = 8 and num_local_experts = 4")
