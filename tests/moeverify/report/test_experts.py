"""The picture of whole experts: who went by the weights, scores and tokens by the pruner's word."""

import json
import re

import pytest
import torch
from sample_results import HOSTILE, facts, result, verdict

import moeverify as mv
from moeverify.models.zoo import build_zoo
from moeverify.report.experts import HEIGHT, TOKENS, expert_pictures
from moeverify.report.html import render_html
from moeverify.verdict import Status
from moeverify.verification import expert_facts

LAYER = {"layer": "mlp", "before": 4, "kept": [0, 3], "criterion": "reap", "scores": [4.0, 1.0, 0.0, 2.0],
         "tokens": [10, 5, 0, 20]}  # fmt: skip


def test_heights_follow_the_scores_and_the_states_who_stayed():
    (picture,) = expert_pictures({"experts": [LAYER]})
    bars = picture["bars"]
    assert [b["state"] for b in bars] == ["stays", "goes", "goes", "stays"]
    assert bars[0]["height"] == HEIGHT
    assert bars[0]["height"] > bars[3]["height"] > bars[1]["height"] > bars[2]["height"] > 0
    assert [b["tokens"] for b in bars] == [TOKENS / 2, TOKENS / 4, 0, TOKENS]
    assert bars[1]["title"] == "expert 1 goes: score 1, 5 tokens"
    assert (picture["kept"], picture["count"], picture["gone"], picture["unseen"]) == (2, 4, [1, 2], 1)


def test_without_scores_all_bars_are_alike():
    (picture,) = expert_pictures({"experts": [{"layer": "mlp", "before": 3, "kept": [1]}]})
    assert len({b["height"] for b in picture["bars"]}) == 1
    assert picture["bars"][0]["title"] == "expert 0 goes"
    assert not picture["has_tokens"]
    (flat,) = expert_pictures({"experts": [{**LAYER, "scores": [1.0] * 4}]})
    assert len({b["height"] for b in flat["bars"]}) == 1
    assert expert_pictures({}) == []


def test_hundreds_of_experts_stay_narrow():
    many = {"layer": "mlp", "before": 512, "kept": list(range(100)), "scores": list(range(512))}
    (picture,) = expert_pictures({"experts": [many]})
    assert picture["width"] < 1500
    assert (len(picture["gone"]), picture["more"]) == (64, 412 - 64)


def test_the_page_draws_it_and_escapes_names():
    case = facts("zoo:good", experts=[{**LAYER, "layer": HOSTILE, "criterion": HOSTILE}])
    page = render_html(result(verdict("zoo:good", "terminates", Status.PASS), cases=(case,)).to_dict(), ok=True)
    assert len(re.findall(r'<rect class="expert stays"', page)) == 2
    assert len(re.findall(r'<rect class="expert goes"', page)) == 2
    assert "gone: 1, 2" in page
    assert "<script>alert" not in page


class Outcome:
    def __init__(self, told):
        self.expert_scores = told


class Layer:
    name, experts = "mlp", tuple("abcd")


class Context:
    def __init__(self, told):
        self.outcome, self.stayed = Outcome(told), {"mlp": [3, 0]}
        self.roles = type("Found", (), {"layers": [Layer]})


@pytest.mark.parametrize(
    "told",
    [
        {"mlp": {"scores": [1.0, 2.0]}},
        {"mlp": {"scores": [1.0, float("nan"), 2.0, 3.0]}},
        {"mlp": {"scores": "abcd"}},
        {"mlp": [1, 2, 3, 4]},
        {"another": LAYER},
        {},
    ],
)
def test_what_a_subject_reports_wrongly_is_left_out(told):
    assert expert_facts.removed_experts(Context(told)) == [{"layer": "mlp", "before": 4, "kept": [3, 0]}]


@pytest.mark.slow
def test_scores_and_tokens_travel_from_the_pruner_to_the_report(tmp_path):
    data = tmp_path / "ids.jsonl"
    ids = torch.randint(0, 128, (4, 16), generator=torch.Generator().manual_seed(0)).tolist()
    data.write_text("\n".join(json.dumps({"input_ids": row}) for row in ids))
    found = mv.verify(
        "zoo:mixtral", ratios={"experts": 0.5}, calibration=data, calibration_length=16, checks=["terminates"]
    )
    layers = found.cases[0].facts["experts"]
    pruner = mv.MoEPruner(
        build_zoo("mixtral"), {"input_ids": torch.tensor(ids)}, ratios={"experts": 0.5},
        calibration=mv.Calibration(str(data), length=16)
    )  # fmt: skip
    cuts = pruner.plan().experts
    assert [layer["kept"] for layer in layers] == [cut.kept.tolist() for cut in cuts]
    for layer in layers:
        told = pruner.expert_scores[layer["layer"]]
        assert layer["criterion"] == told["criterion"] == "reap"
        assert layer["scores"] == pytest.approx(told["scores"])
        assert layer["tokens"] == told["tokens"]
        assert sum(layer["tokens"]) == 2 * 64
        best = sorted(range(4), key=lambda e: -layer["scores"][e])[:2]
        assert sorted(best) == layer["kept"]
