"""Configuration in step with the weights, without a table per architecture.

``probe`` finds what each entry means, ``search`` the entries for wanted shapes, ``express`` the counts that entries can
give, ``update`` writes them; ``constants`` keeps what an architecture derives from a size.
"""

from moeverify.models.skeleton import Shapes, has_config, shapes_of, skeleton
from moeverify.pruning.configuration.express import Expression, describe, express, wanted_shapes
from moeverify.pruning.configuration.probe import Probe
from moeverify.pruning.configuration.update import ConfigUpdate, apply_update, plan_update
from moeverify.pruning.plan.plan import Adjustment, described

__all__ = [
    "Adjustment",
    "ConfigUpdate",
    "Expression",
    "Probe",
    "Shapes",
    "apply_update",
    "describe",
    "described",
    "express",
    "has_config",
    "plan_update",
    "shapes_of",
    "skeleton",
    "wanted_shapes",
]
