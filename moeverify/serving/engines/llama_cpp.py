"""llama.cpp through ``xllamacpp``, with llama.cpp's own converter to GGUF."""

from __future__ import annotations

from pathlib import Path

from moeverify.models.engines.table import limits_of
from moeverify.serving.gguf_fidelity import conversion_faults
from moeverify.serving.registry import Engine, register

_ROOM = Path(__file__).parents[1]
_CONVERTER = ("vendor/llama.cpp/convert_hf_to_gguf.py", "vendor/llama.cpp/conversion/", "vendor/llama.cpp/gguf-py/")

LLAMA_CPP = register(
    Engine(
        "llama.cpp",
        _ROOM / "workers" / "serve_llama_cpp.py",
        pins=_ROOM / "pins" / "llama.cpp.txt",
        torch="2.13.0",  # for the converter
        # No package holds the converter; this source archive does.
        sources={"llama-cpp-python==0.3.36": _CONVERTER},
        inspect=conversion_faults,
        limits=limits_of("llama.cpp"),
    )
)
