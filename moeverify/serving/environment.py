"""Environments of engines: one virtual environment each, under the user's cache, from a pinned list.

``MOEVERIFY_CACHE`` names another folder than ``~/.cache/moeverify``. ``MOEVERIFY_PYTHON_VLLM``,
``MOEVERIFY_PYTHON_LLAMA_CPP`` and so on name the Python of an environment of the user's own that has the engine.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from moeverify.base.locks import only_one
from moeverify.errors import EngineError
from moeverify.serving.ask import last_line
from moeverify.serving.registry import Engine

CACHE = "MOEVERIFY_CACHE"
_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_MARK = "installed.json"


@dataclass(frozen=True)
class Installation:
    """State of an engine's installation: ``python`` runs its worker, or ``problem`` is the reason why none can."""

    engine: Engine
    python: Path | None
    problem: str = ""
    where: str = ""


def cache_folder() -> Path:
    """Folder of the engines' environments."""
    given = os.environ.get(CACHE)
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "moeverify")


def installation(engine: Engine) -> Installation:
    """The environment of an engine as it is now."""
    variable = own_python_variable(engine)
    own = os.environ.get(variable)
    if own:
        path = Path(own).expanduser()
        problem = "" if path.is_file() else f"{variable} names {own}, which is no file"
        return Installation(engine, None if problem else path, problem, variable)
    if engine.python is not None:
        return Installation(engine, engine.python, "", str(engine.python))
    folder = engine_folder(engine)
    if not (folder / _MARK).is_file():
        return Installation(engine, None, f"not installed; run `moeverify engines install {engine.name}`", str(folder))
    return Installation(engine, folder / "bin" / "python", "", str(folder))


def own_python_variable(engine: Engine) -> str:
    """The variable that names the Python of an environment of the user's own."""
    return f"MOEVERIFY_PYTHON_{re.sub('[^A-Z0-9]', '_', engine.name.upper())}"


def engine_folder(engine: Engine) -> Path:
    """The folder of an engine's environment: another one for every list of requirements and every Python."""
    pins = engine.pins.read_text("utf-8") if engine.pins else ""
    text = "\n".join([pins, engine.torch, *engine.sources, sys.version])
    return cache_folder() / "engines" / f"{engine.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def pinned_version(engine: Engine) -> str:
    """The release that would be installed: the first pin that bears the engine's name."""
    plain = re.sub("[^a-z]", "", engine.name)
    for line in engine.pins.read_text("utf-8").splitlines() if engine.pins else ():
        name, equals, version = line.partition("==")
        if equals and plain in re.sub("[^a-z]", "", name):
            return version.strip()
    return ""


def install(engine: Engine, on_step: Callable[[str], None] = lambda text: None) -> Path:
    """Make the environment of an engine; return its Python. ``on_step`` is called with what is done next.

    Raises ``EngineError`` with the last line of whatever failed.
    """
    installed = installation(engine)
    if installed.python is not None:
        return installed.python
    if engine.pins is None:
        raise EngineError(f"{engine.name} comes without a list of requirements; set {own_python_variable(engine)}")
    folder = engine_folder(engine)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with only_one(folder.with_name(f"{folder.name}.lock"), f"{engine.name} is being installed into {folder}"):
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted installation left
        on_step(f"environment {folder}")
        _run([sys.executable, "-m", "venv", str(folder)], engine)
        pip = [str(folder / "bin" / "python"), "-m", "pip"]
        on_step(f"packages of {engine.pins.name}")
        _run([*pip, "install", "-q", "--no-deps", "-r", str(engine.pins)], engine)
        if engine.torch:
            _add_torch(engine, folder, pip, on_step)
        for requirement, prefixes in engine.sources.items():
            on_step(f"sources of {requirement}")
            _unpack(engine, requirement, prefixes, folder, pip)
        (folder / _MARK).write_text(json.dumps({"engine": engine.name, "pins": engine.pins.name}), "utf-8")
    return folder / "bin" / "python"


def _add_torch(engine: Engine, folder: Path, pip: list[str], on_step: Callable[[str], None]) -> None:
    """PyTorch is large: the same release for CPUs is linked from here."""
    site = next((folder / "lib").glob("python3*")) / "site-packages"
    here = metadata.distribution("torch")
    if here.version == f"{engine.torch}+cpu":
        on_step(f"torch {here.version}, linked from this environment")
        for name in _top_level(here):
            if not (site / name).exists():
                (site / name).symlink_to(Path(str(here.locate_file(name))).resolve())
        return
    on_step(f"torch {engine.torch} for CPUs")
    _run([*pip, "install", "-q", "--no-deps", "--extra-index-url", _CPU_INDEX, f"torch=={engine.torch}+cpu"], engine)


def _top_level(distribution: metadata.Distribution) -> Iterable[str]:
    names = {Path(file).parts[0] for file in distribution.files or ()}
    return sorted(name for name in names if name not in ("..", "__pycache__"))


def _unpack(engine: Engine, requirement: str, prefixes: tuple[str, ...], folder: Path, pip: list[str]) -> None:
    """Unpack the files of a source archive that lie under ``prefixes`` into ``sources``, without the prefixes' common
    path.
    """
    place = folder / "archives"
    _run([*pip, "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(place), requirement], engine)
    common = os.path.commonpath(prefixes)
    for archive in place.glob("*.tar.gz"):
        with tarfile.open(archive) as tar:
            for member in tar:
                inner = member.name.partition("/")[2]  # below the folder that bears the archive's name
                if member.isfile() and inner.startswith(prefixes):
                    member.name = os.path.relpath(inner, common)
                    tar.extract(member, folder / "sources", filter="data")
    shutil.rmtree(place)
    if not (folder / "sources").is_dir():
        raise EngineError(f"cannot install {engine.name}: {requirement} holds no {prefixes[0]}; report it")


def _run(command: list[str], engine: Engine) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)
    except OSError as error:
        raise EngineError(f"cannot install {engine.name}: {error.strerror}: {command[0]}") from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [last_line(done.stderr)]
        raise EngineError(
            f"cannot install {engine.name}: {' '.join(errors[0].split())[:300]}; see that pip reaches an index"
        )
