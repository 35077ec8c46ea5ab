"""What the Snakefile asks of the configs: which files, which jobs, which targets. Imports neither torch nor mlflow."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorbench.core import data
from tensorbench.core.config import ConfigError, Experiment, Workspace, load
from tensorbench.core.config.problems import Problems
from tensorbench.core.errors import nearest, unknown

log = logging.getLogger(__name__)
FIGURE_FORMATS = (".pdf", ".svg")
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
        if not self.partial:
            return files
        notes = [file.removesuffix(suffix) + ".failed.json" for file in files] if suffix == ".parquet" else []
        return [file for file in [*files, *notes] if os.path.exists(file)]

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


def report_hash(experiment: Experiment, workspace: Workspace) -> str:
    """Changes when what a report shows changes: claims, captions, metrics, labels, and the colours of all methods."""
    parts = [
        experiment.title,
        experiment.question,
        experiment.table,
        experiment.figures,
        experiment.metrics,
        [claim.model_dump(mode="json") for claim in experiment.claims],
        list(experiment.datasets),
        experiment.labels,
        _looks_of(tuple(tuple(e.methods) for e in workspace.experiments.values())),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


@functools.lru_cache(maxsize=4)
def _looks_of(methods: tuple[tuple[str, ...], ...]) -> str:
    return hashlib.sha256(json.dumps(methods).encode()).hexdigest()[:12]


@functools.cache
def report_sources(package: str) -> list[str]:
    """The code behind verdicts, tables and figures: when it changes they are redone, which costs seconds."""
    core = Path(__file__).parent
    files = [core / "records.py", core / "report.py"]
    for folder in (core / "claims", core / "tables", core / "plotting", Path("packages") / package / "src"):
        files += folder.rglob("*.py")
    return sorted(str(path) for path in files)


@functools.cache
def plan(scale: str, root: str = ".", partial: bool = False) -> Plan:
    """Read and check every config at ``scale``; warn once about the datasets that cannot be had here."""
    data.discover()
    workspace = load(Path(root), scale, dataset_names=data.names())
    problems = Problems()
    for experiment in workspace.experiments.values():
        for choice in experiment.datasets.values():
            try:
                data.check_parameters(choice.uses, choice.params)
            except ValueError as error:
                problems.add(experiment.config_path, f"datasets.{choice.name}", str(error))
    problems.raise_if_any()
    skipped: dict[str, str] = {}
    needed = {choice.uses: e.key for e in workspace.experiments.values() for choice in e.datasets.values()}
    for name in needed:
        found, reason = data.available(name)
        if not found:
            skipped[name] = reason
    if skipped:
        _warn_of_skipped(skipped)
    return Plan(workspace, skipped, partial)


def _warn_of_skipped(skipped: Mapping[str, str]) -> None:
    """One warning for all: the names, and one reason in full; the ledger has each beside the claims it concerns."""
    first, reason = next(iter(skipped.items()))
    log.warning(
        "%d dataset(s) cannot be had here and are skipped, their claims read not measured: %s. %s: %s. "
        "A folder named by TENSORBENCH_DATA is looked in first.",
        len(skipped),
        ", ".join(skipped),
        first if len(skipped) == 1 else f"The first, {first}",
        reason.rstrip("."),
    )


def use_this_interpreter() -> None:
    """Jobs that say ``python`` get the one that runs Snakemake, its environment active in the shell or not."""
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])


@functools.cache
def typed_targets(argv: tuple[str, ...]) -> list[str]:
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
        parts = target.split("/")
        if parts[0] == "results" and len(parts) == 6 and target.endswith(".parquet") and parts[1] == plan.scale:
            _check_record(plan, f"{parts[2]}/{parts[3]}", parts[4], parts[5].removesuffix(".parquet"))
        if target in rules or target.startswith(("results/", "paper/")) or Path(target).is_absolute():
            continue
        people = ["paper", "claims", "figures", "smoke", "sync", *workspace.packages]
        guess = nearest(target, [*people, *workspace.experiments, *workspace.papers])
        raise ConfigError(
            f"unknown target {target!r}{f'; did you mean {guess!r}?' if guess else ''} (valid: {', '.join(people)}, "
            "<package>/<experiment>, a paper's key, or the path of a file that the workflow makes)"
        )


def _check_record(plan: Plan, key: str, dataset: str, method: str) -> None:
    experiment = plan.workspace.experiment(key)
    for kind, given, valid in (("dataset", dataset, experiment.datasets), ("method", method, experiment.methods)):
        if given not in valid:
            raise ConfigError(f"{experiment.key} at scale {plan.scale}: {unknown(kind, given, valid)}")


def failed_jobs(plan: Plan) -> list[str]:
    """The notes of failed runs, of jobs that are still in the configs."""
    jobs = (
        file for e in plan.workspace.experiments.values() for file in Plan(plan.workspace).job_files(e, ".failed.json")
    )
    return [file for file in jobs if os.path.exists(file)]


def _failure(file: str) -> str:
    """One line for a failed job: its record's name, why, and where the whole story is."""
    job = file.removesuffix(".failed.json")
    try:
        reason = str(json.loads(Path(file).read_text())["error"]).strip().partition("\n")[0]
    except (OSError, ValueError, KeyError):
        reason = "no reason was noted"
    return f"  {job.removeprefix('results/')}: {reason} (see {job}.log)"


def finish_without_failed_runs(
    plan: Plan, targets: Collection[str], config: Mapping[str, Any], cores: int | None
) -> None:
    """After failed runs: build the same targets from the records that are there; their claims read "not measured".

    Only the rules behind the records are allowed, so nothing is run again. An interrupted workflow (no failed run) is
    left alone, and so is one that was asked for records only.
    """
    failed = failed_jobs(plan)
    wanted = [target for target in targets if not target.endswith(".parquet") or target.count("/") < 4]
    if not failed or (targets and not wanted):
        return
    log.warning(
        "%d job(s) failed:\n%s\nBuilding from the other records; run snakemake again to redo only these.",
        len(failed),
        "\n".join(map(_failure, failed)),
    )
    workspace = plan.workspace
    rules = ["collect", "ledger", "pdf", "tracked", "published", "paper", "claims", "figures", "smoke"]
    rules += [f"report_{e.package}_{e.name}" for e in workspace.experiments.values()]
    rules += [*workspace.packages, *workspace.experiments, *workspace.papers]
    settings = {**config, "scale": plan.scale, "partial": 1}
    command = [sys.executable, "-m", "snakemake", *wanted, "--nolock", "--cores", str(cores or "all"), "--config"]
    command += [*(f"{key}={value}" for key, value in settings.items()), "--allowed-rules", *rules]
    subprocess.run(command, check=False)
