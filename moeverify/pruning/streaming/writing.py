"""Carry a plan out on a folder: every tensor is read once, cut, written, and compared with what loads from the disk."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moeverify.errors import PruningRefused, SourceError
from moeverify.models.checkpoints import quiet_transformers
from moeverify.models.folder.assembly import Assembly
from moeverify.models.folder.blocks import put_together
from moeverify.models.folder.memory import Memory
from moeverify.models.folder.stored_model import HeldInMemory, StoredModel, open_stored_model
from moeverify.pruning.checkpoint.digest import Digest
from moeverify.pruning.configuration import ConfigUpdate
from moeverify.pruning.plan.plan import Plan
from moeverify.pruning.step.carry_out import carry_out
from moeverify.pruning.streaming.cutting import Cutter, Seen, part_of
from moeverify.pruning.streaming.journal import Journal
from moeverify.pruning.streaming.layout import Group, Layout, Shards, divide
from moeverify.pruning.streaming.places import Place, places_of
from moeverify.pruning.streaming.progress import Meter

_WORD = 8  # bytes of the numbers that are compared


class FolderWriter:
    """Writes the pruned folder ``beside`` of a stored model: ``prepare`` first, then ``write``."""

    def __init__(self, base: StoredModel, plan: Plan, update: ConfigUpdate | None, beside: Path) -> None:
        self.base, self.plan, self.beside = base, plan, beside
        self.pruned: Any = _without_parameters(base.model)
        carry_out(self.pruned, plan, update)
        self.layout = Layout(self.pruned, base.naming.conversions)
        self._twins = _twins(base.model)
        self._cutter = Cutter(plan)
        self._memory = Memory()  # of what is read back

    def prepare(self) -> None:
        """Write configuration and headers, and make sure that they make a whole model together.

        What an earlier run wrote of the values stays. Raises ``HeldInMemory`` if the tensors cannot be stored one by
        one as those of the base are.
        """
        config = self.pruned.config
        config.dtype = str(self.pruned.dtype).removeprefix("torch.")
        config.architectures = [type(self.pruned).__name__]
        with quiet_transformers():
            config.save_pretrained(self.beside)
            if self.pruned.can_generate():
                self.pruned.generation_config.save_pretrained(self.beside)
        state = self.pruned.state_dict()
        written = {
            name: tensor
            for group in self.layout.groups
            for name, tensor in self.layout.written(group, {n: state[n] for n in group.names}).items()
        }
        self.shards: Shards = divide(self.beside, written, _largest_shard(self.base))
        self.shards.create(self.beside, sum(p.numel() for p in self.pruned.parameters()))
        try:
            self.saved = open_stored_model(str(self.beside), self.beside, self.pruned.dtype)
        except SourceError as error:
            raise HeldInMemory(f"the pruned folder would not load: {error}") from error
        shapes = {name: assembly.shape for name, (assembly, _) in self.saved.blocks.tensors.items()}
        for name, tensor in state.items():
            if shapes.get(name) != tuple(tensor.shape):
                raise HeldInMemory(f"{name} would load as {shapes.get(name)} and not as {list(tensor.shape)}")

    def write(self, journal: Journal, meter: Meter) -> str:
        """Write all values that an earlier run has not written; returns the digest of the base."""
        done = journal.done()
        journal.flush = self.shards.flush
        group_of = {name: group for group in self.layout.groups for name in group.names}
        held: dict[str, torch.Tensor] = {}
        with Digest() as digest:
            for old in sorted(self.base.blocks.tensors):
                assembly, dtype = self.base.blocks.tensors[old]
                digest.begin(old, dtype, assembly.shape)
                new = self.plan.renamed(old)
                group = group_of.get(new) if new is not None else None
                if new is None or group is None or group.names[0] in done:
                    self._cutter.read_through(assembly, dtype, digest.add)
                elif places := self._places(old, group):
                    self._write_experts(old, new, places, digest.add)
                    journal.note(group.names[0])
                else:
                    held[new] = self._cutter.of(old, self._twins.get(old, ()), assembly, dtype, digest.add)
                    if held.keys() >= set(group.names):
                        self._write_group(group, {name: held.pop(name) for name in group.names})
                        journal.note(group.names[0])
                meter.add(assembly.nbytes)
            journal.save()
            return digest.result()

    def _write_group(self, group: Group, values: dict[str, torch.Tensor]) -> None:
        for name, tensor in self.layout.written(group, values).items():
            self.shards.holder[name].write(name, tensor)
        for name in group.names:
            _require(_loads_as(*self.saved.blocks.tensors[name], values[name]), name)

    def _places(self, old: str, group: Group) -> list[list[Place]] | None:
        """Where the experts of a stack are written one by one; ``None`` if it is written as a whole."""
        (new, *others) = group.names
        saved, _ = self.saved.blocks.tensors[new]
        single = self.base.blocks.tensors[old][0].is_stack and saved.is_stack and not others
        if not single or not self._cutter.only_cuts(old, self._twins.get(old, ())):
            return None
        return places_of(self.layout, group, saved.shape[0])

    def _write_experts(self, old: str, new: str, places: list[list[Place]], seen: Seen) -> None:
        """Write a stack expert by expert, and compare each with what loads."""
        saved, dtype = self.saved.blocks.tensors[new]
        twins = self._twins.get(old, ())
        for expert, values in self._cutter.experts(old, twins, *self.base.blocks.tensors[old], seen):
            for place in places[expert]:
                self.shards.holder[place.name].write(place.name, place.of(values), place.row)
            _require(_same_bits(part_of(saved, dtype, expert, self._memory), values), new)


def _require(same: bool, name: str) -> None:
    if not same:
        raise PruningRefused(f"{name} loads from the pruned folder with other values than were cut")


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    mine, theirs = _bits(one), _bits(other)
    if mine.dtype != theirs.dtype:
        mine, theirs = mine.view(torch.uint8), theirs.view(torch.uint8)
    return torch.equal(mine, theirs)


def _loads_as(assembly: Assembly, dtype: torch.dtype, wanted: torch.Tensor) -> bool:
    """Whether a tensor of the new folder has these values, bit for bit; stacks are compared expert by expert."""
    if not assembly.is_stack:
        return _same_bits(put_together(assembly, dtype), wanted)
    return all(_same_bits(assembly.read(part).to(dtype), wanted[part]) for part in range(len(wanted)))


def _without_parameters(model: nn.Module) -> nn.Module:
    """A copy with parameters on the meta device. Buffers keep their values: some are constants that follow a size."""
    known: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, known)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """All bits as whole numbers, several bytes in one where they divide so: there is less to compare."""
    flat = tensor.contiguous().reshape(-1)
    offset = flat.storage_offset() * flat.dtype.itemsize
    wide = flat.nbytes % _WORD == 0 and offset % _WORD == 0 and flat.data_ptr() % _WORD == 0
    return flat.view(torch.int64 if wide else torch.uint8)


def _largest_shard(base: StoredModel) -> int | None:
    """The size of the base's largest file; ``None`` if it is the only one."""
    files = base.inventory.files
    return max(file.stat().st_size for file in files) if len(files) > 1 else None


def _twins(model: Any) -> dict[str, tuple[str, ...]]:
    """The other names of each tied tensor."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return {name: tuple(n for n in alike if n != name) for alike in names.values() for name in alike}


def start_over(journal: Journal, beside: Path) -> None:
    """Remove what an earlier run left half finished; its plan stays."""
    for path in beside.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    journal.forget_done()


def parameters(tensors: Iterable[torch.Tensor]) -> int:
    """Number of parameters."""
    return sum(t.numel() for t in tensors)
