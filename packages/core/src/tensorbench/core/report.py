"""The stages behind the records: ``collect``, ``experiment`` (verdicts, table, figures), ``ledger`` and ``track``."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import logging
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from tensorbench.core import data, record, records
from tensorbench.core.config import DEFAULT_SCALE, ConfigError, Experiment, Workspace, load
from tensorbench.core.job import import_experiment
from tensorbench.core.process import set_up_logging
from tensorbench.core.records import Paths

log = logging.getLogger("tensorbench")


class ReportError(RuntimeError):
    """A table or figure could not be made."""


def collect_experiment(experiment: Experiment, paths: Paths) -> records.Collected:
    """Collect an experiment's records; datasets that cannot be had here are told as the reason of their absence."""
    collected = records.collect(experiment, paths)
    for dataset, choice in experiment.datasets.items():
        absent = [
            job for job, reason in collected.missing.items() if job.startswith(f"{dataset}/") and reason == "not run"
        ]
        if absent:
            found, reason = data.available(choice.uses)
            if not found:
                collected.missing |= dict.fromkeys(absent, f"dataset {dataset} skipped: {reason}")
    return collected


def trials_of(experiment: Experiment) -> dict[str, int]:
    """Tuning trials that each method was given; 0 means its library's or paper's defaults."""
    return {
        m: experiment.tuning.trials if experiment.tuning and experiment.is_tuned(m) else 0 for m in experiment.methods
    }


def report_experiment(experiment: Experiment, root: Path, *, strict: bool = False) -> None:
    """Verdicts, table and figures of one experiment from its collected records."""
    paths = Paths(root, experiment.scale)
    frame = records.load(paths.collected(experiment.key))
    module: ModuleType | None = None
    try:
        module = import_experiment(experiment, root)
    except Exception as error:
        log.exception("%s: its module cannot be imported", experiment.key)
        if strict:
            raise ReportError(f"{experiment.key}: {error}") from error
    set_looks(root, experiment)
    _decide(experiment, frame, paths, module)
    _table(experiment, frame, paths)
    _figures(experiment, frame, paths, module, strict)


def _decide(experiment: Experiment, frame: pd.DataFrame, paths: Paths, module: ModuleType | None) -> None:
    from tensorbench.core.claims.decide import decide

    missing, _ = records.read_notes(paths.collected(experiment.key))
    trials = trials_of(experiment)
    rows = []
    for claim in experiment.claims:
        verdict = decide(claim, frame, experiment.metrics, missing=missing, module=module)
        used = sorted(claim.methods() or experiment.methods)
        counts = ", ".join(f"{m}: {trials[m]}" for m in used if m in trials) if any(trials.values()) else ""
        verdict = dataclasses.replace(verdict, package=experiment.package, experiment=experiment.name, trials=counts)
        rows.append(dataclasses.asdict(verdict))
        log.info(
            "%-16s %s: %s (measured %s, bound %s)%s",
            verdict.verdict.upper(),
            claim.id,
            claim.says,
            "–" if verdict.measured is None else f"{verdict.measured:.4g}",
            verdict.bound,
            f" [{verdict.note}]" if verdict.note else "",
        )
    record.write_text(
        paths.collected(experiment.key, ".claims.json"), json.dumps(rows, indent=1, default=_plain) + "\n"
    )


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def _table(experiment: Experiment, frame: pd.DataFrame, paths: Paths) -> None:
    from tensorbench.core import tables

    columns = experiment.table or list(experiment.metrics)
    table = tables.experiment_table(
        frame,
        datasets=list(experiment.datasets),
        methods=list(experiment.methods),
        metrics={name: experiment.metrics[name] for name in columns},
        trials=trials_of(experiment),
        jobs=set(experiment.jobs()),
    )
    tables.write(table, paths.table(experiment.key))


def _figures(
    experiment: Experiment, frame: pd.DataFrame, paths: Paths, module: ModuleType | None, strict: bool
) -> None:
    from tensorbench.core import plotting

    made: dict[str, Any] = {}
    problem: Exception | None = None
    if experiment.figures:
        try:
            if module is None:
                raise ReportError("the experiment's module cannot be imported")
            for name, figure in module.figures(frame):
                if name not in experiment.figures:
                    raise ReportError(
                        f"figures() yields {name!r}, which {experiment.config_path.name} does not declare"
                    )
                made[name] = figure
            absent = [name for name in experiment.figures if name not in made]
            if absent:
                raise ReportError(
                    f"figures() did not yield {', '.join(absent)}, declared in {experiment.config_path.name}"
                )
        except Exception as error:  # a figure that fails must not sink the paper; it says so in its own place
            problem = error
            log.exception("%s: its figures failed", experiment.key)
    for name in experiment.figures:
        figure = made.get(name)
        if figure is None:
            figure, axes = plotting.figure(columns=2)
            text = f"{name}: not drawn\n{problem or 'no records'}"
            axes.text(0.5, 0.5, text, ha="center", va="center", wrap=True)
            axes.set_axis_off()
        plotting.save(figure, paths.figure(experiment.key, name))
    if problem is not None and strict:
        raise ReportError(f"{experiment.key}: {problem}") from problem


def set_looks(root: Path, experiment: Experiment) -> None:
    """One colour per method across the paper; the labels are the experiment's own: another may mean another thing."""
    from tensorbench.core import plotting

    workspace = load(root, experiment.scale, modules=False)
    plotting.set_methods({e.key: list(e.methods) for e in workspace.experiments.values()})
    plotting.set_labels(experiment.labels)


def write_ledger(workspace: Workspace, root: Path) -> pd.DataFrame:
    """Every claim of every experiment, and one row for each paper that has none yet."""
    from tensorbench.core import tables
    from tensorbench.core.claims.decide import ledger
    from tensorbench.core.claims.models import Verdict

    paths = Paths(root, workspace.scale)
    verdicts = []
    for experiment in workspace.experiments.values():
        path = paths.collected(experiment.key, ".claims.json")
        if path.exists():
            verdicts += [Verdict(**row) for row in json.loads(path.read_text())]
    table = ledger(verdicts, workspace.papers)
    with record.atomic(paths.ledger()) as temporary:
        table.to_csv(temporary, index=False)
    # The paper prints the texts; the numbers are there in full for whoever computes with them.
    rows = [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        | {
            "measured_text": tables.number(row["measured"]),
            "interval_text": tables.interval(row["low"], row["high"]),
        }
        for row in table.to_dict("records")
    ]
    record.write_text(paths.ledger(".json"), json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    tables.write(table, paths.table("ledger"))
    return table


def track(workspace: Workspace, root: Path) -> None:
    """Put each experiment's figures and verdicts beside its runs in MLflow."""
    from tensorbench.core import tracking

    paths = Paths(root, workspace.scale)
    uri = tracking.default_uri(paths.results)
    for experiment in workspace.experiments.values():
        figures = [
            paths.figure(experiment.key, name + suffix) for name in experiment.figures for suffix in (".svg", ".pdf")
        ]
        claims = paths.collected(experiment.key, ".claims.json")
        rows = json.loads(claims.read_text()) if claims.exists() else []
        tracking.log_report(uri, experiment.key, workspace.scale, [f for f in figures if f.exists()], rows)


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(prog="python -m tensorbench.core.report", description=__doc__)
    commands = arguments.add_subparsers(dest="command", required=True)
    for name in ("collect", "experiment", "ledger", "track"):
        command = commands.add_parser(name)
        if name in ("collect", "experiment"):
            command.add_argument("experiment", help="<package>/<experiment>")
        if name == "experiment":
            command.add_argument("--strict", action="store_true", help="a figure that fails is an error (CI)")
        command.add_argument("--scale", default=DEFAULT_SCALE)
        command.add_argument("--root", type=Path, default=Path("."))
        command.add_argument("--log", type=Path)
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    set_up_logging(arguments.log)
    root = arguments.root.resolve()
    gc.disable()  # a report lives for seconds; figures make so many objects that collecting takes a fifteenth of them
    data.discover(arguments.experiment.split("/")[0] if arguments.command in ("collect", "experiment") else None)
    try:
        if arguments.command == "track":
            track(load(root, arguments.scale), root)
            return 0
        if arguments.command == "ledger":
            table = write_ledger(load(root, arguments.scale), root)
            counts = table["verdict"].value_counts()
            log.info("ledger: %s", ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
            return 0
        experiment = load(root, arguments.scale, only=arguments.experiment).experiment(arguments.experiment)
        paths = Paths(root, experiment.scale)
        if arguments.command == "collect":
            collected = collect_experiment(experiment, paths)
            records.write_collected(paths.collected(experiment.key), collected)
            log.info("%s: %d runs, %d jobs absent", experiment.key, collected.table.num_rows, len(collected.missing))
        else:
            report_experiment(experiment, root, strict=arguments.strict)
    except (ConfigError, record.RecordError, ReportError) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
