"""Synthetic Mixture-of-Experts models, built from a small description that knows what is coupled with what."""

from synthetic_models.build import build, example_inputs
from synthetic_models.family import default_specs
from synthetic_models.pretrained import SyntheticMoEConfig, SyntheticMoEForCausalLM
from synthetic_models.spec import Cycle, Spec

__all__ = [
    "Cycle",
    "Spec",
    "SyntheticMoEConfig",
    "SyntheticMoEForCausalLM",
    "build",
    "default_specs",
    "example_inputs",
]
