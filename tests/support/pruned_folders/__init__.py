"""A catalogue of pruned folders, right and wrong, made with plain tensor code; one module a family.

Every entry is a function that writes ``folder / "pruned"`` (and ``folder / "base"`` if it needs one of its own), or
returns a draft that is written for it. Wrong ones name the relation that must fail and words of its message.
"""

from pruned_folders import (  # noqa: F401  entries join the catalogue when their module is imported
    channels,
    claims,
    configuration,
    dropped_layers,
    expert_values,
    files,
    heads,
    id_tables,
    layers,
    lookalikes,
    names,
    number_types,
    routers,
    selections,
    tensors,
    tokenizers,
    topology,
    vocabulary,
)
from pruned_folders.catalogue import RIGHT, WRONG, Case, duplicate_names, write

__all__ = ["RIGHT", "WRONG", "Case", "duplicate_names", "write"]
