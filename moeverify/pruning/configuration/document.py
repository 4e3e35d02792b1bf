"""A configuration as the plain document that ``config.json`` holds: its entries by path, and back.

Work on the document instead of the object treats nested text configurations, lists with one number for each layer and
transformers' ``per_layer_config`` alike. All of them are paths such as ``("text_config", "hidden_size")`` or
``("intermediate_size", 3)``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moeverify.base.entries import Document, EntryPath
from moeverify.base.scratch import scratch_folder
from moeverify.pruning.configuration.replaced import replaced

# Sizes never depend on which token ends a text, nor on the library that wrote the file.
_NO_SIZES = ("_token_id", "_token_ids", "_token_index", "transformers_version", "id2label", "label2id")

# What a configuration holds beside its document and passes on to modules.
PRIVATE = ("_attn_implementation", "_experts_implementation")


def document_of(config: Any) -> Document:
    """The configuration as plain data, every entry written out."""
    return config.to_dict()


def config_from(config: Any, document: Document) -> Any:
    """A configuration of the same class, built from ``document`` as transformers builds it from ``config.json``.

    Raises whatever the class raises for entries that it does not accept.
    """
    # ``from_dict`` makes a text of each new configuration, for a log at level info.
    with replaced(type(config), "__repr__", object.__repr__):
        made = type(config).from_dict(copy.deepcopy(document))
    for private in PRIVATE:
        if getattr(config, private, None) is not None:
            setattr(made, private, getattr(config, private))
    return made


def written_and_loaded(config: Any) -> Any:
    """The configuration after it was saved to a file and loaded again.

    It need not be the same: ``save_pretrained`` leaves out what equals the class's defaults, and the class may compute
    some entries anew.
    """
    with scratch_folder("config") as folder:
        config.to_json_file(f"{folder}/config.json", use_diff=True)
        return type(config).from_json_file(f"{folder}/config.json")


def integers(document: Mapping | Sequence, path: EntryPath = ()) -> Iterator[tuple[EntryPath, int]]:
    """Every positive integer of the document with its path."""
    items = document.items() if isinstance(document, Mapping) else enumerate(document)
    for key, value in items:
        if isinstance(key, str) and key.endswith(_NO_SIZES):
            continue
        if isinstance(value, Mapping | list | tuple):
            yield from integers(value, (*path, key))
        elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
            yield (*path, key), value
