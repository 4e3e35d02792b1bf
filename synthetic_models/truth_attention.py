"""Right answers for attention: whole heads can go, or single channels of every head, but never both.

Each answer is a ledger of its own; the hidden side of the projections is written into the common one.
"""

from __future__ import annotations

from synthetic_models.axes import Axis, Ledger
from synthetic_models.spec import Spec

ROWS = "whole heads go, not single channels of every head"


def write_attention(spec: Spec, path: str, hidden: Axis, common: Ledger) -> list[Ledger]:
    """Write the hidden sides into ``common`` and return the right answers for the others."""
    latent = spec.attention == "latent"
    for name in ("q_proj", "kv_a_proj") if latent else ("q_proj", "k_proj", "v_proj"):
        common.linear(f"{path}.{name}", None, hidden, bias=False)
    common.linear(f"{path}.o_proj", hidden, None, spec.bias)
    return _latent(spec, path) if latent else _plain(spec, path)


def _write(spec: Spec, path: str, query: Axis, key: Axis, value: Axis, out: Axis, norm: Axis) -> Ledger:
    answer = Ledger()
    for name, axis in (("q_proj", query), ("k_proj", key), ("v_proj", value)):
        answer.linear(f"{path}.{name}", axis, None, spec.bias)
    answer.linear(f"{path}.o_proj", None, out, bias=False)
    if spec.attention == "per_head_norm":
        answer.put(f"{path}.q_norm.weight", norm)
        answer.put(f"{path}.k_norm.weight", norm)
    return answer


def _plain(spec: Spec, path: str) -> list[Ledger]:
    few, group, dim = spec.kv_heads, spec.group, spec.head_dim
    answers = []
    fixed = Axis.fixed(dim, ROWS)
    if few > 1:  # a key/value head goes with its query heads
        keys = Axis.free("heads", few).blocks(dim)
        queries = Axis.free("heads", few).blocks(group * dim)
        answers.append(_write(spec, path, queries, keys, keys, queries, fixed))
    if group > 1:  # the n-th query head of every key/value head
        queries = Axis.free("group", group).blocks(dim).tiled(few)
        answers.append(_write(spec, path, queries, fixed.tiled(few), fixed.tiled(few), queries, fixed))
    turned = dim if spec.attention == "multi_head" else dim // 2  # rotary embedding mixes the halves
    scored, passed = Axis("scored", tuple(c % turned for c in range(dim))), Axis.free("passed", dim)
    heads = few * group
    answers.append(
        _write(spec, path, scored.tiled(heads), scored.tiled(few), passed.tiled(few), passed.tiled(heads), scored)
    )
    return answers


def _latent(spec: Spec, path: str) -> list[Ledger]:
    heads, dim = spec.kv_heads, spec.head_dim
    whole = Axis.free("heads", heads)
    plain, passed = Axis.free("plain", dim), Axis.free("passed", dim)
    turned = Axis("turned", tuple(c % (dim // 2) for c in range(dim)))
    narrow = Axis.free("latent", spec.latent)
    answers = []
    for query, key_turned, both, out in (
        (whole.blocks(2 * dim), Axis.fixed(dim, ROWS), whole.blocks(2 * dim), whole.blocks(dim)),
        ((plain, turned) * heads, turned, (plain, passed) * heads, passed.tiled(heads)),
    ):
        answer = Ledger()
        answer.linear(f"{path}.q_proj", query, None, spec.bias)
        answer.linear(f"{path}.kv_a_proj", (narrow, key_turned), None, spec.bias)
        answer.put(f"{path}.kv_a_norm.weight", narrow)
        answer.linear(f"{path}.kv_b_proj", both, narrow, spec.bias)
        answer.linear(f"{path}.o_proj", None, out, bias=False)
        answers.append(answer)
    return answers
