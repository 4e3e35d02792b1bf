"""Synthetic Mixture-of-Experts models, built from a small description that knows what is coupled with what."""

from synthetic_models.build import build, example_inputs
from synthetic_models.family import default_specs
from synthetic_models.pretrained import SyntheticMoEConfig, SyntheticMoEForCausalLM
from synthetic_models.spec import Cycle, Spec
from synthetic_models.truth import Truth, truth

__all__ = [
    "Cycle",
    "Spec",
    "SyntheticMoEConfig",
    "SyntheticMoEForCausalLM",
    "Truth",
    "build",
    "default_specs",
    "example_inputs",
    "truth",
]
