"""Tools that put layers together anew."""

from __future__ import annotations

from tool_folders.catalogue import right, wrong
from tool_folders.stored import Stored, base_of


def sliced(stored: Stored, layers: list[int]) -> Stored:
    """Layers put together anew and renumbered; of the configuration the layer count alone is written."""
    inside = {n: t for n, t in stored.tensors.items() if ".layers." in n}
    tensors = {n: t for n, t in stored.tensors.items() if n not in inside}
    for new, old in enumerate(layers):
        tensors |= {n.replace(f"layers.{old}.", f"layers.{new}."): t for n, t in stored.of_layer(old).items()}
    return Stored(tensors, {**stored.config, "num_hidden_layers": len(layers)})


@right
def slices_of_layers_with_their_kinds(folder):
    base_of("dots1").write(folder / "base")
    pruned = sliced(base_of("dots1").copy(), [0, 2])
    pruned.config["layer_types"] = [pruned.config["layer_types"][n] for n in (0, 2)]
    pruned.write(folder / "pruned")


@wrong("config-in-step", "layer_types")
def slices_of_layers_with_a_stale_list(folder):
    base_of("dots1").write(folder / "base")
    pruned = sliced(base_of("dots1").copy(), [0, 2])
    pruned.config["layer_types"] = pruned.config["layer_types"][:2]
    pruned.write(folder / "pruned")
