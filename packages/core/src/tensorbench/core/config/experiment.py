"""What the configs say once a scale has resolved them: experiments with their datasets, methods and jobs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorbench.core.claims.models import Claim
from tensorbench.core.config.models import Scale, Tuning
from tensorbench.core.config.problems import ConfigError
from tensorbench.core.errors import unknown
from tensorbench.core.papers import Paper


@dataclass(frozen=True)
class Choice:
    """A dataset or method as a scale resolves it. ``uses`` names the loader or ``METHODS`` entry behind ``name``."""

    name: str
    uses: str
    params: dict[str, Any] = field(default_factory=dict)
    paper: str | None = None
    search: dict[str, Any] | None = None
    takes: tuple[str, ...] | None = None  # datasets that a method can take; None: all


@dataclass(frozen=True)
class Experiment:
    """One experiment at one scale."""

    package: str
    name: str
    scale: str
    config_path: Path
    module_path: Path
    title: str
    question: str
    datasets: dict[str, Choice]
    methods: dict[str, Choice]
    seeds: int
    threads: int
    exclusive: bool
    device: str
    memory_mib: int
    minutes: int
    metrics: dict[str, str]
    tuning: Tuning | None
    table: list[str]
    figures: dict[str, str]
    labels: dict[str, str]
    claims: list[Claim]

    @property
    def key(self) -> str:
        """``<package>/<experiment>``: its name for people, Snakemake and MLflow."""
        return f"{self.package}/{self.name}"

    @property
    def module(self) -> str:
        return f"tensorbench.{self.package}.experiments.{self.name}"

    @property
    def papers(self) -> set[str]:
        """Papers that this experiment serves: those of its claims and of its methods."""
        return {c.paper for c in self.claims} | {m.paper for m in self.methods.values() if m.paper}

    def jobs(self) -> Iterator[tuple[str, str]]:
        """(dataset, method) of every job; one job runs all seeds."""
        for dataset in self.datasets:
            for method, choice in self.methods.items():
                if choice.takes is None or dataset in choice.takes:
                    yield dataset, method

    def is_tuned(self, method: str) -> bool:
        return self.tuning is not None and self.methods[method].search is not None

    def job_config(self, dataset: str, method: str) -> dict[str, Any]:
        """Everything that decides the outcome of a job; its hash says whether a record is still of this config."""
        d, m = self.datasets[dataset], self.methods[method]
        tuning = (
            {"trials": self.tuning.trials, "metric": self.tuning.metric, "search": m.search}
            if (self.tuning is not None and m.search is not None)
            else None
        )
        return {
            "experiment": self.key,
            "scale": self.scale,
            "seeds": self.seeds,
            "device": self.device,
            "threads": self.threads,
            "dataset": {"name": d.name, "uses": d.uses, "params": d.params},
            "method": {"name": m.name, "uses": m.uses, "params": m.params, "paper": m.paper},
            "tuning": tuning,
        }

    def tuning_hash(self, dataset: str, method: str) -> str:
        """What decides the outcome of a tuning: the job's config but for the seeds, which trials do not see."""
        config = self.job_config(dataset, method)
        return config_hash({key: value for key, value in config.items() if key != "seeds"})

    def job_hash(self, dataset: str, method: str) -> str:
        return config_hash(self.job_config(dataset, method))


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hex digits of the SHA-256 of the canonical JSON of ``config``."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Workspace:
    root: Path
    scale: str
    papers: dict[str, Paper]
    scales: dict[str, Scale]
    experiments: dict[str, Experiment]

    @property
    def packages(self) -> list[str]:
        """Packages that have experiments, in order."""
        return list(dict.fromkeys(e.package for e in self.experiments.values()))

    def of_package(self, package: str) -> list[Experiment]:
        return [e for e in self.experiments.values() if e.package == package]

    def of_paper(self, paper: str) -> list[Experiment]:
        return [e for e in self.experiments.values() if paper in e.papers]

    def experiment(self, key: str) -> Experiment:
        """The experiment ``<package>/<name>``; ValueError with the nearest name otherwise."""
        if key not in self.experiments:
            raise ConfigError(unknown("experiment", key, self.experiments))
        return self.experiments[key]


def module_path(root: Path, package: str, name: str) -> Path:
    return Path(root) / "packages" / package / "src" / "tensorbench" / package / "experiments" / f"{name}.py"
