"""The record of a structure search and the meter that every search evaluates through."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .objective import Objective
from .space import RankSpace, Structure

log = logging.getLogger(__name__)


@dataclass
class Trajectory:
    """What a search did.

    Attributes:
        best: the best structure *evaluated* (interpolated values never count).
        value, error: its objective and relative squared error.
        evaluations: distinct structures evaluated in this search.
        evaluations_to_best: the count at which ``best`` was first seen.
        history: (evaluations, best objective so far), one row per evaluation.
        visited: every distinct structure in order of evaluation.
        stopped: "converged", "budget" or "generations".
        sweep_evaluations: evaluations after each sweep or generation of the search.
    """

    best: Structure
    value: float
    error: float
    evaluations: int
    evaluations_to_best: int
    history: np.ndarray
    visited: list[Structure]
    stopped: str
    sweep_evaluations: list[int] = field(default_factory=list)

    def evaluations_to(self, value: float) -> float:
        """Evaluations until the objective was at most ``value``; inf if never."""
        reached = self.history[:, 1] <= value
        return float(self.history[np.argmax(reached), 0]) if reached.any() else float("inf")


class Exhausted(Exception):
    """The budget is spent (internal: searches return the best so far)."""


class Meter:
    """Counts the distinct structures a search evaluates, keeps the best, and stops it when the budget is spent."""

    def __init__(self, objective: Objective, budget: int | None):
        if budget is not None and budget < 1:
            raise ValueError(f"budget must be >= 1 evaluation, got {budget}")
        self.objective = objective
        self.budget = budget
        self.seen: dict[tuple, float] = {}
        self.refused: dict[tuple, float] = {}  # not admissible (too many parameters): judged without a fit, not counted
        self.visited: list[Structure] = []
        self.history: list[tuple[int, float]] = []
        self.sweeps: list[int] = []
        self.best: Structure | None = None
        self.value, self.error, self.found_at = np.inf, np.nan, 0

    def errors(self, structures: Sequence[Structure], start: Structure | None = None) -> list[float]:
        """Errors of the structures. Raises Exhausted after evaluating those that still fit into the budget."""
        fresh: dict[tuple, Structure] = {}
        for structure in structures:
            if structure.key not in self.seen and structure.key not in self.refused:
                fresh.setdefault(structure.key, structure)
        admissible = getattr(self.objective, "admissible", lambda structure: True)
        new = [s for s in fresh.values() if admissible(s)]
        barred = [s for s in fresh.values() if not admissible(s)]
        self.refused.update({s.key: e for s, e in zip(barred, self.objective.errors(barred), strict=True)})
        short = self.budget is not None and len(self.seen) + len(new) > self.budget
        if short:
            new = new[: self.budget - len(self.seen)]
        found = self.objective.errors(new, start) if start is not None else self.objective.errors(new)
        for structure, error in zip(new, found, strict=True):
            self.seen[structure.key] = error
            self.visited.append(structure)
            value = self.objective.combine(structure, error)
            if self.best is None or value < self.value:
                self.best, self.value, self.error, self.found_at = structure, value, error, len(self.seen)
            self.history.append((len(self.seen), self.value))
        if short:
            raise Exhausted
        return [self.seen[s.key] if s.key in self.seen else self.refused[s.key] for s in structures]

    def values(self, structures: Sequence[Structure], start: Structure | None = None) -> np.ndarray:
        errors = self.errors(structures, start)
        return np.array([self.objective.combine(s, e) for s, e in zip(structures, errors, strict=True)])

    def mark(self) -> None:
        """End of a sweep or generation."""
        self.sweeps.append(len(self.seen))

    def finish(self, stopped: str) -> Trajectory:
        if self.best is None:
            raise ValueError("no structure that the search looked at is within the budget of parameters")
        if stopped == "budget" and not self.sweeps:
            log.warning(
                "the budget of %d evaluations ended before the first sweep: the best structure so far is returned",
                self.budget,
            )
        return Trajectory(
            best=self.best,
            value=float(self.value),
            error=float(self.error),
            evaluations=len(self.seen),
            evaluations_to_best=self.found_at,
            history=np.array(self.history, dtype=float),
            visited=self.visited,
            stopped=stopped,
            sweep_evaluations=self.sweeps,
        )


def check_space(objective: Objective, space: RankSpace) -> None:
    """The space must be for the objective's target. Raises ValueError."""
    dims = getattr(objective, "dims", None)
    if dims is not None and dims != space.dims:
        raise ValueError(f"the space is for modes {space.dims}, the objective's target has shape {dims}")
