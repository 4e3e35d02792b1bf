"""Subjects that take folders: a checkpoint in, a pruned checkpoint out, as command-line pruners do.

``prune(base_folder, out_folder, *, pruning_ratio, seed)`` is recognised by the names of its first two parameters. A
command is written ``cmd:python prune.py {base} {out} --ratio {ratio} --seed {seed}``; no shell is involved. A role in
braces, such as ``{experts}``, is the ratio of that role.
"""

from __future__ import annotations

import functools
import inspect
import os
import shlex
import shutil
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from string import Formatter
from tempfile import mkdtemp
from typing import Any

import torch
from torch import nn

from moeverify.base.forms import ROLES
from moeverify.errors import SubjectError, UsageError
from moeverify.models.checkpoints import load_configuration, one_line, quiet_transformers
from moeverify.models.classes import model_class
from moeverify.models.skeleton import has_config

PREFIX = "cmd:"
_PARAMETERS = ("base_folder", "out_folder")
_FIELDS = frozenset(("base", "out", "ratio", "seed", *ROLES))


def takes_folders(function: Callable[..., Any]) -> bool:
    """Whether the first two parameters of a function are ``base_folder`` and ``out_folder``."""
    try:
        return tuple(inspect.signature(function).parameters)[:2] == _PARAMETERS
    except (TypeError, ValueError):
        return False


class Written:
    """A folder that a subject wrote. It goes when nothing refers to it any more."""

    def __init__(self) -> None:
        place = mkdtemp(prefix="moeverify-subject-")
        weakref.finalize(self, shutil.rmtree, place, ignore_errors=True)
        self.base, self.folder = Path(place, "base"), Path(place, "pruned")


def on_models(function: Callable[..., Any]) -> Callable[..., tuple[nn.Module, Written]]:
    """Let a function on folders prune a model: it is saved, pruned on disk and loaded by plain transformers.

    The result raises ``SubjectError`` for a model that cannot be saved, and for a folder that does not load.
    """

    @functools.wraps(function)
    def prune(
        model: nn.Module, example_inputs: Any, *, pruning_ratio: float, seed: int, **options: Any
    ) -> tuple[nn.Module, Written]:
        if not has_config(model):
            raise SubjectError(f"{type(model).__name__} has no save_pretrained, which a subject on folders needs")
        written = Written()
        with quiet_transformers():
            model.save_pretrained(written.base)
        function(written.base, written.folder, pruning_ratio=pruning_ratio, seed=seed, **options)
        if not (written.folder / "config.json").is_file():
            raise SubjectError("it wrote no checkpoint: the output folder has no config.json")
        return _loaded(written.folder, model), written

    return prune


def _loaded(folder: Path, like: nn.Module) -> nn.Module:
    """Model that plain transformers loads, in the precision and on the device of the base; missing keys stay random."""
    parameter = next(like.parameters())
    try:
        config = load_configuration("the folder that it wrote", str(folder))
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: nn.Module = model_class(config).from_pretrained(
                str(folder), dtype=parameter.dtype, attn_implementation=_attention(like), use_safetensors=True
            )
    except Exception as error:
        raise SubjectError(f"the folder that it wrote does not load: {one_line(error)}") from error
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()  # out of the mapped files
    for name in vars(model).keys() - vars(like).keys():
        delattr(model, name)  # how it was loaded, which the base does not tell of itself
    return model.to(parameter.device).eval()


def _attention(model: nn.Module) -> str:
    return getattr(getattr(model, "config", None), "_attn_implementation", None) or "eager"


def command(template: str) -> Callable[..., None]:
    """A function on folders from a command line with ``{base}``, ``{out}``, ``{ratio}``, ``{seed}`` and roles.

    Raises ``UsageError`` for a template without the folders, or with another placeholder.
    """
    try:
        words = shlex.split(template)
        named = {field for word in words for _, field, *_ in Formatter().parse(word) if field is not None}
    except ValueError as error:
        raise UsageError(f"{PREFIX}{template}: {error}; write literal braces as {{{{ and }}}}") from error
    if unknown := named - _FIELDS:
        raise UsageError(f"{PREFIX} knows no {{{min(unknown)}}}; use {{base}}, {{out}}, {{ratio}}, {{seed}} or a role")
    if not {"base", "out"} <= named:
        raise UsageError(f"{PREFIX} needs both {{base}} and {{out}}, e.g. {PREFIX}python prune.py {{base}} {{out}}")

    def prune(
        base_folder: Path, out_folder: Path, *, pruning_ratio: float, seed: int,
        ratios: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        if unheard := set(ratios or ()) - named:
            raise UsageError(f"the command has no {{{min(unheard)}}}; leave out --ratio {min(unheard)}=... or write it")
        values = {"base": str(base_folder), "out": str(out_folder), "ratio": f"{pruning_ratio:g}", "seed": str(seed)}
        values |= {role: f"{(ratios or {}).get(role, pruning_ratio):g}" for role in ROLES}
        line = [word.format(**values) for word in words]
        try:
            done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                                  env=_environment())  # fmt: skip
        except OSError as error:
            raise SubjectError(f"{line[0]} cannot be started: {error.strerror}") from error
        sys.stdout.write(done.stdout[-20_000:])
        sys.stderr.write(done.stderr[-20_000:])
        if done.returncode:
            lines = [text for text in (done.stderr or done.stdout).splitlines() if text.strip()]
            last = lines[-1].strip()[:300] if lines else "it printed nothing"
            raise SubjectError(f"{line[0]} ended with exit status {done.returncode}: {last}")

    return prune


def _environment() -> dict[str, str]:
    """The environment without the packages of this Python: the command may belong to another one."""
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    own = [f for f in folders if f and not f.startswith((sys.prefix, sys.base_prefix)) and "site-packages" not in f]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(own)}
