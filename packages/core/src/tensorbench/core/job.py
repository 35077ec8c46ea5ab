"""A job: all seeds of one method on one dataset, after its tuning if it has one, from config to record and MLflow.

A job writes its record when every seed is done, atomically. A seed that raises fails the whole job: no record, a note
``<method>.failed.json`` with the error beside where the record would be, and an MLflow run marked FAILED with the
traceback.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import shutil
import sys
import time
import traceback
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from tensorbench.core import data, provenance, record, tracking, warm
from tensorbench.core.config import DEFAULT_SCALE, ConfigError, Experiment, config_hash, load
from tensorbench.core.errors import unknown
from tensorbench.core.process import limit_loaded_libraries, limit_threads, seed_everything, set_up_logging
from tensorbench.core.records import Paths
from tensorbench.core.run import Dataset, Run
from tensorbench.core.tracking.sync import flat

log = logging.getLogger("tensorbench")
TUNING_SEED = 10_000  # trials see data and draws that no seeded run sees


class RunFailed(RuntimeError):
    """A run raised; the message is the short form of its error."""


class JobNotStarted(RuntimeError):
    """No run began: no GPU could be had, or the experiment's module cannot be imported."""

    def __init__(self, experiment: Experiment, dataset: str, method: str, root: Path, reason: str) -> None:
        super().__init__(f"{experiment.key} · {dataset} · {method}: {reason}")
        self.note = Paths(root, experiment.scale).job(experiment.key, dataset, method, ".failed.json")


@dataclass
class Job:
    """One method on one dataset of one experiment, in one process."""

    experiment: Experiment
    dataset: str
    method: str
    root: Path
    module: ModuleType
    threads: int = 1

    def __post_init__(self) -> None:
        self.paths = Paths(self.root, self.experiment.scale)
        self.uri = tracking.default_uri(self.paths.results)
        self.config = self.experiment.job_config(self.dataset, self.method)
        self.config_hash = config_hash(self.config)
        self.tuning_hash = self.experiment.tuning_hash(self.dataset, self.method)

    def path(self, suffix: str) -> Path:
        return self.paths.job(self.experiment.key, self.dataset, self.method, suffix)

    @cached_property
    def earlier(self) -> list[Any] | None:
        """MLflow's runs of this method on this dataset from before this job: one search for all seeds and trials."""
        labels = {"method": self.method, "dataset": self.dataset, "scale": self.experiment.scale}
        return tracking.earlier_runs(self.uri, self.experiment.key, **labels)

    def run_one(self, seed: int, params: dict[str, Any], folder: Path, trial: int | None = None) -> record.Record:
        """Do one run, live in MLflow, and return its record. Raises RunFailed when the method raises."""
        experiment = self.experiment
        chosen = experiment.datasets[self.dataset]
        dataset = Dataset(chosen.name, chosen.uses, chosen.params)
        method = replace(experiment.methods[self.method], params=params)
        run = Run(
            experiment.package,
            experiment.name,
            dataset,
            method,
            seed,
            experiment.scale,
            self.threads,
            trial,
            experiment.device == "gpu",
            folder,
        )
        result = record.Record(
            package=experiment.package,
            experiment=experiment.name,
            dataset=dataset.name,
            method=method.name,
            seed=seed,
            scale=experiment.scale,
            started=provenance.now(),
            config_hash=self.config_hash,
            paper=method.paper,
            trial=trial,
            params={"dataset": dataset.params, "method": method.params},
            provenance=provenance.describe(self.root, self.threads)
            | {"config": self.config, "code": provenance.code_hash(self.root, experiment.package)},
        )
        live = tracking.RunLog.start(
            self.uri,
            experiment=experiment.key,
            name=run.title,
            tags=_tags(result),
            params=flat(result.params),
            live=not experiment.exclusive,
        )
        run.sink = live.log
        seed_everything(seed)
        gc.collect()  # what an earlier seed left would count as this one's memory
        started = time.perf_counter()
        try:
            self.module.run(run)
            if not run.metrics:
                raise RuntimeError("run() logged no metric; call run.log(…)")
        except BaseException as error:
            live.fail(traceback.format_exc())
            if isinstance(error, Exception):
                raise RunFailed(f"{type(error).__name__}: {error}") from error
            raise
        result.seconds = time.perf_counter() - started
        result.metrics, result.booleans = dict(run.metrics), sorted(run.booleans)
        result.history = list(run.history)
        result.artifacts = [path.name for path in run.artifacts if path.exists()]
        peers = self.earlier
        if peers is not None:
            peers = [peer for peer in peers if peer.data.tags.get("seed") == str(seed)]
        kept = [path for path in run.artifacts if path.exists()]
        live.finish({"run_seconds": result.seconds}, kept, peers=peers)
        log.info("%s: done in %.1f s · %s", run.title, result.seconds, _summary(run.metrics, experiment))
        return result

    def run_seeds(self) -> Path:
        """All seeds, then the record; artifacts move into place first, so that a record never names a missing file."""
        params = self._tuned_params()
        output, final = self.path(".parquet"), self.path(".artifacts")
        scratch = final.with_name(f".{final.name}.{os.getpid()}")
        try:
            results = []
            for seed in range(self.experiment.seeds):
                result = self.run_one(seed, params, scratch / f"seed-{seed}")
                result.artifacts = [f"{self.dataset}/{final.name}/seed-{seed}/{name}" for name in result.artifacts]
                results.append(result)
            shutil.rmtree(final, ignore_errors=True)
            if scratch.exists():
                os.replace(scratch, final)
            record.write(output, results)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return output

    def _tuned_params(self) -> dict[str, Any]:
        """The method's parameters, with the winner's where it has a search space; tunes first if need be."""
        params = self.experiment.methods[self.method].params
        if not self.experiment.is_tuned(self.method):
            return params
        path = self.path(".tuned.json")
        if not (path.exists() and json.loads(path.read_text()).get("tuning_hash") == self.tuning_hash):
            self.tune()
        return {**params, **json.loads(path.read_text())["params"]}

    def tune(self) -> Path:
        """All trials as ordinary runs, each kept on its own (an interrupted tuning resumes), then the winner as JSON.

        The winner has the best validation metric; trials that raise or end in NaN lose. When none is left, RunFailed.
        """
        from tensorbench.core.search_space import draw

        experiment = self.experiment
        method = experiment.methods[self.method]
        tuning = experiment.tuning
        assert tuning is not None and method.search is not None
        folder = self.path(".trials")
        for old in folder.glob("*.parquet"):
            if not old.name.startswith(f"{self.tuning_hash}-"):
                old.unlink()  # trials of another config
        sign = -1.0 if experiment.metrics[tuning.metric] == "maximize" else 1.0
        losses: dict[int, float] = {}
        errors: list[str] = []
        draws = draw(method.search, tuning.trials, seed=0)
        for trial, choice in enumerate(draws):
            kept = folder / f"{self.tuning_hash}-{trial}.parquet"
            if not kept.exists():
                try:
                    result = self.run_one(
                        TUNING_SEED, {**method.params, **choice}, folder / f"artifacts-{trial}", trial
                    )
                except RunFailed as error:
                    log.warning("trial %d of %s on %s lost: %s", trial, self.method, self.dataset, error)
                    errors.append(f"trial {trial}: {error}")
                    continue
                finally:
                    shutil.rmtree(folder / f"artifacts-{trial}", ignore_errors=True)
                result.artifacts = []
                record.write(kept, [result])
            value = record.read_rows(kept)[0]["metrics"].get(tuning.metric)
            if value is None:
                raise RunFailed(f"tuning judges by {tuning.metric!r}, which run() did not log in trial {trial}")
            if value == value:
                losses[trial] = sign * value
        if not losses:
            raise RunFailed(f"no trial of {len(draws)} succeeded ({'; '.join(errors) or 'all ended in NaN'})")
        best = min(losses, key=lambda trial: (losses[trial], trial))
        winner = {
            "params": draws[best],
            "trial": best,
            "trials": len(draws),
            "metric": tuning.metric,
            "value": sign * losses[best],
            "failed": errors,
            "tuning_hash": self.tuning_hash,
        }
        output = self.path(".tuned.json")
        record.write_text(output, json.dumps(winner, indent=2, default=str) + "\n")
        log.info(
            "%s on %s: trial %d of %d wins with %s = %.4g: %s",
            self.method,
            self.dataset,
            best,
            len(draws),
            tuning.metric,
            sign * losses[best],
            draws[best],
        )
        return output


def note_failure(path: Path, error: BaseException) -> None:
    """Say at ``path`` why there is no record, for the ledger; never raises."""
    note = {"error": str(error), "when": provenance.now(), "traceback": traceback.format_exc(limit=20)}
    try:
        record.write_text(path, json.dumps(note, indent=2) + "\n")
    except record.RecordError as second:
        log.error("%s", second)


def _tags(result: record.Record) -> dict[str, str]:
    tags = {
        "paper": result.paper or "",
        "method": result.method,
        "dataset": result.dataset,
        "scale": result.scale,
        "seed": str(result.seed),
        "trial": "" if result.trial is None else str(result.trial),
        "commit": str(result.provenance.get("commit", "")),
        "dirty": str(result.provenance.get("dirty", "")),
        "config_hash": result.config_hash,
        "record": result.record,
    }
    return {key: value for key, value in tags.items() if value}


def _summary(metrics: dict[str, float], experiment: Experiment) -> str:
    shown = [name for name in (experiment.table or experiment.metrics) if name in metrics] or list(metrics)
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in shown[:4])


def import_experiment(experiment: Experiment, root: Path) -> ModuleType:
    """The module of ``experiment``, from the workspace at ``root`` if its package is not installed."""
    import importlib

    source = root / "packages" / experiment.package / "src"
    if source.is_dir() and str(source) not in sys.path:
        sys.path.append(str(source))
    return importlib.import_module(experiment.module)


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(prog="python -m tensorbench.core.run", description=__doc__)
    arguments.add_argument("experiment", help="<package>/<experiment>, as under configs/")
    arguments.add_argument("dataset")
    arguments.add_argument("method")
    arguments.add_argument("--scale", default=DEFAULT_SCALE)
    arguments.add_argument("--root", type=Path, default=Path("."), help="the workspace (default: here)")
    arguments.add_argument("--threads", type=int, help="at most this many compute threads (default: the config's)")
    arguments.add_argument("--tune", action="store_true", help="do only the tuning trials, not the seeded runs")
    arguments.add_argument("--log", type=Path, help="also write the log to this file")
    return arguments


def open_job(
    root: Path, key: str, dataset: str, method: str, scale: str, stack: ExitStack, threads: int | None = None
) -> Job:
    """Check the names, take a GPU if the scale asks for one, set threads, and only then import what is heavy."""
    experiment = load(root, scale, only=key).experiment(key)
    for kind, name, valid in (("dataset", dataset, experiment.datasets), ("method", method, experiment.methods)):
        if name not in valid:
            raise ConfigError(f"{key} at scale {scale}: {unknown(kind, name, valid)}")
    threads = max(1, min(experiment.threads, threads or experiment.threads))
    if threads > 1 or experiment.device == "gpu":
        # Thread pools and the choice of a GPU want a process that has loaded nothing yet. Timings on one thread do
        # not: the libraries of a fork were loaded for one thread, and its own pages are new either way.
        warm.start_over_if_warm()
    limit_threads(threads)
    if experiment.device == "gpu":
        from tensorbench.core.devices import lease

        try:
            stack.enter_context(lease())
        except (ValueError, RuntimeError, OSError) as error:
            raise JobNotStarted(experiment, dataset, method, root, str(error)) from error
    try:
        module = import_experiment(experiment, root)
        data.discover(experiment.package)  # others only for a name that is not there
    except Exception as error:
        reason = f"{experiment.module} cannot be imported: {type(error).__name__}: {error}"
        raise JobNotStarted(experiment, dataset, method, root, reason) from error
    limit_loaded_libraries(threads)
    gc.freeze()  # the collection before each run need not look through the libraries, which costs a quarter second
    return Job(experiment, dataset, method, root, module, threads)


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    root = arguments.root.resolve()
    try:
        set_up_logging(arguments.log)
    except OSError as error:
        set_up_logging(None)
        log.error("cannot write the log %s: %s", arguments.log, error.strerror)
        return 1
    with ExitStack() as stack:
        try:
            job = open_job(
                root,
                arguments.experiment,
                arguments.dataset,
                arguments.method,
                arguments.scale,
                stack,
                arguments.threads,
            )
        except ConfigError as error:
            log.error("%s", error)
            return 2
        except JobNotStarted as error:
            log.error("%s\n%s", error, "".join(traceback.format_exception(error.__cause__)))
            note_failure(error.note, error)
            return 1
        note = job.path(".failed.json")
        # Written first, so that a process that is killed (out of memory, a time limit) has said something too.
        note_failure(note, RunFailed("its process ended without a word: killed, out of memory, or over a time limit"))
        try:
            written = job.tune() if arguments.tune else job.run_seeds()
        except KeyboardInterrupt:
            note.unlink(missing_ok=True)
            raise
        except Exception as error:
            note_failure(note, error)
            if not isinstance(error, RunFailed | record.RecordError | ConfigError):
                log.error("%s", traceback.format_exc())  # nothing that a method did: a mistake of the machinery
            cause = (
                f"\n{''.join(traceback.format_exception(error.__cause__))}"
                if isinstance(error, RunFailed) and error.__cause__
                else ""
            )
            log.error("%s · %s · %s failed: %s%s", job.experiment.key, job.dataset, job.method, error, cause)
            return 1
        note.unlink(missing_ok=True)
        log.info("wrote %s", written.relative_to(root) if written.is_relative_to(root) else written)
    return 0


__all__ = ["TUNING_SEED", "Job", "RunFailed", "main", "open_job"]
