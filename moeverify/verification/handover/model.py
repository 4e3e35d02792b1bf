"""A pruned model as data, and the judge's model that it is put into.

Every tensor travels with how it is registered; modules travel as paths, classes and values of attributes. The judge
puts all of it into a fresh copy of its own base. So hooks, replaced methods and classes have no effect: what computes
is the base's code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from moeverify.errors import HandoverError
from moeverify.verification.handover.values import Reader, Writer, class_path

# What nn.Module itself keeps; tensors and children are described on their own, hooks never travel.
_OWN = frozenset(vars(nn.Module())) | {"_is_hf_initialized", "_hf_hook", "_old_forward"}
_LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def describe(model: nn.Module, writer: Writer) -> dict[str, Any]:
    """The model as JSON data; its tensors go to ``writer``."""
    first: dict[int, str] = {}
    tensors = []
    for path, module in model.named_modules(remove_duplicate=False):
        for name, value, kind in _tensors(module):
            full = f"{path}.{name}" if path else name
            entry: dict[str, Any] = {"name": full, "kind": kind}
            if value is not None:
                entry |= {"grad": bool(value.requires_grad)}
                if (known := first.setdefault(id(value), full)) != full:
                    entry["same"] = known
                else:
                    entry["key"] = writer.array(value.detach())
                    writer.names[id(value)] = full
            tensors.append(entry)
    modules = []
    seen: set[int] = set()
    for path, module in model.named_modules(remove_duplicate=False):
        entry = {"path": path, "class": class_path(type(module))}
        if id(module) not in seen:
            seen.add(id(module))
            entry |= {"training": module.training, "attributes": writer.write(_attributes(module))}
        modules.append(entry)
    return {"modules": modules, "tensors": tensors}


def module_paths(model: nn.Module) -> dict[int, str]:
    """Path of each module, by identity."""
    return {id(module): path for path, module in model.named_modules()}


def rebuild(model: nn.Module, data: Mapping[str, Any], arrays: Mapping[str, torch.Tensor]) -> nn.Module:
    """Put what was handed over into ``model``, a copy of the base that is the judge's own; returns it.

    Raises ``HandoverError`` if the pruned model is more than the base's modules with other values.
    """
    _drop_modules(model, {entry["path"] for entry in data["modules"]})
    present = dict(model.named_modules(remove_duplicate=False))
    for entry in data["modules"]:
        path, kind = entry["path"], entry["class"]
        if path not in present:
            raise HandoverError(f"the pruned model has a module {path} that the base has not")
        if class_path(type(present[path])) != kind:
            raise HandoverError(f"{path or 'the model'} is of class {kind}, the base's of another one")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    made = _put_tensors(present, data["tensors"], arrays, device)
    reader = Reader(arrays, module=lambda path: present[path], tensor=lambda name: made[name])
    for entry in data["modules"]:
        if "attributes" in entry:
            module = present[entry["path"]]
            _put_attributes(module, entry["attributes"], reader)
            module.training = bool(entry["training"])
    return model


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor | None, str]]:
    """A module's own tensors with their registration: ``parameter``, ``buffer``, ``unsaved`` buffer or ``plain``."""
    for name, parameter in module._parameters.items():
        yield name, parameter, "parameter"
    for name, buffer in module._buffers.items():
        yield name, buffer, "unsaved" if name in module._non_persistent_buffers_set else "buffer"
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            yield name, value, "plain"


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {n: v for n, v in vars(module).items() if n not in _OWN and not isinstance(v, torch.Tensor)}


def _drop_modules(model: nn.Module, paths: set[str]) -> None:
    """Remove from lists the experts and layers that the pruned model lacks."""
    for path, module in list(model.named_modules(remove_duplicate=False)):
        gone = [name for name in module._modules if (f"{path}.{name}" if path else name) not in paths]
        present = path in paths or not path
        for name in gone if present else ():
            if not isinstance(module, _LISTS):
                raise HandoverError(f"the pruned model has no module {path}.{name}".replace(" .", " "))
            del module._modules[name]


def _put_tensors(
    present: Mapping[str, nn.Module],
    entries: list[Mapping[str, Any]],
    arrays: Mapping[str, torch.Tensor],
    device: torch.device,
) -> dict[str, torch.Tensor]:
    base = {
        f"{path}.{name}" if path else name: value.device
        for path, module in present.items()
        for name, value, _ in _tensors(module)
        if value is not None and value.device.type != "meta"
    }
    for module in present.values():
        for name, _, kind in list(_tensors(module)):
            if kind == "plain":
                delattr(module, name)
        module._parameters.clear()
        module._buffers.clear()
        module._non_persistent_buffers_set.clear()
    made: dict[str, torch.Tensor] = {}
    for entry in entries:
        full, kind = entry["name"], entry["kind"]
        path, _, name = full.rpartition(".")
        if path not in present:
            raise HandoverError(f"there is no module for the tensor {full}")
        module, value = present[path], None
        if "same" in entry:
            value = made[entry["same"]]
        elif "key" in entry:
            values = arrays[entry["key"]].to(base.get(full, device))
            grad = entry["grad"] and (values.is_floating_point() or values.is_complex())
            value = nn.Parameter(values, requires_grad=grad) if kind == "parameter" else values
        if value is not None:
            made[full] = value
        _register(module, name, value, kind)
    return made


def _register(module: nn.Module, name: str, value: torch.Tensor | None, kind: str) -> None:
    if kind == "parameter":
        module._parameters[name] = value  # type: ignore[assignment]  # a Parameter, by its kind
    elif kind in ("buffer", "unsaved"):
        module._buffers[name] = value
        if kind == "unsaved":
            module._non_persistent_buffers_set.add(name)
    elif kind == "plain":
        object.__setattr__(module, name, value)
    else:
        raise HandoverError(f"no tensor is registered as {str(kind)[:40]!r}")


def _put_attributes(module: nn.Module, data: Any, reader: Reader) -> None:
    before = _attributes(module)
    # A method that was put on the object itself is code: the class's own stays, and what it computes is compared.
    items = [pair for pair in data["items"] if not _is_method(module, pair)]
    names = {pair[0] for pair in items}
    for name in set(before) - names:
        if not callable(before[name]):
            vars(module).pop(name, None)
    for name, written in items:
        if name not in before and isinstance(written, dict) and written.get("$") == "opaque":
            continue  # the base's code cannot read what the base has not
        vars(module)[name] = reader.read(written, before.get(name))


def _is_method(module: nn.Module, pair: Any) -> bool:
    name, written = pair
    shadows = callable(getattr(type(module), name, None)) if isinstance(name, str) else False
    return shadows and isinstance(written, dict) and written.get("$") == "opaque"
