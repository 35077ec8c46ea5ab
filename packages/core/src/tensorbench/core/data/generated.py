"""The cache of generated datasets: keyed by what made them, written atomically, made once when several ask at once."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import logging
import os
import sys
import tempfile
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .files import DataError, cache_folder

log = logging.getLogger(__name__)

_SCALARS = (bool, int, float, str, type(None))


def key(name: str, version: int, loader: Callable[..., Any], seed: int, params: Mapping[str, Any]) -> str:
    """Hash of what decides the data: name, version, all parameters, seed, and the source of the loader's module."""
    bound = inspect.signature(loader).bind_partial(seed=seed, **params)
    bound.apply_defaults()
    try:
        arguments = json.dumps(bound.arguments, sort_keys=True)
    except TypeError as error:
        raise TypeError(f"parameters of the cached dataset {name!r} must be plain values: {error}") from error
    module = sys.modules.get(loader.__module__)
    try:
        source = inspect.getsource(module) if module is not None else inspect.getsource(loader)
    except (OSError, TypeError):
        try:
            source = inspect.getsource(loader)
        except OSError:
            source = loader.__code__.co_code.hex() + repr(loader.__code__.co_consts)
    text = json.dumps([name, version, arguments, source])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _encode(name: str, value: Any) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file, with the shape of the whole and the plain values as JSON beside them."""
    parts: dict[str, Any]
    if isinstance(value, np.ndarray):
        form, parts = "array", {"0": value}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        form, parts = "dataclass", {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    elif isinstance(value, dict):
        form, parts = "dict", value
    elif isinstance(value, tuple):
        form, parts = ("namedtuple" if hasattr(value, "_fields") else "tuple"), {str(i): v for i, v in enumerate(value)}
    else:
        kind = type(value).__name__
        raise TypeError(
            f"cached dataset {name!r} returned {kind}; return arrays, or a dict, tuple or dataclass of them"
        )
    arrays: dict[str, np.ndarray] = {}
    plain: dict[str, Any] = {}
    for part, content in parts.items():
        if not isinstance(part, str):
            raise TypeError(f"cached dataset {name!r} returned a dictionary with the key {part!r}; use strings")
        if isinstance(content, np.generic):
            content = content.item()
        if isinstance(content, np.ndarray) and not content.dtype.hasobject:
            arrays[f"a_{part}"] = content
        elif isinstance(content, _SCALARS):
            plain[part] = content
        else:
            kind = type(content).__name__
            raise TypeError(f"cached dataset {name!r}: {part!r} is {kind}; only arrays, numbers and strings are kept")
    meta = {"form": form, "order": list(parts), "plain": plain}
    return {"meta": np.array(json.dumps(meta)), **arrays}


def _decode(loader: Callable[..., Any], stored: Mapping[str, np.ndarray]) -> Any:
    meta = json.loads(str(stored["meta"]))
    plain = meta["plain"]
    parts = {part: plain[part] if part in plain else stored[f"a_{part}"] for part in meta["order"]}
    match meta["form"]:
        case "array":
            return parts["0"]
        case "dict":
            return parts
        case "tuple":
            return tuple(parts.values())
    returns = typing.get_type_hints(loader).get("return")
    if not isinstance(returns, type):
        raise TypeError(f"annotate the return type of the cached loader {loader.__qualname__} with its class")
    return returns(*parts.values()) if meta["form"] == "namedtuple" else returns(**parts)


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(loader: Callable[..., Any], path: Path) -> Any:
    with np.load(path, allow_pickle=False) as stored:
        return _decode(loader, {member: stored[member] for member in stored.files})


def cached(name: str, version: int, loader: Callable[..., Any], seed: int, params: Mapping[str, Any]) -> Any:
    """What ``loader(seed=seed, **params)`` returns, from the cache where it is there already.

    Raises:
        TypeError: the loader returned something that cannot be kept as plain arrays.
        DataError: the cache folder cannot be written.
    """
    path = cache_folder() / "generated" / name / f"{key(name, version, loader, seed, params)}.npz"
    if (found := _try_read(name, loader, path)) is not None:
        return found
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(f"{path}.lock").acquire()
    except OSError as error:
        raise _unwritable(path, error) from error
    # The lock spares others the work; the rename alone keeps the file whole.
    with held:
        if (found := _try_read(name, loader, path)) is not None:
            return found
        log.info("generating dataset %s (seed %s, %s)", name, seed, dict(params))
        arrays = _encode(name, loader(seed=seed, **params))
        try:
            _write(path, arrays)
        except OSError as error:
            raise _unwritable(path, error) from error
    # Read back even now, so that the first use and later ones see exactly the same values.
    return _read(loader, path)


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be written ({error}); set TENSORBENCH_CACHE to a folder with room")


def _try_read(name: str, loader: Callable[..., Any], path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return _read(loader, path)
    except TypeError:
        raise
    except Exception as error:
        log.warning("%s is damaged (%s); dataset %s is generated again", path, error, name)
        return None
