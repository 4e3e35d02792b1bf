"""The subject's process: imports the subject, lets it prune, hands over data; prunes again when asked."""

from __future__ import annotations

import contextlib
import copy
import shutil
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from moeverify.base.foreign import by_user, foreign_code, left_by
from moeverify.checks.context import EXAMPLE_LENGTH, input_lengths
from moeverify.errors import HandoverError, MoEVerifyError, SourceError
from moeverify.models.drawn import Drawer
from moeverify.models.forward import call_model
from moeverify.models.offload import fetch_offloaded
from moeverify.models.skeleton import has_config
from moeverify.models.state import same_start
from moeverify.pruning.checkpoint.digest import digest_of
from moeverify.subjects import Pruned
from moeverify.subjects.options import with_options
from moeverify.verdict import plain
from moeverify.verification.case import IMPORT, LOADING, PRUNE, Case
from moeverify.verification.handover.folder import SAVE_PROBLEM, SAVED, outputs_of, write_handover, write_outputs
from moeverify.verification.handover.model import describe, module_paths
from moeverify.verification.handover.outcome import OWN, describe_outcome
from moeverify.verification.handover.values import Writer
from moeverify.verification.in_process import imported
from moeverify.verification.judging import crash_of
from moeverify.verification.loading import load_model
from moeverify.verification.messages import Frames, pack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Send = Callable[[Mapping[str, Any]], None]


def serve(case: Case, connection: socket.socket, folder: Path) -> None:
    """Run the subject of a case and serve the judge on ``connection`` until it closes."""

    def send(message: Mapping[str, Any]) -> None:
        connection.sendall(pack(message))

    with contextlib.suppress(BrokenPipeError, ConnectionError):
        try:
            run = _SubjectRun(case, folder, send)
            for request in _requests(connection):
                run.prune(float(request["pruning_ratio"]), int(request["seed"]), ratios=request.get("ratios"))
        except MoEVerifyError as error:
            send({"kind": "refused", "error": type(error).__name__, "message": str(error)})
        except BaseException as error:
            if by_user(error):
                raise
            send({"kind": "fault", "message": left_by(error), "traceback": traceback.format_exc(limit=-20)})


def _requests(connection: socket.socket) -> Iterator[Mapping[str, Any]]:
    frames = Frames()
    while data := connection.recv(1 << 16):
        yield from frames.feed(data)


class _SubjectRun:
    """The subject and its model, loaded once; each pruning starts from a copy."""

    def __init__(self, case: Case, folder: Path, send: Send) -> None:
        self._case, self._folder, self._send = case, folder, send
        self._number = 0
        send({"kind": "stage", "stage": IMPORT})
        self._subject = with_options(imported(case.subject, case.rules()), case.subject, case.subject_options())
        send({"kind": "stage", "stage": LOADING})
        loaded = load_model(case)
        with foreign_code(f"{case.source} cannot be copied", SourceError):
            self._inputs = fetch_offloaded(loaded.model, loaded.example_inputs)
            self._digest = digest_of(loaded.model)
            self._base = copy.deepcopy(loaded.model)
        send({"kind": "stage", "stage": PRUNE})
        self.prune(case.pruning_ratio, case.seed, loaded.model)

    def prune(
        self, ratio: float, seed: int, model: nn.Module | None = None, ratios: Mapping[str, float] | None = None
    ) -> None:
        """Let the subject prune a fresh copy of the base, and hand over what came of it.

        ``ratios`` take the place of the case's own.
        """
        more = {} if ratios is None else {"ratios": dict(ratios)}
        model = copy.deepcopy(self._base) if model is None else model
        given, untouched = copy.deepcopy(self._inputs), copy.deepcopy(self._inputs)
        begin = time.perf_counter()
        try:
            answer = self._subject(model, given, pruning_ratio=ratio, seed=seed, **more)
        except BaseException as error:
            if by_user(error):
                raise
            status, message, evidence = crash_of(error)
            self._send({"kind": "crashed", "status": status.value, "message": message, "evidence": plain(evidence)})
            return
        outcome = answer if isinstance(answer, Pruned) else Pruned()
        pruned = outcome.result(model)
        folder = self._folder / str(self._number)
        self._number += 1
        try:
            folder.mkdir()
            self._hand_over(folder, pruned.eval(), outcome, time.perf_counter() - begin)
            write_outputs(folder, self._outputs(pruned, untouched, seed, longer=folder.name == "0"))
            if outcome.written is not None:
                shutil.move(outcome.written.folder, folder / SAVED)
            elif folder.name == "0" and "reload" in self._case.check_names() and has_config(pruned):
                _save(folder, pruned)
        except HandoverError as error:
            self._send({"kind": "no-data", "message": str(error)})
            return
        self._send({"kind": "handover", "folder": folder.name})

    def _outputs(
        self, pruned: nn.Module, inputs: Any, seed: int, *, longer: bool
    ) -> dict[int, dict[str, torch.Tensor]]:
        """Outputs of the live model on the example, and in other lengths if ``longer``."""
        result = {EXAMPLE_LENGTH: _computed(pruned, inputs, seed)}
        if longer and "computes-as-its-weights" in self._case.check_names() and result[EXAMPLE_LENGTH]:
            drawer = Drawer(self._base, inputs)
            for length in input_lengths(drawer, pruned).all:
                if (sized := drawer.in_length(length)) is not None:
                    result[length] = _computed(pruned, sized.example, seed)
        return result

    def _hand_over(self, folder: Path, pruned: nn.Module, outcome: Pruned, seconds: float) -> None:
        writer = Writer(module_paths(pruned), OWN)
        document = {
            "model": describe(pruned, writer),
            "outcome": describe_outcome(outcome, writer),
            "digest": self._digest,
            "seconds": seconds,
            "written": outcome.written is not None,
        }
        write_handover(folder, document, writer.arrays)


@torch.no_grad()
def _computed(pruned: nn.Module, inputs: Any, seed: int) -> dict[str, torch.Tensor]:
    """Outputs of the live model, with whatever hooks it has; nothing where it does not run."""
    try:
        with same_start(pruned, seed):
            return outputs_of(call_model(pruned, inputs, use_cache=False))
    except Exception:
        return {}


def _save(folder: Path, pruned: PreTrainedModel) -> None:
    """Save the live model as its user would: the judge loads it in a fresh process."""
    try:
        pruned.save_pretrained(folder / SAVED)
    except Exception as error:
        (folder / SAVE_PROBLEM).write_text(left_by(error), encoding="utf-8")
