"""What is neither approved nor failed, or passes with a word: types that differ, tokens that end a generation."""

import pytest
from pruned_folders.catalogue import base_of
from pruned_folders.scripts import experts

from moeverify.certification.certify import examine
from moeverify.verdict import Status


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_of("qwen3_moe").copy().write(tmp_path_factory.mktemp("mixed") / "base")


def verdicts(base, folder, *parts):
    """Verdicts on a right folder in which tensors with one of ``parts`` in their name are stored as bfloat16."""
    draft = experts(base_of("qwen3_moe").copy())
    for name in (n for n in draft.tensors if any(part in n for part in parts)):
        draft.tensors[name] = draft.tensors[name].bfloat16()
    found = examine(base, draft.write(folder / "pruned"), oracle="none")
    return {v.check: v for v in found.verdicts if v.check not in ("loads-whole", "causal", "masked-equivalence")}


@pytest.mark.parametrize(
    ("parts", "relation"),
    [
        (["layers.1.self_attn"], "untouched"),
        (["layers.0.mlp.gate."], "router-intact"),
        (["layers.0.mlp.experts"], "selection"),
    ],
)
def test_one_layer_in_another_type_is_left_open(base, tmp_path, parts, relation):
    found = verdicts(base, tmp_path, *parts)
    assert [name for name, v in found.items() if v.status is Status.INCONCLUSIVE] == [relation]
    assert "is stored as bfloat16, others of its kind as float32" in found[relation].message
    assert not any(v.status is Status.FAIL for v in found.values())


def test_a_kind_in_a_type_of_its_own_is_a_cast(base, tmp_path):
    """Example: all but the routers in bfloat16, as many models are published."""
    found = verdicts(base, tmp_path, "self_attn", "embed", "lm_head", "experts", "norm")
    assert {v.status for v in found.values()} <= {Status.PASS, Status.SKIP}
    assert "selection with cast" in found["selection"].message


def test_another_token_that_ends_a_generation_is_named(base, tmp_path):
    """No output depends on it, so that it passes, in words."""
    draft = experts(base_of("qwen3_moe").copy()).set(eos_token_id=[1, 2])
    found = {v.check: v for v in examine(base, draft.write(tmp_path / "pruned"), oracle="none").verdicts}
    assert found["config-in-step"].status is Status.PASS
    assert "eos_token_id: 1 in the base, [1, 2] here" in found["config-in-step"].message
