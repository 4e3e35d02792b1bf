"""What families of models call their modules."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Names:
    """Names of an MoE layer, its parts, and an expert's projections.

    ``patterns`` are the naming rules (routed experts, routers, shared experts) that a pruner has to be told, where
    the names are not usual ones.
    """

    moe: str
    experts: str
    router: str
    shared: str
    gate: str
    up: str
    down: str
    patterns: tuple[str, str, str] | None = None


FAMILIES = {
    "qwen": Names("mlp", "experts", "gate", "shared_expert", "gate_proj", "up_proj", "down_proj"),
    "mixtral": Names("block_sparse_moe", "experts", "gate", "shared_expert", "w1", "w3", "w2"),
    "fairseq": Names("moe", "expert_list", "router", "shared_expert", "fc_gate", "fc1", "fc2"),
    "arbitrary": Names(
        "mixture", "blades", "chooser", "common", "alpha", "beta", "omega",
        (r"^blades$", r"^(chooser|common_gate)$", r"^commons?$"),
    ),
}  # fmt: skip
