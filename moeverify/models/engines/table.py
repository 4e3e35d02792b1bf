"""Sizes that serving engines take, with sources and dates.

They are no faults of a pruning: a later release may lift a limit. ``moeverify engines list --limits`` prints them.
"""

from __future__ import annotations

from collections.abc import Mapping

from moeverify.models.engines.limit import Holds, Limit

# Kernel libraries that an engine chooses from; their limits are the engine's.
KERNELS = {"vllm": ("vllm", "flashinfer", "aiter")}
HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
FUSED_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 320, 384, 448, 512, 576)
# Types of which an engine never reads head_dim, and transformers does where the configuration has one.
DERIVED_HEADS = {
    "vllm": ("qwen2_moe", "olmoe", "flex_olmo", "lfm2_moe", "jamba", "granitemoe", "granitemoe_swa",
             "granitemoeshared", "granitemoehybrid"),
    "llama.cpp": ("qwen2_moe", "granitemoe", "granitemoe_swa", "granitemoeshared", "granitemoehybrid"),
}  # fmt: skip


def limits_of(engine: str) -> tuple[Limit, ...]:
    """The limits of an engine, with those of the kernel libraries that it uses."""
    return tuple(limit for limit in LIMITS if limit.engine in KERNELS.get(engine, (engine,)))


def _multiple(of: int) -> Holds:
    return lambda value, sizes: value % of == 0


def _one_of(values: tuple[int, ...]) -> Holds:
    return lambda value, sizes: value in values


def _at_most(most: int) -> Holds:
    return lambda value, sizes: value <= most


def _groups_divide(value: int, sizes: Mapping[str, int]) -> bool:
    return value % sizes.get("groups", 1) == 0


def _parallel_divides(value: int, sizes: Mapping[str, int]) -> bool:
    # Two is the least that is parallel at all.
    return value % sizes.get("expert_parallel", 2) == 0


def _all_heads(value: int, sizes: Mapping[str, int]) -> bool:
    heads = sizes.get("heads", 0) * sizes.get("head_size", 0)
    return not heads or value == heads


def _in_a_group(most: int) -> Holds:
    return lambda value, sizes: sizes.get("groups", 1) == 1 or value <= most * sizes["groups"]


def _words(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))


_DERIVED_HEADS = "the head size is worked out as hidden size / heads, whatever head_dim says"
_K_QUANTS = "k-quants need rows of a multiple of 256 values; others are quantised less far"
_FLASHINFER = "flashinfer-ai/flashinfer#5165"
LIMITS = (
    Limit("vllm", "head_size", _one_of(HEAD_SIZES), f"attention on CPUs takes head sizes {_words(HEAD_SIZES)}",
          "vllm 0.32.0, v1/attention/backends/cpu_attn.py", "2026-11-26", effect="refused"),
    Limit("vllm", "experts", _one_of(FUSED_COUNTS),
          f"the fused router kernel on GPUs takes {_words(FUSED_COUNTS)} experts",
          "vllm-project/vllm#50982", "2026-11-26", "2026-08-04", types=("deepseek_v4",), effect="refused"),
    Limit("vllm", "hidden", _all_heads, _DERIVED_HEADS, "vllm 0.32.0, model_executor/models, a file a type",
          "2026-11-26", types=DERIVED_HEADS["vllm"], effect="differs"),
    Limit("vllm", "experts", _groups_divide,
          "experts that the groups do not divide are chosen without groups, otherwise than in transformers",
          "vllm-project/vllm#29439", "2026-11", "2025-11-25", effect="differs"),
    Limit("vllm", "experts", _parallel_divides, "expert parallelism needs a number of experts that its size divides",
          "vllm-project/vllm#52435", "2026-11"),
    Limit("vllm", "experts", _one_of(FUSED_COUNTS),
          f"the fused softmax router has a kernel for {_words(FUSED_COUNTS)} experts; others take a general one",
          "vllm, csrc/moe/topk_softmax_kernels.cu", "2026-11-26", not_for=("deepseek_v4",)),
    Limit("flashinfer", "groups", _at_most(8), "fused grouped routing takes at most 8 groups",
          _FLASHINFER, "2026-11", "2026-09-12"),
    Limit("flashinfer", "topk_group", _at_most(4), "fused grouped routing chooses at most 4 groups",
          _FLASHINFER, "2026-11", "2026-09-12"),
    Limit("aiter", "experts", _in_a_group(32), "fused grouped routing on AMD takes at most 32 experts a group",
          "ROCm/aiter#2369", "2026-11"),
    Limit("llama.cpp", "hidden", _all_heads, _DERIVED_HEADS,
          "llama.cpp, conversion/granite.py, reports/baselines/served.md", "2026-11-26",
          types=DERIVED_HEADS["llama.cpp"], effect="refused"),
    Limit("llama.cpp", "mamba_expand", _one_of((2,)), "the inner size of Mamba layers is twice the hidden size",
          "llama.cpp, src/models/jamba.cpp, reports/baselines/served.md", "2026-11-26", types=("jamba",),
          effect="refused"),
    Limit("llama.cpp", "experts", _groups_divide, "it stops at a number of experts that the groups do not divide",
          "llama.cpp, src/llama-model.cpp, reports/baselines/served.md", "2026-11-26", effect="refused"),
    Limit("llama.cpp", "hidden", _multiple(256), _K_QUANTS, "ggml-org/llama.cpp#1921", "2026-11", "2023-06-18"),
    Limit("llama.cpp", "expert_channels", _multiple(256), _K_QUANTS, "ggml-org/llama.cpp#1921", "2026-11",
          "2023-06-18"),
)  # fmt: skip
