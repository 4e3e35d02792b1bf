"""Dropped layers, and layers for multi-token prediction."""

from __future__ import annotations

import torch
from foundry import Draft

from pruned_folders.catalogue import right, wrong
from pruned_folders.configuration import STEP
from pruned_folders.scripts import experts


def drop_layers(draft: Draft, kept) -> Draft:
    inside = {n: t for n, t in draft.tensors.items() if ".layers." in n}
    draft.tensors = {n: t for n, t in draft.tensors.items() if n not in inside}
    for new, old in enumerate(kept):
        mine = {n: t for n, t in inside.items() if f".layers.{old}." in n}
        draft.tensors |= {n.replace(f".{old}.", f".{new}.", 1): t for n, t in mine.items()}
    return draft.set(num_hidden_layers=len(kept))


@right("layers", "mixtral")
def _(folder, draft):
    return drop_layers(draft, [0, 2])


@right("layers-and-their-kinds", "gpt_oss")
def _(folder, draft):
    kinds = [draft.config.layer_types[n] for n in (1, 2)]
    return experts(drop_layers(draft, [1, 2]).set(layer_types=kinds))


@right("dense-layer-dropped", "deepseek_v3")
def _(folder, draft):
    return drop_layers(draft, [1, 2]).set(first_k_dense_replace=0)


@right("prediction-layers-dropped", "deepseek_v3")
def _(folder, draft):
    prediction(draft.copy()).write(folder / "base")
    return experts(draft)


def prediction(draft: Draft) -> Draft:
    """With a layer for multi-token prediction, as published checkpoints have one."""
    last = draft.config.num_hidden_layers
    mine = {n: t for n, t in draft.tensors.items() if f".layers.{last - 1}." in n}
    draft.tensors |= {n.replace(f".{last - 1}.", f".{last}.", 1): t.clone() for n, t in mine.items()}
    draft.tensors[f"model.layers.{last}.eh_proj.weight"] = torch.ones(52, 104)
    return draft.set(num_nextn_predict_layers=1)


@right("prediction-layers-pruned-alike", "deepseek_v3")
def _(folder, draft):
    prediction(draft).write(folder / "base")
    return experts(draft.copy())


@wrong("layer-kinds-not-following", "gpt_oss", STEP, "layer_types")
def _(folder, draft):
    kinds = [draft.config.layer_types[n] for n in (0, 1)]
    return drop_layers(draft, [1, 2]).set(layer_types=kinds)


@wrong("dense-layer-count-stale", "deepseek_v3", "layout", "missing")
def _(folder, draft):
    return drop_layers(draft, [1, 2])


@wrong("layer-dropped-without-renumbering", "mixtral", "layout", "missing")
def _(folder, draft):
    draft.tensors = {n: t for n, t in draft.tensors.items() if ".layers.1." not in n}
    return draft.set(num_hidden_layers=2)


@wrong("prediction-layers-gone-but-announced", "deepseek_v3", STEP, "announces prediction layers")
def _(folder, draft):
    prediction(draft.copy()).write(folder / "base")
    return experts(draft).set(num_nextn_predict_layers=1)


@wrong("prediction-layers-left-unpruned", "deepseek_v3", STEP, "left unpruned")
def _(folder, draft):
    whole = prediction(draft.copy())
    whole.write(folder / "base")
    trunk = experts(draft)
    extra = {n: t for n, t in whole.tensors.items() if ".layers.3." in n}
    trunk.tensors |= extra
    return trunk.set(num_nextn_predict_layers=1)
