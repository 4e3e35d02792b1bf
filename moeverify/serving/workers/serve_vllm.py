"""Worker of vLLM: runs in vLLM's environment, without moeverify."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import serve_loop
import vllm
import vllm.v1.worker.cpu_worker
from vllm import LLM, SamplingParams

# Of the cache of keys and values: a few short prompts need few, and a gibibyte of zeros takes longer than the model.
_BLOCKS = 128


def serve(folder: str, request: Mapping[str, Any], facts: dict[str, Any]) -> list[Any]:
    """The most likely next tokens of each prompt, with log-probabilities."""
    longest = max(len(prompt) for prompt in request["prompts"]) + 1
    model = LLM(
        folder,
        skip_tokenizer_init=True,
        dtype=request["dtype"],
        enforce_eager=True,
        max_model_len=max(longest, 64),
        max_num_seqs=4,
        max_num_batched_tokens=max(longest, 128),
        max_logprobs=request["top"],
        enable_prefix_caching=False,
        num_gpu_blocks_override=_BLOCKS,
        generation_config="vllm",
    )
    sampling = SamplingParams(max_tokens=1, temperature=0, logprobs=request["top"], detokenize=False)
    prompts = [{"prompt_token_ids": prompt} for prompt in request["prompts"]]
    outputs = model.generate(prompts, sampling, use_tqdm=False)
    return [
        [[token, candidate.logprob] for token, candidate in output.outputs[0].logprobs[0].items()][: request["top"]]
        for output in outputs
    ]


if __name__ == "__main__":
    serve_loop.main(serve, vllm.__version__)
