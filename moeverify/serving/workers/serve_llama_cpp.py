"""Worker of llama.cpp: converts a folder to GGUF with llama.cpp's converter and serves that, without moeverify.

Weights and the cache of keys and values are float32, and attention is not fused. So differences come from the model and
not from its precision.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import serve_loop

_CONVERTER = Path(sys.prefix) / "sources"


def convert(folder: Path, target: Path, facts: dict[str, Any]) -> None:
    """Write the GGUF of a folder. Raises what the converter raises."""
    import gguf
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    with torch.inference_mode():
        hparams = ModelBase.load_hparams(folder, False)
        kind = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
        own = kind.set_vocab

        def set_vocab(model: Any) -> None:
            # Prompts are token ids: the vocabulary is only there to be counted.
            if any(folder.glob("tokenizer*")):
                held = {key: dict(part) for key, part in enumerate(model.gguf_writer.kv_data)}
                try:
                    own(model)
                    return
                except Exception as error:  # a tokenizer that the converter does not know
                    facts["tokenizer"] = f"{type(error).__name__}: {error}"[:200]
                    for key, part in held.items():
                        model.gguf_writer.kv_data[key] = part
            _stand_in(model)

        kind.set_vocab = set_vocab
        kind(folder, gguf.LlamaFileType.ALL_F32, target).write()


def _stand_in(model: Any) -> None:
    size = int(model.find_hparam(["vocab_size"]))
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"t{number}".encode() for number in range(3, size))][:size]
    writer = model.gguf_writer
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([2, 3, 3, *[1] * max(size - 3, 0)][:size])


def describe(path: Path) -> dict[str, Any]:
    """Numbers of the metadata, and names and shapes of the tensors of a GGUF file."""
    import gguf

    reader = gguf.GGUFReader(path)
    metadata_ = {}
    for name, part in reader.fields.items():
        if not name.startswith(("tokenizer.", "GGUF.")):
            value = part.contents()
            if isinstance(value, int | float | str | bool) or (isinstance(value, list) and len(value) < 2048):
                metadata_[name] = value
    tensors = {tensor.name: [int(size) for size in reversed(tensor.shape)] for tensor in reader.tensors}
    return {"metadata": metadata_, "tensors": tensors}


def serve(folder: str, request: Mapping[str, Any], facts: dict[str, Any]) -> list[Any]:
    """The most likely next tokens of each prompt, with log-probabilities."""
    import xllamacpp

    path = Path(os.environ.get("TMPDIR", "/tmp"), f"{os.getpid()}.gguf")
    try:
        convert(Path(folder), path, facts)
        facts["gguf"] = describe(path)
        plain = xllamacpp.ggml_type.GGML_TYPE_F32
        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_ctx, settings.n_parallel, settings.warmup, settings.fit_params = 256, 1, False, False
        settings.cpuparams.n_threads = request["threads"]
        settings.cache_type_k = settings.cache_type_v = plain
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        server = xllamacpp.Server(settings)
        return [_next(server, prompt, request["top"]) for prompt in request["prompts"]]
    finally:
        path.unlink(missing_ok=True)


def _next(server: Any, prompt: list[int], top: int) -> list[Any]:
    answer = server.handle_completions(
        {"prompt": prompt, "n_predict": 1, "n_probs": top, "temperature": 0, "cache_prompt": False}
    )
    if "error" in answer:
        raise RuntimeError(str(answer["error"]))
    logprobs = answer["choices"][0]["logprobs"] if "choices" in answer else answer["completion_probabilities"][0]
    first = logprobs["content"][0] if "content" in logprobs else logprobs
    return [[entry["id"], entry["logprob"]] for entry in first["top_logprobs"]]


if __name__ == "__main__":
    sys.path[:0] = [str(_CONVERTER), str(_CONVERTER / "gguf-py")]
    import conversion  # noqa: F401  before children are forked
    import torch

    torch.set_num_threads(1)
    serve_loop.main(serve, metadata.version("xllamacpp"))
