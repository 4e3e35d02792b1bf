"""Models of the two folders, loaded by plain transformers to be run."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch
from torch import nn

from moeverify.base.foreign import left_by
from moeverify.certification.evidence import Evidence, NotVisible
from moeverify.models.numerics import in_float64
from moeverify.models.sources import quiet_transformers

# Weights on disk up to which a model is loaded as a whole (it takes eight bytes a value then).
WHOLE_BYTES = 512 << 20


def check_asked(evidence: Evidence) -> None:
    """Raise ``NotVisible`` if the models are not to be run."""
    if evidence.options.oracle == "none":
        raise NotVisible("not run: --oracle none")


def fits(evidence: Evidence) -> bool:
    """Whether both models are loaded as a whole; larger ones are streamed from their folders."""
    return max(evidence.base_inventory.nbytes, evidence.inventory.nbytes) <= WHOLE_BYTES


def one_device(name: str) -> torch.device:
    """The device that an option names; ``auto`` is the first GPU, if there is one."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(folder: Path, device: str = "cpu") -> nn.Module:
    """The model in a folder, in float64. Raises ``NotVisible`` with transformers' error if it does not load."""
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = AutoConfig.from_pretrained(str(folder))
            if config.model_type == "synthetic_moe":
                import synthetic_models  # noqa: F401  registers the type
            kind = getattr(transformers, (config.architectures or [""])[0] or "", AutoModelForCausalLM)
            model: nn.Module = kind.from_pretrained(str(folder), dtype=torch.float64, attn_implementation="eager")
    except Exception as error:
        raise NotVisible(f"it does not load: {one_line(error)}") from error
    return in_float64(model.to(one_device(device)).eval())


def one_line(error: Exception) -> str:
    """An error in one line, without the colours of transformers' tables."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", left_by(error))
    return " ".join(text.split())[:300]


def vocabulary(model: nn.Module) -> int:
    """Number of tokens."""
    return next((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), 2)
