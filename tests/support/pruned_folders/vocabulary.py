"""Tokens that went, or were added."""

from __future__ import annotations

import torch

from pruned_folders.catalogue import right, wrong
from pruned_folders.configuration import STEP
from pruned_folders.scripts import experts


def keep_tokens(draft, tokens, ending="weight"):
    """Keep the rows of tokens in the embedding and the head, or in the one of them that ``ending`` names."""
    names = [name for name in draft.names("embed_tokens.weight", "lm_head.weight") if name.endswith(ending)]
    return draft.take(names, 0, list(tokens)).set(vocab_size=len(tokens))


def add_tokens(draft, count):
    for name in draft.names("embed_tokens.weight", "lm_head.weight"):
        values = draft.tensors[name]
        draft.tensors[name] = torch.cat([values, torch.zeros(count, values.shape[1])])
    return draft.set(vocab_size=draft.config.vocab_size + count)


@right("vocabulary-cut", "qwen3_moe", "gpt_oss")
def _(folder, draft):
    return experts(keep_tokens(draft, range(100)))


@wrong("vocabulary-of-other-tokens-in-the-head", "qwen3_moe", "consistency", "out of step")
def _(folder, draft):
    return keep_tokens(keep_tokens(draft, range(100), "tokens.weight"), range(28, 128), "head.weight")


@wrong("vocabulary-without-its-end", "qwen3_moe", STEP, "a generation would never end")
def _(folder, draft):
    draft.set(eos_token_id=120).copy().write(folder / "base")
    return keep_tokens(draft, range(100))
