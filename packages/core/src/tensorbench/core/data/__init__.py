"""Named datasets: what they are, where they come from, and how to get exactly the same bytes again.

Three kinds: bundled with a library that is used anyway, generated (and, if slow, cached by the hash of what made
them), and downloaded from a public repository pinned to a commit and a SHA-256. Importing this package costs no more
than numpy.
"""

from .files import DataError, File, cache_folder, fetch, locate
from .registry import (
    Dataset,
    available,
    check_parameters,
    dataset,
    describe,
    discover,
    get,
    load,
    names,
    own_files,
)
from .safe_load import UnsafePickleError, safe_numpy_load

__all__ = [
    "DataError",
    "Dataset",
    "File",
    "UnsafePickleError",
    "available",
    "cache_folder",
    "check_parameters",
    "dataset",
    "describe",
    "discover",
    "fetch",
    "get",
    "load",
    "locate",
    "names",
    "own_files",
    "safe_numpy_load",
]
