"""The cheapest precisions that keep a target accuracy: guided search along an order of sensitivity.

Schaefer et al. 2023 (arXiv 2302.01382). For each width, from the largest down:

- ``greedy_search`` lowers one layer after the other, the least sensitive first, and takes back what falls below the
  target: layers × widths evaluations;
- ``bisection_search`` finds by bisection the largest k such that the k least sensitive of the layers that came down to
  the width before can all go down: log2(layers) evaluations a width. It assumes that accuracy falls along the order;
  the config that it returns was evaluated, so that the target is met where the assumption fails too.

``exhaustive`` tries configs from the cheapest on, ``ilp_search`` is HAWQ's linear programme (Yao et al. 2021,
arXiv 2011.10680) over budgets, ``uniform_search`` one width for all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from .journal import Config, Evaluate, Evaluation, Journal, key

Order = Sequence[str] | Mapping[int, Sequence[str]]
Cost = Callable[[Config], float]


@dataclass(frozen=True)
class SearchResult:
    """``config`` has ``accuracy`` >= ``target · reference``. ``visited`` are the configs that this search asked for."""

    config: Config
    accuracy: float
    target: float
    reference: float
    visited: tuple[Evaluation, ...]

    @property
    def evaluations(self) -> int:
        """Different configs evaluated, the start not counted (its accuracy is the reference)."""
        return len(self.visited) - 1

    @property
    def threshold(self) -> float:
        return self.target * self.reference


class _Search:
    """The configs asked for, the threshold, and the best so far."""

    def __init__(
        self, start: Config, target: float, evaluate: Evaluate, reference: float | None, journal: Journal | None
    ) -> None:
        if isinstance(target, bool) or not (isinstance(target, int | float) and 0 < target <= 1):
            raise ValueError(f"target {target!r} is a share of the reference accuracy and must be in (0, 1]")
        self._evaluate, self._journal = evaluate, Journal() if journal is None else journal
        self._visited: dict[tuple, Evaluation] = {}
        self.target = target
        accuracy = self._ask(start)
        self.reference = accuracy if reference is None else reference
        if accuracy < target * self.reference:
            raise ValueError(
                f"the start already misses the target: {accuracy:.4g} < {target:g} x {self.reference:.4g}; "
                "begin with more bits or lower the target"
            )
        self.config, self.accuracy = dict(start), accuracy

    def _ask(self, config: Config) -> float:
        accuracy = self._journal(config, self._evaluate)
        self._visited[key(config)] = Evaluation(dict(config), accuracy)
        return accuracy

    def try_(self, config: Config, keep: bool = True) -> bool:
        """Whether ``config`` meets the target; it is then the best so far, if wanted."""
        accuracy = self._ask(config)
        met = accuracy >= self.target * self.reference
        if met and keep:
            self.config, self.accuracy = dict(config), accuracy
        return met

    def result(self) -> SearchResult:
        assert self.accuracy >= self.target * self.reference
        return SearchResult(self.config, self.accuracy, self.target, self.reference, tuple(self._visited.values()))


def _orders(order: Order, bits: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """An order for each width, checked, widths from the largest down."""
    bits = sorted(dict.fromkeys(bits), reverse=True)
    if not bits:
        raise ValueError("no widths to lower to; give bits, say (8, 4)")
    if isinstance(order, Mapping):
        missing = [b for b in bits if b not in order]
        if missing:
            raise ValueError(f"the orders have none for {missing[0]} bits; they are for {sorted(order)}")
        orders = {b: tuple(order[b]) for b in bits}
    else:
        orders = dict.fromkeys(bits, tuple(order))
    names = set(next(iter(orders.values())))
    for b, one in orders.items():
        if not one or len(set(one)) != len(one) or set(one) != names:
            raise ValueError(f"the order for {b} bits must name every layer once, got {one}")
    return orders


def greedy_search(
    order: Order, bits: Sequence[int], target: float, evaluate: Evaluate, *, start: int = 16,
    reference: float | None = None, journal: Journal | None = None, give_up: bool = False,
) -> SearchResult:  # fmt: skip
    """Lower each layer in turn and keep what meets the target.

    Args:
        order: layers from the least sensitive on, one order or one for each width.
        bits: widths to go down to. Every layer is tried at every width, as in the paper; with ``give_up`` one that
        could
            not go to a width is not tried with a smaller.
        target: share of the reference accuracy to keep, in (0, 1].
        evaluate: accuracy of a config.
        start: precision of all layers at first; ``reference``: accuracy that the target refers to (default: the
        start's). journal: remembers evaluations, also across interruptions.

    Raises:
        ValueError: a target out of range, orders that do not name every layer once, a start that misses the target, an
            evaluation that is not one finite number.
    """
    orders = _orders(order, bits)
    before = start
    search = _Search(dict.fromkeys(next(iter(orders.values())), start), target, evaluate, reference, journal)
    for b, names in orders.items():
        for name in names:
            if not give_up or search.config[name] == before:
                search.try_(search.config | {name: b})
        before = b
    return search.result()


def bisection_search(
    order: Order, bits: Sequence[int], target: float, evaluate: Evaluate, *, start: int = 16,
    reference: float | None = None, journal: Journal | None = None,
) -> SearchResult:  # fmt: skip
    """Lower the largest number of least sensitive layers that meets the target; arguments as of ``greedy_search``."""
    orders = _orders(order, bits)
    before = start
    search = _Search(dict.fromkeys(next(iter(orders.values())), start), target, evaluate, reference, journal)
    for b, names in orders.items():
        eligible = [name for name in names if search.config[name] == before]
        base = dict(search.config)
        low, high = 0, len(eligible)
        while low < high:
            k = (low + high + 1) // 2
            if search.try_(base | dict.fromkeys(eligible[:k], b)):
                low = k
            else:
                high = k - 1
        before = b
    return search.result()


def exhaustive(
    layers: Sequence[str], bits: Sequence[int], target: float, evaluate: Evaluate, cost: Cost, *, start: int = 16,
    reference: float | None = None, journal: Journal | None = None, limit: int = 6,
) -> SearchResult:  # fmt: skip
    """The cheapest config of all that meets the target: every cheaper one was evaluated and misses it.

    Raises:
        ValueError: more than ``limit`` layers, and as ``greedy_search``.
    """
    if not 1 <= len(layers) <= limit:
        raise ValueError(
            f"{len(layers)} layers have {len(bits) + 1}^{len(layers)} configs; exhaustive takes 1 to {limit}"
        )
    search = _Search(dict.fromkeys(layers, start), target, evaluate, reference, journal)
    choices = (*sorted(bits), start)
    configs = [dict(zip(layers, c, strict=True)) for c in itertools.product(choices, repeat=len(layers))]
    for config in sorted(configs, key=cost):
        if search.try_(config):
            break
    return search.result()


def uniform_search(
    layers: Sequence[str], bits: Sequence[int], target: float, evaluate: Evaluate, *, start: int = 16,
    reference: float | None = None, journal: Journal | None = None,
) -> SearchResult:  # fmt: skip
    """The smallest width that meets the target when all layers have it."""
    search = _Search(dict.fromkeys(layers, start), target, evaluate, reference, journal)
    met = [b for b in sorted(bits, reverse=True) if search.try_(dict.fromkeys(layers, b), keep=False)]
    if met:
        search.try_(dict.fromkeys(layers, min(met)))
    return search.result()


def allocate(
    scores: Float[np.ndarray, "layers widths"], costs: Float[np.ndarray, "layers widths"], budget: float
) -> Int[np.ndarray, " layers"]:
    """The width of each layer (its place) with the least sum of scores whose sum of costs is within the budget.

    An integer linear programme, solved by HiGHS through scipy.

    Raises:
        ValueError: shapes that differ, numbers that are not finite, a budget below the cheapest.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    if scores.shape != costs.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and costs {costs.shape} must both be layers × widths")
    if not (np.isfinite(scores).all() and np.isfinite(costs).all()):
        raise ValueError("scores and costs must be finite")
    layers, widths = scores.shape
    least = float(costs.min(axis=1).sum())
    if budget < least * (1 - 1e-12):
        raise ValueError(f"budget {budget:g} is below the cheapest config's {least:g}")
    one = np.kron(np.eye(layers), np.ones(widths))
    scale = max(float(np.abs(scores).max()), 1e-300)
    solution = milp(
        scores.ravel() / scale,
        constraints=[LinearConstraint(one, 1, 1), LinearConstraint(costs.ravel()[None], -np.inf, budget * (1 + 1e-9))],
        integrality=np.ones(scores.size),
        bounds=Bounds(0, 1),
    )
    if solution.x is None:
        raise ValueError(f"the linear programme has no solution: {solution.message}")
    return solution.x.reshape(layers, widths).argmax(axis=1)


def ilp_search(
    scores: Mapping[str, Mapping[int, float]], bits: Sequence[int], target: float, evaluate: Evaluate, cost: Cost, *,
    start: int = 16, reference: float | None = None, journal: Journal | None = None, trials: int = 8,
) -> SearchResult:  # fmt: skip
    """Bisection over the budget of ``allocate``: ``trials`` evaluations. ``cost`` must add up over layers.

    The start scores zero.
    """
    names, choices = list(scores), (*sorted(bits), start)
    search = _Search(dict.fromkeys(names, start), target, evaluate, reference, journal)
    table = np.array([[0.0 if b == start else scores[name][b] for b in choices] for name in names])
    top = dict.fromkeys(names, start)
    whole = cost(top)
    saved = np.array([[whole - cost(top | {name: b}) for b in choices] for name in names])
    costs = whole / len(names) - saved
    low, high = float(costs.min(axis=1).sum()), whole
    for _ in range(trials):
        budget = (low + high) / 2
        picked = allocate(table, costs, budget)
        if search.try_({name: choices[place] for name, place in zip(names, picked, strict=True)}):
            high = budget
        else:
            low = budget
    return search.result()
