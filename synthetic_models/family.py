"""The default family: small models that between them show every layout."""

from __future__ import annotations

from typing import Any

from synthetic_models.spec import Spec

_COMMON: dict[str, Any] = {
    "hidden": 32,
    "vocab": 64,
    "batch": 2,
    "length": 16,
    "top_k": 2,
    "shared_width": 12,
    "dense_width": 24,
    "latent": 8,
    "kv_heads": 4,
    "head_dim": 8,
}


def default_specs() -> dict[str, Spec]:
    """Name to spec, in the order in which they are verified."""

    def spec(**more: Any) -> Spec:
        return Spec(**{"widths": (16,) * 4, "activation": "swiglu", "layers": ("moe", "moe"), **_COMMON, **more})

    return {
        "listed": spec(attention="grouped_query", kv_heads=2, group=2, layers=("dense", "moe", "moe")),
        "fused": spec(storage="fused", attention="per_head_norm", kv_heads=2, group=2, shared="one"),
        "interleaved": spec(storage="fused_interleaved", bias=True, attention="multi_head", router="noisy"),
        "unequal": spec(widths=(8, 16, 24, 16), activation="geglu", names="mixtral", shared="several"),
        "gated-shared": spec(shared="gated", attention="multi_head", residual="parallel", tied_embeddings=True),
        "latent": spec(
            storage="fused_transposed", attention="latent", router="group_limited", layers=("dense", "moe", "moe")
        ),
        "fairseq": spec(names="fairseq", activation="mlp", bias=True, norm="layer", residual="post", top_k=1),
        "soft": spec(storage="per_projection", router="soft", router_hidden=8, features=6, norm="layer"),
    }
