"""What is neither approved nor failed, or passes with a word: types that differ, tokens that end a generation."""

import pytest
from foundry import edit_config
from pruned_folders.catalogue import base_of
from pruned_folders.dropped_layers import dropped
from pruned_folders.heads import some_heads
from pruned_folders.scripts import experts
from pruned_folders.vocabulary import add_tokens, keep_tokens
from safetensors.torch import load_file, save_file

import moeverify as mv
from moeverify.certification.certify import examine
from moeverify.errors import PlanError
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
    assert (
        "cast from float32 to bfloat16, but for model.layers.*.mlp.gate.weight (float32)" in found["selection"].message
    )


def test_a_cast_of_one_kind_is_named(base, tmp_path):
    message = verdicts(base, tmp_path, "lm_head")["selection"].message
    assert "cast in part: lm_head.weight from float32 to bfloat16; 16 other kinds keep their type" in message


def listed(base_draft, folder, part, spoil=None):
    """A right folder with experts apart on disk; those with ``part`` in their name are stored as bfloat16."""
    path = experts(base_draft.copy()).write(folder / "pruned", listed=True)
    tensors = load_file(path / "model.safetensors")
    for name in (n for n in tensors if part in n):
        tensors[name] = tensors[name].bfloat16()
    if spoil is not None:
        spoil(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.mark.parametrize("expert", [0, 2])
def test_one_expert_in_another_type_is_found_and_left_open(base, tmp_path, expert):
    """It was no expert of the base, and the experts before it were lost with it."""
    folder = listed(base_of("qwen3_moe"), tmp_path, f"layers.0.mlp.experts.{expert}.")
    found = {v.check: v for v in examine(base, folder, oracle="none").verdicts}
    assert not any(v.status is Status.FAIL for v in found.values())
    assert f"expert {expert}: is stored as bfloat16, others of its kind as float32" in found["selection"].message
    assert found["router-intact"].status is Status.PASS


def test_gate_and_up_may_have_two_types(base, tmp_path):
    """They are one tensor of the model; each value counts in the type of its own file."""
    found = {v.check: v for v in examine(base, listed(base_of("qwen3_moe"), tmp_path, "gate_proj")).verdicts}
    assert not any(v.status is Status.FAIL for v in found.values())
    assert "selection with cast" in found["selection"].message


def test_gate_in_another_type_hides_no_rounding_of_up(base, tmp_path):
    def spoil(tensors):
        name = "model.layers.0.mlp.experts.2.up_proj.weight"
        tensors[name] = tensors[name].bfloat16().float()

    folder = listed(base_of("qwen3_moe"), tmp_path, "gate_proj", spoil)
    found = {v.check: v for v in examine(base, folder, oracle="none").verdicts}
    assert found["selection"].status is Status.FAIL
    assert "expert 2 (base expert 4) was rounded" in found["selection"].message


def test_a_layer_in_another_type_is_found_although_others_are_gone(tmp_path):
    base = base_of("mixtral").copy().write(tmp_path / "base")
    draft = dropped(base_of("mixtral").copy())
    for name in (n for n in draft.tensors if ".layers.1." in n):
        draft.tensors[name] = draft.tensors[name].bfloat16()
    found = {v.check: v for v in examine(base, draft.write(tmp_path / "pruned"), oracle="none").verdicts}
    assert not any(v.status is Status.FAIL for v in found.values())
    assert "is stored as bfloat16, others of its kind as float32" in found["selection"].message


def rows_rounded(draft, part):
    for name in draft.names(part):
        draft.tensors[name][::2] = draft.tensors[name][::2].bfloat16().float()
    return draft


def test_rows_rounded_alone_are_a_cast_without_a_reference(base, tmp_path):
    """They counted as training. Each row is the base's or its rounding; a tensor of both has no type to compare in."""
    found = judged(base, tmp_path, rows_rounded(experts(base_of("qwen3_moe").copy()), "q_proj.weight"), "full")
    assert "selection with cast" in found["selection"].message
    assert found["masked-equivalence"].status is Status.INCONCLUSIVE
    assert "q_proj.weight was rounded in part" in found["masked-equivalence"].message


@pytest.mark.parametrize("neither", [False, True])
def test_rows_rounded_in_one_layer_alone_fail(base, tmp_path, neither):
    draft = rows_rounded(experts(base_of("qwen3_moe").copy()), "layers.1.self_attn.q_proj.weight")
    if neither:
        draft.tensors["model.layers.1.self_attn.q_proj.weight"][1, 5] += 0.01
    found = {v.check: v for v in examine(base, draft.write(tmp_path / "pruned"), oracle="none").verdicts}
    assert found["untouched"].status is Status.FAIL
    assert ("was altered" if neither else "rounded to bfloat16 in 32 of 64 rows") in found["untouched"].message


def test_a_stated_type_that_is_not_the_stored_one_is_named(base, tmp_path):
    folder = edit_config(experts(base_of("qwen3_moe").copy()).write(tmp_path / "pruned"), dtype="bfloat16")
    found = {v.check: v for v in examine(base, folder, oracle="none").verdicts}
    assert "config.json states bfloat16, in which transformers loads it" in found["config-in-step"].message


def judged(base, folder, draft, oracle="none"):
    found = {v.check: v for v in examine(base, draft.write(folder / "pruned"), oracle=oracle).verdicts}
    assert not any(v.status is Status.FAIL for v in found.values())
    return found


def test_tokens_under_other_numbers_are_left_open(base, tmp_path):
    found = judged(base, tmp_path, keep_tokens(base_of("qwen3_moe").copy(), range(0, 128, 2)), "full")
    assert "64 of 128 tokens stayed under other numbers (token 1 is the base's 2)" in found["untouched"].message
    assert [name for name, v in found.items() if v.status is Status.INCONCLUSIVE] == ["untouched"]


def test_tokens_that_were_added_are_left_open(base, tmp_path):
    found = judged(base, tmp_path, add_tokens(base_of("qwen3_moe").copy(), 16), "full")
    assert "16 tokens were added" in found["untouched"].message
    assert [name for name, v in found.items() if v.status is Status.INCONCLUSIVE] == ["untouched"]


def test_heads_inside_of_groups_need_a_run(base, tmp_path):
    found = judged(base, tmp_path, some_heads(base_of("qwen3_moe").copy(), [1, 2]))
    assert found["consistency"].status is Status.INCONCLUSIVE
    assert "--oracle full" in found["consistency"].message
    with pytest.raises(PlanError, match="no class explains"):
        mv.certify(base, tmp_path / "pruned", oracle="none").write_keep_map(tmp_path / "plan.json")


@pytest.mark.parametrize(("count", "status"), [(64, Status.PASS), (256, Status.INCONCLUSIVE)])
def test_fewer_positions_pass_in_words_and_more_are_left_open(base, tmp_path, count, status):
    draft = experts(base_of("qwen3_moe").copy()).set(max_position_embeddings=count)
    found = judged(base, tmp_path, draft)["config-in-step"]
    assert found.status is status
    assert "max_position_embeddings" in found.message


def test_another_token_that_ends_a_generation_is_named(base, tmp_path):
    """No output depends on it, so that it passes, in words."""
    draft = experts(base_of("qwen3_moe").copy()).set(eos_token_id=[1, 2])
    found = {v.check: v for v in examine(base, draft.write(tmp_path / "pruned"), oracle="none").verdicts}
    assert found["config-in-step"].status is Status.PASS
    assert "eos_token_id: 1 in the base, [1, 2] here" in found["config-in-step"].message


def test_experts_that_are_not_recognised_are_no_pure_selection(tmp_path):
    """The MoE blocks of two of three layers changed places."""
    draft = experts(base_of("mixtral").copy())
    for name in draft.names("experts.gate_up_proj", "experts.down_proj", "mlp.gate.weight", layer=0):
        other = name.replace(".0.", ".1.")
        draft.tensors[name], draft.tensors[other] = draft.tensors[other], draft.tensors[name]
    base = base_of("mixtral").copy().write(tmp_path / "base")
    found = examine(base, draft.write(tmp_path / "pruned"), oracle="none")
    assert found.headline == "a selection in part"
    assert next(v for v in found.verdicts if v.check == "selection").status is Status.INCONCLUSIVE
