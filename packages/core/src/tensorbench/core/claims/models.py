"""What a claim is: a sentence of a paper, and the predicate over records that decides it.

Typed models of the ``claims:`` entries of an experiment's config. Light on purpose (pydantic only): they are read
whenever Snakemake parses the workflow. Deciding a claim is :mod:`tensorbench.core.claims.decide`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

FORMS = ("value", "ratio", "difference", "slope", "holds", "custom")
Statistic = Literal["mean", "median", "max", "min"]
VerdictName = Literal["reproduced", "inconclusive", "not reproduced", "not measured", "not implemented yet"]


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"expected a number, got the boolean {str(value).lower()}")
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Name = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
# One name or several; always a list once parsed.
Names = Annotated[list[Name], BeforeValidator(_as_list), Field(min_length=1)]


def _refuse_repeats(key: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"`{key}` names {', '.join(map(repr, repeated))} more than once; name each once")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Datasets(_Strict):
    """``dataset: x`` or ``datasets: [x, y]``; neither means all datasets of the experiment."""

    dataset: Name | None = None
    datasets: Annotated[list[Name], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_way(self):
        if self.dataset is not None and self.datasets is not None:
            raise ValueError("both `dataset` and `datasets` are given; keep one of them")
        _refuse_repeats("datasets", self.datasets or [])
        return self

    def dataset_names(self) -> list[str]:
        """The datasets named here, in order; an empty list means all of the experiment's."""
        return [self.dataset] if self.dataset is not None else list(self.datasets or [])


class Bounded(_Strict):
    """Exactly one of ``at_most``, ``at_least`` and ``between: [low, high]`` (ends included)."""

    at_most: Number | None = None
    at_least: Number | None = None
    between: tuple[Number, Number] | None = None

    @model_validator(mode="after")
    def _one_bound(self):
        given = [key for key in ("at_most", "at_least", "between") if getattr(self, key) is not None]
        if len(given) != 1:
            found = "none is given" if not given else " and ".join(f"`{key}`" for key in given) + " are given"
            raise ValueError(f"exactly one bound is needed, `at_most`, `at_least` or `between`; {found}")
        if self.between is not None and not self.between[0] < self.between[1]:
            low, high = self.between
            raise ValueError(f"`between` must be [low, high] with low < high; got [{low:g}, {high:g}]")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value that satisfy the bound (infinite where it is open)."""
        if self.between is not None:
            return self.between
        return (
            -math.inf if self.at_least is None else self.at_least,
            math.inf if self.at_most is None else self.at_most,
        )

    @property
    def bound(self) -> str:
        low, high = self.bounds
        if self.between is not None:
            return f"in [{low:g}, {high:g}]"
        return f"≤ {high:g}" if self.at_most is not None else f"≥ {low:g}"


class At(_Strict):
    """``where: {step: 8000}``: the history at that step instead of the final value."""

    step: Number


class Stepped(_Strict):
    """Which part of a metric's history is meant: the final value (default), one step, or a statistic over all steps."""

    where: At | None = None
    steps: bool = False
    statistic: Statistic | None = None

    @model_validator(mode="after")
    def _one_part(self):
        if self.where is not None and self.steps:
            raise ValueError("`where: {step: …}` picks one step and `steps: true` uses them all; keep one of them")
        if self.statistic is not None and not self.steps:
            raise ValueError("`statistic` is taken over steps and needs `steps: true`")
        return self


class Value(Bounded, Datasets, Stepped):
    """Bounds on a metric of one method, averaged over the datasets within a seed."""

    metric: Name
    of: Name


class Pair(Bounded, Datasets, Stepped):
    metric: Name
    of: Name
    over: Names

    @model_validator(mode="after")
    def _two_sides(self):
        _refuse_repeats("over", self.over)
        if self.of in self.over:
            raise ValueError(f"`of` and `over` both name {self.of!r}; a method cannot be compared with itself")
        return self


class Ratio(Pair):
    """Metric of one method divided by that of another (or of the best of several), paired by seed."""

    @model_validator(mode="after")
    def _positive(self):
        low, high = self.bounds
        if (math.isfinite(low) and low <= 0) or (math.isfinite(high) and high <= 0):
            raise ValueError(f"a ratio is positive, so its bound must be too; got {self.bound} (meant a `difference`?)")
        return self


class Difference(Pair):
    """Metric of one method minus that of another (or of the best of several), paired by seed."""


class Slope(Bounded, Datasets):
    """Exponent of a metric's growth with a parameter of the datasets or methods, or with ``step``.

    A least-squares line through the logarithms, fitted per seed.
    """

    metric: Name
    of: Names
    against: Name

    @model_validator(mode="after")
    def _distinct(self):
        _refuse_repeats("of", self.of)
        return self


class Holds(Datasets):
    """A boolean metric that must be true in every run of the methods (default: all) on the datasets (default: all)."""

    metric: Name
    of: Names | None = None


class Custom(Bounded, Datasets):
    """A function of the experiment module, ``name(records)``.

    It returns one value per seed, or one value if the claim is deterministic. It sees the records of the methods ``of``
    (default: all) on the datasets (default: all), and is only asked if none of these is missing.
    """

    function: Identifier
    of: Names | None = None
    unit: str = ""


Form = Value | Ratio | Difference | Slope | Holds | Custom


class Claim(_Strict):
    """One claim of one paper, with exactly one of the forms ``value, ratio, difference, slope, holds, custom``."""

    FORMS: ClassVar[tuple[str, ...]] = FORMS

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")]
    paper: Name
    says: Name
    value: Value | None = None
    ratio: Ratio | None = None
    difference: Difference | None = None
    slope: Slope | None = None
    holds: Holds | None = None
    custom: Custom | None = None
    deterministic: bool = False
    note: str = ""
    paper_value: Number | None = None

    @model_validator(mode="after")
    def _one_form(self):
        given = [form for form in FORMS if getattr(self, form) is not None]
        if len(given) != 1:
            found = "it has none" if not given else "it has " + " and ".join(given)
            raise ValueError(f"claim {self.id!r} needs exactly one form ({', '.join(FORMS)}); {found}")
        return self

    @property
    def form(self) -> str:
        """The name of the claim's form."""
        return next(form for form in FORMS if getattr(self, form) is not None)

    @property
    def spec(self) -> Form:
        """The claim's form itself, say a :class:`Ratio`."""
        return getattr(self, self.form)

    @property
    def bound(self) -> str:
        """The bound for people: ``≤ 0.75``, ``≥ 2``, ``in [0.8, 1.2]``, or ``true in every run``."""
        spec = self.spec
        if isinstance(spec, Holds):
            return "true in every run"
        unit = f" {spec.unit}" if isinstance(spec, Custom) and spec.unit else ""
        return spec.bound + unit

    def methods(self) -> set[str]:
        """Methods named by the claim; empty where it means all of the experiment's (``holds`` and ``custom``)."""
        spec = self.spec
        if isinstance(spec, Value):
            return {spec.of}
        if isinstance(spec, Pair):
            return {spec.of, *spec.over}
        return set(spec.of or [])

    def dataset_names(self) -> set[str]:
        """Datasets named by the claim; empty where it means all of the experiment's."""
        return set(self.spec.dataset_names())

    def metric_names(self) -> set[str]:
        """Metrics that the claim reads; empty for ``custom``."""
        return set() if isinstance(self.spec, Custom) else {self.spec.metric}


@dataclass(frozen=True)
class Verdict:
    """A row of the ledger: a claim, what was measured and its 95 % interval over seeds (None where there is none)."""

    claim: str
    paper: str
    says: str
    form: str
    bound: str
    verdict: VerdictName
    measured: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    note: str = ""
    package: str = ""
    experiment: str = ""
    paper_value: float | None = None
    trials: str = ""
