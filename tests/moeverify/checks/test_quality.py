"""``quality`` sees what pruning costs, catches a pruner that keeps only the shapes, and says what is missing."""

import re
import subprocess
import sys

import pytest
import torch
from small_quality import magnitude, pruned, score, small

import moeverify as mv
from moeverify.evaluation import QualitySettings, compare
from moeverify.report.caveats import caveats
from moeverify.subjects import load_subject
from moeverify.verdict import Status

pytest.importorskip("lm_eval", reason="lm-eval is not installed; `tox run -e tests` installs it")
TWO = QualitySettings(tasks=("small_say", "small_shift"), limit=40, curve=())


def scrambled(model, example_inputs, *, pruning_ratio, seed):
    """Right sizes, but each expert's down projection is paired with other channels than its gate and up halves."""
    load_subject("moe-experts")(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("experts.down_proj"):
                parameter.copy_(parameter.roll(1, dims=-1))


def verdict(subject="moe-experts", source="small", quality=TWO, **more):
    subject = load_subject(subject) if isinstance(subject, str) else subject
    result = mv.verify(source, subject=subject, checks=["quality"], quality=quality, **more)
    (found,) = result.verdicts
    return found, result


def test_a_sound_pruner_passes_and_its_curve_is_drawn(tmp_path):
    found, result = verdict(quality=QualitySettings(tasks=TWO.tasks, limit=20, curve=(0.75,)), pruning_ratio=0.25)
    assert found.status is Status.PASS, found.message
    assert "removed at random" in found.message
    assert re.search(
        r"before, [01]\.\d+ after \(a (drop|rise) of [01]\.\d+\); .* any drop is allowed; --max-drop sets",
        found.message,
    )
    of_quality = [line for line in caveats(result.to_dict()) if line.startswith("small quality")]
    assert of_quality == [f"small quality: {found.message}"]
    facts = result.cases[0].facts["quality"]
    assert [point["ratio"] for point in facts["points"]] == [0, 0.25, 0.75]
    assert {task["name"] for task in facts["tasks"]} == {"small_say/acc", "small_shift/exact_match"}
    page = result.to_html(tmp_path / "report.html").read_text()
    assert "pruned correctly" not in page.split("</header>")[0]
    assert "any drop is allowed" in page.split("</header>")[0]
    assert page.count("<polyline") == 4  # two lines and their keys
    assert "small_shift/exact_match at ratio 0.75" in page


@pytest.mark.parametrize("max_drop", [None, 0.3])
def test_a_scrambling_pruner_that_keeps_all_shapes_is_caught(max_drop):
    quality = QualitySettings(tasks=TWO.tasks, limit=40, curve=(), max_drop=max_drop)
    found, _ = verdict(scrambled, quality=quality, pruning_ratio=0.25)
    assert found.status is Status.FAIL
    assert ("a loss of 0.3 is allowed" if max_drop else "worse than") in found.message
    if max_drop:
        found, result = verdict(quality=quality, pruning_ratio=0.25)
        assert found.status is Status.PASS
        assert not [line for line in caveats(result.to_dict()) if line.startswith("small quality")]


def test_channels_of_zero_importance_cost_nothing():
    from copy import deepcopy

    model = deepcopy(small().model)
    with torch.no_grad():
        for layer in model.model.layers:
            experts = layer.mlp.experts
            for expert in range(8):
                dead = torch.randperm(64, generator=torch.Generator().manual_seed(expert))[:32]
                experts.down_proj[expert, :, dead] = 0
                experts.gate_up_proj[expert, dead] = 0
                experts.gate_up_proj[expert, dead + 64] = 0
    smaller = pruned(0.5, magnitude, model=model)
    assert smaller.config.moe_intermediate_size == 32
    ids = small().example_inputs["input_ids"]
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, smaller(ids).logits, atol=1e-5)
    assert [d.drop for d in compare(score(model, limit=30), score(smaller, limit=30))] == [0.0, 0.0]


def test_sources_without_text_are_skipped_with_the_reason():
    assert "name lm-eval tasks with --tasks" in verdict(source="zoo:mixtral", quality=QualitySettings())[0].message
    found, _ = verdict(source="zoo:mixtral")
    assert (found.status, found.message[:27]) == (Status.SKIP, "this source has no tokenize")


def test_quality_runs_only_when_named():
    from moeverify.checks import default_names, names

    assert "quality" in names()
    assert "quality" not in default_names()


@pytest.mark.slow
def test_the_command_line_from_anywhere_without_a_network(tmp_path):
    words = [
        "verify",
        "small",
        "--subject",
        "moe-experts",
        "--checks",
        "quality",
        "--limit",
        "20",
        "--max-drop",
        "0.05",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "moeverify", *words, "--report", str(tmp_path / "r"), "--pruning-ratio", "0.25"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = mv.VerificationResult.from_json((tmp_path / "r" / "report.json").read_text())
    assert "no task drops by more than 0.05" in result.verdicts[0].message
    assert [p["ratio"] for p in result.cases[0].facts["quality"]["points"]] == [0, 0.125, 0.25, 0.5]
    assert "--checks quality --limit 20" in result.verdicts[0].reproduce
