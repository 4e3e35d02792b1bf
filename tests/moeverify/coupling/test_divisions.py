"""A dimension divided more than once: what is stated about its factors is true, and says all that is true of pairs."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moeverify.coupling.relations import Operation, Relations, Trace
from moeverify.coupling.solving.divisions import state_common_factors
from moeverify.coupling.solving.solve import link, solve


def as_trace(relations: Relations, **tensors: tuple[int, ...]) -> Trace:
    return Trace(relations, tensors, {}, frozenset(), {}, ())


def new_relations() -> Relations:
    return Relations(operations=[Operation("aten.view", "")])


@st.composite
def divisions(draw):
    """One size, divided in several ways: lists of factors, outermost first."""
    primes = draw(st.lists(st.sampled_from([2, 3]), min_size=2, max_size=5))

    def one():
        order, factors = draw(st.permutations(primes)), [1]
        for prime in order:
            if draw(st.booleans()) and factors[-1] > 1:
                factors.append(1)
            factors[-1] *= prime
        return factors

    return [one() for _ in range(draw(st.integers(2, 4)))]


@given(divisions())
def test_what_is_stated_is_true(ways):
    """Every dimension is a function of the position in the whole; equal ones must be the same function, and a product
    must number the combinations of its factors' values."""
    relations = new_relations()
    size = math.prod(ways[0])
    positions = np.arange(size)
    (whole,) = relations.new_dims([size])
    values = {whole: positions}
    for way in ways:
        factors = relations.new_dims(way)
        relations.product(whole, factors)
        for k, factor in enumerate(factors):
            values[factor] = positions // math.prod(way[k + 1 :]) % way[k] if len(way) > 1 else positions
    given_products = len(relations.products)
    state_common_factors(relations)
    for a, b, _ in relations.equals:
        assert (values[a] == values[b]).all()
    for product in relations.products[given_products:]:
        sizes = [relations.sizes[f] for f in product.factors]
        digits = np.unravel_index(values[product.whole], sizes)
        for factor, digit in zip(product.factors, digits, strict=True):
            assert (values.setdefault(factor, digit) == digit).all()


def key_and_value_heads():
    """One projection of 24, divided by 3 key heads and by 6 value heads, with what follows stated."""
    relations = new_relations()
    whole, keys, rest, heads, each = relations.new_dims([24, 3, 8, 6, 4])
    relations.product(whole, (keys, rest))
    relations.product(whole, (heads, each))
    state_common_factors(relations)
    return relations, whole, keys, heads, each


def test_value_heads_in_pairs_behind_a_key_head():
    """``(3 key heads, 2 x 4)`` and ``(6 value heads, 4)``: value heads go in pairs, one pair for each key head."""
    relations, whole, keys, heads, each = key_and_value_heads()
    (found,), _ = solve(as_trace(relations, projection=(whole,), key=(keys,), value=(heads,), norm=(each,)))
    positions = {m.parameter: m.positions.tolist() for m in found.members}
    assert positions["key"] == [[0], [1], [2]]
    assert positions["value"] == [[0, 1], [2, 3], [4, 5]]
    assert positions["projection"][1] == list(range(8, 16))


def test_a_factor_in_two_divisions_is_one_dimension():
    relations = new_relations()
    whole, outer, rest, same_outer, middle, inner = relations.new_dims([12, 2, 6, 2, 3, 2])
    relations.product(whole, (outer, rest))
    relations.product(whole, (same_outer, middle, inner))
    state_common_factors(relations)
    links = link(as_trace(relations))
    assert links.root[outer] == links.root[same_outer]
    assert [p.factors for p in relations.products if p.whole == rest] == [(middle, inner)]


def test_divisions_that_do_not_nest_say_nothing():
    relations = new_relations()
    whole, two, three, other_three, other_two = relations.new_dims([6, 2, 3, 3, 2])
    relations.product(whole, (two, three))
    relations.product(whole, (other_three, other_two))
    state_common_factors(relations)
    assert not relations.equals
    assert len(relations.products) == 2
    assert len(relations.sizes) == 5


def test_factors_that_were_stated_are_not_stated_again():
    relations, *_ = key_and_value_heads()
    before = len(relations.sizes), len(relations.equals), len(relations.products)
    state_common_factors(relations)
    assert (len(relations.sizes), len(relations.equals), len(relations.products)) == before


def test_a_dimension_of_which_every_part_is_frozen_leaves_the_other_factor():
    """Heads that come in two blocks cut by number stay; the channels of a head can go."""
    relations = new_relations()
    whole, heads, channels, first, second = relations.new_dims([12, 4, 3, 2, 2])
    relations.product(whole, (heads, channels))
    relations.segment(heads, first, 0)
    relations.segment(heads, second, 2)
    relations.freeze(first, "test")
    relations.freeze(second, "test")
    (found,), _ = solve(as_trace(relations, table=(channels,), projection=(whole,)))
    assert found.members[0].positions.tolist() == [[0], [1], [2]]
    assert found.members[1].positions.tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_heads_go_before_channels_that_many_projections_have():
    """A scale of each head's channels is larger than the one static weight divided first, not than all that is divided
    so: the heads go."""
    relations = new_relations()
    static, heads, channels, projection, width, queries = relations.new_dims([8, 2, 4, 8, 40, 6])
    relations.product(static, (heads, channels))
    relations.product(projection, (heads, channels))
    tensors = {"static": (static,), "scale": (queries, channels), "k_proj": (projection, width)}
    relations.freeze_all((width, queries), "test")
    state_common_factors(relations)
    (found,), _ = solve(as_trace(relations, **tensors))
    assert found.size == 2
    assert found.parameters == {"static", "k_proj"}
