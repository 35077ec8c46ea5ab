"""Reading, checking and expanding every config of a workspace at one scale. Imports neither torch nor mlflow.

``load(root, scale)`` gives a :class:`Workspace`: papers, scales and experiments with the scale's overrides resolved.
All problems of all files come in one :class:`ConfigError`, before any job starts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tensorbench.core import yamlfile
from tensorbench.core.config.checks import Checker
from tensorbench.core.config.experiment import Choice, Experiment, Workspace, module_path
from tensorbench.core.config.models import Entry, ExperimentModel, MethodEntry, Override, Scale, Tuning
from tensorbench.core.config.problems import ConfigError, Problems
from tensorbench.core.errors import unknown
from tensorbench.core.papers import Paper, load_papers

DEFAULT_SCALE = "desk"


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
        checker = Checker(relative, model, problems, papers, scales, dataset_names)
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
