"""Model types of the zoo, from transformers' own registry, so that a new one appears by itself."""

from __future__ import annotations

import inspect
import re
from functools import cache
from typing import Any

# Entries that only a configuration with experts has: num_experts, n_routed_experts, moe_intermediate_size, is_moe ...
EXPERT_ENTRY = re.compile(r"expert|moe(?![a-z])")


@cache
def zoo_types() -> tuple[str, ...]:
    """Every causal language model type of the installed transformers that can have experts, sorted.

    A type qualifies by an entry of its configuration class (or of a configuration nested in it) whose name refers to
    experts. Whether its shrunken model has MoE layers is asked when it is built.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return tuple(sorted(filter(is_zoo_type, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)))


@cache
def is_zoo_type(model_type: str) -> bool:
    """Whether a type is one of ``zoo_types``. Only its own configuration is imported, not those of all types."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return False
    try:
        config_class = CONFIG_MAPPING[model_type]
    except KeyError:  # a name kept for old checkpoints, without a configuration of its own
        return False
    return any(EXPERT_ENTRY.search(entry) for entry in _entries(config_class))


def causal_config_class(model_type: str) -> Any:
    """Configuration class that the causal language model of a type is built from.

    For a composite type (text and images) it may be the class of the text part.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[model_type]
    text = getattr(config_class, "sub_configs", {}).get("text_config")
    if text is None:
        return config_class
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[config_class]
    return text if model_class.config_class is text else config_class


def _entries(config_class: Any) -> set[str]:
    """Names of the entries of a configuration class and of those nested in it."""
    names = set(getattr(config_class, "__dataclass_fields__", ())) | set(vars(config_class))
    names |= set(inspect.signature(config_class.__init__).parameters)  # before transformers 5 they are arguments
    for nested in getattr(config_class, "sub_configs", {}).values():
        if isinstance(nested, type):
            names |= _entries(nested)
    return {name for name in names if not name.startswith(("_", "base_model_"))}
