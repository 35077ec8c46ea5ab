"""A toy workspace in a temporary folder: one package, two experiments, real commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]

DATASETS = """
import numpy as np
from tensorbench.core.data import dataset

@dataset(title="Points on a noisy line", source="generated here", licence="Apache-2.0", generated=True)
def toy_line(*, seed: int, slope: float = 2.0, points: int = 40):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, points)
    return x, slope * x + 0.1 * rng.standard_normal(points)
"""
# ruff: noqa: E501 (texts of generated files)

MODULE = """
import os, time
import numpy as np
from tensorbench.core import plotting

def least_squares(x, y, ridge=0.0):
    return float(x @ y / (x @ x + ridge))

def mean_only(x, y):
    return 0.0

METHODS = {"least_squares": least_squares, "mean_only": mean_only}

def run(run):
    if os.environ.get("TOY_FAIL") == run.method.name:
        raise RuntimeError("the toy was told to fail")
    time.sleep(float(os.environ.get("TOY_SLEEP", "0")))
    x, y = run.dataset.load(run.seed)
    with run.time("fit"):
        slope = METHODS[run.method.uses](x, y, **run.method.params)
    for step in range(3):
        run.log(step=step, rmse=float(np.sqrt(np.mean((y - slope * x) ** 2))) + (2 - step))
    run.log(valid_rmse=run.metrics["rmse"], finite=bool(np.isfinite(slope)))
    np.save(run.artifact("slope.npy"), slope)

def figures(records):
    fig, ax = plotting.figure()
    if len(records):
        ax.plot(records["seed"], records["rmse"])
    yield "rmse", fig
"""

CONFIG = """
title: Fitting a line
question: Does least squares fit a line better than nothing?
datasets: {toy_line: {slope: 3.0}}
methods:
  least_squares: {paper: alpha, search: {ridge: [0.0, 10.0]}}
  mean_only: {}
seeds: 3
metrics: {rmse: minimize, valid_rmse: minimize, finite: maximize}
tuning: {trials: 2, metric: valid_rmse}
table: [rmse]
figures: {rmse: "Error over seeds."}
scales:
  smoke: {datasets: {toy_line: {points: 10}}}
claims:
  - {id: alpha.fits, paper: alpha, says: Least squares halves the error., ratio: {metric: rmse, of: least_squares, over: mean_only, at_most: 0.5}}
  - {id: alpha.finite, paper: alpha, says: The slope is finite., holds: {metric: finite}}
"""

PAPERS = """
alpha: {package: toy, title: On lines, authors: [Carl Friedrich Gauss], year: 2009}
beta: {package: toy, title: On curves, authors: [Carl Friedrich Gauss], year: 2010}
"""

SCALES = """
smoke: {says: seconds, seeds: 1, device: cpu}
desk: {says: minutes}
full: {says: the paper's own}
"""


@dataclass
class Toy:
    """A workspace that can be edited and run."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "configs" / "toy" / "line.yaml"

    @property
    def module(self) -> Path:
        return self.root / "packages" / "toy" / "src" / "tensorbench" / "toy" / "experiments" / "line.py"

    def environment(self, **extra: str) -> dict[str, str]:
        paths = [str(self.root / "packages" / "toy" / "src"), os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "TENSORBENCH_CACHE": str(self.root / "cache"),
            "MLFLOW_TRACKING_URI": "",
            **extra,
        }

    def python(
        self, *arguments: str, check: bool = True, timeout: float = 120, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env=self.environment(**extra),
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{arguments} exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def run(self, method: str = "mean_only", *more: str, **kwargs) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "tensorbench.core.run", "toy/line", "toy_line", method, *more, **kwargs)

    def snakemake(self, *arguments: str, **kwargs) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "snakemake", *arguments, "--cores", "2", **kwargs)

    def record(self, method: str = "mean_only", scale: str = "desk", suffix: str = ".parquet") -> Path:
        return self.root / "results" / scale / "toy" / "line" / "toy_line" / f"{method}{suffix}"


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """The toy workspace; Snakefile and rules are the repository's own."""
    root = tmp_path / "workspace"
    for folder in ("configs/toy", "packages/toy/src/tensorbench/toy/experiments", "paper/sections"):
        (root / folder).mkdir(parents=True)
    (root / "configs" / "papers.yaml").write_text(PAPERS)
    (root / "configs" / "scales.yaml").write_text(SCALES)
    source = root / "packages" / "toy" / "src" / "tensorbench" / "toy"
    (source / "__init__.py").touch()
    (source / "experiments" / "__init__.py").touch()
    (source / "datasets.py").write_text(DATASETS)
    toy = Toy(root)
    toy.module.write_text(MODULE)
    toy.config.write_text(CONFIG)
    for shared in ("Snakefile", "workflow", "profiles", "environment.yml"):
        (root / shared).symlink_to(REPOSITORY / shared)
    for shared in ("paper.typ", "lib.typ"):
        (root / "paper" / shared).write_bytes((REPOSITORY / "paper" / shared).read_bytes())
    (root / "paper" / "sections" / "toy.typ").write_text('#import "/paper/lib.typ": *\n#section("toy/line")[A toy.]\n')
    return toy


@pytest.fixture
def edit() -> Callable[[Path, str, str], None]:
    """Replace text in a file; fails when it is not there, so that a test cannot pass by editing nothing."""

    def replace(path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert old in text, f"{old!r} is not in {path}"
        path.write_text(text.replace(old, new))

    return replace
