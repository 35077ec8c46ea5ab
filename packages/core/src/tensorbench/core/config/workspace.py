"""Reading, checking and expanding every config of a workspace at one scale. Imports neither torch nor mlflow.

``load(root, scale)`` gives a :class:`Workspace`: papers, scales and experiments with the scale's overrides resolved.
All problems of all files come in one :class:`ConfigError`, before any job starts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tensorbench.core import module_facts, search_space, yamlfile
from tensorbench.core.claims.models import Claim
from tensorbench.core.config.models import RESERVED, Entry, ExperimentModel, MethodEntry, Override, Scale, Tuning
from tensorbench.core.config.problems import ConfigError, Problems
from tensorbench.core.errors import unknown
from tensorbench.core.papers import Paper, load_papers

DEFAULT_SCALE = "desk"


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


def config_paths(root: Path) -> list[Path]:
    return sorted((Path(root) / "configs").glob("*/*.yaml"))


def load(
    root: Path,
    scale: str = DEFAULT_SCALE,
    *,
    only: str | None = None,
    dataset_names: Collection[str] | None = None,
    modules: bool = True,
) -> Workspace:
    """Read and check the configs under ``root`` and resolve them at ``scale``.

    ``only`` reads a single experiment (a run needs no other). ``dataset_names`` are the registered datasets to check
    against (None: not checked). ``modules``: whether to look into the experiments' modules too, which costs more than
    all else. Raises ConfigError with every problem found.
    """
    root = Path(root)
    problems = Problems()
    scales = _load_scales(root / "configs" / "scales.yaml", problems)
    if scales and scale not in scales:
        problems.add("configs/scales.yaml", "", unknown("scale", scale, scales))
        problems.raise_if_any()
    papers: dict[str, Paper] = {}
    try:
        papers = load_papers(root / "configs" / "papers.yaml")
    except ValueError as error:
        problems.lines.append(str(error))
    paths = config_paths(root)
    if only is not None:
        wanted = root / "configs" / f"{only}.yaml"
        if wanted not in paths:
            names = [f"{p.parent.name}/{p.stem}" for p in paths]
            raise ConfigError(unknown("experiment", only, names))
        paths = [wanted]
    experiments: dict[str, Experiment] = {}
    claim_files: dict[str, Path] = {}
    for path in paths:
        relative = path.relative_to(root)
        model = _read_model(path, relative, problems)
        if model is None:
            continue
        before = len(problems.lines)
        checker = _Checker(relative, model, problems, papers, scales, dataset_names)
        checker.check(root if modules else None)
        for claim in model.claims:
            if claim.id in claim_files:
                problems.add(
                    relative, "claims", f"two claims are called {claim.id!r} (the other is in {claim_files[claim.id]})"
                )
            claim_files[claim.id] = relative
        if len(problems.lines) == before:
            experiment = resolve(root, path, model, scale, scales.get(scale), problems)
            if experiment is not None:
                experiments[experiment.key] = experiment
    problems.raise_if_any()
    return Workspace(root, scale, papers, scales, experiments)


def _load_scales(path: Path, problems: Problems) -> dict[str, Scale]:
    try:
        raw = yamlfile.read(path)
    except ValueError as error:
        problems.lines.append(str(error))
        return {}
    scales = {}
    for name, entry in (raw or {}).items():
        try:
            scales[name] = Scale.model_validate(entry)
        except ValidationError as error:
            problems.add_validation(f"{path.name}: {name}", Scale, error)
    return scales


def _read_model(path: Path, relative: Path, problems: Problems) -> ExperimentModel | None:
    try:
        raw = yamlfile.read(path)
    except ValueError as error:
        problems.lines.append(str(error))
        return None
    if not isinstance(raw, dict):
        problems.add(relative, "", "an experiment is a mapping with title, datasets, methods, metrics, …")
        return None
    try:
        return ExperimentModel.model_validate(raw)
    except ValidationError as error:
        problems.add_validation(relative, ExperimentModel, error)
        return None


@dataclass
class _Checker:
    """The checks that need more than one key: every name that is used must be a name that exists."""

    file: Path
    model: ExperimentModel
    problems: Problems
    papers: Mapping[str, Paper]
    scales: Mapping[str, Scale]
    dataset_names: Collection[str] | None

    def check(self, root: Path | None) -> None:
        model = self.model
        for name, dataset in model.datasets.items():
            uses = dataset.uses or name
            if self.dataset_names is not None and uses not in self.dataset_names:
                self._add(f"datasets.{name}", unknown("dataset", uses, self.dataset_names))
        for name, method in model.methods.items():
            self._known(f"methods.{name}.paper", "paper", [method.paper] if method.paper else [], self.papers)
            self._known(f"methods.{name}.datasets", "dataset", method.datasets or [], model.datasets)
            if method.search is not None:
                try:
                    search_space.check(method.search)
                except ValueError as error:
                    self._add(f"methods.{name}.search", str(error))
            if method.search is not None and model.tuning is None:
                self._add(f"methods.{name}.search", "a search space needs `tuning: {trials: …, metric: …}`")
        if model.tuning is not None:
            self._known("tuning.metric", "metric", [model.tuning.metric], model.metrics)
        self._known("table", "metric", model.table, model.metrics)
        for name in model.metrics:
            if name in RESERVED or name.startswith(("dataset.", "method.")):
                self._add(f"metrics.{name}", "this is a column of every record and no metric")
        for scale, override in model.scales.items():
            self._known("scales", "scale", [scale], self.scales)
            self._known(f"scales.{scale}.datasets", "dataset", override.datasets or [], model.datasets)
            self._known(f"scales.{scale}.methods", "method", override.methods or [], model.methods)
            for kind, changes in (("datasets", override.datasets), ("methods", override.methods)):
                for name, change in changes.items() if isinstance(changes, dict) else ():
                    if kind == "methods" and change:
                        self._known(
                            f"scales.{scale}.methods.{name}", "dataset", change.get("datasets", []), model.datasets
                        )
                    if change and {"uses", "paper"} & change.keys():
                        self._add(f"scales.{scale}.{kind}.{name}", "a scale changes parameters, not `uses` or `paper`")
            if override.tuning is not None and model.tuning is None:
                self._add(f"scales.{scale}.tuning", "the experiment has no `tuning:` that a scale could change")
        named = {*model.datasets, *model.methods, *model.metrics}
        self._known("labels", "method, dataset or metric", model.labels, named)
        functions = None
        if root is not None:
            functions = self._check_module(module_path(root, self.file.parent.name, self.file.stem))
        for index, claim in enumerate(model.claims):
            where = f"claims[{index}] ({claim.id})"
            self._known(f"{where}.paper", "paper", [claim.paper], self.papers)
            self._known(where, "method", claim.methods(), model.methods)
            self._known(where, "dataset", claim.dataset_names(), model.datasets)
            self._known(where, "metric", claim.metric_names(), model.metrics)
            for method_name in sorted(claim.methods() & model.methods.keys()):
                taken = model.methods[method_name].datasets
                for asked in sorted(claim.dataset_names() - set(taken)) if taken is not None else ():
                    self._add(
                        where, f"method {method_name} does not take dataset {asked} (methods.{method_name}.datasets)"
                    )
            if claim.custom is not None and functions is not None:
                self._known(f"{where}.custom.function", "function of the module", [claim.custom.function], functions)
            if claim.slope is not None and claim.slope.against != "step":
                params = {
                    f"{kind}{key}"
                    for entries, prefix in ((model.datasets, "dataset."), (model.methods, "method."))
                    for entry in entries.values()
                    for key in entry.params
                    for kind in ("", prefix)
                }
                self._known(f"{where}.slope.against", "parameter", [claim.slope.against], {*params, "step"})

    def _check_module(self, path: Path) -> Collection[str] | None:
        try:
            facts = module_facts.read_module(path)
        except ValueError as error:
            self._add("", f"its module: {error}")
            return None
        needed = ["run", "figures"] if self.model.figures else ["run"]
        for function in needed:
            if function not in facts.functions:
                self._add(
                    "",
                    f"its module {path.name} has no function `{function}` (top-level functions: "
                    f"{', '.join(sorted(facts.functions)) or 'none'})",
                )
        if facts.methods is not None:
            for name, method in self.model.methods.items():
                uses = method.uses or name
                if uses not in facts.methods:
                    self._add(f"methods.{name}", unknown(f"method of {path.name}", uses, facts.methods))
        return facts.functions

    def _known(self, key: str, kind: str, names: Collection[str], valid: Collection[str]) -> None:
        if kind == "paper" and not valid:
            return  # papers.yaml itself is broken and says so once
        for name in names:
            if name not in valid:
                self._add(key, unknown(kind, name, valid))

    def _add(self, key: str, message: str) -> None:
        self.problems.add(self.file, key, message)


def module_path(root: Path, package: str, name: str) -> Path:
    return Path(root) / "packages" / package / "src" / "tensorbench" / package / "experiments" / f"{name}.py"


def _select(entries: Mapping[str, Entry], override: list | dict | None) -> dict[str, tuple[Entry, dict[str, Any]]]:
    """The entries that a scale keeps, each with the parameters that it changes."""
    if isinstance(override, list):
        return {name: (entries[name], {}) for name in entries if name in override}
    changes = override or {}
    return {n: (e, dict(changes.get(n) or {})) for n, e in entries.items() if changes.get(n, {}) is not False}


def resolve(
    root: Path, path: Path, model: ExperimentModel, scale: str, settings: Scale | None, problems: Problems
) -> Experiment | None:
    """``model`` at ``scale``: the experiment's own override first, the scale's cap on seeds and device behind it."""
    override = model.scales.get(scale, Override())
    relative = path.relative_to(root)
    datasets = {}
    for name, (entry, change) in _select(model.datasets, override.datasets).items():
        datasets[name] = Choice(name, entry.uses or name, {**entry.params, **change})
    methods = {}
    for name, (entry, change) in _select(model.methods, override.methods).items():
        assert isinstance(entry, MethodEntry)
        search = change.pop("search", entry.search)
        only = change.pop("datasets", entry.datasets)
        takes = tuple(only) if only is not None else None
        methods[name] = Choice(name, entry.uses or name, {**entry.params, **change}, entry.paper, search or None, takes)
    tuning = model.tuning
    if override.tuning is not None and tuning is not None:
        try:
            tuning = Tuning.model_validate({**tuning.model_dump(), **override.tuning})
        except ValidationError as error:
            problems.add_validation(f"{relative}: scales.{scale}.tuning", Tuning, error)
            return None
    if not datasets or not methods:
        problems.add(relative, f"scales.{scale}", "no dataset or no method is left")
        return None
    cap = settings.seeds if settings and settings.seeds else None
    seeds = override.seeds or (min(model.seeds, cap) if cap else model.seeds)
    device = override.device or (settings.device if settings and settings.device else model.device)
    return Experiment(
        package=path.parent.name,
        name=path.stem,
        scale=scale,
        config_path=path,
        module_path=module_path(root, path.parent.name, path.stem),
        title=model.title,
        question=model.question,
        datasets=datasets,
        methods=methods,
        seeds=seeds,
        threads=override.threads or model.threads,
        exclusive=model.exclusive,
        device=device,
        memory_mib=model.memory_mib,
        minutes=model.minutes,
        metrics=dict(model.metrics),
        tuning=tuning,
        table=list(model.table),
        figures=dict(model.figures),
        labels=dict(model.labels),
        claims=list(model.claims),
    )
