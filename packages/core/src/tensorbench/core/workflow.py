"""What the Snakefile asks of the configs: which files, which jobs, which targets. Imports neither torch nor mlflow."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tensorbench.core import data
from tensorbench.core.config import ConfigError, Experiment, Workspace, load
from tensorbench.core.errors import unknown

log = logging.getLogger(__name__)
FIGURE_FORMATS = (".pdf", ".svg", ".png")
TABLE_FORMATS = (".csv", ".md", ".tex", ".json")


@dataclass
class Plan:
    """A workspace at one scale, as lists of files."""

    workspace: Workspace
    skipped: dict[str, str] = field(default_factory=dict)  # dataset loader -> why it cannot be had
    partial: bool = False  # build from the records that are there (after a failed run)

    @property
    def scale(self) -> str:
        return self.workspace.scale

    def experiment(self, package: str, name: str) -> Experiment:
        return self.workspace.experiment(f"{package}/{name}")

    def job_files(self, experiment: Experiment, suffix: str = ".parquet") -> list[str]:
        """The files of an experiment's jobs; datasets that cannot be had have none."""
        folder = f"results/{self.scale}/{experiment.key}"
        files = [
            f"{folder}/{dataset}/{method}{suffix}"
            for dataset, method in experiment.jobs()
            if experiment.datasets[dataset].uses not in self.skipped
        ]
        return [file for file in files if os.path.exists(file)] if self.partial else files

    def reports(self, experiments: Collection[Experiment]) -> list[str]:
        """The end products of experiments: claims, table, figures."""
        files = []
        for e in experiments:
            files += [claims_file(self.scale, e.key), *table_files(self.scale, e.key), *figure_files(self.scale, e)]
        return files


def claims_file(scale: str, key: str) -> str:
    return f"results/{scale}/{key}.claims.json"


def table_files(scale: str, key: str) -> list[str]:
    return [f"paper/tables/{scale}/{key}{suffix}" for suffix in TABLE_FORMATS]


def figure_files(scale: str, experiment: Experiment) -> list[str]:
    folder = f"paper/figures/{scale}/{experiment.key}"
    return [f"{folder}/{name}{suffix}" for name in experiment.figures for suffix in FIGURE_FORMATS]


def report_hash(experiment: Experiment) -> str:
    """Changes when the claims, figures, captions, metrics or table of an experiment change: its report is redone."""
    parts = [
        experiment.title,
        experiment.question,
        experiment.table,
        experiment.figures,
        experiment.labels,
        experiment.metrics,
        [claim.model_dump(mode="json") for claim in experiment.claims],
        list(experiment.datasets),
        list(experiment.methods),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


@functools.cache
def plan(scale: str, root: str = ".", partial: bool = False) -> Plan:
    """Read and check every config at ``scale``; warn once about each dataset that cannot be had here."""
    data.discover()
    workspace = load(Path(root), scale, dataset_names=data.names())
    skipped: dict[str, str] = {}
    needed = {choice.uses: e.key for e in workspace.experiments.values() for choice in e.datasets.values()}
    for name, key in needed.items():
        found, reason = data.available(name)
        if not found:
            skipped[name] = reason
            log.warning("dataset %s (%s and perhaps others) is skipped: %s", name, key, reason)
    return Plan(workspace, skipped, partial)


def use_this_interpreter() -> None:
    """Jobs that say ``python`` get the one that runs Snakemake, its environment active in the shell or not."""
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])


def typed_targets(argv: Sequence[str]) -> list[str]:
    """The targets on Snakemake's command line; none when this is not a command line of Snakemake."""
    if "snakemake" not in Path(argv[0]).parent.name + Path(argv[0]).name:
        return []
    from snakemake.cli import parse_args

    try:
        return list(parse_args(list(argv[1:]))[1].targets or [])
    except SystemExit:
        return []


def check_targets(targets: Collection[str], rules: Collection[str], plan: Plan) -> None:
    """A misspelt target gets the nearest name (Snakemake itself only says that no rule makes it); ConfigError."""
    workspace = plan.workspace
    for target in targets:
        if target in workspace.papers and not workspace.of_paper(target):
            log.warning("paper %s has no experiment yet; the ledger says so", target)
        if target in rules or target.startswith(("results/", "paper/")) or Path(target).is_absolute():
            continue
        people = ["paper", "claims", "figures", "smoke", "sync"]
        raise ConfigError(
            unknown("target", target, [*people, *workspace.packages, *workspace.experiments, *workspace.papers])
        )


def failed_jobs(scale: str, root: Path = Path(".")) -> list[Path]:
    """The notes that failed runs left."""
    return sorted((root / "results" / scale).glob("*/*/*/*.failed.json"))


def finish_without_failed_runs(scale: str, targets: Collection[str]) -> None:
    """After failed runs: build the same targets from the records that are there; their claims read "not measured".

    Only the rules behind the records are allowed, so nothing is run again. An interrupted workflow (no failed run) is
    left alone.
    """
    failed = failed_jobs(scale)
    if not failed:
        return
    shown = ", ".join(str(path.relative_to("results")).removesuffix(".failed.json") for path in failed)
    log.warning(
        "%d job(s) failed: %s. Building from the other records; run snakemake again to redo only these.",
        len(failed),
        shown,
    )
    rules = ["collect", "ledger", "pdf", "tracked", "published", "paper", "claims", "figures"]
    plan_ = plan(scale)
    rules += [f"report_{e.package}_{e.name}" for e in plan_.workspace.experiments.values()]
    rules += [*plan_.workspace.packages, *plan_.workspace.experiments, *plan_.workspace.papers]
    wanted = [target for target in targets if not target.endswith((".parquet", ".tuned.json"))]
    command = [
        sys.executable,
        "-m",
        "snakemake",
        *wanted,
        "--nolock",
        "--cores",
        "all",
        "--config",
        f"scale={scale}",
        "partial=1",
        "--allowed-rules",
        *rules,
    ]
    subprocess.run(command, check=False)
