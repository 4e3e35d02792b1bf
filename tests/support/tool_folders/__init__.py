"""Folders as public pruning tools write them: scripts that read and write names on disk, not a model's.

Every tool is a function of a base; faults are what such tools did wrong. The architectures are others than those of
``pruned_folders``.
"""

from tool_folders import (  # noqa: F401  entries join the catalogue when their module is imported
    importance_orders,
    layer_slices,
    nested_counts,
    prediction_layers,
    same_shapes,
    selections,
)
from tool_folders.catalogue import RIGHT, WRONG

__all__ = ["RIGHT", "WRONG"]
