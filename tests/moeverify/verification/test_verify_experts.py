"""``verify`` and the plugin rank whole experts by a criterion, calibration data or saved statistics."""

import json

import pytest
import torch

import moeverify as mv
from moeverify.models.sources import load_source
from moeverify.verification.case import Case
from moeverify.verification.settings import Settings

CHECKS = ["terminates", "ratio-honoured", "masked-equivalence"]


@pytest.fixture
def data(tmp_path):
    ids = torch.randint(0, 128, (6, 16), generator=torch.Generator().manual_seed(3)).tolist()
    path = tmp_path / "ids.jsonl"
    path.write_text("\n".join(json.dumps({"input_ids": row}) for row in ids))
    return path


def plan_of(source, **options):
    """What the built-in subject keeps under these settings."""
    case = Case.of(source, Settings(ratios={"experts": 0.5}, pruning_ratio=0.0, **options))
    from moeverify.subjects.moe import prune_moe

    loaded = load_source(source)
    outcome = prune_moe(loaded.model, loaded.example_inputs, pruning_ratio=0.0, seed=0, **case.subject_options())
    return [cut.kept.tolist() for cut in outcome.plan.experts]


def test_criterion_and_data_reach_the_subject_and_its_checks_pass(data):
    result = mv.verify(
        "zoo:mixtral",
        ratios={"experts": 0.5},
        expert_criterion="frequency",
        calibration=data,
        calibration_samples=4,
        calibration_length=16,
        checks=CHECKS,
    )
    assert result.ok, [v.message for v in result.verdicts]
    assert {v.check: v.status.value for v in result.verdicts} == dict.fromkeys(CHECKS, "pass")
    assert result.settings["calibration"] == str(data)
    assert f"--expert-criterion frequency --calibration {data} --calibration-samples 4" in result.verdicts[0].reproduce


def test_every_criterion_of_the_settings_decides(data, tmp_path):
    model, calibration = load_source("zoo:mixtral"), mv.Calibration(str(data), samples=6, length=16)
    pruner = mv.MoEPruner(
        model.model, model.example_inputs, ratios={"experts": 0.5}, calibration=calibration, expert_criterion="ean"
    )
    by_hand = [cut.kept.tolist() for cut in pruner.plan().experts]
    saved = pruner.expert_statistics.write(tmp_path / "statistics.json")
    given = {"calibration": str(data), "calibration_samples": 6, "calibration_length": 16}
    assert plan_of("zoo:mixtral", expert_criterion="ean", **given) == by_hand
    assert plan_of("zoo:mixtral", expert_criterion="ean", statistics=str(saved)) == by_hand
    chosen = {str(plan_of("zoo:mixtral", expert_criterion=name, **given)) for name in ("ean", "man", "random")}
    assert len(chosen) > 1


def test_the_tokenizer_of_a_source_reads_text(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("sort d c a b = a b c d .\nshift c a j = d b a .\n" * 30)
    settings = {"calibration": str(text), "calibration_samples": 4, "calibration_length": 16}
    with pytest.warns(UserWarning, match="experts got no token of the calibration data"):
        assert len(plan_of("small", expert_criterion="reap", **settings)) == 3


def test_text_for_a_model_without_a_tokenizer_is_refused_with_the_remedy(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("some words " * 30)
    with pytest.raises(mv.MoEVerifyError, match=r"rows of .*input_ids"):
        plan_of("zoo:mixtral", expert_criterion="reap", calibration=str(text))
