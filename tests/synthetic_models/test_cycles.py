"""What injected cycles do to a naive traversal, and that the guards keep ours right."""

import contextlib
import warnings

import pytest
import torch
from torch import nn

from moeverify.errors import ExpansionsExceeded, PruningRefused
from moeverify.pruning.graph.graph import MoEDependencyGraph
from moeverify.pruning.graph.walk import GUARDS
from moeverify.subjects import prune_stock
from moeverify.subjects.expansions import VARIABLE, counted
from synthetic_models import Cycle, Spec, build, example_inputs
from synthetic_models.cycles import Stem
from synthetic_models.spec import CYCLES

# No guard against circles, against positions seen before, and every operation a node of its own.
NAIVE = GUARDS - {"onpath", "visited", "transparent"}
# The same, on a graph where operations that change no index are no steps: only shifts of indices can go in circles.
SHIFTS_ONLY = GUARDS - {"onpath", "visited"}
BOUND = 3_000
# Their point is not the traversal: `roll` freezes its channels, tied experts are a coupling of its own.
OTHER_POINT = ("roll", "tied_experts")


class Carrier(nn.Module):
    """A cycle among hidden channels between two linear layers, and nothing else."""

    def __init__(self, cycle):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.stem = Stem(Spec(cycles=() if cycle is None else (cycle,)), 8)

    def forward(self, x):
        return self.last(self.stem(self.first(x)))


def expand_hidden(model, inputs, guards, bound=BOUND):
    """Steps for the group of one hidden channel, and whether they exceeded the bound."""
    graph = MoEDependencyGraph(bound, guards=guards).build_dependency(model, inputs)
    hidden = next(
        c for c in graph.classes for m in c.coupling.members if (m.parameter, m.dim) in HIDDEN and not m.buffer
    )
    graph.expansions = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.suppress(PruningRefused):
            graph.group_of(hidden, [0])
    warned = [str(w.message) for w in caught if str(w.message).startswith("Dependency expansion overflow")]
    assert bool(warned) == graph.overflowed
    return graph.expansions, graph.overflowed


HIDDEN = {("model.embed_tokens.weight", 1), ("first.weight", 0)}


def carried(cycle, guards, bound=BOUND):
    return expand_hidden(Carrier(cycle), torch.randn(2, 8), guards, bound)


@pytest.mark.parametrize("kind", [kind for kind in CYCLES if kind not in OTHER_POINT])
def test_every_kind_overflows_a_naive_traversal_and_not_ours(kind):
    spec = Spec(layers=("moe", "moe"), shared="one", cycles=(Cycle(kind),))
    model, inputs = build(spec, plain=True), example_inputs(spec)
    assert expand_hidden(model, inputs, NAIVE) == (BOUND + 1, True)
    steps, overflowed = expand_hidden(model, inputs, GUARDS)
    assert not overflowed
    assert steps < 20


@pytest.mark.parametrize("cycle", [Cycle("rotate_half"), Cycle("cat_slice"), Cycle("cat_slice", 2)])
def test_it_is_the_shift_that_overflows(cycle):
    """Between two layers a traversal without `onpath` and `visited` ends; with a shift of indices it does not."""
    assert carried(None, SHIFTS_ONLY) == (1, False)
    assert carried(cycle, SHIFTS_ONLY) == (BOUND + 1, True)
    steps, overflowed = carried(cycle, GUARDS)
    assert not overflowed
    assert steps < 20


def paths(node, bound):
    """Paths from an operation of the autograd graph to its leaves, walked one by one as far as ``bound``."""
    before = [following for following, _ in node.next_functions if following is not None]
    if not before:
        return 1
    count = 0
    for following in before:
        count += paths(following, bound - count)
        if count >= bound:
            return count
    return count


def test_the_paths_of_a_ladder_double_with_each_rung():
    def walked(rungs):
        x = torch.randn(2, 8, requires_grad=True)
        return paths(Stem(Spec(cycles=(Cycle("ladder", rungs),)), 8)(x).grad_fn, BOUND)

    assert [walked(rungs) for rungs in range(1, 8)] == [2, 4, 8, 16, 32, 64, 128]
    assert walked(20) >= BOUND
    assert carried(Cycle("ladder", 20), GUARDS) == (1, False)


@pytest.mark.parametrize("kind", ["ladder", "twice", "rotate_half", "cat_slice"])
def test_our_steps_grow_at_most_linearly_with_the_strength(kind):
    """`visited` alone is enough for that; `transparent` makes most of it one step."""
    for guards in (GUARDS, GUARDS - {"transparent"}):
        two, eight = carried(Cycle(kind, 2), guards)[0], carried(Cycle(kind, 8), guards)[0]
        assert eight <= 4 * two + 8


@pytest.mark.parametrize("kind", ["rotate_half", "cat_slice"])
def test_index_shifts_do_not_end_in_stock_torch_pruning(kind, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(BOUND))
    spec = Spec(cycles=(Cycle(kind, 2),))
    with counted(), pytest.raises(ExpansionsExceeded, match="Dependency expansion overflow"):
        prune_stock(build(spec, plain=True), example_inputs(spec), pruning_ratio=0.5, seed=0)
    with counted() as count:
        prune_stock(build(Spec(), plain=True), example_inputs(Spec()), pruning_ratio=0.5, seed=0)
    assert 0 < count.total < 500


def test_rolled_channels_are_left_alone():
    spec = Spec(cycles=(Cycle("roll"),))
    graph = MoEDependencyGraph().build_dependency(build(spec, plain=True), example_inputs(spec))
    assert all((m.parameter, m.dim) not in HIDDEN for c in graph.classes for m in c.coupling.members)


def test_tied_experts_are_stopped_at_the_boundary_and_reported():
    spec = Spec(cycles=(Cycle("tied_experts"),))
    graph = MoEDependencyGraph().build_dependency(build(spec, plain=True), example_inputs(spec))
    tied = next(
        c for c in graph.classes if any(".experts.1." in p for p in c.coupling.parameters) and c.role != "hidden"
    )
    with pytest.raises(PruningRefused, match="another routed expert"):
        graph.group_of(tied)
    assert "experts.1" in str(graph.crossings[0])
