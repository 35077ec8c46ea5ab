"""Two experiments through a real SLURM of one node with two stand-in GPUs: the records are those of a local run."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tensorbench.core import record

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))  # pytest's importlib mode leaves helpers beside the tests out of reach
slurm_cluster = importlib.import_module("slurm_cluster")
TIMINGS = ("fit_seconds", "fit_cpu_seconds", "fit_peak_mib")

DATASETS = """
import numpy as np
from tensorbench.core.data import dataset

@dataset(title="Points on a noisy line", source="generated here", licence="Apache-2.0", generated=True)
def clustered_line(*, seed: int, points: int = 200):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, points)
    return x, 2.0 * x + 0.1 * rng.standard_normal(points)
"""

MODULE = """
import numpy as np
from tensorbench.core import plotting

METHODS = {"least_squares": lambda x, y: float(x @ y / (x @ x))}

def run(run):
    x, y = run.dataset.load(run.seed)
    noise = run.rng.standard_normal(len(x))
    with run.time("fit"):
        slope = METHODS[run.method.uses](x, y + 0.01 * noise)
    for step in range(3):
        run.log(step=step, rmse=float(np.sqrt(np.mean((y - slope * x) ** 2))) / (step + 1))

def figures(records):
    fig, ax = plotting.figure()
    yield "rmse", fig
"""

CONFIG = """
title: Fitting a line ({name})
question: Does SLURM change a number?
datasets: {{clustered_line: {{}}}}
methods: {{least_squares: {{paper: alpha}}}}
seeds: 2
metrics: {{rmse: minimize, fit_seconds: minimize}}
table: [rmse]
figures: {{rmse: "Nothing to see."}}
scales: {{smoke: {{seeds: 2, device: {device}}}}}
claims:
  - {{id: alpha.{name}, paper: alpha, says: It fits., value: {{metric: rmse, of: least_squares, at_most: 1.0}}}}
"""

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=f"no SLURM: {slurm_cluster.missing()}"),
    pytest.mark.timeout(300),
]


def workspace(root: Path) -> Path:
    """Two small experiments, one of which wants a GPU; Snakefile, rules and profiles are the repository's own."""
    package = root / "packages" / "toy" / "src" / "tensorbench" / "toy"
    for folder in (root / "configs" / "toy", root / "paper" / "sections", package / "experiments"):
        folder.mkdir(parents=True)
    for empty in (package, package / "experiments"):
        (empty / "__init__.py").touch()
    (package / "datasets.py").write_text(DATASETS)
    (root / "configs" / "papers.yaml").write_text(
        "alpha: {package: toy, title: On lines, authors: [Gauss], year: 2009}\n"
    )
    (root / "configs" / "scales.yaml").write_bytes((ROOT / "configs" / "scales.yaml").read_bytes())
    for name, device in (("plain", "cpu"), ("device", "gpu")):
        (package / "experiments" / f"{name}.py").write_text(MODULE)
        (root / "configs" / "toy" / f"{name}.yaml").write_text(CONFIG.format(name=name, device=device))
    for shared in ("Snakefile", "workflow", "profiles", "environment.yml"):
        (root / shared).symlink_to(ROOT / shared)
    return root


def run(root: Path, *command: str, **environment: str) -> None:
    """A command of the workspace's own, with its logs where it fails."""
    source = str(root / "packages" / "toy" / "src")
    own = {"PYTHONPATH": source, "MLFLOW_TRACKING_URI": "", "TENSORBENCH_CACHE": str(root / "cache")}
    everything = {**os.environ, **environment, **own}
    arguments = [sys.executable, "-m", *command]
    done = subprocess.run(arguments, cwd=root, env=everything, capture_output=True, text=True, timeout=240, check=False)
    logs = "\n".join(f"{log}:\n{log.read_text()[-2000:]}" for log in root.glob("results/**/*.log"))
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-6000:]}\n{logs}"


def records(root: Path) -> dict[tuple, dict]:
    rows = [row for file in sorted(root.glob("results/smoke/toy/*/*/*.parquet")) for row in record.read_rows(file)]
    return {(row["experiment"], row["dataset"], row["method"], row["seed"]): row for row in rows}


def results(row: dict) -> tuple:
    metrics = {name: value for name, value in row["metrics"].items() if name not in TIMINGS}
    history = [point for point in row["history"] if point[0] not in TIMINGS]
    return metrics, history, row["params"]


def test_the_jobs_went_through_slurm_and_the_records_equal_a_local_runs(tmp_path):
    fake = {"TENSORBENCH_GPUS": "fake0", "TENSORBENCH_LEASES": str(tmp_path / "locks")}
    local = workspace(tmp_path / "local")
    for name in ("plain", "device"):
        run(local, "tensorbench.core.run", f"toy/{name}", "clustered_line", "least_squares", "--scale", "smoke", **fake)

    remote = workspace(tmp_path / "remote")
    targets = [f"results/smoke/toy/{name}/clustered_line/least_squares.parquet" for name in ("plain", "device")]
    with slurm_cluster.SlurmCluster(tmp_path / "slurm", gpus=2) as cluster:
        command = ("snakemake", "--profile", "workflow/profiles/slurm", "--config", "scale=smoke")
        no_accounting = ("--slurm-no-account", "--slurm-status-command", "squeue")
        impatient = ("--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2")
        run(remote, *command, *no_accounting, *impatient, "--", *targets, **cluster.environment, **fake)
        jobs = cluster.completed()

    expected, found = records(local), records(remote)
    assert len(expected) == 4 and found.keys() == expected.keys()
    for key, row in found.items():
        assert results(row) == results(expected[key]), key
        provenance, at_home = row["provenance"], expected[key]["provenance"]
        # The controller knows the job that the record names.
        assert jobs[int(provenance["slurm_job"])]["JobState"] == "COMPLETED" and "slurm_job" not in at_home
        if row["experiment"] == "device":  # SLURM's own assignment wins over a lease
            assert provenance["cuda_visible_devices"] in ("0", "1") and at_home["cuda_visible_devices"] == "fake0"
        else:
            assert "cuda_visible_devices" not in provenance
    assert len({row["provenance"]["slurm_job"] for row in found.values()}) == 2  # a job each, for all of its seeds
