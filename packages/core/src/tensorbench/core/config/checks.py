"""Checks of one experiment's config that need more than one key: every name that is used must be one that exists."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from tensorbench.core import module_facts, search_space
from tensorbench.core.config.experiment import module_path
from tensorbench.core.config.models import RESERVED, ExperimentModel, Scale
from tensorbench.core.config.problems import Problems
from tensorbench.core.errors import unknown
from tensorbench.core.papers import Paper


@dataclass
class Checker:
    """``check`` adds what is wrong with ``model`` to ``problems``."""

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
