"""The numeric proofs of two folders see every output, not the first alone."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2DoubleHeadsModel

from moeverify.certification.evidence import Evidence, Options
from moeverify.certification.oracle.proof import prove
from moeverify.certification.oracle.sides import Alone
from moeverify.certification.relations import causal as causal_module
from moeverify.certification.relations.causal import causal
from moeverify.certification.relations.masked_equivalence import masked_equivalence
from moeverify.models.zoo.build import randomise
from moeverify.verdict import Status


@pytest.fixture
def pair(tmp_path):
    """Two equal folders of a model with logits and a second head, whose activation an entry names."""
    config = GPT2Config(vocab_size=64, n_positions=64, n_embd=16, n_layer=1, n_head=2, summary_activation=None)
    model = GPT2DoubleHeadsModel(config).eval()
    randomise(model, 0)
    for name in ("base", "pruned"):
        model.save_pretrained(tmp_path / name)
    return tmp_path


def certified(folder):
    return Evidence(folder / "base", folder / "pruned", Options("full"))


def test_equal_outputs_are_equal(pair):
    proof = prove(certified(pair))
    assert proof.inputs
    assert proof.error < proof.tolerance


def test_a_wrong_second_output_is_not_approved(pair):
    path = pair / "pruned" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "summary_activation": "tanh"}))
    finding = masked_equivalence(certified(pair))
    assert finding.status is Status.FAIL
    assert finding.message.startswith("mc_logits differs from the masked base by ")


class Rows(nn.Module):
    """Two outputs with a row for each token; those of ``ahead`` read the token after."""

    def __init__(self, *ahead):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.ahead = nn.Embedding(20, 6), ahead

    def forward(self, input_ids):
        x = self.embed(input_ids)
        return tuple(x + x.roll(-1, 1) if number in self.ahead else x for number in (1, 2))


@pytest.mark.parametrize(
    ("base", "pruned", "status", "words"),
    [
        ((), (), Status.PASS, "earlier output 1 by 0.0e+00"),
        ((), (2,), Status.FAIL, "earlier output 2 by "),
        ((1,), (1,), Status.PASS, "earlier output 2 by 0.0e+00"),
        ((1,), (1, 2), Status.FAIL, "earlier output 2 by "),
        ((1, 2), (1, 2), Status.INCONCLUSIVE, "the base is not causal either"),
    ],
)
def test_causality_is_asked_of_each_output(base, pruned, status, words, monkeypatch):
    models = {"base": Rows(*base).double(), "pruned": Rows(*pruned).double()}
    monkeypatch.setattr(causal_module, "alone", lambda evidence, folder: Alone(models[folder], None, None))
    evidence = SimpleNamespace(base_folder="base", pruned_folder="pruned", options=Options("full"))
    finding = causal(evidence)
    assert finding.status is status, finding.message
    assert words in finding.message


def test_without_rows_for_tokens_nothing_is_shown(monkeypatch):
    model = Rows().double()
    model.forward = lambda input_ids: model.embed(input_ids).sum()
    monkeypatch.setattr(causal_module, "alone", lambda evidence, folder: Alone(model, None, None))
    evidence = SimpleNamespace(base_folder="base", pruned_folder="pruned", options=Options("full"))
    assert causal(evidence).status is Status.INCONCLUSIVE
