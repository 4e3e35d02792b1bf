"""Tables that name the experts of a token by number."""

from __future__ import annotations

import torch
from foundry import Draft

from pruned_folders.catalogue import right, wrong
from pruned_folders.configuration import STEP
from pruned_folders.scripts import ASCENDING, experts


def remapped(draft: Draft, dtype: torch.dtype) -> Draft:
    """Experts in ascending order, and tables that name them by their new numbers."""
    place = torch.zeros(8, dtype=dtype)
    place[torch.tensor(ASCENDING)] = torch.arange(4, dtype=dtype)
    for name in draft.names("tid2eid"):
        draft.tensors[name] = place[draft.tensors[name]]
    return experts(draft)


@right("id-table-remapped", "deepseek_v4")
def _(folder, draft):
    return remapped(draft, torch.long)


@right("id-table-in-shorter-numbers", "deepseek_v4")
def _(folder, draft):
    return remapped(draft, torch.int32)


@wrong("id-table-not-remapped", "deepseek_v4", "router-intact", "renumbered")
def _(folder, draft):
    return experts(draft)


@wrong("id-table-remapped-to-others", "deepseek_v4", "router-intact", "names what was expert")
def _(folder, draft):
    for name in draft.names("tid2eid"):
        draft.tensors[name] = draft.tensors[name] % 4
    return experts(draft)


@wrong("id-table-as-real-numbers", "deepseek_v4", STEP, "config.json implies whole numbers")
def _(folder, draft):
    return remapped(draft, torch.float32)
