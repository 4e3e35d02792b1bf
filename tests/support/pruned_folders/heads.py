"""Attention heads, and the order of the channels inside them."""

from __future__ import annotations

import torch

from pruned_folders.catalogue import right, wrong
from pruned_folders.scripts import experts


def inside_heads(draft, *, values=True, outputs=True, seed=1, other_seed=None):
    """Value channels in another order inside of each key-value head, in one or both of the tensors that know it."""
    config = draft.config
    width, heads, groups = config.head_dim, config.num_attention_heads, config.num_key_value_heads
    for layer in range(config.num_hidden_layers):
        orders = []
        for number in (seed, seed if other_seed is None else other_seed):
            generator = torch.Generator().manual_seed(number + layer)
            orders.append([torch.randperm(width, generator=generator) for _ in range(groups)])
        rows = torch.cat([group * width + order for group, order in enumerate(orders[0])])
        columns = torch.cat([head * width + orders[1][head // (heads // groups)] for head in range(heads)])
        if values:
            draft.take(draft.names("v_proj.weight", "v_proj.bias", layer=layer), 0, rows)
        if outputs:
            draft.take(draft.names("o_proj.weight", layer=layer), 1, columns)
    return draft


@right("channels-inside-heads-in-another-order", "qwen3_moe", "mixtral", "gpt_oss")
def _(folder, draft):
    return inside_heads(experts(draft))


@right("key-value-heads", "qwen3_moe")
def _(folder, draft):
    for end, rows in (("q_proj.weight", range(32, 64)), ("k_proj.weight", range(16, 32))):
        draft.take(draft.names(end), 0, list(rows))
    draft.take(draft.names("v_proj.weight"), 0, list(range(16, 32)))
    draft.take(draft.names("o_proj.weight"), 1, list(range(32, 64)))
    return draft.set(num_attention_heads=2, num_key_value_heads=1)


def some_heads(draft, queries, keys=None):
    """Heads of queries that stay, and of keys and values if not all do; each may stand several times."""
    width = draft.config.head_dim

    def rows(heads):
        return [head * width + n for head in heads for n in range(width)]

    draft.take(draft.names("q_proj.weight"), 0, rows(queries))
    draft.take(draft.names("o_proj.weight"), 1, rows(queries))
    if keys is not None:
        draft.take(draft.names("k_proj.weight", "v_proj.weight"), 0, rows(keys))
        draft.set(num_key_value_heads=len(keys))
    return draft.set(num_attention_heads=len(queries))


@right("heads-inside-of-groups", "qwen3_moe", "mixtral")
def _(folder, draft):
    return some_heads(draft, [1, 2])


@right("heads-and-keys-written-out", "qwen3_moe")
def _(folder, draft):
    return some_heads(draft, [0, 1, 2], [0, 0, 1])


@wrong(
    "heads-of-one-group-spread-over-two", "qwen3_moe", "masked-equivalence", "the configuration or the order of parts"
)
def _(folder, draft):
    return some_heads(draft, [0, 1])


@wrong("channels-inside-heads-in-another-order-in-one-tensor", "qwen3_moe", "consistency", "v_proj.weight")
def _(folder, draft):
    return inside_heads(draft, outputs=False)


@wrong("channels-inside-heads-in-two-orders", "qwen3_moe", "consistency", "proj.weight is out of step")
def _(folder, draft):
    return inside_heads(draft, other_seed=7)


@wrong("heads-of-another-group", "qwen3_moe", "consistency")
def _(folder, draft):
    draft.take(draft.names("q_proj.weight"), 0, list(range(32, 64)))
    draft.take(draft.names("k_proj.weight", "v_proj.weight"), 0, list(range(16)))
    draft.take(draft.names("o_proj.weight"), 1, list(range(32, 64)))
    return draft.set(num_attention_heads=2, num_key_value_heads=1)
