"""The zoo: a tiny random model of every MoE causal language model type that transformers has."""

from moeverify.models.zoo.build import build_zoo, randomise
from moeverify.models.zoo.listing import ZooEntry, describe, zoo_listing
from moeverify.models.zoo.registry import zoo_types
from moeverify.models.zoo.shrink import shrunken_config

__all__ = ["ZooEntry", "build_zoo", "describe", "randomise", "shrunken_config", "zoo_listing", "zoo_types"]
