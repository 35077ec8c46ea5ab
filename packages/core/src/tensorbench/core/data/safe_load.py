"""Reading ``.npy`` and ``.npz`` files that contain pickled objects, without letting them run code.

``numpy.load(allow_pickle=True)`` executes whatever a file asks for. Public data sets are often dictionaries of arrays
saved in just this way; :func:`safe_numpy_load` rebuilds such dictionaries and refuses everything else.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

_PLAIN = (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)
_BUILTINS = {kind.__name__: kind for kind in _PLAIN} | {"unicode": str}
# The modules in which numpy kept its rebuilding functions over the years.
_MULTIARRAY = frozenset({"numpy.core.multiarray", "numpy._core.multiarray"})
_NUMERIC = frozenset({"numpy.core.numeric", "numpy._core.numeric"})


class UnsafePickleError(ValueError):
    """A pickle asked for something other than numpy arrays and plain Python containers."""


def _scalar(dtype: np.dtype, data: Any = None) -> Any:
    """A numpy scalar from its bytes; an object scalar would take the bytes for a pointer."""
    if dtype.hasobject:
        raise UnsafePickleError("a numpy scalar of object type in a pickle is not accepted")
    return np.frombuffer(data, dtype=dtype, count=1)[0]


def _reconstruct(subtype: type, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """The empty array that a pickle fills afterwards; subclasses of ndarray are refused."""
    if subtype is not np.ndarray:
        raise UnsafePickleError(f"an array of type {subtype!r} in a pickle is not accepted")
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes; only the codec that it really uses."""
    if encoding not in ("latin1", "latin-1"):
        raise UnsafePickleError(f"the codec {encoding!r} in a pickle is not accepted")
    return text.encode("latin1")


def _frombuffer(buffer: Any, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """How protocol 5 writes arrays."""
    if np.dtype(dtype).hasobject:
        raise UnsafePickleError("an object array made from a buffer is not accepted")
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")


def _allowed(module: str, name: str) -> Callable[..., Any] | type | None:
    if module in ("builtins", "__builtin__"):
        return _BUILTINS.get(name)
    if module in _MULTIARRAY and name in ("_reconstruct", "scalar"):
        return _reconstruct if name == "_reconstruct" else _scalar
    if module in _NUMERIC and name == "_frombuffer":
        return _frombuffer
    if module == "numpy" and name in ("dtype", "ndarray"):
        return getattr(np, name)
    if module == "numpy.dtypes" and name.endswith("DType") and isinstance(getattr(np.dtypes, name, None), type):
        return getattr(np.dtypes, name)
    if module == "_codecs" and name == "encode":
        return _encode
    if module == "collections" and name == "OrderedDict":
        return dict
    return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: BinaryIO, origin: str, encoding: str) -> None:
        super().__init__(stream, encoding=encoding)
        self._origin = origin

    def find_class(self, module: str, name: str) -> Any:
        found = _allowed(module, name)
        if found is None:
            raise UnsafePickleError(
                f"{self._origin}: refused to load {module}.{name} from a pickle; "
                "only numpy arrays and plain containers (dict, list, tuple, set, str, int, float) are read"
            )
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickleError(f"{self._origin}: refused a persistent reference in a pickle")


def _read_npy(stream: BinaryIO, origin: str, encoding: str) -> np.ndarray:
    try:
        version = npy_format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = npy_format.read_array_header_1_0(stream)
        else:
            shape, fortran, dtype = npy_format.read_array_header_2_0(stream)
        if not dtype.hasobject:
            stream.seek(0)
            return npy_format.read_array(stream, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{origin}: not a readable .npy file: {error}") from error
    try:
        array = _Unpickler(stream, origin, encoding).load()
    except (UnsafePickleError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        raise ValueError(f"{origin}: damaged pickle ({type(error).__name__}: {error})") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{origin}: expected a pickled numpy array, found {type(array).__name__}")
    return array.reshape(shape, order="F" if fortran else "C")


def safe_numpy_load(path: str | Path, *, encoding: str = "ASCII") -> Any:
    """What ``numpy.load(path, allow_pickle=True)`` would return, without running code from the file.

    A ``.npy`` file gives its array; an object array of no dimensions (how ``numpy.save`` stores a dictionary) gives the
    object itself. A ``.npz`` file gives a dictionary of arrays. ``encoding`` is for files written by Python 2
    (``"latin1"``).

    Raises:
        UnsafePickleError: the file asks for anything but numpy arrays and plain containers.
        ValueError: the file is damaged or no numpy file.
    """
    path = Path(path)
    data = path.read_bytes()
    if data[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        arrays: dict[str, Any] = {}
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                array = _read_npy(io.BytesIO(archive.read(member)), f"{path}[{member}]", encoding)
                arrays[member.removesuffix(".npy")] = array
        return arrays
    if data[:6] != npy_format.MAGIC_PREFIX:
        raise ValueError(f"{path}: neither a .npy nor a .npz file (a bare pickle is not accepted)")
    array = _read_npy(io.BytesIO(data), str(path), encoding)
    return array.item() if array.dtype.hasobject and array.shape == () else array
