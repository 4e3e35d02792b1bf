"""Configuration in step by probing: what the entries mean, what they can say, and constants that follow from sizes."""

import copy
import itertools

import pytest
import torch
from everyday import everyday, not_only_by_night
from releases import needs
from transformers import DbrxForCausalLM

import moeverify as mv
from moeverify.errors import PruningRefused
from moeverify.models.forward import call_model
from moeverify.models.zoo import build_zoo
from moeverify.pruning.configuration import Probe, apply_update, entries, plan_update
from moeverify.pruning.configuration.document import integers
from moeverify.pruning.configuration.entries import find_entries
from moeverify.pruning.constants.constants import keep_constants, merged
from moeverify.pruning.plan.folds import Fold

IDS = torch.arange(32).view(2, 16)


def prune(model, **arguments):
    arguments = {"pruning_ratio": 0.5, "ignored_layers": [model.lm_head], "round_to": 4, **arguments}
    return mv.MoEPruner(model, {"input_ids": IDS}, **arguments).step()


def test_positive_integers_are_found_by_path_without_ids_of_tokens():
    document = {"a": 2, "text": {"sizes": [3, 4], "pad_token_id": 9, "on": True}, "rope": {"theta": 1e4}}
    found = dict(integers(document))
    assert found == {("a",): 2, ("text", "sizes", 0): 3, ("text", "sizes", 1): 4}


def test_an_entry_is_known_by_what_it_changes():
    probe = Probe(build_zoo("mixtral"))
    hidden = next(move for move in probe.moves if move.up == (("hidden_size",),))
    assert hidden.slopes["model.embed_tokens.weight", 1] == 64
    assert ("model.layers.0.mlp.experts.gate_up_proj", 1) not in hidden.slopes
    assert not any(("vocab_size",) in move.up and len(move.slopes) > 2 for move in probe.moves)


@pytest.mark.parametrize("factor", [2, 4])
def test_entries_for_wanted_shapes(factor):
    model = build_zoo("mixtral")
    probe = Probe(model)
    smaller = copy.deepcopy(model.config)
    smaller.hidden_size //= factor
    smaller.intermediate_size //= 2
    smaller.head_dim = model.model.layers[0].self_attn.head_dim
    wanted = {n: tuple(p.shape) for n, p in type(model)(smaller).named_parameters()}
    wanted |= {n: tuple(b.shape) for n, b in model.named_buffers()}
    found = find_entries(probe, wanted)
    assert found.wrong == ()
    assert found.entries["hidden_size",] == 64 // factor


SEARCHED = ("mixtral", "deepseek_v3", "jamba", "qwen3_next", "dbrx")


@pytest.mark.parametrize("name", not_only_by_night(SEARCHED, ["mixtral"]))
def test_entries_by_the_slopes_alone_are_those_of_a_search_that_builds_every_step(name, monkeypatch):
    needs(name)
    probe = Probe(build_zoo(name))
    halved = [m for m in probe.moves if len(m.up) == 1 and not m.down and probe.values[m.up[0]] % 2 == 0]
    compared = 0
    for one, two in itertools.combinations(halved, 2):
        wanted = probe.shapes({**probe.pins, **{m.up[0]: probe.values[m.up[0]] // 2 for m in (one, two)}})
        if wanted is None:
            continue
        with monkeypatch.context() as patch:
            patch.setattr(entries._Sizes, "expected", lambda self, entries: self.base)
            careful = find_entries(probe, wanted)
        assert find_entries(probe, wanted) == careful
        compared += not careful.wrong
    assert compared > 3


def test_a_search_builds_once_where_the_slopes_lead_to_the_wanted_shapes(monkeypatch):
    model = build_zoo("mixtral")
    probe = Probe(model)
    moves = {move.up[0][0]: move for move in probe.moves}
    wanted = {n: list(shape) for n, shape in probe.base.items()}
    for name in ("hidden_size", "intermediate_size"):
        for tensor, dim in moves[name].slopes:
            wanted[tensor][dim] //= 2
    probe._remembered.built.clear()  # what other tests built of this architecture
    built = []
    build = Probe.build
    monkeypatch.setattr(Probe, "build", lambda self, entries: (built.append(entries), build(self, entries))[1])
    found = find_entries(probe, {name: tuple(shape) for name, shape in wanted.items()})
    assert found.wrong == ()
    assert built == [found.entries]


def test_weights_that_do_not_belong_to_the_configuration_are_refused():
    model = build_zoo("mixtral")
    model.config.intermediate_size += 8
    with pytest.raises(PruningRefused, match="do not agree with its own configuration"):
        Probe(model)


def test_entries_that_no_shape_shows_follow():
    """Latent attention has no key heads in any shape; modules work out from them how many heads share one."""
    model = build_zoo("deepseek_v3")
    prune(model)
    assert model.config.num_key_value_heads == model.config.num_attention_heads
    assert model.model.layers[0].self_attn.num_key_value_groups == 1


def test_heads_are_fewer_not_smaller():
    """No position embedding, no scale of its own: shapes alone would allow smaller heads as well."""
    model = build_zoo("granitemoehybrid")
    attention = model.model.layers[1].self_attn
    before = attention.head_dim
    plan = prune(model)
    assert any(cut.pruning_class.role == "heads" for cut in plan.cuts)
    assert attention.head_dim == before
    assert model.config.num_attention_heads * 2 == build_zoo("granitemoehybrid").config.num_attention_heads


def dbrx(key_value_heads):
    """Queries, keys and values in one projection; heads are as wide as hidden channels divided by heads make them."""
    needs("dbrx")
    config = build_zoo("dbrx").config
    config.attn_config.kv_n_heads = config.num_key_value_heads = key_value_heads
    torch.manual_seed(0)
    return DbrxForCausalLM(config).eval()


def test_an_entry_that_divides_a_part_of_a_size():
    model = dbrx(1)
    plan = prune(model)
    entries = {".".join(path): value for path, value in plan.entries.items()}
    assert entries == {"d_model": 32, "n_heads": 2, "ffn_config.ffn_hidden_size": 28}
    assert plan.adjustments == ()
    assert model.transformer.blocks[0].norm_attn_norm.attn.Wqkv.weight.shape == (2 * 16 + 2 * 16, 32)


def test_of_two_ways_to_say_a_shape_the_one_that_keeps_the_heads_size():
    model = dbrx(2)  # half the hidden channels: 4 heads of 8 with 2 for keys, or 2 of 16 with one, 64 rows either way
    plan = prune(model)
    entries = {".".join(path): value for path, value in plan.entries.items()}
    assert entries == {"d_model": 32, "n_heads": 2, "attn_config.kv_n_heads": 1, "ffn_config.ffn_hidden_size": 28}
    attention = model.transformer.blocks[0].norm_attn_norm.attn
    assert (attention.Wqkv.weight.shape, attention.head_dim) == ((2 * 16 + 2 * 16, 32), 16)


def test_another_name_of_an_entry_is_no_entry():
    needs("dbrx")
    probe = Probe(build_zoo("dbrx"))
    assert ("hidden_size",) not in probe.pins  # d_model, by its other name
    assert ("d_model",) in probe.moves[0].up


def test_value_heads_go_with_the_key_head_before_them():
    """Four value heads: what is projected for each of two key heads counts four as well, and stays."""
    model = build_zoo("qwen3_next")
    roles = {"heads": 0.5, "hidden": 0, "routed_experts": 0, "shared_experts": 0, "dense_mlp": 0}
    plan = mv.MoEPruner(model, {"input_ids": IDS}, pruning_ratio=0.5, ratios=roles).step()
    assert not plan.adjustments
    assert (model.config.linear_num_key_heads, model.config.linear_num_value_heads) == (1, 2)
    assert model.model.layers[0].linear_attn.dt_bias.shape == (2,)
    assert model.model.layers[0].linear_attn.num_v_heads == 2


def test_groups_of_a_mamba_mixer_are_fewer_not_smaller():
    """They are a part of one projection: as many positions go with half the groups as with half the states of each."""
    model = build_zoo("nemotron_h")
    before = model.config.n_groups, model.config.ssm_state_size
    prune(model, ratios={"hidden": 0.0})
    assert (2 * model.config.n_groups, model.config.ssm_state_size) == before


@pytest.mark.parametrize(("ratio", "expand"), [(0.5, 4), (0.25, None)])
def test_what_multiplies_the_hidden_size_makes_up_for_it(ratio, expand):
    """Mamba's inner size is expand x hidden: 3/4 of the hidden channels cannot be said with the inner size kept."""
    model = build_zoo("jamba")
    inner = model.model.layers[0].mamba.intermediate_size
    prune(model, pruning_ratio=ratio)
    config = model.config
    assert config.mamba_expand * config.hidden_size == model.model.layers[0].mamba.in_proj.out_features // 2
    if expand is not None:
        assert model.model.layers[0].mamba.in_proj.out_features // 2 <= inner


@pytest.mark.parametrize("name", everyday(["gemma4_text", "longcat_flash"], {"gemma4_text"}))
def test_derived_constants_are_folded_into_weights(name):
    model = build_zoo(name)
    plan = prune(model)
    assert plan.folds
    again = type(model)(model.config).eval()
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_a_tied_head_is_relieved_at_the_norm_before_it():
    model = build_zoo("gemma4_text")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    folds = {fold.parameter: fold.factor for fold in prune(model).folds}
    assert folds["model.norm.weight"] == pytest.approx(1 / folds["model.embed_tokens.weight"])


def test_a_constant_that_no_weight_can_take_over_is_reported():
    class Shifted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = 0.5
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, x):
            return torch.relu(self.linear(x)) + self.shift

    model = Shifted()
    found = keep_constants(model, {("", "shift"): (0.5, 0.7)}, lambda m: call_model(m, torch.randn(3, 4)))
    assert found.obstacles == (("", "shift"),)
    assert found.folds == ()


def test_a_fold_of_a_zero_centred_norm():
    values = torch.tensor([0.25, -0.5], dtype=torch.float64)
    assert Fold("w", 2.0, 1.0).of(values).tolist() == [1.5, 0.0]


def test_factors_of_one_weight_multiply_and_two_readings_of_it_are_refused():
    assert merged([Fold("w", 2.0), Fold("v", 0.5), Fold("w", 3.0), Fold("v", 2.0)]) == (Fold("w", 6.0),)
    with pytest.raises(PruningRefused, match="w would take over a constant both as it is stored and with 1"):
        merged([Fold("w", 2.0), Fold("w", 3.0, 1.0)])


def test_configuration_objects_keep_their_identity():
    model = build_zoo("gemma4_text")
    shared = model.config
    prune(model)
    assert model.config is shared is model.model.config
    assert all(layer.self_attn.q_proj.in_features == shared.hidden_size for layer in model.model.layers)


def test_an_update_that_a_file_would_not_keep_is_refused(monkeypatch):
    model = build_zoo("mixtral")
    probe = Probe(model)
    entries = {("hidden_size",): 32}
    wanted = probe.shapes(entries)
    monkeypatch.setattr(
        "moeverify.pruning.configuration.document.written_and_loaded", lambda config: copy.deepcopy(model.config)
    )
    with pytest.raises(PruningRefused, match="another shape after saving and loading"):
        plan_update(probe, entries, wanted)
    monkeypatch.undo()
    apply_update(model, plan_update(probe, entries, wanted))
    assert model.config.hidden_size == 32
