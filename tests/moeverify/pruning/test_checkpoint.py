"""From checkpoint to pruned checkpoint, and again from the plan; nothing is left behind when it fails."""

import filecmp
import json

import pytest
import torch
from releases import needs
from transformers import AutoModelForCausalLM

from moeverify.cli import main
from moeverify.errors import PlanError, PruningRefused, UsageError
from moeverify.models.zoo import build_zoo
from moeverify.pruning.checkpoint import checkpoint
from moeverify.pruning.checkpoint.plan_file import PlanDocument


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    build_zoo("qwen2_moe", dtype=torch.bfloat16).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def pruned(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pruned") / "model"
    return checkpoint.prune_checkpoint(str(base), folder, pruning_ratio=0.5, round_to=4)


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_keeps_dtype_companions_and_standard_names(base, pruned):
    assert entries(pruned.folder) == sorted([*entries(base), checkpoint.PLAN_FILE])
    config = json.loads((pruned.folder / "config.json").read_text())
    assert (config["hidden_size"], config["moe_intermediate_size"]) == (32, 16)
    model = AutoModelForCausalLM.from_pretrained(pruned.folder)
    assert model.dtype == torch.bfloat16
    assert sum(p.numel() for p in model.parameters()) == pruned.parameters_after < pruned.parameters_before


def test_a_plan_makes_the_same_bytes(base, pruned, tmp_path):
    checkpoint.apply_plan_file(pruned.folder / checkpoint.PLAN_FILE, str(base), tmp_path / "again")
    names = entries(pruned.folder)
    assert entries(tmp_path / "again") == names
    assert filecmp.cmpfiles(pruned.folder, tmp_path / "again", names, shallow=False)[0] == names


def test_a_plan_alone_is_small_and_prunes_nothing(base, pruned, tmp_path):
    done = checkpoint.prune_checkpoint(str(base), tmp_path / "plan.json", round_to=4, plan_only=True)
    assert done.parameters_after == done.parameters_before
    assert entries(tmp_path) == ["plan.json"]
    assert (tmp_path / "plan.json").read_bytes() == (pruned.folder / checkpoint.PLAN_FILE).read_bytes()


def test_a_plan_is_for_its_base_only(pruned, tmp_path):
    document = PlanDocument.read(pruned.folder / checkpoint.PLAN_FILE)
    with pytest.raises(PlanError, match="made for other weights"):
        document.check_base(build_zoo("qwen2_moe", dtype=torch.bfloat16, seed=1))
    with pytest.raises(PlanError, match="this is a mixtral"):
        checkpoint.apply_plan_file(pruned.folder / checkpoint.PLAN_FILE, "zoo:mixtral", tmp_path / "out")
    assert entries(tmp_path) == []


def test_a_failing_save_leaves_nothing(base, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(UsageError, match="No space left on device; nothing was left behind"):
        checkpoint.prune_checkpoint(str(base), tmp_path / "out", in_memory=True)
    assert entries(tmp_path) == []


def test_weights_that_lie_unaligned_in_their_file_are_no_difference(tmp_path):
    """DBRX's pruned tensors end at odd places of the file; kernels then add in another order."""
    needs("dbrx")
    build_zoo("dbrx").save_pretrained(tmp_path / "base")
    checkpoint.prune_checkpoint(str(tmp_path / "base"), tmp_path / "out", in_memory=True)
    assert entries(tmp_path) == ["base", "out"]


def test_a_save_that_loads_differently_leaves_nothing(base, tmp_path, monkeypatch):
    save = build_zoo("qwen2_moe").__class__.save_pretrained

    def wrong(model, folder, **more):
        with torch.no_grad():
            model.lm_head.weight += 1
        save(model, folder, **more)
        with torch.no_grad():
            model.lm_head.weight -= 1

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", wrong)
    with pytest.raises(PruningRefused, match="computes other values"):
        checkpoint.prune_checkpoint(str(base), tmp_path / "out", in_memory=True)
    assert entries(tmp_path) == []


def test_only_an_empty_folder_is_written(base, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(UsageError, match="--overwrite"):
        checkpoint.prune_checkpoint(str(base), tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "keep"
    checkpoint.prune_checkpoint(str(base), tmp_path / "out", overwrite=True)
    assert entries(tmp_path) == ["out"]
    assert "mine" not in entries(tmp_path / "out")


def run(*words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code


def test_the_commands_prune_and_apply_the_plan(base, tmp_path, capsys):
    asked = ["--ratio", "hidden=0", "--ratio", "heads=0", "--no-shared-experts", "--round_to", 4]
    assert run("prune", base, "--pruning_ratio", 0.25, "--save_model", tmp_path / "out", *asked) == 0
    out = capsys.readouterr().out
    assert "routed_experts: 32 to 24 in 2 places" in out
    assert "hidden" not in out
    assert "shared" not in out
    assert run("apply-plan", tmp_path / "out" / checkpoint.PLAN_FILE, base, tmp_path / "two") == 0
    assert entries(tmp_path / "two") == entries(tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--save-model DIR"),
        (["--save-model", "out", "--pruning-ratio", "1"], "strictly between 0 and 1"),
        (["--save-model", "out", "--ratio", "heads"], "write ROLE=RATIO"),
        (["--save-model", "out", "--ratio", "noses=0.5"], "unknown role 'noses'"),
        (["--save-model", "out", "--importance", "taste"], "unknown importance 'taste'"),
        (["--save-model", "out", "--ignore", "nowhere"], "no layer or parameter 'nowhere'"),
        (["--save-model", "out", "--dtype", "int8"], "unknown dtype 'int8'"),
    ],
)
def test_wrong_use_is_one_line(base, words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("prune", base, *words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("moeverify: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert entries(tmp_path) == []
