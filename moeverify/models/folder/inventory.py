"""Inventory of a checkpoint folder: configuration, index and headers, without reading any weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from moeverify.base.documents import DocumentLimits, read_document
from moeverify.base.files import stays_inside
from moeverify.errors import FileError, SourceError
from moeverify.models.folder.headers import Stored, read_header
from moeverify.models.limits import check_sizes

_LIMITS = DocumentLimits(not_finite=True)
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Second copies in the format of another program, which transformers does not read.
_SECOND_COPIES = ("consolidated", "adapter_model")
_OTHER_FORMATS = {
    ".bin": "PyTorch pickles",
    ".pt": "PyTorch pickles",
    ".pth": "PyTorch pickles",
    ".ckpt": "PyTorch pickles",
    ".gguf": "GGUF",
    ".h5": "HDF5",
    ".msgpack": "Flax",
    ".onnx": "ONNX",
    ".npz": "NumPy archives",
}


@dataclass(frozen=True)
class Inventory:
    """Content of a folder. ``tensors`` by the name on disk; ``problems`` has one line for each fault."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Stored]
    files: tuple[Path, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def model_type(self) -> str:
        """The architecture that ``config.json`` names."""
        return str(self.config.get("model_type", ""))


def resolve_folder(name: str | Path) -> Path:
    """The folder that ``name`` means: a path, or a hub name whose files are fetched or taken from the cache.

    Raises ``SourceError`` if there is no such folder.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise SourceError(f"{name} is a file; give the folder that holds config.json and *.safetensors")
    if str(name).count("/") == 1 and not str(name).startswith((".", "/", "~")):
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors"]))
        except Exception as error:
            raise SourceError(f"cannot fetch {name} from the hub: {' '.join(str(error).split())[:200]}") from error
    raise SourceError(f"no such folder: {name}; give a checkpoint folder or a hub name such as org/name")


def take_inventory(folder: Path) -> Inventory:
    """Read the headers of a folder.

    Raises ``SourceError`` if it is no checkpoint in the safetensors format, if a file is a link out of the folder, or
    if its configuration asks for more than any model has (transformers makes lists of that length). Everything else
    that is wrong with it becomes a line in ``problems``.
    """
    try:
        present = sorted(p for p in folder.iterdir() if p.is_file())
    except OSError as error:
        raise SourceError(f"{folder} cannot be read: {error.strerror}; check its permissions") from error
    files = [p for p in present if p.suffix == ".safetensors" and not p.name.startswith(_SECOND_COPIES)]
    if not files and not (folder / INDEX).is_file():  # an index without its shards is a damaged checkpoint
        raise SourceError(_no_safetensors(folder, present))
    for file in (*files, folder / "config.json", folder / INDEX):
        if file.exists() and not stays_inside(file, folder):
            raise SourceError(f"{file} is a link out of the folder; put the file itself there (cp -L follows links)")
    config, problems = _read_config(folder)
    check_sizes(config, str(folder / "config.json"))
    notes = [
        f"{p.name} is a second copy, which transformers does not read"
        for p in present
        if p.suffix == ".safetensors" and p not in files
    ]
    index, found = _read_index(folder)
    problems += found
    places: dict[str, list[Stored]] = defaultdict(list)
    broken: set[str] = set()
    for file in files:
        header = read_header(file)
        problems += header.problems
        if header.problems:
            broken.add(file.name)
        for tensor in header.tensors:
            places[tensor.name].append(tensor)
    problems += _which_files(folder, files, index)
    for name, stored in places.items():
        if len(stored) > 1 and len({t.file for t in stored}) > 1:
            problems.append(f"{name} is in {' and in '.join(sorted({t.file.name for t in stored}))}")
    if index is not None:
        problems += _index_problems(index, places, files, broken)
    tensors = {name: _chosen(stored, None if index is None else index.get(name)) for name, stored in places.items()}
    return Inventory(folder, config, tensors, tuple(files), tuple(problems), tuple(notes))


def _no_safetensors(folder: Path, present: list[Path]) -> str:
    for file in present:
        if file.suffix in _OTHER_FORMATS:
            return (
                f"{folder} holds {_OTHER_FORMATS[file.suffix]} ({file.name}), which are not read; convert them: load "
                "the model with transformers and call save_pretrained, which writes safetensors"
            )
    return f"{folder} holds no *.safetensors file; give the folder that save_pretrained wrote"


def _json_object(file: Path) -> tuple[dict[str, Any] | None, str]:
    """The object in a file, or what is wrong with it."""
    try:
        data = read_document(file, None, _LIMITS)
    except FileError as error:
        return None, str(error)
    return (data, "") if isinstance(data, dict) else (None, f"{file.name} is no JSON object")


def _read_config(folder: Path) -> tuple[dict[str, Any], list[str]]:
    file = folder / "config.json"
    if not file.is_file():
        return {}, ["config.json is missing"]
    config, problem = _json_object(file)
    if config is None:
        return {}, [problem]
    return config, [] if config.get("model_type") else ["config.json has no model_type"]


def _read_index(folder: Path) -> tuple[dict[str, str] | None, list[str]]:
    """``weight_map``, or ``None`` if there is no index that can be read."""
    file = folder / INDEX
    if not file.is_file():
        return None, []
    data, problem = _json_object(file)
    if data is None:
        return None, [problem]
    weight_map = data.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        return None, [f"{INDEX} has no weight_map from tensors to files"]
    return weight_map, []


def _which_files(folder: Path, files: list[Path], index: Mapping[str, str] | None) -> Iterator[str]:
    names = {file.name for file in files}
    if index is None:
        if SINGLE not in names and not (folder / INDEX).is_file():
            yield f"neither {SINGLE} nor {INDEX} is there, so loaders do not find {files[0].name}"
        elif SINGLE in names:
            for name in sorted(names - {SINGLE}):
                yield f"{name} is a stray file beside {SINGLE}: some loaders read every file, others only the one"
        return
    if SINGLE in names and SINGLE not in set(index.values()):
        yield f"{SINGLE} lies beside {INDEX}, which does not name it: loaders differ in which they read"
    for name in sorted(set(index.values())):
        if Path(name).name != name and (folder / name).is_file() and stays_inside(folder / name, folder):
            yield f"{INDEX} names {name[:80]} in a sub-folder, where most loaders do not look: move the file up"
        elif Path(name).name != name:
            yield f"{INDEX} names a file outside of the folder: {name[:80]}"
        elif name not in names:
            yield f"{name} is named in {INDEX} but missing"
    for name in sorted(names - set(index.values()) - {SINGLE}):
        yield f"{name} is a stray shard: {INDEX} does not name it, but some loaders read every file"


def _index_problems(
    index: Mapping[str, str], places: Mapping[str, list[Stored]], files: list[Path], broken: set[str]
) -> Iterator[str]:
    names = {file.name for file in files}
    for name, file in index.items():
        holders = {t.file.name for t in places.get(name, ())}
        if file in names - broken and file not in holders:
            where = f"; it is in {sorted(holders)[0]}" if holders else ""
            yield f"{INDEX} places {name} in {file}, which does not hold it{where}"
    for name, stored in places.items():
        if name not in index and stored[0].file.name in set(index.values()):
            yield f"{name} is in {stored[0].file.name} but not in {INDEX}: loaders that follow the index leave it out"


def _chosen(stored: list[Stored], file: str | None) -> Stored:
    return next((t for t in stored if t.file.name == file), stored[0])
