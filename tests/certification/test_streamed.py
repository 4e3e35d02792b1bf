"""The numeric proof of models that do not fit: weights are read when they are used, and the result is the same."""

import contextlib
from pathlib import Path

import pytest
import torch
from foundry import Draft
from torch import nn

from moeverify.certification.evidence import Evidence, NotVisible, Options
from moeverify.certification.oracle import running
from moeverify.certification.oracle.layers import layer_list, sample_layers
from moeverify.certification.oracle.proof import prove
from moeverify.certification.oracle.sides import alone
from moeverify.certification.oracle.stream import Stream
from moeverify.certification.oracle.streamed import is_placeholder
from moeverify.certification.relations import causal as causal_module
from moeverify.certification.relations import loads_whole
from moeverify.certification.relations.causal import causal
from moeverify.certification.relations.masked_equivalence import masked_equivalence
from moeverify.models.exercise import run_all
from moeverify.models.numerics import float64_throughout
from moeverify.verdict import Status

KEPT = [1, 2, 4, 7]
COUNT = {"qwen3_moe": "num_local_experts", "gpt_oss": "num_local_experts", "nemotron_h": "n_routed_experts"}


@pytest.fixture
def nothing_fits(monkeypatch):
    monkeypatch.setattr(running, "WHOLE_BYTES", 0)


def pair(folder, model_type="qwen3_moe", *, listed=False, **entries):
    base = Draft.of(model_type, **entries)
    base.write(folder / "base", listed=listed)
    draft = base.copy().keep_experts(KEPT, count=COUNT[model_type])
    return draft, folder


def write(draft, folder, oracle="full", *, listed=False):
    draft.write(folder / "pruned", listed=listed)
    return Evidence(folder / "base", folder / "pruned", Options(oracle))


@pytest.mark.parametrize("model_type", COUNT)
def test_a_streamed_model_computes_what_a_loaded_one_does(model_type, tmp_path, nothing_fits):
    evidence = write(*pair(tmp_path, model_type, listed=model_type == "qwen3_moe"))
    loaded = running.load_model(tmp_path / "pruned")
    model, stream, _ = alone(evidence, tmp_path / "pruned", at_least=0)
    assert any(map(is_placeholder, model.parameters()))
    tokens = {"input_ids": torch.arange(24).view(2, 12)}
    with float64_throughout(), torch.no_grad():
        expected = run_all(loaded, tokens)["logits"]
        with stream:
            got = run_all(model, tokens)["logits"]
        unread = run_all(model, tokens)["logits"]
    assert torch.allclose(got, expected, rtol=1e-12, atol=1e-12)
    assert not unread.isfinite().any()  # what passes by the stream shows itself


def test_channels_and_experts_that_are_gone_are_masked_as_they_are_read(tmp_path, nothing_fits):
    draft, _ = pair(tmp_path)
    own = [list(range(e, e + 16)) for e in range(4)]
    draft.keep_channels(own, 32).set(moe_intermediate_size=16).keep_hidden(list(range(40, 8, -1)), 48)
    proof = prove(write(draft, tmp_path), at_least=0)
    assert proof.error < 1e-12
    assert proof.effect > 0.1
    assert (proof.unseen, proof.unreached, proof.sample) == ([], [], "")


def test_a_router_in_another_order_differs(tmp_path, nothing_fits):
    draft, _ = pair(tmp_path)
    draft.take(draft.names("mlp.gate.weight"), 0, [1, 0, 2, 3])
    assert prove(write(draft, tmp_path), at_least=0).error > 1e-3


def test_experts_that_no_token_chose_are_reached_in_turn(tmp_path, nothing_fits):
    draft, _ = pair(tmp_path)
    for name in draft.names("mlp.gate.weight"):
        draft.tensors[name][:3] *= 1e-3
    base = Draft.of("qwen3_moe")
    for name in base.names("mlp.gate.weight"):
        base.tensors[name][[1, 2, 4]] *= 1e-3
    base.write(tmp_path / "other")
    draft.write(tmp_path / "pruned")
    proof = prove(Evidence(tmp_path / "other", tmp_path / "pruned", Options("full")), at_least=0)
    assert proof.unreached == []
    assert proof.error < 1e-12


def test_a_sample_of_layers_is_no_approval(tmp_path, nothing_fits):
    draft, _ = pair(tmp_path, num_hidden_layers=6)
    evidence = write(draft, tmp_path, "sample")
    for finding in (masked_equivalence(evidence), causal(evidence)):
        assert finding.status is Status.INCONCLUSIVE
        assert "of 6; --oracle full runs all" in finding.message
    assert masked_equivalence(Evidence(tmp_path / "base", tmp_path / "pruned", Options("full"))).status is Status.PASS


def test_a_fault_in_a_sampled_layer_fails(tmp_path, nothing_fits):
    draft, _ = pair(tmp_path, num_hidden_layers=6)
    draft.set(rms_norm_eps=0.5)
    finding = masked_equivalence(write(draft, tmp_path, "sample"))
    assert finding.status is Status.FAIL
    assert "differs from the masked base" in finding.message


def test_a_folder_that_lacks_a_tensor_is_not_run(tmp_path, nothing_fits):
    draft, _ = pair(tmp_path)
    del draft.tensors[draft.names("o_proj.weight")[0]]
    with pytest.raises(NotVisible, match=r"o_proj.weight cannot be read"):
        prove(write(draft, tmp_path), at_least=0)


class Layer(nn.Module):
    def __init__(self, width=3, kind="full"):
        super().__init__()
        self.kind = kind
        self.inner = nn.Linear(width, width)


def test_one_layer_of_each_kind_is_sampled():
    model = nn.Module()
    model.few = nn.ModuleList([nn.Linear(2, 2)])
    kinds = {7: Layer(5), 11: Layer(3, "sliding")}
    model.layers = nn.ModuleList(kinds.get(n) or Layer() for n in range(20))
    assert layer_list(model) == "layers"
    sample = sample_layers(model)
    assert {0, 7, 11, 19} <= set(sample.numbers)
    assert not sample.whole
    assert str(sample) == "layers 0, 7, 11, 19 of 20"
    assert sample_layers(nn.Linear(2, 2)).whole


def test_a_row_a_block_and_a_lookup_read_what_they_need():
    class Weight:
        def __init__(self):
            self.values, self.asked = torch.arange(12.0, dtype=torch.float64).view(4, 3), []

        def rows(self, index):
            self.asked.append(index.tolist())
            return self.values[index]

        def whole(self):
            return self.rows(torch.arange(4))

    weight, stream = Weight(), Stream()
    placeholder = torch.full((1,), float("nan"), dtype=torch.float64).expand(4, 3)
    stream.add(placeholder, weight)
    with contextlib.ExitStack() as stack:
        stack.enter_context(stream)
        assert placeholder.shape == (4, 3)
        assert weight.asked == []  # a shape needs no values
        assert torch.equal(placeholder[-1], weight.values[3])
        assert torch.equal(placeholder[torch.tensor(2)], weight.values[2])
        found = nn.functional.embedding(torch.tensor([[1, 1], [3, 1]]), placeholder)
        assert torch.equal(found, weight.values[torch.tensor([[1, 1], [3, 1]])])
        assert weight.asked == [[3], [2], [1, 3]]
        bias = torch.ones(4, dtype=torch.float64)
        ones = torch.ones(2, 3, dtype=torch.float64)
        assert torch.equal(nn.functional.linear(ones, placeholder, bias), ones @ weight.values.T + 1)
        assert torch.equal(ones @ placeholder.T, ones @ weight.values.T)
        assert torch.equal(torch.cat([placeholder, placeholder]), torch.cat([weight.values] * 2))


def test_memory_that_runs_out_is_no_fault_of_the_folder(tmp_path, monkeypatch):
    evidence = write(*pair(tmp_path))

    def none_left(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(loads_whole, "load_afresh", lambda arguments: (1, "RuntimeError: can't allocate memory"))
    monkeypatch.setattr(loads_whole, "_without_values", lambda folder: ({}, ""))
    assert loads_whole.loads_whole(evidence).status is Status.PASS  # names and shapes need no memory
    monkeypatch.setattr(loads_whole, "_without_values", lambda folder: (None, loads_whole._ended(-9, "")))
    finding = loads_whole.loads_whole(evidence)
    assert finding.status is Status.INCONCLUSIVE
    assert finding.message.startswith("memory ran out")
    monkeypatch.setattr(causal_module, "leaks", none_left)
    assert causal(evidence).status is Status.INCONCLUSIVE


@pytest.mark.parametrize(
    ("log", "status", "words"),
    [
        ("ImportError: Loading a GPTQ quantized model requires optimum", Status.INCONCLUSIVE, "requires optimum"),
        ('  File "q.py", line 9, in validate_environment\nRuntimeError: No GPU', Status.INCONCLUSIVE, "No GPU"),
        ("ValueError: of the pruned folder alone", Status.FAIL, "of the pruned folder alone"),
        ("ValueError: of both", Status.INCONCLUSIVE, "neither it nor the base"),
    ],
)
def test_what_the_machine_lacks_or_the_base_shows_is_no_fault_of_the_folder(tmp_path, monkeypatch, log, status, words):
    evidence = write(*pair(tmp_path))
    both = "alone" not in log

    def load_afresh(arguments):
        of_base = Path(arguments[0], "model").resolve() == evidence.base_folder.resolve()
        return 1, log if both or not of_base else "ValueError: another"

    monkeypatch.setattr(loads_whole, "load_afresh", load_afresh)
    finding = loads_whole.loads_whole(evidence)
    assert finding.status is status
    assert words in finding.message


def test_a_forward_that_fails_on_both_sides_is_not_blamed_on_the_pruning(tmp_path, monkeypatch):
    evidence = write(*pair(tmp_path))

    def needs_images(*_):
        raise ValueError("pixel_values are missing")

    monkeypatch.setattr(causal_module, "leaks", needs_images)
    finding = causal(evidence)
    assert finding.status is Status.INCONCLUSIVE
    assert "the base's forward on tokens fails as well" in finding.message


@pytest.mark.parametrize("limit", [0, running.WHOLE_BYTES])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
def test_a_cast_folder_is_proved_against_the_base_rounded_alike(tmp_path, monkeypatch, limit, stored):
    monkeypatch.setattr(running, "WHOLE_BYTES", limit)
    draft, _ = pair(tmp_path)
    evidence = write(draft.cast(torch.bfloat16).cast(stored), tmp_path)
    proof = prove(evidence, at_least=0)
    assert proof.error < 1e-12
    assert masked_equivalence(evidence).status is Status.PASS
    name = draft.names("mlp.gate.weight")[0]
    draft.tensors[name] = draft.tensors[name].flip(0)
    draft.write(tmp_path / "wrong")
    wrong = Evidence(tmp_path / "base", tmp_path / "wrong", Options("full"))
    assert prove(wrong, at_least=0).error > 1e-3


def test_a_tensor_that_was_rounded_in_part_has_no_reference(tmp_path):
    draft, _ = pair(tmp_path)
    name = draft.names("experts.down_proj")[0]
    draft.tensors[name][1] = draft.tensors[name][1].bfloat16().float()
    with pytest.raises(NotVisible, match="rounded in part"):
        prove(write(draft, tmp_path))
