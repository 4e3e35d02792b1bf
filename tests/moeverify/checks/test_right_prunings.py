"""Right prunings of models out of the ordinary are not failed, and wrong ones of the same models are."""

import copy

import pytest
import torch
from judged import problems, verdicts
from odd_experts import IDS, ByName, Constant, Corrected, InParameterLists, Latent, Mixture, Model, Wrapped, mlp
from torch import nn

from moeverify.checks.whole_layers import OF_THE_RESULT
from moeverify.subjects import prune_stock
from moeverify.verdict import Status

WIDTH = 16
COUPLING = ("coupling-complete", "coupling-minimal")


def experts(count, **sizes):
    return [mlp(WIDTH, 12, **sizes) for _ in range(count)]


class Rectified(nn.Module):
    """ReLU on few channels and few inputs: many channels are silent."""

    def __init__(self, outputs):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(5, 8), nn.Linear(8, 12), nn.Linear(12, outputs)

    def forward(self, x):
        return self.third(self.second(self.first(x).relu()).clamp(min=0))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("outputs", [1, 4])
def test_silent_channels_are_no_evidence_of_coupling(seed, outputs):
    torch.manual_seed(seed)
    assert problems(verdicts(Rectified(outputs), torch.randn(3, 5), checks=COUPLING, seed=seed)) == {}


@pytest.mark.parametrize("outputs", [1, 4])
def test_the_stock_subject_never_prunes_the_outputs_whatever_they_are_called(outputs):
    torch.manual_seed(0)
    model = Rectified(outputs)
    assert problems(verdicts(model, torch.randn(3, 5), prune_stock)) == {}
    assert model.third.weight.shape[0] == outputs
    assert model.second.weight.shape[0] < 12


ODD = {
    "experts without inner channels": lambda: Model(Mixture(WIDTH, [*experts(2), Constant(WIDTH), nn.Identity()])),
    "projections shared by stacked experts": lambda: Model(Latent(WIDTH, 10)),
    "a helper among experts by name": lambda: Model(ByName(WIDTH, 12, 3)),
    "a list inside the module named as experts": lambda: Model(Wrapped(WIDTH, 12, 3)),
    "experts of experts": lambda: Model(Mixture(WIDTH, [Mixture(WIDTH, experts(2)) for _ in range(2)])),
    "outputs as wide as inner channels": lambda: Model(
        Mixture(WIDTH, [mlp(WIDTH, 20, 20) for _ in range(3)], out=20), out=20
    ),
    "a correction bias of [1, E] beside the router": lambda: Model(Corrected(WIDTH, experts(4))),
}


@pytest.mark.parametrize("name", ODD)
def test_our_pruner_passes_on(name):
    torch.manual_seed(0)
    assert problems(verdicts(ODD[name](), (IDS,))) == {}


def test_an_embedding_of_the_same_width_is_not_taken_for_the_residual_stream():
    torch.manual_seed(0)
    model = Model(Mixture(WIDTH, experts(4)), kinds=True)
    kind = torch.tensor([0, 3, 4])
    assert problems(verdicts(model, (IDS, kind), checks=("router-intact", "masked-equivalence"))) == {}


class Fields(nn.Module):
    """Embeddings of several fields side by side, read by the experts and by one router for each task."""

    def __init__(self):
        super().__init__()
        self.fields = nn.ModuleList(nn.Embedding(9, 10) for _ in range(2))
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(20, 14), nn.ReLU(), nn.Linear(14, 6)) for _ in range(4))
        self.routers = nn.ModuleList(nn.Linear(20, 4, bias=False) for _ in range(2))
        self.answers = nn.ModuleList(nn.Linear(6, 1) for _ in range(2))

    def forward(self, ids):
        x = torch.cat([field(ids[:, n]) for n, field in enumerate(self.fields)], -1)
        each = torch.stack([expert(x) for expert in self.experts], 1)
        return [
            answer((router(x).softmax(-1).unsqueeze(-1) * each).sum(1))
            for router, answer in zip(self.routers, self.answers, strict=True)
        ]


def test_a_router_reads_embeddings_side_by_side():
    torch.manual_seed(0)
    ids = torch.randint(0, 9, (40, 2), generator=torch.Generator().manual_seed(1))
    found = verdicts(Fields(), (ids,), checks=("router-intact", "masked-equivalence"))
    assert problems(found) == {}
    assert found["router-intact"].status is Status.PASS


def test_a_router_that_reads_other_channels_of_the_first_embedding_fails():
    def prune(model, example_inputs, *, pruning_ratio, seed):
        keep = torch.arange(0, 10, 2)
        right, wrong = torch.cat([keep, keep + 10]), torch.cat([keep + 1, keep + 10])
        for field in model.fields:
            cut(field, columns=keep)
        for layer in (*(expert[0] for expert in model.experts), model.routers[0]):
            cut(layer, columns=right)
        cut(model.routers[1], columns=wrong)

    torch.manual_seed(0)
    ids = torch.randint(0, 9, (40, 2), generator=torch.Generator().manual_seed(1))
    found = verdicts(Fields(), (ids,), prune, ["router-intact"])["router-intact"]
    assert found.status is Status.FAIL
    assert found.message.startswith("routers.1.weight reads other hidden channels than fields.0 writes")


def cut(layer, rows=None, columns=None):
    """Rows or columns of a linear layer or an embedding."""
    with torch.no_grad():
        if rows is not None:
            layer.weight = nn.Parameter(layer.weight[rows].clone())
            if getattr(layer, "bias", None) is not None:
                layer.bias = nn.Parameter(layer.bias[rows].clone())
            layer.out_features = len(rows)
        if columns is not None:
            layer.weight = nn.Parameter(layer.weight[:, columns].clone())
            setattr(layer, "embedding_dim" if isinstance(layer, nn.Embedding) else "in_features", len(columns))


def test_a_router_that_reads_other_channels_than_the_embedding_writes_fails():
    def prune(model, example_inputs, *, pruning_ratio, seed):
        keep, wrong = torch.arange(0, WIDTH, 2), torch.arange(1, WIDTH, 2)
        for layer in (model.words, model.answer, *(e[0] for e in model.block.experts)):
            cut(layer, columns=keep)
        for expert in model.block.experts:
            cut(expert[2], rows=keep)
        for name in ("weight", "bias"):
            setattr(model.norm, name, nn.Parameter(getattr(model.norm, name).detach()[keep].clone()))
        model.norm.normalized_shape = (len(keep),)
        model.block.out = len(keep)
        cut(model.block.router, columns=wrong if bad else keep)

    for bad in (False, True):
        torch.manual_seed(0)
        found = verdicts(Model(Mixture(WIDTH, experts(4))), (IDS,), prune, ["router-intact"])["router-intact"]
        assert (found.status is Status.FAIL) == bad, found.message
    assert "reads other hidden channels than words writes" in found.message


@pytest.mark.parametrize("rows", ["right", "shifted", "all"])
def test_the_rows_of_a_correction_bias_in_a_module_of_its_own_are_judged(rows):
    def drop(model, example_inputs, *, pruning_ratio, seed):
        keep = torch.tensor([0, 2, 3])
        block = model.block
        block.experts = nn.ModuleList(block.experts[int(k)] for k in keep)
        cut(block.router, rows=keep)
        kept = {"right": keep, "shifted": keep - 1 + (keep == 0).long() * 4, "all": torch.arange(4)}[rows]
        bias = block.statistics.correction.detach()[:, kept].clone()
        block.statistics.correction = nn.Parameter(bias, requires_grad=False)

    torch.manual_seed(0)
    checks = ("router-intact", "masked-equivalence") if rows == "right" else ("router-intact",)
    found = verdicts(Model(Corrected(WIDTH, experts(4))), (IDS,), drop, checks, pruning_ratio=0.25)
    assert found["router-intact"].status is (Status.PASS if rows == "right" else Status.FAIL)
    if rows == "right":
        assert problems(found) == {}
    else:
        assert "block.statistics.correction" in found["router-intact"].message


def test_experts_in_lists_of_parameters_are_judged():
    torch.manual_seed(0)
    found = verdicts(Model(InParameterLists(WIDTH, 12, 3)), (IDS,))
    assert problems(found) == {}
    judged = {name for name, v in found.items() if v.status is Status.PASS}
    assert {"expert-isolation", "forward-every-expert", "router-intact"} <= judged


def test_a_model_without_experts_is_no_unknown_layout():
    torch.manual_seed(0)
    found = verdicts(Rectified(4), torch.randn(3, 5), checks=("expert-isolation", "router-intact"))
    assert {v.status for v in found.values()} == {Status.SKIP}


@pytest.mark.parametrize("damage", [False, True])
def test_a_subject_that_returns_a_model_is_judged_on_that_model(damage):
    def prune(model, example_inputs, *, pruning_ratio, seed):
        other = copy.deepcopy(model)
        for one, keep in ((other, torch.arange(6)), (model, torch.arange(4))):
            for expert in one.block.experts:
                cut(expert[0], rows=keep)
                cut(expert[2], columns=keep)
        if damage:
            with torch.no_grad():
                other.block.experts[1][2].weight[0, 0] += 1
        return other

    torch.manual_seed(0)
    names = ("masked-equivalence", "untouched-identical", "ratio-honoured")
    found = verdicts(Model(Mixture(WIDTH, experts(3))), (IDS,), prune, names)
    if damage:
        assert {found["masked-equivalence"].status, found["untouched-identical"].status} == {Status.FAIL}
    else:
        assert problems(found) == {}


def test_a_subject_that_drops_layers_reads_that_these_are_not_compared():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

        def forward(self, x):
            for layer in self.layers:
                x = x + layer(x).tanh()
            return x

    def drop(model, example_inputs, *, pruning_ratio, seed):
        model.layers = nn.ModuleList(layer for n, layer in enumerate(model.layers) if n != 1)

    torch.manual_seed(0)
    found = verdicts(Deep(), torch.randn(3, 6), drop)
    assert not any(v.status in (Status.FAIL, Status.ERROR) for v in found.values()), problems(found)
    unseen = {name for name, v in found.items() if v.status is Status.INCONCLUSIVE}
    assert unseen == set(found) - OF_THE_RESULT
    assert "removed 1 of 4 layers of layers" in found["masked-equivalence"].message


def test_a_model_that_takes_only_its_example_is_judged_on_it_and_this_is_said():
    example = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))

    class Fixed(Rectified):
        def forward(self, x):
            assert torch.equal(x.float(), example)
            return super().forward(x)

    torch.manual_seed(0)
    found = verdicts(Fixed(4), example, checks=("shapes", *COUPLING))
    assert problems(found) == {}
    assert "all checks use the example inputs alone" in found["shapes"].message
    assert found["shapes"].evidence["caveat"]


class ByChannel(nn.Module):
    """An expert that treats each channel by itself before it mixes them, on images."""

    def __init__(self, width):
        super().__init__()
        self.each, self.mix = nn.Conv2d(width, width, 3, 1, 1, groups=width), nn.Conv2d(width, width, 1)

    def forward(self, x):
        return self.mix(self.each(x))


class OfImages(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem, self.gate, self.head = nn.Conv2d(3, width, 3), nn.Linear(width, 3), nn.Linear(width, 4)
        self.experts = nn.ModuleList(ByChannel(width) for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        shares = self.gate(x.mean((2, 3))).softmax(-1)
        x = x + sum(e(x) * shares[:, n, None, None, None] for n, e in enumerate(self.experts))
        return self.head(x.mean((2, 3)))


def test_a_convolution_channel_by_channel_in_an_expert_has_its_input_s_channels():
    torch.manual_seed(0)
    found = verdicts(OfImages(), torch.randn(4, 3, 8, 8), checks=("coupling-minimal", "masked-equivalence"))
    assert problems(found) == {}
