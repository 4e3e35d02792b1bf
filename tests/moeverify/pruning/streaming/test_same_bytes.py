"""A folder pruned tensor by tensor is, file for file, the one that is pruned in memory."""

import filecmp

import pytest
import torch
from everyday import everyday
from safetensors import safe_open
from transformers import AutoModelForCausalLM

import moeverify as mv
import synthetic_models
from moeverify.errors import TraceError
from moeverify.models.zoo import build_zoo, zoo_types
from moeverify.pruning.checkpoint.checkpoint import apply_plan_file, prune_checkpoint
from moeverify.pruning.checkpoint.plan_file import PlanDocument
from moeverify.pruning.checkpoint.saved import PLAN_FILE

# Every role, whole experts among them, together and alone; both criteria that read weights; a share of its own.
REQUESTS = {
    "all": {"pruning_ratio": 0.5},
    "experts": {"ratios": {"experts": 0.5}},
    "experts and all": {"pruning_ratio": 0.25, "ratios": {"experts": 0.5}},
    "hidden": {"ratios": {"hidden": 0.5}, "pruning_ratio": 0.0},
    "heads": {"ratios": {"heads": 0.5}, "pruning_ratio": 0.0},
    "shared_experts": {"ratios": {"shared_experts": 0.25}, "pruning_ratio": 0.0},
    "routed_experts": {"ratios": {"routed_experts": 0.25}, "pruning_ratio": 0.0, "importance": "magnitude-l1"},
    "lamp": {"importance": "lamp"},
    "random": {"importance": "random", "seed": 3},
}


def both(base, tmp_path, **asked):
    streamed = prune_checkpoint(str(base), tmp_path / "streamed", round_to=4, **asked)
    held = prune_checkpoint(str(base), tmp_path / "held", round_to=4, in_memory=True, **asked)
    return streamed, held


def assert_same_folder(one, two):
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    assert filecmp.cmpfiles(one, two, names, shallow=False)[0] == names


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    build_zoo("qwen2_moe", dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("request_name", everyday(REQUESTS, {"experts and all", "heads", "random"}))
def test_every_role_gives_the_same_folder(base, tmp_path, request_name):
    asked = REQUESTS[request_name]
    streamed, held = both(base, tmp_path, **asked)
    assert streamed.notes == held.notes == ()  # a note would say that the model was loaded as a whole
    assert streamed.parameters_after == held.parameters_after < streamed.parameters_before
    assert_same_folder(streamed.folder, held.folder)


@pytest.mark.parametrize("kind", everyday(["mixtral", "deepseek_v3", "gpt_oss", "jamba", "gemma4"], {"deepseek_v3"}))
def test_other_layouts_of_experts_give_the_same_folder(kind, tmp_path):
    """Experts stored one by one and in stacks, joint matrices, correction biases, scales that follow a size."""
    build_zoo(kind, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    streamed, held = both(tmp_path / "base", tmp_path, pruning_ratio=0.5)
    assert streamed.notes == held.notes == ()
    assert_same_folder(streamed.folder, held.folder)


def test_experts_in_a_list_give_the_same_folder(tmp_path):
    """Each expert is a class of its own, and its modules are renumbered where others go."""
    spec = synthetic_models.default_specs()["listed"]
    synthetic_models.build(spec).save_pretrained(tmp_path / "base")
    streamed, held = both(tmp_path / "base", tmp_path, pruning_ratio=0.5, ratios={"experts": 0.5})
    assert streamed.notes == held.notes == ()
    assert_same_folder(streamed.folder, held.folder)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("kind", zoo_types())
def test_every_type_of_the_zoo(kind, tmp_path):
    """Where one way refuses, the other refuses with the same words."""
    build_zoo(kind, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")

    def pruned(name, **more):
        try:
            asked = {"pruning_ratio": 0.5, "ratios": {"experts": 0.5}, "round_to": 4}
            return prune_checkpoint(str(tmp_path / "base"), tmp_path / name, **asked, **more).folder
        except mv.MoEVerifyError as error:
            return f"{type(error).__name__}: {error}"

    streamed, held = pruned("streamed"), pruned("held", in_memory=True)
    if isinstance(streamed, str) or isinstance(held, str):
        assert streamed == held
    else:
        assert_same_folder(streamed, held)


def test_several_shards_hold_the_same_tensors(tmp_path):
    """Files are as large as those of the base at most; each tensor has the bytes that it has in memory."""
    build_zoo("qwen3_moe", dtype=torch.bfloat16).save_pretrained(tmp_path / "base", max_shard_size="40KB")
    streamed, held = both(tmp_path / "base", tmp_path, pruning_ratio=0.5, ratios={"experts": 0.5})
    files = sorted(path.name for path in streamed.folder.glob("*.safetensors"))
    assert files == [f"model-{n:05}-of-{len(files):05}.safetensors" for n in range(1, len(files) + 1)]
    assert len(files) > 1
    assert streamed.notes == held.notes == ()
    mine, theirs = (tensors(folder) for folder in (streamed.folder, held.folder))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    model, info = AutoModelForCausalLM.from_pretrained(streamed.folder, output_loading_info=True)
    assert not any(info.values())
    assert sum(p.numel() for p in model.parameters()) == streamed.parameters_after


def tensors(folder):
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as stored:
            found |= {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  not a mapping
    return found


def test_a_plan_is_applied_the_same_way(base, tmp_path):
    done = prune_checkpoint(str(base), tmp_path / "first", pruning_ratio=0.5, ratios={"experts": 0.5})
    for name, in_memory in (("streamed", False), ("held", True)):
        apply_plan_file(done.folder / PLAN_FILE, str(base), tmp_path / name, in_memory=in_memory)
        assert_same_folder(tmp_path / name, done.folder)


def test_a_plan_alone_has_the_digest_of_the_weights(base, tmp_path):
    for name, in_memory in (("streamed.json", False), ("held.json", True)):
        prune_checkpoint(str(base), tmp_path / name, plan_only=True, in_memory=in_memory)
    assert (tmp_path / "streamed.json").read_bytes() == (tmp_path / "held.json").read_bytes()
    assert set(PlanDocument.read(tmp_path / "streamed.json").base.digest) != set("sha256:0")


@pytest.mark.slow
def test_another_type_of_numbers_gives_the_same_folder(base, tmp_path):
    streamed, held = both(base, tmp_path, dtype="float32")
    assert_same_folder(streamed.folder, held.folder)


class Counted:
    """An importance of a user: nobody knows what it reads."""

    def __call__(self, group):
        return torch.arange(len(group[0].idxs), dtype=torch.float32)


def test_an_importance_that_may_need_the_model_loads_it_and_a_note_says_so(base, tmp_path):
    done = prune_checkpoint(str(base), tmp_path / "out", importance=Counted())
    assert done.notes == ("the model was loaded as a whole: Counted may need gradients or the model itself",)
    told = Counted()
    told.reads_weights_alone = True
    assert prune_checkpoint(str(base), tmp_path / "two", importance=told).notes == ()
    assert_same_folder(tmp_path / "out", tmp_path / "two")


def test_a_forward_that_looks_at_values_is_loaded_as_a_whole(base, tmp_path, monkeypatch):
    def traced(run, arguments):
        raise TraceError("DynamicOutputShapeException: aten.repeat_interleave.Tensor")

    monkeypatch.setattr("moeverify.pruning.checkpoint.checkpoint.prune_folder", traced)
    streamed, held = both(base, tmp_path, pruning_ratio=0.5)
    assert "its forward looks at values" in streamed.notes[0]
    assert_same_folder(streamed.folder, held.folder)
