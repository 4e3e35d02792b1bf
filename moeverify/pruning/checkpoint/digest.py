"""Digest of a checkpoint's content: the same however its weights are spread over files."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from types import TracebackType

import torch
from torch import nn

from moeverify.models.folder.stored_tensor import StoredTensor, values_of

_KNOWN = "_digest_of_stored_weights"  # weights that stay in their files do not change
_CHUNK = 1 << 26  # bytes hashed at a time
_WAITING = 1 << 25  # bytes that may wait to be hashed before more are taken


class Digest:
    """SHA-256 over names, types, shapes and values, hashed in a thread beside the reading.

    Tensors come in the order of their names; the values of one may come in pieces, and must not change any more.
    """

    def __init__(self) -> None:
        self._total = hashlib.sha256()
        self._items: deque[bytes | torch.Tensor | None] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def begin(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        """Announce a tensor."""
        self._put(f"{name} {dtype} {shape}\n".encode("utf-8", "surrogatepass"))

    def add(self, values: torch.Tensor) -> None:
        """Take values of the tensor that was announced last."""
        self._put(values)

    def result(self) -> str:
        """The digest as ``sha256:...``; nothing can be added afterwards."""
        self.close()
        return f"sha256:{self._total.hexdigest()}"

    def close(self) -> None:
        """End the thread."""
        if self._thread.is_alive():
            self._put(None)
            self._thread.join()

    def __enter__(self) -> Digest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _put(self, item: bytes | torch.Tensor | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting < _WAITING)
            self._items.append(item)
            self._waiting += _size(item)
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._items))
                item = self._items.popleft()
            if item is None:
                return
            if isinstance(item, bytes):
                self._total.update(item)
                continue
            flat = item.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            for start in range(0, len(flat), _CHUNK):
                self._total.update(flat[start : start + _CHUNK].numpy().data)
            with self._changed:
                self._waiting -= _size(item)
                self._changed.notify_all()
            del item, flat  # not to be held while waiting for more


def _size(item: bytes | torch.Tensor | None) -> int:
    return item.nbytes if isinstance(item, torch.Tensor) else 0


def digest_of(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of all parameters and saved buffers, as ``sha256:...``."""
    if (known := vars(model).get(_KNOWN)) is not None:
        return known
    with Digest() as total:
        for name, tensor in sorted(model.state_dict(keep_vars=False).items()):
            if isinstance(tensor, torch.Tensor):
                total.begin(name, tensor.dtype, tuple(tensor.shape))
                total.add(values_of(tensor))
        digest = total.result()
    if any(isinstance(p, StoredTensor) for p in model.parameters()):
        vars(model)[_KNOWN] = digest
    return digest
