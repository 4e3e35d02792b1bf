"""The pruner under test: the protocol, ours, Torch-Pruning and its forks, the user's own function or factory."""

from moeverify.base.imports import find_attribute
from moeverify.subjects.load import BUILT_IN, FORMS, load_subject
from moeverify.subjects.moe import prune_moe
from moeverify.subjects.protocol import Pruned, Subject, adapt
from moeverify.subjects.torch_pruning import prune_stock

__all__ = [
    "BUILT_IN",
    "FORMS",
    "Pruned",
    "Subject",
    "adapt",
    "find_attribute",
    "load_subject",
    "prune_moe",
    "prune_stock",
]
