"""Properties of every synthetic model: one a file, under stable names, for any subject."""

from moeverify.suites.properties import (  # noqa: F401
    config_in_step,
    determinism,
    expert_permutation,
    expert_removal,
    experts_and_channels,
    injected_edges,
    isolation,
    kept_experts_permuted,
    masked_equivalence,
    order,
    renaming,
    shapes,
    termination,
    truth,
    union,
)
from moeverify.suites.properties.registry import PROPERTIES, Property, check_property
from moeverify.suites.properties.trial import NotApplicable, PropertyFailed, Trial

__all__ = ["PROPERTIES", "NotApplicable", "Property", "PropertyFailed", "Trial", "check_property"]
