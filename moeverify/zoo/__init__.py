"""The zoo: a tiny random model of every MoE causal language model type that transformers has."""

from moeverify.zoo.build import build_zoo, randomise
from moeverify.zoo.listing import ZooEntry, describe, zoo_listing
from moeverify.zoo.registry import zoo_types
from moeverify.zoo.shrink import shrunken_config

__all__ = ["ZooEntry", "build_zoo", "describe", "randomise", "shrunken_config", "zoo_listing", "zoo_types"]
