"""The solver against the plain meaning of the relations: what a unit removes must agree in every dimension."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moeverify.coupling.relations import Operation, Relations, Trace
from moeverify.coupling.solving.divisions import state_common_factors
from moeverify.coupling.solving.solve import solve


def as_trace(relations: Relations) -> Trace:
    """Every dimension belongs to a parameter of its own, so that nothing stays unseen."""
    tensors = {f"p{dim:03}": (dim,) for dim in range(len(relations.sizes))}
    return Trace(relations, tensors, {}, frozenset(), {}, ())


@st.composite
def systems(draw, products: bool):
    relations = Relations(operations=[Operation("aten.test", "")])
    for size in draw(st.lists(st.integers(2, 6), min_size=2, max_size=6)):
        relations.new_dims([size])
    for _ in range(draw(st.integers(1, 10))):
        dim = draw(st.integers(0, len(relations.sizes) - 1))
        size = relations.sizes[dim]
        kind = draw(st.sampled_from(["equal", "segment", "freeze", *(["product"] * 2 if products else [])]))
        if kind == "freeze":
            if draw(st.booleans()):  # rarer: frozen dimensions say little
                relations.freeze(dim, "test")
        elif kind == "equal":
            alike = [d for d, s in enumerate(relations.sizes) if s == size]
            relations.equal(dim, draw(st.sampled_from(alike)))
        elif kind == "segment":
            step = draw(st.integers(1, 2))
            start = draw(st.integers(0, size - 1))
            longest = (size - start + step - 1) // step
            length = draw(st.integers(1, longest))
            alike = [d for d, s in enumerate(relations.sizes) if s == length and d != dim]
            part = draw(st.sampled_from(alike)) if alike and draw(st.booleans()) else relations.new_dims([length])[0]
            relations.segment(dim, part, start, step)
        else:
            factors = draw(st.lists(st.integers(0, len(relations.sizes) - 1), min_size=2, max_size=2, unique=True))
            whole = relations.sizes[factors[0]] * relations.sizes[factors[1]]
            if whole <= 24:
                alike = [d for d, s in enumerate(relations.sizes) if s == whole and d not in factors]
                chosen = draw(st.sampled_from(alike)) if alike else relations.new_dims([whole])[0]
                relations.product(chosen, factors)
    return relations


def removed_by(found, unit: int) -> dict[int, set[int]]:
    return {int(m.parameter[1:]): set(m.positions[unit].tolist()) for m in found.members}


@given(systems(products=True), st.booleans())
def test_a_unit_agrees_with_every_relation(relations, common_factors):
    if common_factors:
        state_common_factors(relations)
    classes, frozen = solve(as_trace(relations))
    seen: dict[int, list[int]] = {dim: [] for dim in range(len(relations.sizes))}
    for item in frozen:
        seen[int(item.parameter[1:])] += item.positions
    forbidden = {(f.dim, p) for f in relations.freezes for p in range(relations.sizes[f.dim])}
    for found in classes:
        for unit in range(found.size):
            gone = removed_by(found, unit)
            for dim, positions in gone.items():
                seen[dim] += positions
                assert not {(dim, p) for p in positions} & forbidden
            for a, b, _ in relations.equals:
                assert gone.get(a, set()) == gone.get(b, set())
            for s in relations.segments:
                inside = {i for i in range(relations.sizes[s.part]) if s.start + s.step * i in gone.get(s.whole, set())}
                assert inside == gone.get(s.part, set())
            for product in relations.products:
                sizes = [relations.sizes[f] for f in product.factors]
                left = [
                    [p for p in range(n) if p not in gone.get(f, set())]
                    for n, f in zip(sizes, product.factors, strict=True)
                ]
                kept = {int(np.ravel_multi_index(digits, sizes)) for digits in itertools.product(*left)}
                assert set(range(relations.sizes[product.whole])) - kept == gone.get(product.whole, set())
    for dim, positions in seen.items():  # nothing lost, nothing twice
        expected = range(relations.sizes[dim]) if relations.sizes[dim] > 1 else ()
        assert sorted(positions) == list(expected)


@given(systems(products=False))
def test_units_are_the_smallest_closed_sets(relations):
    """Without products the units are plain reachability, computed here one position at a time."""
    edges: dict[tuple[int, int], set[tuple[int, int]]] = {}
    pairs = [((a, i), (b, i)) for a, b, _ in relations.equals for i in range(relations.sizes[a])]
    for s in relations.segments:
        pairs += [((s.part, i), (s.whole, s.start + s.step * i)) for i in range(relations.sizes[s.part])]
    for a, b in pairs:
        edges.setdefault(a, set()).add(b)
        edges.setdefault(b, set()).add(a)

    def closure(start):
        reached, waiting = {start}, [start]
        while waiting:
            for other in edges.get(waiting.pop(), ()):
                if other not in reached:
                    reached.add(other)
                    waiting.append(other)
        return {(d, p) for d, p in reached if relations.sizes[d] > 1}

    classes, _ = solve(as_trace(relations))
    for found in classes:
        for unit in range(found.size):
            own = {(dim, p) for dim, positions in removed_by(found, unit).items() for p in positions}
            assert own == closure(next(iter(own)))


def test_layers_that_are_alike_share_their_positions():
    relations = Relations(operations=[Operation("aten.test", "")])
    for _ in range(3):
        whole, left, right = relations.new_dims([8, 4, 4])
        relations.segment(whole, left, 0)
        relations.segment(whole, right, 4)
        relations.equal(left, right)
    classes, frozen = solve(as_trace(relations))
    assert not frozen
    assert [c.size for c in classes] == [4, 4, 4]
    assert classes[0].members[0].positions.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert classes[0].members[0].positions is classes[2].members[0].positions
    assert not classes[0].members[0].positions.flags.writeable


def test_cost_follows_dimensions_not_channels():
    """A hidden size of a hundred million is one shared index, not a walk over its positions."""
    relations = Relations(operations=[Operation("aten.test", "")])
    dims = relations.new_dims([10_000_000] * 50)
    for other in dims[1:]:
        relations.equal(dims[0], other)
    (found,), _ = solve(as_trace(relations))
    assert found.size == 10_000_000
    assert len({id(m.positions) for m in found.members}) == 1
    assert np.array_equal(found.members[0].positions[-3:, 0], np.arange(10_000_000)[-3:])


def test_extra_pairs_couple_and_freeze():
    relations = Relations(operations=[Operation("aten.test", "")])
    a, b, c = relations.new_dims([4, 4, 4])
    relations.freeze(c, "test")
    pairs = [(a, np.array([0, 1]), b, np.array([3, 2])), (b, np.array([0]), c, np.array([1]))]
    classes, frozen = solve(as_trace(relations), extra=pairs)
    units = {frozenset((d, tuple(p)) for d, p in removed_by(k, u).items()) for k in classes for u in range(k.size)}
    expected = [{(a, (0,)), (b, (3,))}, {(a, (1,)), (b, (2,))}, {(a, (2,))}, {(a, (3,))}, {(b, (1,))}]
    assert units == {frozenset(unit) for unit in expected}
    assert {(f.parameter, tuple(f.positions)) for f in frozen} == {("p001", (0,)), ("p002", (0, 1, 2, 3))}
