"""The typed models of ``configs/<package>/<experiment>.yaml`` and ``configs/scales.yaml``. Light: pydantic only."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from tensorbench.core.claims.models import Claim

# Names become folders, files, wildcards and MLflow tags: letters, digits, '.', '_', '-' and nothing that a shell minds.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")]
# The columns of a record that say who a run is; no metric may be called so.
RESERVED = ("dataset", "method", "paper", "seed", "trial", "scale", "seconds", "record")
Device = Literal["cpu", "gpu"]
Direction = Literal["minimize", "maximize"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(BaseModel):
    """A dataset or method of an experiment: reserved keys, and everything else is a parameter of it."""

    model_config = ConfigDict(extra="allow", frozen=True)
    uses: Name | None = None

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class MethodEntry(Entry):
    paper: str | None = None
    search: dict[str, Any] | None = None
    datasets: list[Name] | None = None  # the only datasets that the method can take; default: all


class Tuning(Strict):
    """The same number of trials for every method that has a search space, judged by one validation metric."""

    trials: Annotated[int, Field(ge=1)]
    metric: str


class Override(Strict):
    """What a scale changes: a list is a subset, a mapping merges parameters, ``name: false`` drops."""

    seeds: Annotated[int, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    device: Device | None = None
    datasets: list[Name] | dict[Name, dict[str, Any] | Literal[False]] | None = None
    methods: list[Name] | dict[Name, dict[str, Any] | Literal[False]] | None = None
    tuning: dict[str, Any] | None = None


class ExperimentModel(Strict):
    """One question: datasets × methods × seeds, the metrics that answer it, its figures and its claims."""

    title: Annotated[str, StringConstraints(min_length=1)]
    question: str = ""
    datasets: Annotated[dict[Name, Entry], Field(min_length=1)]
    methods: Annotated[dict[Name, MethodEntry], Field(min_length=1)]
    seeds: Annotated[int, Field(ge=1)] = 5
    threads: Annotated[int, Field(ge=1)] = 1
    exclusive: bool = False
    device: Device = "cpu"
    memory_mib: Annotated[int, Field(ge=1)] = 4000
    minutes: Annotated[int, Field(ge=1)] = 120
    metrics: Annotated[dict[Name, Direction], Field(min_length=1)]
    tuning: Tuning | None = None
    table: list[Name] = []
    figures: dict[Name, str] = {}
    labels: dict[Name, str] = {}  # how figures and tables write the names of methods, datasets and metrics
    scales: dict[Name, Override] = {}
    claims: list[Claim] = []

    @field_validator("datasets", "methods", mode="before")
    @classmethod
    def _empty_entries(cls, value: Any) -> Any:
        # `name:` with nothing behind it means `name: {}`.
        return {k: {} if v is None else v for k, v in value.items()} if isinstance(value, dict) else value


class Scale(Strict):
    """How big a run is. ``seeds`` caps the experiments' own number."""

    says: str
    seeds: Annotated[int, Field(ge=1)] | None = None
    device: Device | None = None
