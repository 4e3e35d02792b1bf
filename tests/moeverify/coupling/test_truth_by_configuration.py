"""Coupling classes of every zoo model against a truth that shares no code with the trace.

A model type is built twice with one size of its configuration changed; the parameter dimensions that change are
those that depend on it. Where a configuration ties what no operation couples, the exception stands here by name.
"""

import re

import pytest

import moeverify as mv
from moeverify.models.roles import find_roles
from moeverify.models.sources import load_source
from moeverify.models.zoo import zoo_types
from moeverify.suites.zoo_table.configured import (
    TIED_BY_CONFIGURATION,
    dims_that_follow,
    followers,
    hidden_entries,
)

# Parameters of routed experts without an inner dimension of that kind: a bias of the output, experts of attention,
# experts that are one row each.
NO_INNER = r"down_proj_bias$|jetmoe:.*self_attention|doge:"
HEADS_CANNOT_CHANGE_ALONE = {
    "dbrx": "the size of a head is hidden size / heads",
    "laguna": "the number of heads is a list, one number a layer",
}
# Classes that cut attention elsewhere than between heads, and the parameters beside those that follow the heads.
NOT_BY_HEADS = {
    "olmoe": (r"\.(q|k)_norm\.weight$", "the norm of all heads together has the hidden size"),
    "zaya": (r".", "convolutions mix all channels of all heads: one unit"),
}


@pytest.fixture(scope="module")
def analysed(request):
    model_type = request.param
    loaded = load_source(f"zoo:{model_type}")
    return model_type, loaded.model, mv.trace_couplings(loaded.model, loaded.example_inputs)


def dims(coupling):
    return {(m.parameter, m.dim) for m in coupling.members if not m.buffer}


def embedding(model):
    table = model.get_input_embeddings().weight
    return next(name for name, parameter in model.named_parameters() if parameter is table), 1


over_the_zoo = pytest.mark.parametrize("analysed", zoo_types(), indirect=True)


@pytest.mark.slow
@over_the_zoo
def test_hidden_class_is_what_follows_the_hidden_size(analysed):
    model_type, model, couplings = analysed
    root = embedding(model)
    truth = dims_that_follow(model, hidden_entries(model))
    tied = {d for d in truth if re.search(TIED_BY_CONFIGURATION.get(model_type, ("$^",))[0], d[0])}
    (hidden,) = (dims(c) for c in couplings.classes if root in dims(c))
    assert hidden - truth == set()
    assert truth - hidden <= tied
    assert bool(tied - hidden) == (model_type in TIED_BY_CONFIGURATION), "an exception that is none"


@pytest.mark.slow
@over_the_zoo
def test_inner_classes_are_what_follows_the_inner_sizes(analysed):
    model_type, model, couplings = analysed
    root = embedding(model)
    holding = [f for f in followers(model) if re.search("intermediate|ffn_hidden", f.entry) and root not in f.dims]
    assert holding or model_type == "doge"
    covered = set()
    for follower in holding:
        for coupling in couplings.classes:
            inside = dims(coupling) & follower.dims
            if inside:
                assert inside == dims(coupling), follower.entry
                covered |= inside
        assert follower.dims <= covered, follower.entry
    for layer in find_roles(model).layers:
        for stack in layer.stacks:
            assert {d for n, d in covered if n == stack} or re.search(NO_INNER, f"{model_type}:{stack}"), stack


@pytest.mark.slow
@over_the_zoo
def test_head_classes_are_what_follows_the_heads(analysed):
    """All numbers of heads doubled together: a class of heads lies inside what changes."""
    model_type, model, couplings = analysed
    document = model.config.to_dict()
    entries = {}
    for path in (("text_config",), ("attn_config",), ()):
        where = document.get(path[0], {}) if path else document
        for name, value in (where or {}).items():
            if isinstance(value, int) and re.fullmatch(
                r"(swa_)?(num_(attention|key_value)_heads|(kv_|index_)?n_heads)", name
            ):
                entries[".".join((*path, name))] = value * 2
    without_index = {path: value for path, value in entries.items() if "index" not in path}
    changed = dims_that_follow(model, entries) or dims_that_follow(model, without_index)
    attention = {name for name, _ in changed or () if re.search(r"(o(ut)?|o_[ab])_proj|output_linear", name)}
    assert bool(attention) != (model_type in HEADS_CANNOT_CHANGE_ALONE)
    more = set()
    for coupling in couplings.classes:
        inside = dims(coupling) & changed
        if inside and any("attn" in name or "attention" in name for name, _ in inside):
            more |= {name for name, _ in dims(coupling) - changed}
    if model_type not in HEADS_CANNOT_CHANGE_ALONE:
        assert bool(more) == (model_type in NOT_BY_HEADS)
        assert all(re.search(NOT_BY_HEADS[model_type][0], name) for name in more)
