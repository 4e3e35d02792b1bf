"""Names on disk: prefixes, experts listed one by one, a second copy for another program."""

from __future__ import annotations

import torch
from safetensors.torch import load_file, save_file

from pruned_folders.catalogue import right, wrong
from pruned_folders.scripts import experts


@right("without-prefix", "mixtral")
def _(folder, draft):
    experts(draft)
    draft.tensors = {name.removeprefix("model."): tensor for name, tensor in draft.tensors.items()}
    return draft


@right("second-copy-for-another-program", "qwen3_moe")
def _(folder, draft):
    experts(draft).write(folder / "pruned")
    save_file({"tok_embeddings.weight": torch.ones(2)}, folder / "pruned" / "consolidated.safetensors")


@wrong("names-of-a-wrapper", "qwen3_moe", "layout", "is missing")
def _(folder, draft):
    experts(draft).write(folder / "pruned")
    file = folder / "pruned" / "model.safetensors"
    save_file({f"module.{name}": t for name, t in load_file(file).items()}, file, metadata={"format": "pt"})


def listed(change, config=None):
    """Write under the names of listed experts, then change the stored tensors."""

    def make(folder, draft):
        experts(draft).write(folder / "pruned", listed=True)
        file = folder / "pruned" / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})

    return make


ONE = "model.layers.0.mlp.experts.1."
wrong("expert-without-up", "qwen3_moe", "layout", "put together")(listed(lambda t: t.pop(ONE + "up_proj.weight")))


@wrong("experts-not-renumbered", "qwen3_moe", "layout", "numbered")
def _(folder, draft):
    def change(tensors):
        for name in [n for n in tensors if ".experts.3." in n]:
            tensors[name.replace(".experts.3.", ".experts.7.")] = tensors.pop(name)

    return listed(change)(folder, draft)


@wrong("layer-without-experts", "qwen3_moe", "layout", "missing")
def _(folder, draft):
    return listed(lambda t: [t.pop(n) for n in list(t) if n.startswith("model.layers.0.mlp.experts.")])(folder, draft)


@wrong("gate-and-up-renamed-into-each-other", "qwen3_moe", "consistency", "gate and up")
def _(folder, draft):
    def change(tensors):
        gate, up = ONE + "gate_proj.weight", ONE + "up_proj.weight"
        tensors[gate], tensors[up] = tensors[up], tensors[gate]

    return listed(change)(folder, draft)
