"""Experts side by side in plain linear layers: found by what the forward divides, and by the router that weighs it."""

import copy
import linecache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import moeverify as mv
from moeverify.coupling.classify import classify
from moeverify.coupling.layouts import traced_roles
from moeverify.models.roles import find_roles
from moeverify.subjects import prune_moe
from moeverify.verdict import Status
from tests.support.judged import problems, verdicts
from wild_models.handwritten import flat_custom_code, flattened, megatron_grouped, mixture_of_heads

EXPERTS, DIM, INNER = 4, 8, 6
X = torch.randn(12, DIM, generator=torch.Generator().manual_seed(3))


class Flat(nn.Module):
    """Hidden channels of all experts in one linear layer, ``parted`` by a view and weighed; else an ordinary MLP."""

    def __init__(self, parted="view", gated=False, outputs=EXPERTS):
        super().__init__()
        self.choose = nn.Linear(DIM, outputs)
        self.up = nn.Linear(DIM, EXPERTS * INNER * (1 + gated))
        self.down = nn.Linear(EXPERTS * INNER, DIM)
        self.parted, self.gated, self.n_experts = parted, gated, EXPERTS

    def forward(self, x):
        scores = self.choose(x).softmax(-1)[:, :EXPERTS]
        kept = torch.zeros_like(scores).scatter(-1, scores.topk(2).indices, 1) * scores
        hidden = self.up(x)
        if self.parted == "no":
            return self.down(hidden.relu()) * kept.sum(-1, keepdim=True)
        hidden = hidden.view(len(x), self.n_experts, -1)
        if self.gated:
            gate, hidden = hidden.chunk(2, -1)
            hidden = F.silu(gate) * hidden
        else:
            hidden = hidden.relu()
        if self.parted == "mixed":  # weighed and added up before the down projection: one channel for all experts
            hidden = (hidden * kept.unsqueeze(-1)).sum(-2, keepdim=True).expand(-1, self.n_experts, -1)
        else:
            hidden = hidden * kept.unsqueeze(-1)
        return self.down(hidden.flatten(1))


class Net(nn.Module):
    def __init__(self, **form):
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.block, self.head = nn.Linear(DIM, DIM), Flat(**form), nn.Linear(DIM, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.block(x))


def found(model):
    roles, couplings = traced_roles(model, X)
    return roles, classify(model, couplings.classes, roles, couplings)


@pytest.mark.parametrize("gated", [False, True])
def test_experts_in_two_linear_layers_are_found_by_the_trace(gated):
    roles, classes = found(Net(gated=gated))
    (layer,) = roles.layers
    assert layer.layout == "rows"
    assert (layer.routers, len(layer.experts)) == (("block.choose",), EXPERTS)
    assert set(layer.stacks) == {"block.up.weight", "block.up.bias", "block.down.weight"}
    assert [layer.axis(name) for name in ("block.up.weight", "block.down.weight")] == [0, 1]
    assert "divides block.down.weight" in layer.evidence["block"]
    (experts,) = [c for c in classes if c.role == "routed_experts"]
    assert (experts.experts, experts.coupling.size) == (EXPERTS, INNER)
    assert not any("no routed experts" in note for note in roles.notes)


@pytest.mark.parametrize("form", [{"parted": "no"}, {"parted": "mixed"}, {"outputs": 5}])
def test_what_is_not_divided_among_scored_parts_is_no_expert(form):
    model = Net(**form)
    roles, classes = found(model)
    assert not roles.layers
    assert "routed_experts" not in {c.role for c in classes}


def alternating(gated):
    """A model with even channels that matter in experts 0 and 2, odd ones in 1 and 3."""
    model = Net(gated=gated)
    with torch.no_grad():
        for expert in range(EXPERTS):
            model.block.down.weight.view(DIM, EXPERTS, INNER)[:, expert, expert % 2 :: 2] *= 999
    return model


@pytest.mark.parametrize("ratio", [0.25, 0.5])
@pytest.mark.parametrize("gated", [False, True])
def test_our_pruning_passes_and_each_expert_chooses_by_itself(ratio, gated):
    verdict = verdicts(alternating(gated), X, pruning_ratio=ratio, round_to=None)
    assert not problems(verdict)
    for check in ("expert-isolation", "forward-every-expert", "masked-equivalence", "coupling-minimal"):
        assert verdict[check].status is Status.PASS, verdict[check]
    plan = mv.MoEPruner(alternating(gated), X, pruning_ratio=ratio, ratios={"hidden": 0}).step()
    kept = [set(k) for k in (plan.keep["block.down.weight", 1] % INNER).reshape(EXPERTS, -1).tolist()]
    most = min(len(kept[0]), 3)
    assert [len(k & {0, 2, 4}) for k in kept] == [most, len(kept[0]) - most] * 2


def linear(layer, rows=None, columns=None):
    weight = layer.weight.detach()
    if rows is not None:
        weight, layer.bias = weight[rows], nn.Parameter(layer.bias.detach()[rows].clone())
    layer.weight = nn.Parameter(weight if columns is None else weight[:, columns].clone())
    layer.out_features, layer.in_features = layer.weight.shape


def keep(*channels):
    """Positions of the same channels in every expert."""
    return torch.cat([torch.tensor(channels) + INNER * e for e in range(EXPERTS)])


RIGHT = keep(0, 1, 2)
SHIFTED = RIGHT.clone()
SHIFTED[3:6] += 1  # one expert keeps its channels 1 to 3
ONE_BLOCK = torch.arange(EXPERTS * INNER // 2)  # the first two experts whole, as if the rows were one MLP's


@pytest.mark.parametrize(
    ("up", "down", "router"),
    [
        (RIGHT, RIGHT, None),
        (SHIFTED, SHIFTED, None),
        (RIGHT, keep(3, 4, 5), None),
        (RIGHT, SHIFTED, None),
        (ONE_BLOCK, RIGHT, None),
        (ONE_BLOCK, ONE_BLOCK, None),
        (RIGHT, RIGHT, [1, 0, 2, 3]),
    ],
)
def test_wrong_prunings_of_the_layout_fail(up, down, router):
    def subject(model, inputs, *, pruning_ratio, seed):
        linear(model.block.up, rows=up)
        linear(model.block.down, columns=down)
        if router is not None:
            linear(model.block.choose, rows=router)

    verdict = verdicts(Net(), X, subject, ("shapes", "masked-equivalence", "untouched-identical", "router-intact"))
    right = router is None and up is down and up is not ONE_BLOCK
    assert (not problems(verdict)) == right, problems(verdict)
    assert right or Status.FAIL in {v.status for v in verdict.values()}


@pytest.mark.parametrize("gated", [False, True])
def test_whole_experts_go(gated):
    verdict = verdicts(Net(gated=gated), X, pruning_ratio=0.0, ratios={"experts": 0.25}, round_to=None)
    assert not problems(verdict)


class Across(nn.Module):
    """All experts in a matrix ``[d, E * h]`` that a view to ``[E, d, h]`` reads row by row: blocks are no experts."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.router = nn.Linear(DIM, EXPERTS)
        self.up = nn.Parameter(torch.randn(DIM, EXPERTS * INNER))
        self.down = nn.Parameter(torch.randn(EXPERTS * INNER, 3))

    def forward(self, x):
        weights = self.router(x).softmax(-1)
        hidden = torch.einsum("td,edh->teh", x, self.up.view(EXPERTS, DIM, -1)).relu()
        return torch.einsum("teh,ehd,te->td", hidden, self.down.view(EXPERTS, -1, 3), weights)


def test_a_view_across_rows_is_not_divided_among_experts():
    model = Across()
    roles, classes = found(model)
    assert not any(c.experts for c in classes)
    assert not roles.layers
    assert not problems(verdicts(model, X, pruning_ratio=0.5, round_to=None))


@pytest.mark.slow
def test_a_layout_that_is_not_understood_is_left_alone_with_the_line_and_the_remedy_works():
    model, inputs = megatron_grouped.make()
    roles, _ = traced_roles(model.eval(), inputs)
    note = next(note for note in roles.notes if note.startswith("decoder.layers.0.mlp.experts is named as experts"))
    assert "weight1 [32, 384]" in note
    assert "is frozen" in note
    line = int(note.rpartition("megatron_grouped.py:")[2].rstrip(")"))
    assert "self.weight1.view(" in linecache.getline(megatron_grouped.__file__, line)
    verdict = verdicts(copy.deepcopy(model), inputs, checks=("expert-isolation", "router-intact"), pruning_ratio=0.5)
    assert note in verdict["expert-isolation"].message
    assert verdict["router-intact"].status is Status.INCONCLUSIVE
    assert verdict["router-intact"].message.endswith("expert-isolation says why")
    for layer in model.decoder["layers"]:
        experts, count, hidden = layer.mlp.experts, 4, 32
        experts.weight1 = nn.Parameter(experts.weight1.detach().view(count, hidden, -1))
        experts.weight2 = nn.Parameter(experts.weight2.detach().view(count, -1, hidden))
    verdict = verdicts(model, inputs, pruning_ratio=0.5)
    assert not problems(verdict)
    assert "8 experts in 2 layers stand alone" in verdict["expert-isolation"].message


class Grouped(nn.Module):
    """A stack of experts viewed in two groups; ``mixed`` adds up those of a group before the activation."""

    def __init__(self, mixed):
        super().__init__()
        torch.manual_seed(4)
        self.router = nn.Linear(DIM, EXPERTS)
        self.up = nn.Parameter(torch.randn(EXPERTS, DIM, INNER))
        self.down = nn.Parameter(torch.randn(EXPERTS, INNER, 3))
        self.mixed, self.groups = mixed, 2

    def forward(self, x):
        groups = self.groups
        weights = self.router(x).view(len(x), groups, -1).softmax(-1)
        up, down = (p.view(groups, -1, *p.shape[1:]) for p in (self.up, self.down))
        if self.mixed:
            hidden = torch.einsum("td,gedh,tge->tgh", x, up, weights).relu()
            return torch.einsum("tgh,gehd,tge->td", hidden, down, weights)
        hidden = torch.einsum("td,gedh->tgeh", x, up).relu()
        return torch.einsum("tgeh,gehd,tge->td", hidden, down, weights)


@pytest.mark.parametrize("mixed", [False, True])
def test_experts_that_meet_inside_of_their_group_go_together(mixed):
    model = nn.Sequential(nn.Linear(DIM, DIM), Grouped(mixed))
    roles, classes = found(model)
    assert len(roles.experts) == EXPERTS
    (experts,) = [c for c in classes if c.role == "routed_experts"]
    assert experts.experts == (0 if mixed else EXPERTS)
    assert ("adds up the channels of all experts" in experts.joint) == mixed
    assert not problems(verdicts(model, X, pruning_ratio=0.5, round_to=None))


class GatedHeads(nn.Module):
    """Attention with a stack for its values and outputs, whose heads are weighed: heads, and no experts."""

    def __init__(self, count):
        super().__init__()
        self.v, self.o = (nn.Parameter(torch.randn(6, *shape)) for shape in ((DIM, INNER), (INNER, DIM)))
        self.weigh = nn.Linear(DIM, 6)
        setattr(self, count, 3)


def test_experts_of_each_head_are_known_by_the_attribute_that_counts_them():
    model, inputs = mixture_of_heads.make()
    (layer,) = traced_roles(model.eval(), inputs)[0].layers
    assert (layer.layout, len(layer.experts)) == ("fused", 6)
    assert layer.routers == ("attention.sel_v", "attention.sel_o")
    assert "n_experts is 3, for each of 2 heads; sel_v scores them all" in layer.evidence["attention"]
    assert find_roles(nn.ModuleDict({"attention": GatedHeads("num_experts")})).layers
    assert not find_roles(nn.ModuleDict({"attention": GatedHeads("num_heads")})).layers


@pytest.mark.parametrize("wrong", [False, True])
def test_experts_of_heads_are_left_alone_since_a_head_adds_them_up(wrong):
    model, inputs = mixture_of_heads.make()

    def subject(model, inputs, *, pruning_ratio, seed):
        pruned = prune_moe(model, inputs, pruning_ratio=pruning_ratio, seed=seed)
        with torch.no_grad():
            model.attention.o.copy_(model.attention.o[[1, 0, 2, 3, 4, 5]] if wrong else model.attention.o)
        return pruned

    verdict = verdicts(model, inputs, subject, pruning_ratio=0.5)
    assert bool(problems(verdict)) == wrong
    assert verdict["masked-equivalence"].status is (Status.FAIL if wrong else Status.PASS)
    assert "aten.bmm in attention adds up the channels of all experts" in verdict["expert-isolation"].message


class Turned(nn.Module):
    """Stacks ``[model, experts, hidden]`` and a matrix ``[model, experts]``: by their sizes as many experts as DIM."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.block, self.head = nn.Linear(DIM, DIM), nn.Module(), nn.Linear(DIM, 3)
        self.block.score = nn.Parameter(torch.randn(DIM, EXPERTS))
        self.block.up, self.block.down = (nn.Parameter(torch.randn(DIM, EXPERTS, INNER)) for _ in range(2))

    def forward(self, x):
        x = self.stem(x)
        weights = (x @ self.block.score).softmax(-1)
        hidden = torch.einsum("td,deh->teh", x, self.block.up).relu() * weights.unsqueeze(-1)
        return self.head(x + torch.einsum("teh,deh->td", hidden, self.block.down))


def test_a_dimension_that_is_coupled_with_hidden_channels_counts_no_experts():
    assert len(find_roles(Turned()).experts) == DIM
    roles, _ = found(Turned())
    assert not roles.layers
    assert "block: the first dimension of block.up holds channels, no experts" in roles.notes
    assert any("no routed experts" in note for note in roles.notes)
    result = mv.verify(Turned(), example_inputs=X)
    assert not problems({verdict.check: verdict for verdict in result.verdicts})


def test_an_entry_that_counts_experts_in_columns_removes_them():
    model, inputs = flat_custom_code.make()
    result = mv.verify(model, example_inputs=inputs, ratios={"experts": 0.5})
    assert not problems({verdict.check: verdict for verdict in result.verdicts})
    sizes = {(s["role"], s["before"], s["after"]) for s in result.cases[0].facts["sizes"]}
    assert ("routed_experts", 12, 12) in sizes


@pytest.mark.parametrize("kind", [mv.CameraImportance, mv.RoutingImportance])
def test_importances_of_experts_watch_what_only_a_trace_shows(kind):
    model, inputs = flattened.make()
    importance = kind(model.eval(), [inputs])
    classes = mv.MoEDependencyGraph().build_dependency(model, inputs).classes
    scores = [importance.score_class(c) for c in classes if c.role == "routed_experts"]
    assert [s.shape for s in scores] == [(4, 16)] * 2
    assert all(bool(s.sum() > 0) for s in scores)
    if kind is mv.CameraImportance:
        seen = []
        model.moes[0].fc2.register_forward_pre_hook(lambda _, args: seen.append(args[0].square()))
        with torch.no_grad():
            model(*inputs)
        energy = 0.1 * seen[0].sum(0) + 0.9 * seen[0].amax(0)
        torch.testing.assert_close(
            scores[0].view(-1).float(), energy * model.moes[0].fc2.weight.detach().square().sum(0)
        )
