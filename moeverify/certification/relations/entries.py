"""Entries of two configurations that differ, as transformers parses them: defaults filled in, aliases resolved."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moeverify.certification.structure.axes import with_entry
from moeverify.models.folder.skeleton import Skeleton

# Entries that no forward of a saved model reads.
_NO_EFFECT = re.compile(
    r"dropout|loss|initializer|(^|_)init(_|$)|jitter|use_cache|_name_or_path|transformers_version|^(torch_)?dtype$|"
    r"gradient|^output_|return_dict|problem_type|label|chunk_size_feed|tokenizer|architectures|auto_map|"
    r"pretraining_tp|quantization|torchscript|^name|is_encoder_decoder|cross_attention|tie_encoder|"
    r"_attn_implementation|experts_implementation|task_specific|"
    r"^(bos|eos|eod|pad|sep|cls|unk|mask|decoder_start|forced_\w+)_token_id$"
)
TOP_K = re.compile(r"(^|_)(top_?k|experts_per_tok(en)?|experts_per_token|selected_experts|moe_k)($|_experts$)")
GROUPS = re.compile(r"^(n_groups?|num_expert_groups?|n_expert_groups?|moe_n_group|topk_groups?|moe_topk_group)$")


@dataclass(frozen=True)
class Entry:
    """An entry that differs: its path, value in the base, value in the pruned folder."""

    path: tuple[str, ...]
    before: Any
    after: Any

    @property
    def key(self) -> str:
        """The last part of the path."""
        return self.path[-1]

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}: {self.before!r} in the base, {self.after!r} here"


def differing(before: Mapping[str, Any], after: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[Entry]:
    """Entries with an effect that differ. Exception: an entry that only one of the two has, since the class fills in
    defaults.
    """
    for key in (key for key in before if key in after):
        if _NO_EFFECT.search(key):
            continue
        old, new = before[key], after[key]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differing(old, new, (*path, key))
        elif old != new:
            yield Entry((*path, str(key)), old, new)


def gives_shapes(skeleton: Skeleton, entry: Entry) -> bool:
    """Whether shapes or names change when an entry gets the base's value back."""
    other = with_entry(skeleton, entry.path, entry.before)
    return other is None or other.shapes != skeleton.shapes


def is_count(value: Any) -> bool:
    """Whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)
