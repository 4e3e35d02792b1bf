"""The sizes of a model by name: what pruning may change, one entry for each class of channels.

They are the integer entries of the configuration, so that a pruned model can always be rebuilt from its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from synthetic_models.spec import Spec

Sizes = Mapping[str, int]


def sizes_of(spec: Spec) -> dict[str, int]:
    """Entries such as ``hidden_size``, ``layer_0_experts`` (their number), ``layer_0_expert_1_size``."""
    sizes = {"hidden_size": spec.hidden}
    for number, kind in enumerate(spec.layers):
        prefix = f"layer_{number}_"
        if spec.attention != "none":
            sizes[f"{prefix}kv_heads"] = spec.kv_heads
            sizes[f"{prefix}heads_per_kv_head"] = spec.group
            sizes[f"{prefix}head_size"] = sizes[f"{prefix}value_head_size"] = spec.head_dim
        if spec.attention == "latent":
            sizes[f"{prefix}latent_size"] = spec.latent
            sizes[f"{prefix}rotary_head_size"] = spec.head_dim
        if kind == "dense":
            sizes[f"{prefix}dense_size"] = spec.dense_width
            continue
        sizes[f"{prefix}experts"] = spec.experts
        if spec.storage == "listed":
            sizes.update({f"{prefix}expert_{e}_size": width for e, width in enumerate(spec.widths)})
        else:
            sizes[f"{prefix}experts_size"] = spec.widths[0]
        if spec.router_hidden:
            sizes[f"{prefix}router_size"] = spec.router_hidden
        for part in range({"none": 0, "several": 2}.get(spec.shared, 1)):
            sizes[f"{prefix}shared_{part}_size"] = spec.shared_width
    return sizes
