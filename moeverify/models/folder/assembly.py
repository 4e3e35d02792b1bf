"""Assembly of each tensor of a model from the tensors on disk, as transformers does on loading.

A model has several legal layouts on disk: experts listed or fused, gate and up joined or apart or interleaved, stacks
transposed, another prefix. Both folders are read through the conversions of transformers, so that all of them become
one naming. Stacks of experts are read one expert at a time.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from moeverify.models.folder.headers import Stored
from moeverify.models.folder.reader import Reader
from moeverify.models.folder.skeleton import Skeleton

Sources = Mapping[str, tuple[Stored, ...]]


@dataclass(frozen=True, eq=False)
class Assembly:
    """One tensor of the model: its sources on disk by pattern, and the conversion if there is one."""

    name: str
    sources: Sources
    skeleton: Skeleton
    reader: Reader
    converter: Any = None

    @property
    def first(self) -> Stored:
        """One of the sources."""
        return next(iter(self.sources.values()))[0]

    @cached_property
    def dtype(self) -> torch.dtype:
        """Type of the values on disk; the longest, if sources have several."""
        return self.types()[-1]

    def types(self, part: int | None = None) -> tuple[torch.dtype, ...]:
        """Types that the sources of the tensor, or of one slice, are stored in; the shortest first."""
        stored: list[Stored] = []
        for several in self.sources.values():
            divided = part is not None and self.converter is not None and len(several) == self.shape[0]
            stored += [several[part]] if part is not None and divided else several
        return tuple(sorted({one.torch_dtype for one in stored}, key=lambda dtype: (dtype.itemsize, str(dtype))))

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all sources."""
        return sum(s.nbytes for stored in self.sources.values() for s in stored)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape that the sources give. Raises ``ValueError`` if the conversion does not take them."""
        return tuple(self._convert({p: [_meta(s) for s in stored] for p, stored in self.sources.items()}).shape)

    def origin(self, part: int | None = None) -> str:
        """The name on disk, of one slice where each is stored apart."""
        stored = next(iter(self.sources.values()))
        return stored[part].name if part is not None and len(stored) > 1 else stored[0].name

    @cached_property
    def sliced(self) -> bool:
        """Whether slices along dimension 0 can be read one by one."""
        if len(self.shape) < 2:
            return False
        try:
            one = self._convert({p: self._part(stored, 0, _meta) for p, stored in self.sources.items()})
        except Exception:
            return False
        return tuple(one.shape) == (1, *self.shape[1:])

    @property
    def is_stack(self) -> bool:
        """Whether it is worth reading slice by slice: a matrix for each expert."""
        return len(self.shape) > 2 and self.sliced

    def read(self, part: int | None = None) -> torch.Tensor:
        """The values; with ``part`` one slice along dimension 0 of a tensor that is ``sliced``."""
        if part is None:
            return self._convert({p: [self.reader.tensor(s) for s in stored] for p, stored in self.sources.items()})
        return self._convert(self._slices(part))[0]

    def read_types(self, part: int | None = None) -> torch.Tensor:
        """For each value the number of its type in ``types(part)``, as the conversion moves them."""
        types = self.types(part)

        def number(stored: Stored) -> torch.Tensor:
            return torch.full(stored.shape, float(types.index(stored.torch_dtype)))

        if part is None:
            return self._convert({p: [number(s) for s in stored] for p, stored in self.sources.items()})
        return self._convert({p: self._part(stored, part, number) for p, stored in self.sources.items()})[0]

    def read_into(self, place: torch.Tensor, part: int) -> None:
        """Write one slice into ``place``, which has its shape; what is only concatenated is copied once."""
        tensors = self._slices(part)
        operations: list[Any] = [] if self.converter is None else list(self.converter.operations)
        if [type(operation).__name__ for operation in operations] == ["MergeModulelist", "Concatenate"]:
            merge, join = operations
            ordered = [tensors[p] for p in self.converter.source_patterns if p in tensors]
            alike = len(ordered) == len(tensors) and all(values[0].dtype == place.dtype for values in ordered)
            if alike and join.dim > 0 and _only_adds_a_dimension(merge, tensors):
                torch.cat([values[0] for values in ordered], join.dim - 1, out=place)
                return
        place.copy_(self._convert(tensors)[0])

    def _slices(self, part: int) -> dict[str, Any]:
        return {p: self._part(stored, part, self.reader.tensor) for p, stored in self.sources.items()}

    def _part(
        self, stored: tuple[Stored, ...], part: int, read: Callable[[Stored], torch.Tensor]
    ) -> list[torch.Tensor]:
        """Source of one slice: one of several tensors, or a slice of a single one."""
        if len(stored) == self.shape[0] > 1 and self.converter is not None:
            return [read(stored[part])]
        if len(stored) == 1 and stored[0].shape and stored[0].shape[0] == self.shape[0]:
            return [read(stored[0])[part : part + 1]]
        raise ValueError("not divisible")

    def _convert(self, tensors: dict[str, Any]) -> torch.Tensor:
        if self.converter is None:
            first: torch.Tensor = next(iter(tensors.values()))[0]
            return first
        base = self.name.replace("*.", "0.")
        for operation in self.converter.operations:
            if _only_adds_a_dimension(operation, tensors):  # without the copy that stacking makes
                tensors = {pattern: values[0].unsqueeze(0) for pattern, values in tensors.items()}
                if len(tensors) == 1:
                    tensors = {self.converter.target_patterns[0]: next(iter(tensors.values()))}
                continue
            tensors = operation.convert(
                tensors,
                source_patterns=self.converter.source_patterns,
                target_patterns=self.converter.target_patterns,
                full_layer_name=base,
                model=self.skeleton.model,
                config=self.skeleton.model.config,
                missing_keys=None,
            )
        found = next((value for key, value in tensors.items() if base.endswith(key) or key in base), None)
        if found is None:
            raise ValueError(f"the conversion gives {sorted(tensors)} and no {base}")
        converted: torch.Tensor = found[0] if isinstance(found, list) else found
        return converted


def _only_adds_a_dimension(operation: Any, tensors: Mapping[str, Any]) -> bool:
    """Whether an operation stacks one tensor of each source."""
    lists = all(isinstance(values, list) and len(values) == 1 for values in tensors.values())
    return type(operation).__name__ == "MergeModulelist" and operation.dim == 0 and lists


def _meta(stored: Stored) -> torch.Tensor:
    return torch.empty(stored.shape, dtype=stored.torch_dtype, device="meta")


@dataclass(frozen=True)
class Naming:
    """The tensors of one folder under the names of its model.

    ``missing``: names of the model without a tensor. ``unexpected``: tensors on disk without a name in the model.
    ``ignored``: tensors that the architecture leaves out on purpose (multi-token prediction layers). ``broken`` has a
    line for each tensor whose sources do not give its shape, ``misnumbered`` for experts that are not 0, 1, 2, ...
    ``conversions`` are those of transformers that the stored names asked for; saving reverses them.
    """

    tensors: Mapping[str, Assembly]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    ignored: tuple[str, ...]
    broken: Mapping[str, str] = field(default_factory=dict)
    misnumbered: tuple[str, ...] = ()
    conversions: tuple[Any, ...] = ()


def name_tensors(stored: Mapping[str, Stored], skeleton: Skeleton, reader: Reader) -> Naming:
    """Give every stored tensor its place in the model."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    model: Any = skeleton.model
    mapping = get_model_conversion_mapping(model) if hasattr(model, "base_model_prefix") else []
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    prefix, slots = getattr(model, "base_model_prefix", ""), model.state_dict()
    groups: dict[str, dict[str, list[Stored]]] = defaultdict(lambda: defaultdict(list))
    used: dict[str, Any] = {}
    unexpected: list[str] = []
    for name in sorted(stored, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, slots)
        if target not in slots and name in slots:
            target, pattern = rename_source_key(name, [], [], base_model_prefix=prefix, meta_state_dict=slots)
        if target not in slots:
            unexpected.append(name)
            continue
        converter = by_pattern[pattern] if pattern is not None else None
        if target in used and (used[target] is not converter or converter is None):
            unexpected.append(name)  # a second tensor for the same place: one of them is lost on loading
            continue
        used[target] = converter
        groups[target][pattern or name].append(stored[name])
    tensors: dict[str, Assembly] = {}
    for target, sources in groups.items():
        converter = used[target]
        for produced in _targets(target, converter):
            if produced in slots:
                frozen = {pattern: tuple(parts) for pattern, parts in sources.items()}
                converters_own = copy.copy(converter) if converter is not None else None
                tensors[produced] = Assembly(produced, frozen, skeleton, reader, converters_own)
    rest = [name for name in slots if name not in tensors and skeleton.tied.get(name) not in tensors]
    rest = [n for n in rest if not any(s == n and t in tensors for t, s in skeleton.tied.items())]
    missing = [n for n in rest if not _matches(n, getattr(model, "_keys_to_ignore_on_load_missing", None))]
    left_out = getattr(model, "_keys_to_ignore_on_load_unexpected", None)
    return Naming(
        tensors,
        tuple(missing),
        tuple(n for n in unexpected if not _matches(n, left_out)),
        tuple(n for n in unexpected if _matches(n, left_out)),
        _broken(tensors, skeleton),
        tuple(_misnumbered(groups)),
        tuple(entry for entry in mapping if entry.was_used()),
    )


def _targets(target: str, converter: Any) -> list[str]:
    """All tensors that one group of sources gives: a joint matrix may be divided into several."""
    if converter is None or len(converter.target_patterns) == 1:
        return [target]
    first = converter.target_patterns[0]
    return [target.replace(first, other) for other in converter.target_patterns]


def _matches(name: str, patterns: Any) -> bool:
    return any(re.search(pattern, name) for pattern in patterns or ())


def _broken(tensors: Mapping[str, Assembly], skeleton: Skeleton) -> dict[str, str]:
    result = {}
    for name, assembly in tensors.items():
        try:
            shape = assembly.shape
        except Exception as error:
            counts = ", ".join(f"{len(parts)} x {pattern}" for pattern, parts in assembly.sources.items())
            result[name] = f"cannot be put together from {counts}: {' '.join(str(error).split())[:120]}"
            continue
        if shape != skeleton.shapes[name]:
            result[name] = f"has shape {list(shape)}, config.json implies {list(skeleton.shapes[name])}"
    return result


def _misnumbered(groups: Mapping[str, Mapping[str, list[Stored]]]) -> list[str]:
    """Lists of experts whose numbers have holes: transformers takes them in order, other engines by their number."""
    lines = []
    for sources in groups.values():
        for pattern, parts in sources.items():
            if "*" not in pattern or len(parts) < 2:
                continue
            varying = _numbers([part.name for part in parts])
            if varying and varying != list(range(len(varying))):
                lines.append(
                    f"{parts[0].name} and its siblings are numbered {varying[:8]}, not 0 to {len(varying) - 1}"
                )
    return lines


def _numbers(names: list[str]) -> list[int]:
    """The one number that differs between names, of each."""
    columns = list(zip(*(map(int, re.findall(r"(?<=\.)\d+(?=\.)", name)) for name in names), strict=False))
    varying = [list(column) for column in columns if len(set(column)) > 1]
    return varying[0] if len(varying) == 1 else []
