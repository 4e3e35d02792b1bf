"""Experts scored at once get the scores that Torch-Pruning's importances give to each of them by itself."""

import dataclasses
import itertools

import pytest
import torch
import torch_pruning as tp
from small_nets import Expert, build
from torch import nn
from torch_pruning import _helpers
from torch_pruning.dependency import Dependency, Group, Node
from torch_pruning.pruner.importance import FPGMImportance
from transformers import LlamaConfig, LlamaForCausalLM

import moeverify as mv
from moeverify.errors import PruningRefused
from moeverify.models.zoo import build_zoo
from moeverify.pruning.choice import batches, formulas
from moeverify.pruning.choice.camera import CameraImportance
from moeverify.pruning.choice.routing_importance import RoutingImportance
from moeverify.pruning.choice.scores import score_classes, score_units

HIDDEN, INNER, EXPERTS = 6, 10, 5
TOKENS = torch.randn(40, HIDDEN, generator=torch.Generator().manual_seed(2))
REDUCTIONS = ("sum", "mean", "max", "prod", "first", "gate")
NORMALIZERS = (None, "sum", "standarization", "mean", "max", "gaussian", "sentinel_0.5", "lamp", lambda x: x / x[0])


class Stacks(nn.Module):
    """Experts in three stacks of their own, gate and up apart."""

    def __init__(self):
        super().__init__()
        self.gate, self.up = (nn.Parameter(torch.randn(EXPERTS, INNER, HIDDEN)) for _ in range(2))
        self.down = nn.Parameter(torch.randn(EXPERTS, HIDDEN, INNER))

    def forward(self, x, number):
        return (torch.sigmoid(x @ self.gate[number].T) * (x @ self.up[number].T)) @ self.down[number].T

    def matrices(self, number):
        """Weights with their gradients and the side that is cut, as a listed expert's layers have them."""
        for stack, output in ((self.gate, True), (self.up, True), (self.down, False)):
            yield stack.detach()[number], stack.grad[number], output


class Listed(nn.ModuleList):
    def __init__(self):
        super().__init__([Expert(HIDDEN, INNER) for _ in range(EXPERTS)])

    def forward(self, x, number):
        return self[number](x)

    def matrices(self, number):
        for name, output in (("gate_proj", True), ("up_proj", True), ("down_proj", False)):
            layer = getattr(self[number], name)
            yield layer.weight.detach(), layer.weight.grad, output


class Net(nn.Module):
    def __init__(self, experts):
        super().__init__()
        self.embed, self.router = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.experts, self.head = experts(), nn.Linear(HIDDEN, 3)

    def forward(self, x):
        x = self.embed(x)
        weights, chosen = self.router(x).softmax(-1).max(-1)
        out = x
        for number in range(EXPERTS):
            rows = (chosen == number).nonzero()[:, 0]
            out = out.index_add(0, rows, self.experts(x[rows], number) * weights[rows, None])
        return self.head(out)


def model_of(experts):
    model = build(Net, experts)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    graph = mv.MoEDependencyGraph().build_dependency(model, TOKENS)
    return model, graph, [c for c in graph.classes if c.role == "routed_experts"]


def group_of(matrices):
    """A Torch-Pruning group of linear layers of their own."""
    group = Group()
    for weight, gradient, output in matrices:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight = nn.Parameter(weight.clone())
        layer.weight.grad = gradient.clone()
        function = tp.prune_linear_out_channels if output else tp.prune_linear_in_channels
        node = Node(layer, None, "layer")
        item = _helpers.GroupItem(Dependency(function, function, node, node), list(range(INNER)))
        item.root_idxs = list(range(INNER))
        group._group.append(item)
    return group


def importances():
    for reduction, normalizer in itertools.product(REDUCTIONS, NORMALIZERS):
        both = {"group_reduction": reduction, "normalizer": normalizer}
        yield tp.importance.GroupMagnitudeImportance(p=2, **both)
        yield tp.importance.GroupTaylorImportance(**both)
    yield from (tp.importance.MagnitudeImportance(p=p) for p in (1, 3, 0.5))
    yield from (tp.importance.LAMPImportance(p=p) for p in (1, 2))
    yield from (tp.importance.TaylorImportance(multivariable=both) for both in (False, True))
    yield tp.importance.GroupHessianImportance(group_reduction="sum")


@pytest.mark.parametrize("experts", [Stacks, Listed])
def test_each_expert_has_the_scores_that_torch_pruning_gives_it(experts, monkeypatch):
    model, graph, classes = model_of(experts)
    monkeypatch.setattr("moeverify.pruning.choice.scores._one_by_one", None)  # not taken
    for importance in importances():
        found = score_classes(graph, classes, importance)
        scores = found[0] if len(classes) == 1 else torch.stack(found)
        wanted = torch.stack([importance(group_of(model.experts.matrices(n))) for n in range(EXPERTS)])
        assert scores.shape == (EXPERTS, INNER)
        assert torch.allclose(scores, wanted, rtol=1e-6, atol=0, equal_nan=True), vars(importance)


def llama(bias):
    settings = {"hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": 4}
    settings |= {"num_key_value_heads": 2, "head_dim": 4, "vocab_size": 20, "attention_bias": bias, "mlp_bias": bias}
    return build(LlamaForCausalLM, LlamaConfig(**settings))


# Heads have many positions in each projection; those of jetmoe lie in stacks of experts, which count expert by expert.
@pytest.mark.parametrize(
    ("make", "bias"), [(lambda: llama(False), False), (lambda: llama(True), True), (lambda: build_zoo("jetmoe"), False)]
)
def test_heads_and_alike_layers_have_the_scores_that_each_has_by_itself(make, bias, monkeypatch):
    model = make()
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    graph = mv.MoEDependencyGraph().build_dependency(model, {"input_ids": torch.arange(6).view(1, 6)})
    classes = [c for c in graph.classes if c.role in ("heads", "dense_mlp")]
    assert len(classes) > 1
    for importance in (*importances(), tp.importance.GroupMagnitudeImportance(bias=bias)):
        with monkeypatch.context() as patch:
            patch.setattr("moeverify.pruning.choice.scores.formula_of", lambda _: None)
            wanted = score_classes(graph, classes, importance)
        with monkeypatch.context() as patch:
            patch.setattr("moeverify.pruning.choice.scores._one_by_one", None)  # not taken
            found = score_classes(graph, classes, importance)
        for ours, theirs in zip(found, wanted, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-6, atol=0, equal_nan=True), vars(importance)


def test_a_stack_may_hold_more_than_the_experts():
    _, graph, (stacks,) = model_of(Stacks)
    fewer = dataclasses.replace(stacks, experts=EXPERTS - 2)
    for importance in (tp.importance.MagnitudeImportance(), tp.importance.TaylorImportance()):
        scores = score_units(graph, fewer, importance)
        assert torch.equal(scores, score_units(graph, stacks, importance)[: EXPERTS - 2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_computed_in_as_torch_pruning_does(dtype):
    model, graph, (stacks,) = model_of(Stacks)
    model.to(dtype)
    for importance in (tp.importance.MagnitudeImportance(p=2), tp.importance.TaylorImportance()):
        wanted = torch.stack([importance(group_of(model.experts.matrices(n))) for n in range(EXPERTS)])
        # the slices of a stack are read row by row, an input of a layer column by column: one rounding apart
        assert torch.allclose(score_units(graph, stacks, importance), wanted, rtol=1e-6 if dtype.itemsize > 4 else 0.01)


@pytest.mark.parametrize("experts", [Stacks, Listed])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_class_that_every_expert_is_part_of(experts, reduction):
    class Unknown(tp.importance.GroupMagnitudeImportance):
        def __call__(self, group):
            return super().__call__(group)

    _, graph, _ = model_of(experts)
    hidden = next(c for c in graph.classes if c.role == "hidden")
    settings = {"p": 1, "group_reduction": reduction, "bias": True}
    known = score_units(graph, hidden, tp.importance.GroupMagnitudeImportance(**settings))
    assert torch.equal(known, score_units(graph, hidden, Unknown(**settings)))


class Counted(tp.importance.GroupMagnitudeImportance):
    calls = 0

    def __call__(self, group):
        Counted.calls += 1
        return super().__call__(group)


class Renamed(tp.importance.GroupMagnitudeImportance):
    """Another name, the same operations."""


class OtherReduction(tp.importance.GroupMagnitudeImportance):
    def _reduce(self, group_imp, group_idxs):
        return group_imp[-1] * 2


def changed_by_hand():
    importance = tp.importance.GroupMagnitudeImportance()
    importance._normalize = lambda scores, kind: scores * 7
    return importance


@pytest.mark.parametrize(
    ("importance", "known"),
    [
        (Counted(), False),
        (Renamed(), True),
        (OtherReduction(), False),
        (changed_by_hand(), False),
        (FPGMImportance(), False),
        (tp.importance.GroupMagnitudeImportance(normalizer="no such one"), False),
        (tp.importance.GroupMagnitudeImportance(group_reduction=None), False),
        (lambda group: None, False),
    ],
    ids=lambda x: type(x).__name__,
)
def test_only_what_is_known_by_its_methods_is_batched(importance, known):
    assert (formulas.formula_of(importance) is not None) == known


def test_unknown_importances_are_called_expert_by_expert():
    model, graph, (stacks,) = model_of(Stacks)
    Counted.calls = 0
    scores = score_units(graph, stacks, Counted())
    assert Counted.calls == EXPERTS
    assert torch.equal(scores, score_units(graph, stacks, Renamed()))
    doubled = score_units(graph, stacks, OtherReduction(normalizer=None))
    down = model.experts.down.detach().square().sum(1) * 2
    assert torch.allclose(doubled, down)


def test_a_release_that_computes_otherwise_is_called_itself(monkeypatch):
    _, graph, (stacks,) = model_of(Stacks)
    importance = tp.importance.GroupMagnitudeImportance()
    before = score_units(graph, stacks, importance)
    theirs = tp.importance.GroupMagnitudeImportance._normalize
    monkeypatch.setattr(
        tp.importance.GroupMagnitudeImportance, "_normalize", lambda self, x, kind: theirs(self, x, kind).flip(0)
    )
    assert formulas.formula_of(importance) is None
    assert torch.equal(score_units(graph, stacks, importance), before.flip(1))


def test_few_elements_are_taken_at_a_time(monkeypatch):
    _, graph, (stacks,) = model_of(Stacks)
    whole = score_units(graph, stacks, tp.importance.TaylorImportance())
    limit, taken = 4 * HIDDEN, []
    monkeypatch.setitem(batches.AT_ONCE, "cpu", limit)
    scores = formulas.Formula.scores
    monkeypatch.setattr(formulas.Formula, "scores", lambda *a, **k: (taken.append(a[1]), scores(*a, **k))[1])
    assert torch.equal(score_units(graph, stacks, tp.importance.TaylorImportance()), whole)
    assert max(values.numel() for values in taken) <= limit
    assert sum(values.numel() for values in taken) == 3 * EXPERTS * INNER * HIDDEN


def test_scores_of_a_class_are_fetched_once(monkeypatch):
    _, graph, classes = model_of(Listed)
    fetched = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: (fetched.append(self.shape), cpu(self))[1])
    score_classes(graph, classes, tp.importance.MagnitudeImportance())
    assert fetched == [(EXPERTS, INNER)]


@pytest.mark.parametrize("experts", [Stacks, Listed])
def test_random_numbers_are_those_of_one_call_an_expert(experts):
    _, graph, classes = model_of(experts)
    torch.manual_seed(5)
    found = score_classes(graph, classes, tp.importance.RandomImportance())
    torch.manual_seed(5)
    scores = found[0] if len(found) == 1 else torch.stack(found)
    assert torch.equal(scores, torch.stack([torch.rand(INNER) for _ in range(EXPERTS)]))


def test_a_missing_gradient_is_refused_or_passed_over_as_torch_pruning_does():
    model, graph, (stacks,) = model_of(Stacks)
    model.experts.up.grad = None
    with pytest.raises(PruningRefused, match="may need gradients"):
        score_units(graph, stacks, tp.importance.TaylorImportance())
    scores = score_units(graph, stacks, tp.importance.GroupHessianImportance(normalizer=None, group_reduction="sum"))
    gate, down = model.experts.gate, model.experts.down
    wanted = (gate.detach() ** 2 * gate.grad).sum(2) + (down.detach() ** 2 * down.grad).sum(1)
    assert torch.allclose(scores, wanted, rtol=1e-5)


@pytest.mark.parametrize("kind", [RoutingImportance, CameraImportance])
def test_classes_outside_of_experts_are_left_to_the_base(kind, monkeypatch):
    model, graph, classes = model_of(Stacks)
    knowing = kind(model, [TOKENS])
    hidden = next(c for c in graph.classes if c.role == "hidden")
    monkeypatch.setattr("moeverify.pruning.choice.scores._one_by_one", None)  # not taken
    of_experts, of_hidden = score_classes(graph, [*classes, hidden], knowing)
    assert torch.equal(of_experts, knowing.score_class(classes[0]))
    assert torch.equal(of_hidden, score_units(graph, hidden, knowing.base))


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 2)])
def test_scores_stay_when_others_are_computed_in_the_same_memory(shape, copied):
    formula = formulas.formula_of(tp.importance.GroupMagnitudeImportance())
    values = torch.randn(shape).transpose(0, 1)
    first = formula.scores(values, None, copied=copied)
    formula.scores(torch.zeros(shape).transpose(0, 1), None, copied=copied)
    wanted = values.square().flatten(2).sum(2) if len(shape) > 2 else values.square()
    assert torch.allclose(first, wanted)
