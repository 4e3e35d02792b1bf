"""Plans that were edited: refused before a weight is touched."""

import json

import pytest
import torch

from moeverify.errors import PlanError
from moeverify.models.sources import load_source
from moeverify.pruning.checkpoint.digest import digest_of
from moeverify.pruning.checkpoint.plan_check import check_plan
from moeverify.pruning.checkpoint.plan_file import PlanDocument, document_plan
from moeverify.pruning.pruner import MoEPruner


@pytest.fixture(scope="module")
def base():
    return load_source("zoo:gemma4_text")  # its embedding has a scale derived from the hidden size


@pytest.fixture(scope="module")
def plan(base):
    model = base.model
    torch.manual_seed(0)
    made = MoEPruner(model, base.example_inputs, pruning_ratio=0.5, ignored_layers=[model.lm_head]).plan()
    return json.loads(document_plan(model, made).to_json())


def check(base, data):
    document = PlanDocument.from_json(json.dumps(data))
    return check_plan(base.model, document.plan, base.example_inputs)


def test_the_plan_as_it_was_made_is_accepted(base, plan):
    assert plan["folds"]
    assert plan["config"]
    assert check(base, plan) is not None


def edited(plan, part, number, **changes):
    items = [dict(item) for item in plan[part]]
    items[number] = {**items[number], **changes}
    return {**plan, part: items}


def more(plan, part, *items):
    return {**plan, part: [*plan[part], *items]}


def fold_of(item):
    return {"parameter": item["parameter"], "factor": 2.0, "offset": 0.0}


def shifted(plan, ending, dim):
    """As many positions of one tensor, but others: the complement, or what fills it up."""
    number = next(n for n, k in enumerate(plan["keep"]) if k["parameter"].endswith(ending) and k["dim"] == dim)
    entry = plan["keep"][number]
    kept = set(positions_in(plan["sets"][entry["set"]]))
    gone = [p for p in range(entry["size"]) if p not in kept]
    others = sorted([*gone, *sorted(kept)][: len(kept)])
    data = edited(plan, "keep", number, set=len(plan["sets"]))
    return {**data, "sets": [*plan["sets"], ",".join(map(str, others))]}


def positions_in(text):
    """The positions of a set as a plan writes it: ``0-3,7``."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


EDITS = {
    "positions_without_end": lambda p: {**p, "sets": ["0-999999999999", *p["sets"][1:]]},
    "position_of_many_digits": lambda p: {**p, "sets": ["9" * 5000, *p["sets"][1:]]},
    "many_large_sets": lambda p: {**p, "sets": ["0-150000000", "0-150000000", *p["sets"][2:]]},
    "positions_beyond_the_size": lambda p: {**p, "sets": ["0-100000", *p["sets"][1:]]},
    "positions_descend": lambda p: {**p, "sets": ["5,3", *p["sets"][1:]]},
    "empty_set": lambda p: {**p, "sets": ["", *p["sets"][1:]]},
    "set_is_a_float": lambda p: edited(p, "keep", 0, set=0.0),
    "set_is_a_bool": lambda p: edited(p, "keep", 0, set=True),
    "set_that_is_not_there": lambda p: edited(p, "keep", 0, set=10_000),
    "negative_set": lambda p: edited(p, "keep", 0, set=-1),
    "dim_99": lambda p: edited(p, "keep", 0, dim=99),
    "dim_3": lambda p: edited(p, "keep", 0, dim=3),
    "dim_is_a_float": lambda p: edited(p, "keep", 0, dim=1.0),
    "dim_is_a_bool": lambda p: edited(p, "keep", 0, dim=False),
    "another_size": lambda p: edited(p, "keep", 0, size=7),
    "size_of_exabytes": lambda p: edited(p, "keep", 0, size=10**18),
    "unknown_parameter": lambda p: edited(p, "keep", 0, parameter="__class__"),
    "parameter_with_controls": lambda p: edited(p, "keep", 0, parameter="a\x1b[2J"),
    "parameter_twice": lambda p: more(p, "keep", p["keep"][0]),
    "path_into_a_number": lambda p: edited(p, "config", 0, path=[*p["config"][0]["path"], "x"]),
    "path_is_an_index": lambda p: edited(p, "config", 0, path=[0]),
    "path_is_a_bool": lambda p: edited(p, "config", 0, path=[True]),
    "path_of_dunder": lambda p: more(p, "config", {"path": ["__class__"], "value": 5}),
    "path_to_text": lambda p: more(p, "config", {"path": ["model_type"], "value": 5}),
    "path_twice": lambda p: more(p, "config", p["config"][0]),
    "value_is_a_float": lambda p: edited(p, "config", 0, value=32.0),
    "value_is_huge": lambda p: edited(p, "config", 0, value=10**400),
    "value_far_above": lambda p: edited(p, "config", 0, value=2**30),
    "value_of_another_size": lambda p: edited(p, "config", 0, value=p["config"][0]["value"] + 1),
    "a_million_layers": lambda p: more(p, "config", {"path": ["num_hidden_layers"], "value": 10**6}),
    "one_layer_fewer": lambda p: more(p, "config", {"path": ["num_hidden_layers"], "value": 1}),
    "window_that_no_cut_needs": lambda p: more(p, "config", {"path": ["sliding_window"], "value": 3}),
    "length_that_no_cut_needs": lambda p: more(p, "config", {"path": ["max_position_embeddings"], "value": 17}),
    "entry_left_out": lambda p: {**p, "config": p["config"][1:]},
    "unknown_fold": lambda p: more(p, "folds", {"parameter": "nowhere.weight", "factor": 2.0, "offset": 0.0}),
    "fold_that_no_cut_needs": lambda p: more(p, "folds", fold_of(p["keep"][-1])),
    "fold_left_out": lambda p: {**p, "folds": p["folds"][1:]},
    "fold_twice": lambda p: more(p, "folds", p["folds"][0]),
    "another_factor": lambda p: edited(p, "folds", 0, factor=p["folds"][0]["factor"] * 1.01),
    "factor_of_400_digits": lambda p: edited(p, "folds", 0, factor=10**400),
    "factor_zero": lambda p: edited(p, "folds", 0, factor=0),
    "another_offset": lambda p: edited(p, "folds", 0, offset=0.5),
    "other_positions_of_one_tensor": lambda p: shifted(p, "mlp.up_proj.weight", 0),
    "other_positions_of_the_norm": lambda p: shifted(p, "model.norm.weight", 0),
    "other_positions_of_queries": lambda p: shifted(p, "q_proj.weight", 1),
    "further_key": lambda p: {**p, "run": "rm"},
    "schema_of_the_future": lambda p: {**p, "schema_version": "9"},
    "nothing_kept": lambda p: {**p, "keep": []},
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_plan_is_refused_and_nothing_touched(edit, base, plan):
    before = digest_of(base.model)
    with pytest.raises(PlanError) as caught:
        check(base, EDITS[edit](plan))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700
    assert digest_of(base.model) == before


@pytest.mark.parametrize("text", ['{"sets": ' * 100_000, '{"a": 1, "a": 2}', "", "[]"])
def test_what_is_no_plan(text):
    with pytest.raises(PlanError):
        PlanDocument.from_json(text)


@pytest.fixture(scope="module")
def experts_plan():
    loaded = load_source("zoo:qwen3_moe")
    torch.manual_seed(0)
    made = MoEPruner(
        loaded.model, loaded.example_inputs, pruning_ratio=0.5, ratios={"experts": 0.5, "hidden": 0}
    ).plan()
    return loaded, json.loads(document_plan(loaded.model, made).to_json())


def cut(plan, **changes):
    return edited(plan, "experts", 0, **changes)


EXPERT_EDITS = {
    "kept_beyond_the_number": lambda p: cut(p, kept="0-99"),
    "kept_without_end": lambda p: cut(p, kept="0-999999999999"),
    "unknown_container": lambda p: cut(p, container="__class__"),
    "children_that_are_not_there": lambda p: cut(p, children=["0", "1", "2", "3"]),
    "unknown_table": lambda p: cut(p, tables=["nowhere"]),
    "table_of_weights": lambda p: cut(p, tables=["lm_head.weight"]),
    "attribute_of_dunder": lambda p: cut(p, attributes=[["", "__class__"]]),
    "attribute_of_another_meaning": lambda p: cut(p, attributes=[["model.norm", "variance_epsilon"]]),
    "before_of_a_billion": lambda p: cut(p, before=10**9),
    "kept_is_a_list": lambda p: cut(p, kept=[0, 1]),
}


def test_a_plan_of_experts_is_accepted(experts_plan):
    loaded, plan = experts_plan
    assert plan["experts"]
    assert check(loaded, plan) is not None


@pytest.mark.parametrize("edit", EXPERT_EDITS)
def test_edited_experts_are_refused(edit, experts_plan):
    loaded, plan = experts_plan
    with pytest.raises(PlanError):
        check(loaded, EXPERT_EDITS[edit](plan))
