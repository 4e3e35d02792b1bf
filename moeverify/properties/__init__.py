"""What must hold for every synthetic model: one property a file, under stable names, for any subject."""

from moeverify.properties import (  # noqa: F401
    config_in_step,
    determinism,
    expert_permutation,
    injected_edges,
    isolation,
    masked_equivalence,
    order,
    renaming,
    shapes,
    termination,
    truth,
    union,
)
from moeverify.properties.registry import PROPERTIES, NotApplicable, Property, PropertyFailed, check_property
from moeverify.properties.trial import Trial

__all__ = ["PROPERTIES", "NotApplicable", "Property", "PropertyFailed", "Trial", "check_property"]
