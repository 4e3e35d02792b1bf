"""Vocabularies that were cut or renumbered beside their ``tokenizer.json``."""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from foundry import Draft

from pruned_folders.catalogue import right, wrong
from pruned_folders.configuration import STEP
from pruned_folders.dropped_layers import dropped
from pruned_folders.scripts import SHUFFLED, experts

FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
SIZE, END, START = 128, 124, 125
# Every second token of those that no merge needs, and the added ones.
KEPT = [*range(26), *range(27, 124, 2), 124, 126, 125]
TURNED = [*range(25, -1, -1), *range(26, 124), 127, 125, 126, 124]


def tokenizer(order=None) -> dict:
    """Byte-pair encoding of letters, their pairs, and four added tokens; ``order``: those that stay."""
    letters = string.ascii_lowercase
    pairs = [(a, b) for a in letters for b in letters][: 124 - len(letters)]
    added = ["<end>", "<start>", "<pad>", "<tool>"]
    texts = [*letters, *(a + b for a, b in pairs), *added]
    numbers = {texts[old]: new for new, old in enumerate(range(SIZE) if order is None else order)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": numbers[t], "content": t, **FLAGS} for t in added if t in numbers],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<start>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<start>": {"id": "<start>", "ids": [numbers["<start>"]], "tokens": ["<start>"]}},
        },
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {text: number for text, number in numbers.items() if text not in added},
            "merges": [list(pair) for pair in pairs if "".join(pair) in numbers],
        },
    }


def write_tokenizer(folder: Path, document: dict, **generation) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": END, **generation}))


def renumbered(folder, draft, order, *, rows=None, document=None, end=None, **options):
    """Write base and pruned folder: rows in ``rows``' order, the tokenizer in ``order``."""
    draft.write(folder / "base")
    write_tokenizer(folder / "base", tokenizer())
    made = draft.copy()
    names = made.names("embed_tokens.weight", "lm_head.weight")
    made.take(names, 0, list(order if rows is None else rows)).set(vocab_size=len(order))
    experts(made).write(folder / "pruned", **options)
    order = list(order)
    end = order.index(END) if end is None and END in order else end
    write_tokenizer(folder / "pruned", document or tokenizer(order), eos_token_id=end)


@right("vocabulary-cut-and-renumbered-with-its-tokenizer", "qwen3_moe", "gpt_oss")
def _(folder, draft):
    renumbered(folder, draft, KEPT)


@right("vocabulary-in-another-order-with-its-tokenizer", "qwen3_moe")
def _(folder, draft):
    renumbered(folder, draft, TURNED)


@right("vocabulary-cut-at-its-end-with-its-tokenizer", "mixtral")
def _(folder, draft):
    renumbered(folder, draft, range(126))


@right("renumbered-tokens-some-of-which-were-never-trained", "qwen3_moe")
def _(folder, draft):
    for name in draft.names("embed_tokens.weight", "lm_head.weight"):
        draft.tensors[name][[3, 30, 60, 61, 90, 100, 101, 127]] = 0
    renumbered(folder, draft, KEPT)


def _with_rows(draft, order):
    return draft.take(draft.names("embed_tokens.weight", "lm_head.weight"), 0, order).set(vocab_size=len(order))


def _write_tokenizers(folder, order):
    write_tokenizer(folder / "base", tokenizer())
    write_tokenizer(folder / "pruned", tokenizer(order), eos_token_id=order.index(END))


@right("tokens-hidden-channels-experts-and-a-cast", "qwen3_moe")
def _(folder, draft):
    draft.write(folder / "base")
    made = _with_rows(draft.copy().keep_hidden(list(range(40, 8, -1)), 48), KEPT)
    experts(made, SHUFFLED).cast(torch.bfloat16).write(folder / "pruned", shards="60KB")
    _write_tokenizers(folder, KEPT)


@right("tokens-in-another-order-layers-and-experts", "mixtral")
def _(folder, draft):
    draft.write(folder / "base")
    _with_rows(experts(dropped(draft.copy())), TURNED).write(folder / "pruned")
    _write_tokenizers(folder, TURNED)


def _tied(folder, order):
    base = Draft.of("qwen3_moe", tie_word_embeddings=True)
    base.write(folder / "base")
    made = experts(base.copy())
    rows = made.tensors["model.embed_tokens.weight"][torch.as_tensor(order)].contiguous()
    made.tensors |= {"model.embed_tokens.weight": rows, "lm_head.weight": rows}
    made.write(folder / "pruned")
    _write_tokenizers(folder, TURNED)


@right("renumbered-tokens-of-a-tied-head", "qwen3_moe")
def _(folder, draft):
    _tied(folder, TURNED)


@wrong("renumbered-tokens-of-a-tied-head-two-exchanged", "qwen3_moe", "untouched", "token 50 ('ay') holds the row")
def _(folder, draft):
    _tied(folder, [*TURNED[:50], TURNED[51], TURNED[50], *TURNED[52:]])


@wrong("renumbered-tokenizer-beside-rows-that-stayed", "qwen3_moe", "untouched", "holds the row of the base's token")
def _(folder, draft):
    renumbered(folder, draft, TURNED, rows=range(SIZE))


@wrong("renumbered-rows-one-late", "qwen3_moe", "untouched", "token 26 ('ab') holds the row of the base's token 28")
def _(folder, draft):
    renumbered(folder, draft, KEPT, rows=[*range(26), *range(28, 125, 2), 124, 126, 125])


@wrong("renumbered-rows-with-two-exchanged", "qwen3_moe", "untouched", "token 0 ('z') holds the row")
def _(folder, draft):
    renumbered(folder, draft, TURNED, rows=[24, 25, *TURNED[2:]])


@wrong("renumbered-head-in-the-order-of-the-base", "qwen3_moe", "consistency", "lm_head.weight is out of step")
def _(folder, draft):
    renumbered(folder, draft, TURNED)
    made = draft.copy().take(draft.names("embed_tokens.weight"), 0, TURNED)
    experts(made).write(folder / "other")
    (folder / "other" / "model.safetensors").replace(folder / "pruned" / "model.safetensors")


@wrong("renumbered-token-with-random-values", "qwen3_moe", "untouched", "embed_tokens.weight")
def _(folder, draft):
    renumbered(folder, draft, KEPT)
    made = draft.copy().take(draft.names("embed_tokens.weight", "lm_head.weight"), 0, KEPT).set(vocab_size=len(KEPT))
    made.tensors["model.embed_tokens.weight"][40] = torch.randn(48, generator=torch.Generator().manual_seed(2))
    experts(made).write(folder / "other")
    (folder / "other" / "model.safetensors").replace(folder / "pruned" / "model.safetensors")


@wrong("vocabulary-cut-and-the-tokenizer-left", "qwen3_moe", "untouched", "holds the row of the base's token")
def _(folder, draft):
    renumbered(folder, draft, KEPT, document=tokenizer(), end=0)


@wrong("vocabulary-cut-at-its-end-and-the-tokenizer-left", "mixtral", "untouched", "has no row: the vocabulary has 126")
def _(folder, draft):
    renumbered(folder, draft, range(126), document=tokenizer())


@wrong("renumbered-tokens-but-not-the-end", "qwen3_moe", STEP, "eos_token_id is 124 as in the base, but token 124")
def _(folder, draft):
    renumbered(folder, draft, TURNED, end=END)


@wrong("renumbered-tokens-but-not-the-start-in-the-template", "qwen3_moe", "untouched", "inserts '<start>' as 125")
def _(folder, draft):
    document = tokenizer(KEPT)
    document["post_processor"]["special_tokens"]["<start>"]["ids"] = [START]
    renumbered(folder, draft, KEPT, document=document)
