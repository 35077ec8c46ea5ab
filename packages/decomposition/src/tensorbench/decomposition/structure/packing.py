"""Solvers of the Tucker packing problem: which core shape packs the most squared singular values into a budget.

Ghadiri, Fahrbach, Fu, Mirrokni (2023), arXiv 2302.03886. Maximise Σ_n prefix_n(r_n) subject to ∏ r_n + Σ I_n r_n ≤ B, a
knapsack with one choice per mode; NP-hard in the number of modes. All solvers take the higher-order singular values (a
:class:`~tensorbench.decomposition.structure.hosv.HOSV`, spectra, or a tensor) and a budget, stay within the numerical
ranks, and return a :class:`~tensorbench.decomposition.structure.hosv.CoreShapeResult`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import ceil, floor, log, prod

import numpy as np
import scipy.sparse
from jaxtyping import Float
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from tensorbench.core.errors import unknown
from tensorbench.decomposition.structure.hosv import (
    HOSV,
    CoreShapeResult,
    Spectra,
    as_hosv,
    check_budget,
    check_core,
    num_params,
    packing_value,
    surrogate_loss,
)

EXACT_MODES = 12  # the exact solvers enumerate all modes but two
_NODES = 5_000_000  # shapes brute_force may look at before it gives up


def describe(
    s: HOSV, shape: Sequence[int], budget: int, started: float, evaluations: int, certificate: float | None = None
) -> CoreShapeResult:
    """The result for ``shape``, checked once more against the budget."""
    core = check_core(s.shape, shape)
    params = num_params(s.shape, core)
    if params > budget:
        raise RuntimeError(
            f"core shape {core} needs {params} parameters, more than the budget {budget}: a solver's bug"
        )
    seconds = time.perf_counter() - started
    return CoreShapeResult(
        core, params, packing_value(s, core), surrogate_loss(s, core), seconds, evaluations, certificate
    )


# --- greedy --------------------------------------------------------------------------------------------------------


def _grow(
    s: HOSV, limit: int, gain: Callable[[float, int], float], start: Sequence[int]
) -> tuple[tuple[int, ...], int]:
    """Raise one rank at a time by one, that of the largest ``gain(next value, extra parameters)`` that still fits."""
    core, evaluations = list(start), 0
    while True:
        product, spent = prod(core), num_params(s.shape, core)
        best, best_mode = -1.0, -1
        for mode, rank in enumerate(core):
            if rank == s.ranks[mode]:
                continue
            evaluations += 1
            extra = product // rank + s.shape[mode]
            if spent + extra <= limit and (score := gain(s.values[mode][rank], extra)) > best:
                best, best_mode = score, mode
        if best_mode < 0:
            return tuple(core), evaluations
        core[best_mode] += 1


def _from_ones(s: Spectra, budget: float, gain: Callable[[float, int], float]) -> CoreShapeResult:
    s = as_hosv(s)
    limit = check_budget(s.shape, budget)
    started = time.perf_counter()
    shape, evaluations = _grow(s, limit, gain, (1,) * len(s.shape))
    return describe(s, shape, limit, started, evaluations)


def greedy(s: Spectra, budget: float) -> CoreShapeResult:
    """Take the largest next squared singular value that still fits, until none does."""
    return _from_ones(s, budget, lambda value, extra: value)


def bang_for_buck(s: Spectra, budget: float) -> CoreShapeResult:
    """Take the next squared singular value that is largest per parameter it adds to the shape reached so far."""
    return _from_ones(s, budget, lambda value, extra: value / extra)


# --- exact ---------------------------------------------------------------------------------------------------------


def brute_force(s: Spectra, budget: float) -> CoreShapeResult:
    """Every shape within the budget, one by one; refuses more than five million. The oracle of the other solvers."""
    s = as_hosv(s)
    limit = check_budget(s.shape, budget)
    if (count := prod(s.ranks)) > _NODES:
        raise ValueError(f"{count} core shapes are too many to try one by one; use solver 'exact' or 'packing_ip'")
    started = time.perf_counter()

    def shapes(head: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(head) == len(s.shape):
            yield head
            return
        for rank in range(1, s.ranks[len(head)] + 1):
            rest = (1,) * (len(s.shape) - len(head) - 1)
            if num_params(s.shape, (*head, rank, *rest)) > limit:
                return
            yield from shapes((*head, rank))

    best, best_value, evaluations = (1,) * len(s.shape), -1.0, 0
    for shape in shapes(()):
        evaluations += 1
        value = sum(prefix[rank] for prefix, rank in zip(s.prefixes, shape, strict=True))
        if value > best_value:
            best, best_value = shape, value
    return describe(s, best, limit, started, evaluations, 1.0)


def _search(
    prefixes: Sequence[Float[np.ndarray, _]], sizes: Sequence[int], budget: int, incumbent: float
) -> tuple[tuple[int, ...] | None, int]:
    """Branch and bound: the best shape of value above ``incumbent`` (None if there is none), and nodes visited.

    Modes are branched on from the shortest; for the last two all ranks of one are tried at once and the other follows
    in closed form, because prefix sums grow: r_N = ⌊(B - Σ I_m r_m) / (∏ r_m + I_N)⌋.
    """
    order = sorted(range(len(sizes)), key=lambda mode: (len(prefixes[mode]), sizes[mode]))
    sums = [prefixes[mode] for mode in order]
    dims = [sizes[mode] for mode in order]
    last = len(order) - 1
    best: list[int] | None = None
    best_value, nodes = incumbent, 0

    def visit(head: list[int], product: int, spent: int, value: float) -> None:
        nonlocal best, best_value, nodes
        nodes += 1
        depth = len(head)
        left = budget - spent
        if depth == last - 1:
            ranks = np.arange(1, min(len(sums[-2]) - 1, (left - dims[-1]) // (product + dims[-2])) + 1)
            final = (left - dims[-2] * ranks) // (product * ranks + dims[-1])
            ranks, final = ranks[final >= 1], np.minimum(final[final >= 1], len(sums[-1]) - 1)
            if ranks.size == 0:
                return
            values = value + sums[-2][ranks] + sums[-1][final]
            at = int(np.argmax(values))
            if values[at] > best_value:
                best, best_value = [*head, int(ranks[at]), int(final[at])], float(values[at])
            return
        floor_rest = sum(dims[depth + 1 :])
        top = min(len(sums[depth]) - 1, (left - floor_rest - product) // dims[depth])
        for rank in range(1, top + 1):
            now, cost = product * rank, spent + dims[depth] * rank
            spare = budget - cost - now - floor_rest  # what is left once every later mode has rank one
            if spare < 0:
                return
            bound = value + sums[depth][rank]
            for m in range(depth + 1, last + 1):
                bound += sums[m][min(len(sums[m]) - 1, 1 + spare // (now + dims[m]))]
            if bound > best_value:
                visit([*head, rank], now, cost, value + sums[depth][rank])

    visit([], 1, 0, 0.0)
    if best is None:
        return None, nodes
    shape = [0] * len(order)
    for mode, rank in zip(order, best, strict=True):
        shape[mode] = rank
    return tuple(shape), nodes


def exact(s: Spectra, budget: float) -> CoreShapeResult:
    """An optimal shape by branch and bound; 2 to 12 modes (time grows with the product of all modes but two)."""
    s = as_hosv(s)
    limit = check_budget(s.shape, budget)
    if len(s.shape) > EXACT_MODES:
        raise ValueError(f"exact search takes at most {EXACT_MODES} modes, not {len(s.shape)}; use solver 'packing_ip'")
    started = time.perf_counter()
    first = max((greedy(s, limit), bang_for_buck(s, limit)), key=lambda result: result.value)
    kept = [prefix[: rank + 1] for prefix, rank in zip(s.prefixes, s.ranks, strict=True)]
    shape, nodes = _search(kept, s.shape, limit, first.value)
    return describe(s, shape or first.shape, limit, started, nodes, 1.0)


# --- integer programs and the approximation scheme -----------------------------------------------------------------


class _DoubleBudget:
    """Σ_n prefix_n(r_n) → max subject to ∏ r_n ≤ product and Σ I_n r_n ≤ total: one 0/1 variable per mode and rank."""

    def __init__(self, s: HOSV, ranks: Sequence[int]) -> None:
        self.s, self.ranks = s, tuple(ranks)
        ladder = [np.arange(1, rank + 1) for rank in self.ranks]
        # What rank one keeps is kept by every shape. Left out, the objective resolves the small values that differ.
        self.constant = sum(float(prefix[1]) for prefix in s.prefixes)
        gains = [s.prefixes[n][1 : rank + 1] - s.prefixes[n][1] for n, rank in enumerate(self.ranks)]
        self.scale = max(sum(float(gain[-1]) for gain in gains), np.finfo(np.float64).tiny)
        self.value = np.concatenate(gains) / self.scale
        self.logs = np.log(np.concatenate(ladder))
        self.cost = np.concatenate([size * steps for size, steps in zip(s.shape, ladder, strict=True)]).astype(float)
        self.one_each = scipy.sparse.block_diag([np.ones((1, rank)) for rank in self.ranks], format="csr")
        self.knapsacks = scipy.sparse.csr_array(np.stack([self.logs, self.cost]))

    @staticmethod
    def _limits(product: float, total: float) -> np.ndarray:
        """Right-hand sides; both quantities are whole numbers, so half a unit of room costs nothing and is robust."""
        return np.array([log(floor(product * (1 + 1e-12)) + 0.5), floor(total + 1e-9) + 0.5])

    def possible(self, product: float, total: float) -> bool:
        """Whether the shape 1 × ... × 1 fits."""
        return product >= 1 and total >= sum(self.s.shape)

    def relaxed(self, product: float, total: float) -> float:
        """Upper bound of the optimum: the linear relaxation, in squared units of the tensor."""
        result = linprog(
            -self.value,
            A_ub=self.knapsacks,
            b_ub=self._limits(product, total),
            A_eq=self.one_each,
            b_eq=np.ones(len(self.ranks)),
            bounds=(0, 1),
            method="highs-ds",
        )
        if result.status != 0:
            raise RuntimeError(f"linear program not solved: {result.message}")
        return float(-result.fun) * self.scale + self.constant

    def solve(self, product: float, total: float) -> tuple[int, ...]:
        """The optimal shape. Raises RuntimeError with the solver's own message when it stops short of the optimum."""
        result = milp(
            -self.value,
            constraints=[
                LinearConstraint(self.knapsacks, -np.inf, self._limits(product, total)),
                LinearConstraint(self.one_each, 1, 1),
            ],
            integrality=1,
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0.0},
        )
        if result.status != 0 or result.x is None:
            raise RuntimeError(f"integer program not solved (product {product:g}, sum {total:g}): {result.message}")
        blocks = np.split(result.x, np.cumsum(self.ranks)[:-1])
        return tuple(int(np.argmax(block)) + 1 for block in blocks)


def double_budget_ip(s: Spectra, log_prod_budget: float, sum_budget: float) -> CoreShapeResult:
    """The inner integer program: the best shape with log ∏ r_n ≤ ``log_prod_budget`` and Σ I_n r_n ≤ ``sum_budget``.

    Raises ValueError when no shape fits, RuntimeError with HiGHS's message when it does not reach the optimum.
    """
    s = as_hosv(s)
    program = _DoubleBudget(s, s.ranks)
    product = float(np.exp(min(log_prod_budget, log(prod(s.shape)) + 1.0))) if log_prod_budget >= 0 else 0.0
    if not program.possible(product, sum_budget):
        raise ValueError(
            f"log_prod_budget {log_prod_budget} and sum_budget {sum_budget} admit no shape; "
            f"use at least 0 and {sum(s.shape)} for a tensor {s.shape}"
        )
    started = time.perf_counter()
    shape = program.solve(product, sum_budget)
    return describe(s, shape, num_params(s.shape, shape), started, 1, 1.0)


def _products(largest: int, factors: int) -> list[int]:
    """All products of whole numbers up to ``factors`` that do not exceed ``largest``."""
    found, frontier = {1}, [1]
    while frontier:
        frontier = [p * f for p in frontier for f in range(2, factors + 1) if p * f <= largest and p * f not in found]
        frontier = sorted(set(frontier))
        found.update(frontier)
    return sorted(found)


def _small_shapes(s: HOSV, budget: int, top: int) -> tuple[tuple[int, ...], int]:
    """Step 1: the best shape with all ranks at most ``top``: exact search, or one program per possible product."""
    ranks = tuple(min(rank, top) for rank in s.ranks)
    ones = (1,) * len(ranks)
    if len(ranks) <= EXACT_MODES:
        shape, nodes = _search([p[: r + 1] for p, r in zip(s.prefixes, ranks, strict=True)], s.shape, budget, -1.0)
        return shape or ones, nodes
    program = _DoubleBudget(s, ranks)
    splits = [(p, budget - p) for p in _products(min(budget, prod(ranks)), top)]
    return _best_split(program, splits, budget, ones)


def _best_split(
    program: _DoubleBudget, splits: Sequence[tuple[float, float]], budget: int, start: tuple[int, ...]
) -> tuple[tuple[int, ...], int]:
    """Best feasible solution over all splits, and programs solved: those whose relaxation cannot win are left out."""
    s = program.s
    best, best_value, solved = start, packing_value(s, start), 0
    bounds = [(program.relaxed(*split), split) for split in splits if program.possible(*split)]
    for bound, split in sorted(bounds, reverse=True):
        if bound <= best_value + 1e-9 * program.scale:  # about the accuracy of the linear programs
            break
        shape = program.solve(*split)
        solved += 1
        if num_params(s.shape, shape) <= budget and (value := packing_value(s, shape)) > best_value:
            best, best_value = shape, value
    return best, solved + len(bounds)


def packing_ip(s: Spectra, budget: float, eps: float = 0.5, fill: bool = False) -> CoreShapeResult:
    """The paper's approximation scheme: value at least 1 - ``eps`` times the optimum, 0 < eps ≤ 1.

    1. The best shape whose ranks are all at most ⌈1/eps⌉. 2. For k = 0, 1, ..., ⌊log B / log(1+eps)⌋ the budget is
    split into (1+eps)^k for the product and the rest for the sum, and the other way round; each split is one integer
    program (:func:`double_budget_ip`), and the best shape over all wins. Programs whose linear relaxation does not
    exceed the best value so far cannot change the result and are not solved. ``evaluations`` counts shapes and
    programs.

    The splits leave part of the budget unspent. ``fill=True`` (not in the paper) spends it on the largest values that
    still fit, which never lowers the value and keeps the guarantee.
    """
    if not 0 < eps <= 1:
        raise ValueError(f"eps {eps} must lie in (0, 1]: the part of the optimum that may be lost")
    s = as_hosv(s)
    limit = check_budget(s.shape, budget)
    started = time.perf_counter()
    small, looked = _small_shapes(s, limit, ceil(1 / eps))
    powers = [(1 + eps) ** k for k in range(floor(log(limit) / log(1 + eps)) + 1)]
    splits = [(p, limit - p) for p in powers] + [(limit - p, p) for p in powers]
    shape, solved = _best_split(_DoubleBudget(s, s.ranks), splits, limit, small)
    if fill:
        shape, _ = _grow(s, limit, lambda value, extra: value, shape)
    return describe(s, shape, limit, started, looked + solved, 1.0 - eps)


Solver = Callable[[Spectra, float], CoreShapeResult]
SOLVERS: dict[str, Solver] = {
    "greedy": greedy,
    "bang_for_buck": bang_for_buck,
    "brute_force": brute_force,
    "exact": exact,
    "packing_ip": packing_ip,
}


def get_solver(name: str | Solver, **options: float) -> Solver:
    """A solver by name (with its options, such as ``eps``); a function is taken as it is."""
    if callable(name):
        return name
    if name not in SOLVERS:
        raise ValueError(unknown("solver", name, SOLVERS))
    return partial(SOLVERS[name], **options) if options else SOLVERS[name]
