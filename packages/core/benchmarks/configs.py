"""How long the configs take: reading 300 experiments of 10 methods × 5 datasets, and what that adds to `snakemake -n`.

The peer of `snakemake -n` is a bare Snakefile with the same files, rules and jobs, written out without any config. Bounds:
2 s for the reading, a ratio of 1.3 for the dry run.

    python packages/core/benchmarks/configs.py [--experiments 300]
"""
# ruff: noqa: E501 (texts of generated files)

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
METHODS, DATASETS = 10, 5

CONFIG = """
title: Experiment {i}
question: What is the answer?
datasets:
{datasets}
methods:
{methods}
seeds: 5
metrics: {{error: minimize, fit_seconds: minimize, exact: maximize}}
table: [error, fit_seconds]
figures: {{accuracy: "How good it is.", cost: "What it costs."}}
scales:
  smoke: {{seeds: 1, datasets: [d0], methods: {{m0: {{iterations: 5}}}}}}
claims:
  - {{id: e{i}.better, paper: alpha, says: It is better., ratio: {{metric: error, of: m0, over: [m1, m2], dataset: d0, at_most: 0.9}}}}
  - {{id: e{i}.exact, paper: alpha, says: It is exact., holds: {{metric: exact, of: [m0]}}}}
  - {{id: e{i}.fast, paper: alpha, says: It is fast., value: {{metric: fit_seconds, of: m0, at_most: 1}}}}
"""
MODULE = (
    "METHODS = {"
    + ", ".join(f'"m{k}": None' for k in range(METHODS))
    + "}\n"
    + """

def run(run):
    run.log(error=1.0)


def figures(records):
    yield from ()
"""
    + "\n".join(
        f"\ndef helper_{k}(x, y):\n    z = [x * i + y for i in range(10)]\n    return sum(z)\n" for k in range(25)
    )
)

BARE = """
E, D, M, S = {experiments}, {datasets}, {methods}, "desk"
F = ["accuracy", "cost"]
rule paper:
    default_target: True
    input: "paper/paper.pdf", "results/desk/claims.csv"
rule store:
    output: touch("results/store.ready")
    shell: "true"
rule run:
    input: store=ancient("results/store.ready")
    output: "results/{{scale}}/{{package}}/{{experiment}}/{{dataset}}/{{method}}.parquet"
    params: config="abc"
    shell: "true"
rule collect:
    input: lambda w: [f"results/{{w.scale}}/{{w.package}}/{{w.experiment}}/d{{d}}/m{{m}}.parquet" for d in range(D) for m in range(M)]
    output: parquet="results/{{scale}}/{{package}}/{{experiment}}.parquet", csv="results/{{scale}}/{{package}}/{{experiment}}.csv"
    shell: "true"
wildcard_constraints: scale="smoke|desk|full", package="[^/]+", experiment="[^/]+", dataset="[^/]+", method="[^/]+"
for e in range(E):
    rule:
        name: f"report_p_e{{e}}"
        input: records=f"results/{{{{scale}}}}/p/e{{e}}.parquet", config=f"configs/p/e{{e}}.yaml", module=f"packages/p/src/tensorbench/p/experiments/e{{e}}.py"
        output: claims=f"results/{{{{scale}}}}/p/e{{e}}.claims.json", tables=[f"paper/tables/{{{{scale}}}}/p/e{{e}}" + s for s in (".csv", ".md", ".tex", ".json")], figures=[f"paper/figures/{{{{scale}}}}/p/e{{e}}/{{f}}{{s}}" for f in F for s in (".pdf", ".svg", ".png")]
        shell: "true"
rule ledger:
    input: [f"results/{{{{scale}}}}/p/e{{e}}.claims.json" for e in range(E)]
    output: csv="results/{{scale}}/claims.csv", json="results/{{scale}}/claims.json"
    shell: "true"
rule pdf:
    input: lambda w: [f for e in range(E) for f in [f"results/{{w.scale}}/p/e{{e}}.claims.json", *[f"paper/tables/{{w.scale}}/p/e{{e}}" + s for s in (".csv", ".md", ".tex", ".json")], *[f"paper/figures/{{w.scale}}/p/e{{e}}/{{f}}{{s}}" for f in F for s in (".pdf", ".svg", ".png")]]], ledger="results/{{scale}}/claims.json"
    output: "results/{{scale}}/paper.pdf"
    shell: "true"
rule published:
    input: "results/desk/paper.pdf"
    output: "paper/paper.pdf"
    shell: "true"
"""


def write_workspace(root: Path, experiments: int) -> None:
    """A workspace of ``experiments`` synthetic experiments of one package ``p``."""
    modules = root / "packages" / "p" / "src" / "tensorbench" / "p" / "experiments"
    for folder in (root / "configs" / "p", modules, root / "paper" / "sections"):
        folder.mkdir(parents=True)
    (root / "configs" / "papers.yaml").write_text("alpha: {package: p, title: A, authors: [A B], year: 2020}\n")
    (root / "configs" / "scales.yaml").write_text((REPOSITORY / "configs" / "scales.yaml").read_text())
    (root / "paper" / "paper.typ").touch()
    (root / "paper" / "sections" / "p.typ").touch()
    # A dataset is defined for the benchmark so that names are checked as in earnest.
    (modules.parent / "__init__.py").touch()
    (modules / "__init__.py").touch()
    names = "\n".join(
        f'''
@dataset(title="{k}", source="generated", licence="none", generated=True)
def d{k}(*, seed: int, size: int = 1):
    return size
'''
        for k in range(DATASETS)
    )
    (modules.parent / "datasets.py").write_text("from tensorbench.core.data import dataset\n" + names)
    for i in range(experiments):
        datasets = "\n".join(f"  d{k}: {{size: {k + 1}}}" for k in range(DATASETS))
        methods = "\n".join(f"  m{k}: {{rank: {k + 1}, iterations: 100}}" for k in range(METHODS))
        (root / "configs" / "p" / f"e{i}.yaml").write_text(CONFIG.format(i=i, datasets=datasets, methods=methods))
        (modules / f"e{i}.py").write_text(MODULE)
    for shared in ("Snakefile", "workflow", "profiles", "environment.yml"):
        (root / shared).symlink_to(REPOSITORY / shared)
    (root / "Bare").write_text(BARE.format(experiments=experiments, datasets=DATASETS, methods=METHODS))


def timed(command: list[str], root: Path) -> float:
    environment = {**os.environ, "PYTHONPATH": str(root / "packages" / "p" / "src")}
    started = time.perf_counter()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return time.perf_counter() - started


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--experiments", type=int, default=300)
    arguments.add_argument("--repeats", type=int, default=3)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_workspace(root, given.experiments)
        code = (
            "import time; t = time.perf_counter(); from tensorbench.core.workflow import plan; p = plan('desk');"
            "jobs = sum(len(p.job_files(e)) for e in p.workspace.experiments.values());"
            "hashes = [e.job_hash(*j) for e in p.workspace.experiments.values() for j in e.jobs()];"
            "print(jobs, time.perf_counter() - t)"
        )
        environment = {**os.environ, "PYTHONPATH": str(root / "packages" / "p" / "src")}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
        )
        jobs, seconds = done.stdout.split()
        print(
            f"read, check, expand and hash {given.experiments} experiments ({jobs} jobs): {float(seconds):.2f} s (bound 2 s at 300)"
        )
        dry = [sys.executable, "-m", "snakemake", "-n", "--quiet", "all"]
        bare_dry = [*dry, "-s", "Bare", "--workflow-profile", "none", "--cores", "all"]
        ours, bare = [], []
        for _ in range(given.repeats):
            bare.append(timed(bare_dry, root))
            ours.append(timed(dry, root))
        ratio = statistics.median(o / b for o, b in zip(ours, bare, strict=True))
        print(
            f"snakemake -n: {statistics.median(ours):.2f} s, bare Snakefile {statistics.median(bare):.2f} s, ratio {ratio:.2f} (bound 1.3)"
        )


if __name__ == "__main__":
    main()
