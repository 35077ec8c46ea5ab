"""What a process sets up before it computes: its log, its threads, the global random generators."""

from __future__ import annotations

import logging
import os
import random
import sys
from pathlib import Path

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def seed_everything(seed: int) -> None:
    """Libraries that draw from global generators (some baselines do) repeat themselves too."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def limit_threads(threads: int) -> None:
    """For libraries that are loaded from now on; those loaded already (pandas brings NumPy) no longer look."""
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = str(threads)


def limit_loaded_libraries(threads: int) -> None:
    """For the BLAS and OpenMP pools that are there already."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def set_up_logging(path: Path | None) -> None:
    """Lines for a person on stderr, and in the file ``path``."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, mode="w", encoding="utf-8"))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=handlers, force=True
    )
    for noisy in ("mlflow", "alembic", "matplotlib", "numba", "urllib3", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
