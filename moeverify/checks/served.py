"""``served``"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from moeverify.base.scratch import scratch_folder
from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, check, failed, inconclusive, skipped
from moeverify.errors import EngineError
from moeverify.models.skeleton import has_config
from moeverify.serving.compare import combined
from moeverify.serving.engines import ENGINES, engines_named
from moeverify.serving.folders import add_tokenizer, write_folder
from moeverify.serving.served import Asked, serve_pair


@check("served", optional=True)
def served(context: Context) -> Finding:
    """Proves that engines serve the pruned checkpoint as transformers runs it. Both get the same prompts of token ids,
    and log-probabilities of the next token are compared. They may differ by as much as the unpruned model's do in that
    engine, plus 0.01.

    ``--engines vllm,llama.cpp`` names them; each runs in a process and an environment of its own, made by ``moeverify
    engines install``. The GGUF that llama.cpp's converter makes is compared with the checkpoint. Does not cover other
    releases, quantised weights, or kernels that a CPU does not have. A model that an engine disagrees with transformers
    on before anything is pruned is ``inconclusive``.
    """
    engines = engines_named(context.engines or tuple(ENGINES))
    if not has_config(context.original) or not hasattr(context.original, "generate"):
        return skipped("not a language model of transformers; engines have no way to serve it")
    if not has_config(context.pruned):
        return failed("the pruned model has lost the configuration or the save_pretrained that the original has")
    asked = Asked(context.seed, torch.get_num_threads(), context.engine_timeout)
    with scratch_folder("served") as place:
        try:
            base = write_folder(context.original, place / "base", context.tokenizer)
            pruned = _pruned_folder(context, place / "pruned")
        except OSError as error:
            return inconclusive(f"the models cannot be written: {error}")
        except Exception as error:
            return failed(f"save_pretrained failed: {type(error).__name__}: {error}")
        try:
            outcomes = serve_pair(base, pruned, engines, asked)
        except EngineError as error:
            return inconclusive(str(error))
    context.facts["served"] = [outcome.to_dict() for outcome in outcomes]
    status, message = combined(outcomes)
    return Finding(status, message, {"engines": [outcome.to_dict() for outcome in outcomes]})


def _pruned_folder(context: Context, folder: Path) -> Path:
    """The folder that the subject's process saved; else the pruned model, saved here."""
    if context.saved is None or context.saved.problem:
        return write_folder(context.pruned, folder, context.tokenizer)
    shutil.copytree(context.saved.folder, folder, symlinks=True)
    add_tokenizer(folder, context.tokenizer)
    return folder
