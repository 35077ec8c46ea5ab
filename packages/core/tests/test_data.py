"""The dataset registry: declaring, finding, checking, fetching, caching; and the shared datasets."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tensorbench.core import data
from tensorbench.core.data import DataError, File, dataset, files, registry, safe_numpy_load

CONTENT = b"1 2 3\n" * 1000
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MIRROR = os.environ.get("TENSORBENCH_DATA") or next(
    (
        str(p / "shared" / "data")
        for p in Path(__file__).resolve().parents
        if (p / "shared" / "data" / "MANIFEST.csv").exists()
    ),
    None,
)
needs_mirror = pytest.mark.skipif(MIRROR is None, reason="no mirror of public data (set TENSORBENCH_DATA)")


def a_file(content: bytes = CONTENT, **changes) -> File:
    given = {
        "repository": "some/where",
        "commit": COMMIT,
        "path": "data/numbers.txt",
        "licence": "MIT",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    return File(**{**given, **changes})


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture(autouse=True)
def apart(monkeypatch, tmp_path):
    """An empty registry, cache and mirror, and no way to any network."""
    data.discover()
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setenv("TENSORBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TENSORBENCH_HOSTS", "raw.githubusercontent.com=no")
    monkeypatch.delenv("TENSORBENCH_DATA", raising=False)
    monkeypatch.setattr(File, "url", property(lambda self: f"http://127.0.0.1:9/{self.path}"))
    (tmp_path / "mirror").mkdir()
    return tmp_path


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The web, from a folder."""
    folder = tmp_path / "web"
    folder.mkdir()
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        monkeypatch.setattr(File, "url", property(lambda self: f"http://127.0.0.1:{web.server_port}/{self.path}"))
        web.folder, web.asked = folder, asked
        yield web
        web.shutdown()


# --- files ---------------------------------------------------------------------------------------------------------


def test_the_address_is_pinned_to_the_commit(monkeypatch):
    monkeypatch.undo()
    file = a_file(path="a folder/ü.txt")
    assert file.url == f"https://raw.githubusercontent.com/some/where/{COMMIT}/a%20folder/%C3%BC.txt"


@pytest.mark.parametrize("place", ["some+where/data/numbers.txt", "some+where/numbers.txt", "numbers.txt"])
def test_the_mirror_comes_first(monkeypatch, apart, server, place):
    monkeypatch.setenv("TENSORBENCH_DATA", str(apart / "mirror"))
    there = put(apart / "mirror" / place)
    assert data.fetch(a_file()) == there
    assert not server.asked


def test_a_download_is_checked_kept_and_not_repeated(server):
    put(server.folder / "data/numbers.txt")
    path = data.fetch(a_file())
    assert path.read_bytes() == CONTENT and path == a_file().cached
    assert data.fetch(a_file()) == path and len(server.asked) == 1


def test_a_damaged_file_in_the_cache_is_downloaded_again(server):
    put(server.folder / "data/numbers.txt")
    put(a_file().cached, CONTENT[:-1] + b"!")
    assert data.fetch(a_file()).read_bytes() == CONTENT


def test_a_wrong_file_in_the_mirror_is_an_error_that_says_what_to_do(monkeypatch, apart):
    monkeypatch.setenv("TENSORBENCH_DATA", str(apart / "mirror"))
    wrong = put(apart / "mirror/some+where/data/numbers.txt", b"other")
    with pytest.raises(DataError, match="wrong checksum") as caught:
        data.fetch(a_file())
    for part in (str(wrong), a_file().url, a_file().sha256, hashlib.sha256(b"other").hexdigest()):
        assert part in str(caught.value)


def test_an_unrelated_file_of_the_same_name_is_passed_over(monkeypatch, apart, server):
    monkeypatch.setenv("TENSORBENCH_DATA", str(apart / "mirror"))
    put(apart / "mirror/numbers.txt", b"somebody else's")
    put(server.folder / "data/numbers.txt")
    assert data.fetch(a_file()) == a_file().cached


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize(("served", "says"), [(None, "download failed.*404"), (b"tampered", "wrong checksum")])
def test_a_download_that_goes_wrong_says_what_where_and_what_to_do(monkeypatch, apart, server, served, says, mirror):
    if mirror:
        monkeypatch.setenv("TENSORBENCH_DATA", str(apart / "mirror"))
    if served is not None:
        put(server.folder / "data/numbers.txt", served)
    by_hand = apart / "mirror/some+where/data/numbers.txt" if mirror else a_file().cached
    with pytest.raises(DataError, match=rf"(?s)numbers\.txt: .*{says}") as caught:
        data.fetch(a_file())
    assert a_file().url in str(caught.value) and str(by_hand) in str(caught.value)
    assert not a_file().cached.exists()
    put(by_hand)  # doing as it says helps
    assert data.fetch(a_file()) == by_hand


def test_no_network_is_the_same_clear_error():
    with pytest.raises(DataError, match="download failed") as caught:
        data.fetch(a_file())
    assert str(a_file().cached) in str(caught.value)


def test_a_mirror_that_is_no_folder_is_named(monkeypatch, apart):
    monkeypatch.setenv("TENSORBENCH_DATA", str(apart / "nowhere"))
    with pytest.raises(DataError, match=r"TENSORBENCH_DATA=.*nowhere is not a folder"):
        data.fetch(a_file())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repository": "where"}, "owner/name"),
        ({"commit": "main"}, "40 hex digits"),
        ({"sha256": "abc"}, "64 lower-case hex"),
        ({"path": "../up"}, "must be relative"),
        ({"path": "/etc/passwd"}, "must be relative"),
        ({"bytes": 0}, "must be positive"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        a_file(**changes)


# --- availability --------------------------------------------------------------------------------------------------


def declare(name: str = "some_numbers", loader=None, **options):
    """Register a throw-away dataset."""
    if loader is None:

        def loader(files, *, seed, column: int = 0):
            return np.loadtxt(files[0])[:, column]

    loader.__name__ = loader.__qualname__ = name
    given = {"title": "Numbers", "source": "a test", "licence": "MIT"}
    if not {"library", "generated"} & set(options):
        given["files"] = [a_file()]
    return dataset(**{**given, **options})(loader)


def test_available_says_why_not_and_what_helps(monkeypatch, apart, server):
    declare()
    found, reason = data.available("some_numbers")
    assert not found and "numbers.txt is neither mirrored nor cached" in reason and a_file().url in reason
    monkeypatch.setenv("TENSORBENCH_HOSTS", "127.0.0.1=yes")
    assert data.available("some_numbers") == (True, "")
    monkeypatch.setenv("TENSORBENCH_HOSTS", "127.0.0.1=no")
    put(a_file().cached)
    assert data.available("some_numbers") == (True, "")


def test_available_never_raises(monkeypatch, apart):
    declare()
    assert data.available("no_such_thing")[0] is False
    monkeypatch.setenv("TENSORBENCH_DATA", str(apart / "nowhere"))
    assert "not a folder" in data.available("some_numbers")[1]


def test_a_host_is_asked_once_and_the_answer_is_inherited(monkeypatch):
    monkeypatch.delenv("TENSORBENCH_HOSTS")
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    asked = []

    def refuse(address, timeout):
        asked.append(address)
        raise OSError

    monkeypatch.setattr(files.socket, "create_connection", refuse)
    assert not files.reachable("host.example") and not files.reachable("host.example")
    assert asked == [("host.example", 443)]
    assert os.environ["TENSORBENCH_HOSTS"] == "host.example=no"


def test_a_name_server_that_hangs_is_not_waited_for(monkeypatch):
    monkeypatch.delenv("TENSORBENCH_HOSTS")
    monkeypatch.setattr(files.socket, "create_connection", lambda address, timeout: time.sleep(2) or io.BytesIO())
    began = time.monotonic()
    assert not files.reachable("host.example", timeout=0.1)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(("library", "there"), [("scikit-learn", True), ("sklearn", True), ("no_such_library", False)])
def test_a_library_is_known_by_either_name(library, there):
    declare(library=library, loader=lambda *, seed: 0)
    found, reason = data.available("some_numbers")
    assert found is there and (there or "no_such_library is not installed" in reason)


# --- the registry --------------------------------------------------------------------------------------------------


def test_load_gives_the_files_the_seed_and_the_parameters(server):
    put(server.folder / "data/numbers.txt")
    declare()
    assert np.array_equal(data.load("some_numbers", seed=1, column=2), np.full(1000, 3.0))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"colunm": 1},
            r"unknown parameter of dataset 'some_numbers' 'colunm'; did you mean 'column'\? \(valid: column, rows\)",
        ),
        ({}, "needs a value for rows"),
        ({"rows": 1, "seed": 3}, "'seed' is not a parameter .* the run provides it"),
        ({"rows": 1, "files": []}, "'files' is not a parameter"),
    ],
)
def test_bad_parameters_are_refused_without_loading(params, message):
    def loader(files, *, seed, rows, column=0):
        raise AssertionError("not to be called")

    declare(loader=loader)
    with pytest.raises(ValueError, match=message):
        data.check_parameters("some_numbers", params)
    if "seed" not in params:
        with pytest.raises(ValueError, match=message):
            data.load("some_numbers", seed=0, **params)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match="unknown dataset 'tinyshakespear'; did you mean 'tinyshakespeare'"):
        data.get("tinyshakespear")


def test_two_datasets_of_one_name_are_refused_naming_both():
    declare(generated=True, loader=lambda *, seed: 0)

    def other(*, seed):
        return 1

    other.__module__ = "somewhere.else"
    with pytest.raises(ValueError, match=r"two datasets are named 'some_numbers': .*test_data\S* and somewhere\.else"):
        declare(generated=True, loader=other)
    declare(generated=True, loader=lambda *, seed: 0)  # the same place again: a reload, not a clash


@pytest.mark.parametrize(
    ("options", "loader", "message"),
    [
        ({"generated": True, "reads": ["path"]}, lambda *, seed: 0, "parameter in reads"),
        ({"generated": True, "library": "numpy"}, lambda *, seed: 0, "exactly one of"),
        ({"files": []}, lambda files, *, seed: 0, "names no file"),
        ({"library": "numpy", "cache": True}, lambda *, seed: 0, "for generated data only"),
        ({"generated": True, "licence": " "}, lambda *, seed: 0, "licence is empty"),
        ({"generated": True}, lambda: 0, "must take the keyword seed"),
        ({"generated": True}, lambda *, seed, **options: 0, "name the parameters"),
        ({"generated": True}, lambda files, *, seed: 0, "`files` is needed if, and only if"),
        ({}, lambda *, seed: 0, "`files` is needed if, and only if"),
    ],
)
def test_bad_declarations_are_refused(options, loader, message):
    with pytest.raises(ValueError, match=message):
        declare(loader=loader, **options)


def test_describe_has_a_row_for_each_with_all_that_the_appendix_needs():
    def loader(files, *, seed):
        """Read from a file,
        line by line.

        Details.
        """

    declare(loader=loader)
    (row,) = data.describe(["some_numbers"])
    assert row == {
        "name": "some_numbers",
        "title": "Numbers",
        "kind": "downloaded",
        "licence": "MIT",
        "files": 1,
        "bytes": 6000,
        "source": f"a test (some/where@{COMMIT[:12]})",
        "sha256": a_file().sha256,
        "made": "Read from a file, line by line.",
    }
    assert {"digits", "mnist10k"} <= {row["name"] for row in data.describe()}


# --- discovery -----------------------------------------------------------------------------------------------------

LOADER = """
from tensorbench.core.data import dataset
@dataset(title="t", source="s", licence="l", generated=True)
def {name}(*, seed): return seed
"""


def python(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    # No bytecode: a module that a test writes anew within the same second and length would be read from the old one.
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_packages_are_found_by_being_installed_and_cost_little(tmp_path):
    for k in range(12):
        package = tmp_path / "tensorbench" / f"package{k}"
        put(package / "__init__.py", b"")
        if k % 2:
            put(package / "datasets.py", LOADER.format(name=f"single_{k}").encode())
        else:
            put(package / "datasets" / "__init__.py", b"")
            for part in "ab":
                put(package / "datasets" / f"{part}.py", LOADER.format(name=f"part_{part}_{k}").encode())
    put(tmp_path / "tensorbench" / "bare" / "__init__.py", b"")  # a package without datasets
    code = """
import sys, time, numpy, jaxtyping
start = time.perf_counter()
from tensorbench.core import data
names = data.names()
print(time.perf_counter() - start)
assert {"single_1", "part_a_0", "part_b_10", "digits"} <= set(names), names
assert not {"torch", "mlflow", "pandas", "pooch", "scipy", "sklearn"} & set(sys.modules)
assert data.load("single_3", seed=7) == 7
"""
    tries = [python(code, tmp_path) for _ in range(3)]
    for done in tries:
        assert done.returncode == 0, done.stderr
    assert min(float(done.stdout) for done in tries) < 0.3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_module", "datasets of tensorbench.broken.datasets cannot be imported.*no_such_module"),
        (LOADER.format(name="digits"), "two datasets are named 'digits'"),
    ],
)
def test_a_broken_package_is_named(tmp_path, source, message):
    put(tmp_path / "tensorbench" / "broken" / "__init__.py", b"")
    put(tmp_path / "tensorbench" / "broken" / "datasets.py", source.encode())
    done = python("from tensorbench.core import data; data.discover()", tmp_path)
    assert done.returncode == 1
    assert __import__("re").search(message, done.stderr), done.stderr


# --- generated and cached ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    x: np.ndarray
    name: str
    scale: float | None = None


class Point(NamedTuple):
    x: np.ndarray
    y: int


def same(a, b) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return same(vars(a), vars(b)) if isinstance(a, Pair) else type(a) is type(b) and a == b


def _array(*, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, 2))


def _dict(*, seed: int) -> dict:
    return {"x": np.arange(3), "0": np.array(True), "name": "ü", "n": 3, "nothing": None, "f": np.float64(0.1)}


def _tuple(*, seed: int) -> tuple:
    return np.arange(2), 0.1 + 0.2, "a"


def _dataclass(*, seed: int) -> Pair:
    return Pair(np.ones(2, dtype=np.float32), "p")


def _namedtuple(*, seed: int) -> Point:
    return Point(np.ones(2), 4)


@pytest.mark.parametrize("maker", [_array, _dict, _tuple, _dataclass, _namedtuple])
def test_what_was_generated_once_comes_back_unchanged(maker):
    calls = []

    @functools.wraps(maker)
    def counted(*, seed):
        calls.append(seed)
        return maker(seed=seed)

    declare("cached_thing", loader=counted, generated=True, cache=True)
    first, second = data.load("cached_thing", seed=3), data.load("cached_thing", seed=3)
    expected = maker(seed=3)
    if isinstance(expected, dict):
        expected["f"] = float(expected["f"])
    assert calls == [3] and same(first, expected) and same(second, expected)


def test_the_cache_knows_what_it_depends_on():
    calls = []

    def loader(*, seed, size: int = 2):
        calls.append((seed, size))
        return np.full(size, float(seed))

    declare(loader=loader, generated=True, cache=True)
    for seed, params in [(0, {}), (0, {"size": 2}), (1, {}), (1, {"size": 3}), (1, {"size": 3})]:
        assert np.array_equal(
            data.load("some_numbers", seed=seed, **params), np.full(params.get("size", 2), float(seed))
        )
    assert calls == [(0, 2), (1, 2), (1, 3)]
    declare(loader=loader, generated=True, cache=True, version=2)
    data.load("some_numbers", seed=0)
    assert calls[3:] == [(0, 2)]


def test_a_change_of_the_loaders_module_makes_the_data_anew(tmp_path):
    module = tmp_path / "tensorbench" / "changing" / "datasets.py"
    put(module.parent / "__init__.py", b"")
    source = LOADER.replace("generated=True", "generated=True, cache=True").replace(
        "return seed", "return np.full(2, helper())"
    )
    source = "import numpy as np\ndef helper(): return {value}\n" + source
    code = "from tensorbench.core import data; print(data.load('changing_thing', seed=0)[0])"
    for value in (1.5, 2.5):
        put(module, source.format(name="changing_thing", value=value).encode())
        done = python(code, tmp_path)
        assert done.stdout.strip() == str(value), done.stderr


def test_concurrent_writers_make_it_once_and_agree(tmp_path):
    put(tmp_path / "tensorbench" / "slow" / "__init__.py", b"")
    put(
        tmp_path / "tensorbench" / "slow" / "datasets.py",
        b"""
import os, time
import numpy as np
from tensorbench.core.data import dataset
@dataset(title="t", source="s", licence="l", generated=True, cache=True)
def slow_thing(*, seed):
    open(os.environ["CALLS"], "a").write("x")
    time.sleep(0.3)
    return np.full(200_000, float(os.getpid()))
""",
    )
    code = (
        "from tensorbench.core import data; a = data.load('slow_thing', seed=0); assert (a == a[0]).all(); print(a[0])"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "CALLS": str(tmp_path / "calls")}
    workers = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) for _ in range(4)
    ]
    answers = {worker.communicate(timeout=60)[0] for worker in workers}
    assert all(worker.returncode == 0 for worker in workers) and len(answers) == 1
    assert (tmp_path / "calls").read_text() == "x"


def test_a_damaged_cache_file_is_made_anew(apart, caplog):
    declare(loader=_array, generated=True, cache=True)
    expected = data.load("some_numbers", seed=0)
    (path,) = (apart / "cache").rglob("*.npz")
    path.write_bytes(path.read_bytes()[:50])
    assert np.array_equal(data.load("some_numbers", seed=0), expected)
    assert "damaged" in caplog.text


def test_a_loader_that_fails_leaves_nothing_behind(apart):
    def loader(*, seed):
        raise OSError("the solver's own trouble")

    declare(loader=loader, generated=True, cache=True)
    with pytest.raises(OSError, match="solver's own trouble"):
        data.load("some_numbers", seed=0)
    assert not list((apart / "cache").rglob("*.npz"))


def test_a_full_disk_is_a_clear_error_and_leaves_nothing_behind(apart, monkeypatch):
    def full(stream, **arrays):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    declare(loader=_array, generated=True, cache=True)
    with pytest.raises(DataError, match=r"No space left on device.*TENSORBENCH_CACHE"):
        data.load("some_numbers", seed=0)
    assert {path.suffix for path in (apart / "cache").rglob("*") if path.is_file()} <= {".lock"}


@pytest.mark.parametrize("value", [[1, 2], {"x": [1]}, {1: np.ones(1)}, np.array([{}], dtype=object), object()])
def test_what_cannot_be_kept_as_arrays_is_refused(value):
    declare(loader=lambda *, seed: value, generated=True, cache=True)
    with pytest.raises(TypeError, match="cached dataset 'some_numbers'"):
        data.load("some_numbers", seed=0)


def test_parameters_of_a_cached_dataset_must_be_plain():
    declare(loader=lambda *, seed, x: np.ones(1), generated=True, cache=True)
    with pytest.raises(TypeError, match="must be plain values"):
        data.load("some_numbers", seed=0, x=object())


# --- the shared datasets -------------------------------------------------------------------------------------------


@needs_mirror
def test_public_object_files_are_read():
    folder = Path(MIRROR) / "xuangu-fang+Functional-Bayesian-Tucker-Decomposition" / "data"
    for path in folder.rglob("*.npy"):
        loaded = safe_numpy_load(path)
        expected = np.load(path, allow_pickle=True).item()
        assert loaded.keys() == expected.keys()
        assert np.array_equal(
            loaded["data"][0]["tr_T_disct" if "tr_T_disct" in loaded["data"][0] else "tr_y"],
            expected["data"][0]["tr_T_disct" if "tr_T_disct" in loaded["data"][0] else "tr_y"],
        )


def test_digits_are_split_once_and_for_all():
    split = data.load("digits", seed=0)
    assert [len(part) for part in (split.train_images, split.valid_images, split.test_images)] == [1197, 300, 300]
    again = data.load("digits", seed=1)
    assert np.array_equal(split.test_images, again.test_images) and np.array_equal(split.test_labels, again.test_labels)
    images = np.concatenate([split.train_images, split.valid_images, split.test_images])
    assert images.min() == 0 and images.max() == 1
    assert len(np.unique(images.reshape(1797, -1), axis=0)) == 1797  # no image in two parts


@needs_mirror
def test_mnist10k_is_the_shared_permutation(monkeypatch):
    monkeypatch.setenv("TENSORBENCH_DATA", MIRROR)
    split = data.load("mnist10k", seed=5)
    assert split.train_images.shape == (8000, 28, 28) and split.test_labels.shape == (1000,)
    import gzip

    raw = gzip.decompress((Path(MIRROR) / "fgnt+mnist/t10k-labels-idx1-ubyte.gz").read_bytes())
    order = np.random.default_rng(0).permutation(10_000)
    labels = np.frombuffer(raw, np.uint8)[8:][order]
    assert np.array_equal(np.concatenate([split.train_labels, split.valid_labels, split.test_labels]), labels)
    means = [split.train_images[split.train_labels == k].mean() for k in range(10)]
    assert np.argmin(means) == 1  # a one is the digit with the least ink: images and labels belong together


@needs_mirror
def test_texts_can_be_read_back(monkeypatch):
    monkeypatch.setenv("TENSORBENCH_DATA", MIRROR)
    text = data.load("tinyshakespeare", seed=0)
    assert len(text.vocabulary) == 65 and sum(map(len, (text.train, text.valid, text.test))) == 1_115_394
    assert "".join(text.vocabulary[k] for k in text.train[:14]) == "First Citizen:"
    words = data.load("wikitext2", seed=0)
    assert "<unk>" in words.vocabulary and words.test.max() < len(words.vocabulary)
    assert [words.vocabulary[k] for k in words.test[:5]] == ["<eos>", "=", "Robert", "<unk>", "="]
    counts = np.bincount(words.train, minlength=len(words.vocabulary))
    assert counts.min() >= 1 and (np.diff(counts) <= 0).all()  # by frequency


def test_photographs_are_scaled_and_shrunk():
    pytest.importorskip("skimage")
    whole = data.load("photograph", seed=0, image="camera")
    small = data.load("photograph", seed=0, image="camera", size=64)
    assert whole.shape == (512, 512) and small.shape == (64, 64) and whole.max() <= 1
    assert small.mean() == pytest.approx(whole.mean())
    assert data.load("photograph", seed=0, image="chelsea", size=50, gray=True).shape == (50, 50)
    with pytest.raises(ValueError, match="did you mean 'camera'"):
        data.load("photograph", seed=0, image="camra")
    with pytest.raises(ValueError, match="between 1 and its shorter side, 512"):
        data.load("photograph", seed=0, size=600)
