"""What a job costs besides its work, and how long collecting and deciding 10,000 records takes.

Bounds: 5 s per job (interpreter, imports, logging, record), 10 s for collecting and deciding.

    python packages/core/benchmarks/overhead.py
"""
# ruff: noqa: E501 (texts of generated files)

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tensorbench.core import record, records
from tensorbench.core.claims.decide import decide
from tensorbench.core.config import load

REPOSITORY = Path(__file__).resolve().parents[3]
JOB = """
title: An empty job
datasets: {nothing: {}}
methods: {%s}
seeds: %d
metrics: {error: minimize}
claims:
  - {id: better, paper: alpha, says: Better., ratio: {metric: error, of: m0, over: [m1, m2], at_most: 0.9}}
  - {id: small, paper: alpha, says: Small., value: {metric: error, of: m0, at_most: 1.0}}
"""
MODULE = """
import torch

def run(run):
    run.log(error=0.5)
"""
DATASETS = """
from tensorbench.core.data import dataset

@dataset(title="Nothing", source="generated", licence="none", generated=True)
def nothing(*, seed: int):
    return seed
"""


def workspace(root: Path, methods: int, seeds: int) -> Path:
    source = root / "packages" / "p" / "src" / "tensorbench" / "p"
    (source / "experiments").mkdir(parents=True)
    (root / "configs" / "p").mkdir(parents=True)
    (root / "configs" / "papers.yaml").write_text("alpha: {package: p, title: A, authors: [A B], year: 2020}\n")
    (root / "configs" / "scales.yaml").write_text((REPOSITORY / "configs" / "scales.yaml").read_text())
    names = ", ".join(f"m{k}: {{}}" for k in range(methods))
    (root / "configs" / "p" / "e.yaml").write_text(JOB % (names, seeds))
    (source / "experiments" / "e.py").write_text(MODULE)
    (source / "datasets.py").write_text(DATASETS)
    return source.parents[1]


def overhead(root: Path, source: Path, repeats: int = 5) -> list[float]:
    environment = {**os.environ, "PYTHONPATH": str(source), "MLFLOW_TRACKING_URI": ""}
    subprocess.run([sys.executable, "-m", "tensorbench.core.tracking", "init"], cwd=root, env=environment, check=True)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        command = [sys.executable, "-m", "tensorbench.core.run", "p/e", "nothing", "m0"]
        subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return seconds


def collect_and_decide(root: Path, methods: int, seeds: int) -> tuple[float, float]:
    experiment = load(root).experiment("p/e")
    paths = records.Paths(root, "desk")
    for dataset, method in experiment.jobs():
        rows = [
            record.Record(
                "p",
                "e",
                dataset,
                method,
                seed,
                "desk",
                "2026-01-01",
                experiment.job_hash(dataset, method),
                metrics={"error": 0.5 + 0.001 * seed + (method != "m0")},
                history=[("loss", float(k), 1.0 / (k + 1)) for k in range(20)],
                params={"dataset": {}, "method": {}},
            )
            for seed in range(seeds)
        ]
        record.write(paths.job(experiment.key, dataset, method), rows)
    started = time.perf_counter()
    collected = records.collect(experiment, paths)
    records.write_collected(paths.collected(experiment.key), collected)
    middle = time.perf_counter()
    frame = records.load(paths.collected(experiment.key))
    for claim in experiment.claims:
        decide(claim, frame, experiment.metrics)
    return middle - started, time.perf_counter() - middle


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        seconds = overhead(root, workspace(root, 3, 1))
        print(
            f"one empty job that imports torch: median {statistics.median(seconds):.2f} s of {len(seconds)} (bound 5 s)"
        )
    for methods, seeds in ((2000, 5), (10_000, 1)):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            workspace(root, methods, seeds)
            collect, decided = collect_and_decide(root, methods, seeds)
            print(
                f"{methods * seeds} records in {methods} files: collect {collect:.2f} s, load and decide {decided:.2f} s (bound 10 s together)"
            )


if __name__ == "__main__":
    main()
