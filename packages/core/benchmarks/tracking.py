"""What MLflow tracking costs a run: ``python packages/core/benchmarks/tracking.py [--processes 16] [--uri URI]``.

Prints a table: the imports, making the store, one run (start, log, finish), a batch of 1000 points, sync, and many
processes at once with the file lock around each write and without it (how many of them lost the store).
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tensorbench.core import tracking

IMPORTS = {
    "import tensorbench.core.tracking": "tensorbench.core.tracking",
    "import mlflow": "mlflow",
    "… and MLflow's SQL store": "mlflow.store.tracking.sqlalchemy_store",
    "import torch, for comparison": "torch",
}


def report(what: str, value: str) -> None:
    sys.stdout.write(f"{what:<62} {value}\n")
    sys.stdout.flush()


def seconds(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def import_cost(module: str) -> tuple[float, float]:
    """Seconds to import ``module`` in a fresh interpreter, best of three, without its start-up: (wall, CPU)."""
    code = (
        f"import time; w, c = time.perf_counter(), time.process_time(); import {module}; "
        "print(time.perf_counter() - w, time.process_time() - c)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    wall, cpu = min(tuple(map(float, run.stdout.split())) for run in runs)
    return wall, cpu


def one_run(uri: str, name: str, artifact: Path, points: int = 200) -> tracking.RunLog:
    """A run like an experiment's: two metrics with history, five final values, an artifact."""
    tags = {"method": name, "dataset": "surface", "scale": "desk", "seed": 0, "record": os.urandom(8).hex()}
    live = tracking.RunLog.start(uri, "bench/tracking", f"{name} · surface · seed 0", tags, {"method.rank": 8})
    for step in range(points):
        live.log({"train_rmse": 1 / (step + 1), "valid_rmse": 2 / (step + 1)}, step)
    live.log({f"final_{k}": float(k) for k in range(5)})
    live.finish({"run_seconds": 1.0}, [artifact])
    return live


def together(uri: str, artifact: Path, processes: int, runs: int, lock: bool) -> tuple[float, int]:
    """``processes`` forked processes log ``runs`` runs each, at once: (wall seconds, runs lost)."""
    if not lock:
        tracking.Store.writing = lambda self: nullcontext()  # type: ignore[method-assign]
    began = time.perf_counter()
    children = []
    for index in range(processes):
        child = os.fork()
        if child == 0:
            logging.disable(logging.CRITICAL)
            lost = sum(one_run(uri, f"m{index}_{run}", artifact).lost for run in range(runs))
            os._exit(lost)
        children.append(child)
    lost = sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    return time.perf_counter() - began, lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--runs", type=int, default=4, help="runs per process")
    parser.add_argument("--records", type=int, default=300, help="records to sync")
    options = parser.parse_args()
    for label, module in IMPORTS.items():
        wall, cpu = import_cost(module)
        report(label, f"{wall:6.2f} s  ({cpu:.2f} s CPU)")
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "prediction.npy"
        artifact.write_bytes(bytes(100_000))
        crowd(Path(folder), artifact, options.processes, options.runs)
        alone(Path(folder) / "alone", artifact, options.records)


def crowd(folder: Path, artifact: Path, processes: int, runs: int) -> None:
    for lock in (True, False):
        # A process of its own: a database connection must not live through a fork.
        child = os.fork()
        if child == 0:
            results = folder / f"lock-{lock}"
            uri = tracking.default_uri(results)
            initialiser = os.fork()
            if initialiser == 0:
                tracking.initialise(uri, results)
                os._exit(0)
            os.waitpid(initialiser, 0)
            import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

            wall, lost = together(uri, artifact, processes, runs, lock)
            label = f"{processes} processes × {runs} runs of 406 points, {'with' if lock else 'without'} the lock"
            report(label, f"{wall:6.2f} s  ({wall / processes / runs * 1e3:.0f} ms a run, {lost} lost)")
            os._exit(0)
        os.waitpid(child, 0)


def alone(results: Path, artifact: Path, records: int) -> None:
    uri = tracking.default_uri(results)
    wall, cpu = seconds(lambda: tracking.initialise(uri, results))
    report("make the SQLite store, imports included", f"{wall:6.2f} s  ({cpu:.2f} s CPU)")
    wall, _ = seconds(lambda: one_run(uri, "warm", artifact))
    report("first run of a process, imports done", f"{wall * 1e3:6.0f} ms")
    wall, cpu = seconds(lambda: [one_run(uri, f"m{k}", artifact) for k in range(20)])
    report("a run of 406 points and an artifact", f"{wall / 20 * 1e3:6.0f} ms ({cpu / 20 * 1e3:.0f} ms CPU)")
    wall, _ = seconds(lambda: [one_run(uri, f"n{k}", artifact, points=0) for k in range(20)])
    report("a run of 6 points and an artifact", f"{wall / 20 * 1e3:6.0f} ms")
    live = tracking.RunLog.start(uri, "bench/tracking", "batches", {}, {}, live=False)
    wall, _ = seconds(lambda: [live.log({"loss": 1.0}, step) for step in range(20_000)])
    report("log() as the run feels it", f"{wall / 20_000 * 1e6:6.1f} µs")
    wall, _ = seconds(live.finish)
    report("a batch of 1000 points", f"{wall / 20 * 1e3:6.0f} ms")
    rows = [row(k) for k in range(records)]
    wall, _ = seconds(lambda: tracking.sync(uri, rows))
    report(f"sync of {records} records of 52 points", f"{wall:6.2f} s  ({wall / records * 1e3:.0f} ms a record)")
    wall, _ = seconds(lambda: tracking.sync(uri, rows))
    report("… again, nothing to do", f"{wall:6.2f} s")


def row(k: int) -> dict[str, Any]:
    return {
        "record": f"r{k}", "package": "bench", "experiment": "sync", "dataset": f"d{k % 5}", "method": f"m{k // 50}",
        "seed": k // 5 % 10, "scale": "desk", "trial": None, "paper": None, "started": "2026-01-01T00:00:00+00:00",
        "seconds": 1.0, "metrics": {"test_rmse": 0.5, "fit_seconds": 1.0},
        "history": [("train_rmse", float(step), 1 / (step + 1)) for step in range(50)],
        "params": {"method": {"rank": 8}}, "provenance": {"commit": "0" * 40}, "artifacts": [],
    }  # fmt: skip


if __name__ == "__main__":
    main()
