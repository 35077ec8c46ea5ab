"""The datasets by name: a decorator registers a loader; then it can be looked up, checked, loaded and described."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
import os
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeVar

from ..errors import unknown
from . import generated as _generated
from .files import File, fetch, obtainable

log = logging.getLogger(__name__)

Kind = Literal["library", "generated", "downloaded"]
Loader = TypeVar("Loader", bound=Callable[..., Any])

_registered: dict[str, Dataset] = {}


@dataclass(frozen=True)
class Dataset:
    """A registered loader and what must be said of the data it gives."""

    name: str
    title: str
    source: str
    licence: str
    kind: Kind
    loader: Callable[..., Any]
    files: tuple[File, ...] = ()
    library: str | None = None
    cache: bool = False
    version: int = 1
    reads: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """Where the loader is written."""
        return f"{self.loader.__module__}.{self.loader.__qualname__}"

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The parameters that a config may set, by name."""
        given = {"files", "seed"} if self.kind == "downloaded" else {"seed"}
        return {k: v for k, v in inspect.signature(self.loader).parameters.items() if k not in given}

    def check(self, params: Mapping[str, Any]) -> None:
        """ValueError where a parameter is unknown or a required one is missing (values are the loader's to judge)."""
        known = self.parameters
        for name in params:
            if name in ("seed", "files"):
                raise ValueError(f"{name!r} is not a parameter of dataset {self.name!r}: the run provides it")
            if name not in known:
                raise ValueError(unknown(f"parameter of dataset {self.name!r}", name, known))
        missing = [k for k, v in known.items() if v.default is inspect.Parameter.empty and k not in params]
        if missing:
            raise ValueError(f"dataset {self.name!r} needs a value for {', '.join(missing)}")

    def load(self, seed: int, **params: Any) -> Any:
        """The data. ValueError for bad parameters, DataError for a file that cannot be had."""
        self.check(params)
        if self.kind == "downloaded":
            return self.loader([fetch(file) for file in self.files], seed=seed, **params)
        if self.cache:
            return _generated.cached(self.name, self.version, self.loader, seed, params)
        return self.loader(seed=seed, **params)

    def available(self) -> tuple[bool, str]:
        """Whether :meth:`load` would probably find its data, and why not. Never raises."""
        if self.library is not None and not _is_installed(self.library):
            return False, f"the library {self.library} is not installed"
        for file in self.files:
            there, reason = obtainable(file)
            if not there:
                return False, reason
        return True, ""


def _is_installed(library: str) -> bool:
    """Whether a library is there by the name it is imported or installed by (``skimage``, ``scikit-image``)."""
    if importlib.util.find_spec(library) is not None:
        return True
    try:
        importlib.metadata.distribution(library)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def dataset(
    *,
    title: str,
    source: str,
    licence: str,
    files: Sequence[File] | None = None,
    library: str | None = None,
    generated: bool = False,
    cache: bool = False,
    version: int = 1,
    reads: Sequence[str] = (),
) -> Callable[[Loader], Loader]:
    """Register a loader under its function's name; the function itself is returned unchanged.

    Exactly one of ``files`` (downloaded: the loader's first argument is the list of local paths), ``library`` (bundled
    with an installed library) and ``generated`` says where the data come from. Loaders take ``seed`` as a keyword.
    ``cache=True`` keeps what a slow generator made (arrays, dictionaries, tuples or dataclasses of arrays); raise
    ``version`` when code outside the loader's module changes what it makes. ``reads`` are the parameters that name a
    file of the user's own: edited in place, the jobs that read it run again.

    Raises:
        ValueError: an unusable declaration, or a name that another loader has already.
    """

    def register(loader: Loader) -> Loader:
        name = loader.__name__
        where = f"dataset {name!r} ({loader.__module__})"
        if sum((files is not None, library is not None, generated)) != 1:
            raise ValueError(f"{where}: give exactly one of files=[...], library='...' and generated=True")
        if files is not None and not files:
            raise ValueError(f"{where}: files=[] names no file; use generated=True if it needs none")
        if cache and not generated:
            raise ValueError(f"{where}: cache=True is for generated data only")
        for label, text in (("title", title), ("source", source), ("licence", licence)):
            if not text.strip():
                raise ValueError(f"{where}: {label} is empty")
        parameters = inspect.signature(loader).parameters
        if "seed" not in parameters:
            raise ValueError(f"{where}: the loader must take the keyword seed")
        if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters.values()):
            raise ValueError(f"{where}: name the parameters; with *args or **kwargs a mistyped one would pass unseen")
        if (files is not None) != ("files" in parameters):
            raise ValueError(f"{where}: an argument `files` is needed if, and only if, files=[...] is given")
        kind: Kind = "downloaded" if files is not None else "library" if library is not None else "generated"
        for parameter in reads:
            if parameter not in parameters:
                raise ValueError(f"{where}: {unknown('parameter in reads', parameter, parameters)}")
        entry = Dataset(
            name, title, source, licence, kind, loader, tuple(files or ()), library, cache, version, tuple(reads)
        )
        before = _registered.get(name)
        # The same function again is a module imported anew (a reload, a notebook cell), not a clash.
        if before is not None and before.origin != entry.origin:
            raise ValueError(f"two datasets are named {name!r}: {before.origin} and {entry.origin}; rename one")
        _registered[name] = entry
        return loader

    return register


def _modules(package: ModuleType) -> list[str]:
    return [f"{package.__name__}.{info.name}" for info in pkgutil.iter_modules(getattr(package, "__path__", []))]


def _import(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ValueError:
        raise  # a bad or duplicate declaration already says everything
    except Exception as error:
        raise ImportError(f"the datasets of {module} cannot be imported ({type(error).__name__}: {error})") from error


def discover(only: str | None = None) -> None:
    """Import ``tensorbench.<package>.datasets`` (a module, or a package with modules) of all installed packages.

    ``only`` that package's, and core's: what a job needs, for a tenth of the time.
    """
    import tensorbench

    for info in pkgutil.iter_modules(tensorbench.__path__):
        package = f"tensorbench.{info.name}"
        if only is not None and info.name not in (only, "core"):
            continue
        if package == "tensorbench.core":
            _import("tensorbench.core.data.shared")
            continue
        module = f"{package}.datasets"
        if info.ispkg and importlib.util.find_spec(module) is not None:
            for submodule in _modules(_import(module)):
                _import(submodule)


def names() -> list[str]:
    """The names of all datasets of all installed packages."""
    discover()
    return sorted(_registered)


def get(name: str) -> Dataset:
    """The dataset of that name; ValueError with the nearest name where there is none."""
    if name not in _registered:
        discover()
    if name not in _registered:
        raise ValueError(unknown("dataset", name, _registered))
    return _registered[name]


def load(name: str, *, seed: int = 0, **params: Any) -> Any:
    """``get(name).load(seed, **params)``."""
    return get(name).load(seed, **params)


def check_parameters(name: str, params: Mapping[str, Any]) -> None:
    """ValueError where ``params`` cannot be given to the dataset's loader."""
    get(name).check(params)


def own_files(name: str, params: Mapping[str, Any]) -> list[str]:
    """The files of the user's own that the dataset with these parameters reads, ``~`` expanded; they may be missing."""
    return [os.path.expanduser(str(params[key])) for key in get(name).reads if params.get(key)]


def available(name: str) -> tuple[bool, str]:
    """Whether the dataset can be loaded here, and why not. Never raises, not even for an unknown name."""
    try:
        return get(name).available()
    except Exception as error:
        return False, str(error)


def describe(only: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """For the paper's appendix, a row per dataset: name, title, kind, source, licence, files, bytes, sha256, made."""
    rows = []
    for name in names() if only is None else only:
        entry = get(name)
        source = entry.source
        if entry.files:
            pins = dict.fromkeys(f"{file.repository}@{file.commit[:12]}" for file in entry.files)
            source = f"{source} ({', '.join(pins)})"
        row = {
            "name": name,
            "title": entry.title,
            "kind": entry.kind,
            "source": source,
            "licence": entry.licence,
            "files": len(entry.files),
            "bytes": sum(file.bytes for file in entry.files),
            "sha256": " ".join(file.sha256 for file in entry.files),
            "made": (inspect.getdoc(entry.loader) or "").partition("\n\n")[0].replace("\n", " "),
        }
        rows.append(row)
    return rows
