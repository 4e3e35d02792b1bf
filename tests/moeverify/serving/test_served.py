"""Base and pruned folders in engines: what transformers takes and engines do not is told apart."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import moeverify as mv
from moeverify.errors import UsageError
from moeverify.models.sources import quiet_transformers
from moeverify.models.zoo import build_zoo
from moeverify.serving.engines import engines_named
from moeverify.serving.served import Asked, serve_pair
from moeverify.verdict import Status
from moeverify.verification.case import Case
from moeverify.verification.events import VerdictReached
from moeverify.verification.in_process import run_case


@pytest.fixture
def pair(tmp_path):
    """A base folder of a zoo type, and a folder in which ``change(config, tensors)`` pruned it."""

    def made(model_type, change):
        base, pruned = tmp_path / "base", tmp_path / "pruned"
        with quiet_transformers():
            build_zoo(model_type).save_pretrained(base)
        config = json.loads((base / "config.json").read_text())
        tensors = load_file(base / "model.safetensors")
        change(config, tensors)
        pruned.mkdir()
        (pruned / "config.json").write_text(json.dumps(config))
        save_file({k: v.contiguous() for k, v in tensors.items()}, pruned / "model.safetensors", {"format": "pt"})
        return base, pruned

    return made


def keep_experts(kept, *, renumber=True):
    """Keep these experts everywhere."""

    def change(config, tensors):
        count = config.get("n_routed_experts") or config["num_local_experts"]
        config["n_routed_experts" if "n_routed_experts" in config else "num_local_experts"] = len(kept)
        for name in list(tensors):
            tensor = tensors[name]
            if ".experts." in name:
                head, _, tail = name.partition(".experts.")
                number, _, rest = tail.partition(".")
                del tensors[name]
                if int(number) in kept:
                    tensors[f"{head}.experts.{kept.index(int(number)) if renumber else number}.{rest}"] = tensor
            elif tensor.dim() and tensor.shape[0] == count and (".gate." in name or "correction_bias" in name):
                tensors[name] = tensor[kept].clone()

    return change


def outcome(pair, seconds=120.0):
    (found,) = serve_pair(*pair, engines_named("fake"), Asked(seconds=seconds))
    return found


def test_a_right_pruning_is_served_alike(engine, pair):
    engine("indexing_engine.py")
    found = outcome(pair("mixtral", keep_experts([1, 3])))
    assert found.status is Status.PASS, found.message
    assert max(found.base + found.pruned) < 1e-4


def test_experts_that_were_not_renumbered_run_in_transformers_and_not_in_an_engine(engine, pair):
    engine("indexing_engine.py")
    found = outcome(pair("mixtral", keep_experts([1, 3], renumber=False)))
    assert found.status is Status.FAIL
    assert "serves the base and refuses the pruned model: KeyError: experts.3" in found.message


@pytest.mark.slow
def test_groups_that_do_not_divide_give_other_answers_in_an_engine(engine, pair):
    def change(config, tensors):
        keep_experts([0, 1, 2, 3, 5])(config, tensors)  # 5 experts in 2 groups: the view of 128 tokens divides

    engine("indexing_engine.py")
    found = outcome(pair("deepseek_v3", change))
    assert found.status is not Status.PASS


@pytest.mark.slow
def test_an_unmapped_table_of_expert_ids_is_refused_by_an_engine(engine, pair):
    def change(config, tensors):
        keep_experts([0, 1])(config, tensors)
        for name, tensor in tensors.items():  # runs in transformers as long as no prompt has these tokens
            if name.endswith("tid2eid"):
                tensor[8:] = tensor[8:].clamp_max(1)
                tensor[8:, 0], tensor[8:, 1] = 0, 1

    engine("indexing_engine.py")
    found = outcome(pair("deepseek_v4", change))
    assert found.status is Status.FAIL
    assert "is out of range: there are 2 experts" in found.message


def test_the_check_serves_what_the_subject_pruned(engine):
    engine("indexing_engine.py")
    events = []
    run_case(Case("zoo:mixtral", "moe", checks=("served",), engines=("fake",)), events.append)
    (verdict,) = [e.verdict for e in events if isinstance(e, VerdictReached)]
    assert verdict.status is Status.PASS, verdict.message
    (facts,) = verdict.evidence["engines"]
    assert facts["engine"] == "fake"
    assert facts["version"] == "1"
    assert len(facts["pruned"]) == 8


def test_certify_serves_both_folders_only_if_engines_are_named(engine, pair):
    engine("indexing_engine.py")
    folders = pair("mixtral", keep_experts([3, 1], renumber=False))
    found = {v.check: v for v in mv.certify(*folders, oracle="sample", engines=["fake"]).verdicts}
    assert found["served"].status is Status.FAIL
    assert "--engines fake" in found["served"].reproduce
    assert "served" not in {v.check for v in mv.certify(*folders, oracle="none").verdicts}


def test_without_an_engine_that_is_there_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MOEVERIFY_CACHE", str(tmp_path / "cache"))
    found = serve_pair(tmp_path / "no", tmp_path / "folders", engines_named("vllm,llama.cpp"))
    assert [o.status for o in found] == [Status.SKIP, Status.SKIP]
    assert "moeverify engines install vllm" in found[0].message


def test_an_unknown_engine_is_refused_before_any_work():
    with pytest.raises(UsageError, match="unknown engine 'sglang'; the engines are"):
        mv.verify("zoo:mixtral", engines=["sglang"])
    with pytest.raises(UsageError, match="unknown engine 'sglang'"):
        mv.certify("a", "b", engines=["sglang"])


def test_models_that_no_engine_can_serve_are_skipped(engine):
    engine("indexing_engine.py")
    events = []
    run_case(Case("dense_models:linear", "moe", checks=("served",), engines=("fake",)), events.append,
             loaded=_plain_model())  # fmt: skip
    (verdict,) = [e.verdict for e in events if isinstance(e, VerdictReached)]
    assert verdict.status is Status.SKIP


def _plain_model():
    from moeverify.models.sources import LoadedModel

    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).eval()
    return LoadedModel("plain", model, (torch.randn(2, 8),))
