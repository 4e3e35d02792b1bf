"""The MoE-safe pruner on Torch-Pruning."""

from moeverify.pruning.graph.graph import MoEDependencyGraph
from moeverify.pruning.pruner import MoEPruner

__all__ = ["MoEDependencyGraph", "MoEPruner"]
