"""Arrays of objects are read without running what is in the file."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from tensorbench.core.data import UnsafePickleError, safe_numpy_load


class Evil:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


TAME = {
    "a": np.arange(6.0).reshape(2, 3),
    "strings": np.array(["x", "yz"]),
    "structured": np.array([(1, 2.0)], dtype=[("i", "i4"), ("x", "f8")]),
    "fortran": np.asfortranarray(np.arange(12).reshape(3, 4)),
    "dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
    "list": [1, 2.5, "three", None, True, (4, {5}), b"six", 1j],
    "scalar": np.float32(1.5),
    "nested": np.array([np.ones(2), {"deep": 1}], dtype=object),
    "bytes": bytearray(b"7"),
}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_tame_objects_come_back_as_numpy_would_load_them(tmp_path, protocol, monkeypatch):
    dump = pickle.dump
    monkeypatch.setattr(pickle, "dump", lambda thing, stream, **given: dump(thing, stream, protocol=protocol))
    np.save(tmp_path / "tame.npy", TAME, allow_pickle=True)
    np.savez(tmp_path / "tame.npz", whole=TAME, plain=TAME["a"])
    for loaded in (safe_numpy_load(tmp_path / "tame.npy"), safe_numpy_load(tmp_path / "tame.npz")["whole"].item()):
        assert loaded.keys() == TAME.keys()
        assert repr(loaded) == repr(np.load(tmp_path / "tame.npy", allow_pickle=True).item())
    assert np.array_equal(safe_numpy_load(tmp_path / "tame.npz")["plain"], TAME["a"])


def test_plain_arrays_need_no_pickle(tmp_path):
    np.save(tmp_path / "plain.npy", TAME["fortran"])
    assert np.array_equal(safe_numpy_load(tmp_path / "plain.npy"), TAME["fortran"])
    np.save(tmp_path / "objects.npy", TAME["nested"])
    assert safe_numpy_load(tmp_path / "objects.npy").shape == (2,)


def npy(pickled: bytes) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
    return stream.getvalue() + pickled


@pytest.mark.parametrize("inside", ["bare", "dict", "array", "npz"])
def test_a_malicious_file_is_refused_and_runs_nothing(tmp_path, inside):
    target = tmp_path / "owned"
    evil = Evil(str(target))
    path = tmp_path / "evil.npy"
    if inside == "bare":
        path.write_bytes(npy(pickle.dumps(evil)))
    elif inside == "npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", npy(pickle.dumps(evil)))
    else:
        np.save(path, {"x": evil} if inside == "dict" else np.array([1, evil], dtype=object), allow_pickle=True)
    with pytest.raises(UnsafePickleError, match=r"evil.npy.*refused to load posix\.system"):
        safe_numpy_load(path)
    assert not target.exists()
    with contextlib.suppress(Exception):
        np.load(path, allow_pickle=True)["x" if inside == "npz" else ...]  # and it would have
    assert target.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n(S'1'\nS'x'\ntR.",
        b"c__builtin__\nexec\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy\nfromfile\n(S'/etc/passwd'\ntR.",
        b"cnumpy.core.multiarray\nfromstring\n(S'1'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\ntRS'12345678'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\ndict\n(I0\ntS'b'\ntR.",
        b"c_codecs\nencode\n(S'x'\nS'zip'\ntR.",
        b"csubprocess\nPopen\n(S'true'\ntR.",
        b"\x80\x02Uxq\x00Q.",
        b"\x80\x04\x8c\x08builtins\x8c\x0bobject.list\x93.",
    ],
)
def test_tricks_are_refused(tmp_path, pickled):
    (tmp_path / "trick.npy").write_bytes(npy(pickled))
    with pytest.raises(ValueError, match=r"refused|not accepted|damaged"):
        safe_numpy_load(tmp_path / "trick.npy")


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUM", b"\x93NUMPY\x01\x00", npy(b""), npy(b"\x80\x04garbage"), pickle.dumps([1])]
)
def test_damaged_files_are_value_errors_naming_the_file(tmp_path, content):
    (tmp_path / "bad.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.npy"):
        safe_numpy_load(tmp_path / "bad.npy")
