"""Choosing the core shape of a Tucker decomposition under a budget of parameters.

Ghadiri, Fahrbach, Fu, Mirrokni (2023), "Approximately Optimal Core Shapes for Tensor Decompositions", arXiv 2302.03886.
The surrogate (``hosv``), the solvers (``packing``) and the true error (``tucker_fit``) meet here:

    s = hosv(X)                                    # once
    packing_ip(s, budget=20_000).shape             # for every budget
    select_core_shape(X, target_error=1e-3).tucker # shape, fit and error in one call

:func:`rre_greedy` is the slow peer: it fits a Tucker decomposition for every shape it considers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from tensorly.tucker_tensor import TuckerTensor

from tensorbench.decomposition.linalg import COO, as_tensor
from tensorbench.decomposition.structure.hosv import (
    HOSV,
    CoreShapeResult,
    Spectra,
    as_hosv,
    check_budget,
    hosv,
    num_params,
    packing_value,
    surrogate_loss,
)
from tensorbench.decomposition.structure.packing import (
    EXACT_MODES,
    SOLVERS,
    Solver,
    bang_for_buck,
    brute_force,
    double_budget_ip,
    exact,
    get_solver,
    greedy,
    packing_ip,
)
from tensorbench.decomposition.structure.tucker_fit import RotatedTensor, fit_tucker, relative_error, rotate

__all__ = [
    "HOSV",
    "SOLVERS",
    "CoreShapeResult",
    "CoreShapeSelection",
    "RotatedTensor",
    "bang_for_buck",
    "brute_force",
    "double_budget_ip",
    "exact",
    "fit_tucker",
    "get_solver",
    "greedy",
    "hosv",
    "num_params",
    "packing_ip",
    "packing_value",
    "pareto",
    "relative_error",
    "rotate",
    "rre_greedy",
    "select_core_shape",
    "surrogate_loss",
]

Shape = tuple[int, ...]
Memo = dict[Shape, tuple[float, float]]  # core shape -> (squared relative error, seconds of the fit)


def rre_greedy(
    X: Float[np.ndarray, "*_"] | COO | RotatedTensor,
    budget: float,
    evaluate: Callable[[Shape], float] | None = None,
    memo: Memo | None = None,
) -> CoreShapeResult:
    """Raise one rank by one at a time, the one whose Tucker fit has the lowest error, until no rank fits or helps.

    ``evaluate`` gives the squared relative error of a shape (default: :func:`relative_error`, 20 sweeps of HOOI, as the
    paper's code does). A ``memo`` shared between budgets saves fits; ``seconds`` is then still the sum over all fits
    that this budget needed, as if alone. ``value`` and ``surrogate_loss`` are nan: no singular values are computed.
    """
    limit = check_budget(X.shape, budget)
    fit = evaluate or (lambda shape: relative_error(X, shape))
    known: Memo = {} if memo is None else memo
    used: Memo = {}

    def error(shape: Shape) -> float:
        if shape not in known:
            started = time.perf_counter()
            value = float(fit(shape))
            known[shape] = (value, time.perf_counter() - started)
        used[shape] = known[shape]
        return known[shape][0]

    core: Shape = (1,) * len(X.shape)
    current = error(core)
    while current > 1e-15:  # the two tolerances are those of the paper's code
        ups = [(*core[:n], core[n] + 1, *core[n + 1 :]) for n in range(len(core)) if core[n] < X.shape[n]]
        tried = [(error(up), up) for up in ups if num_params(X.shape, up) <= limit]
        if not tried or min(tried)[0] > current + 1e-9:
            break
        current, core = min(tried)
    seconds = sum(cost for _, cost in used.values())
    return CoreShapeResult(core, num_params(X.shape, core), np.nan, np.nan, seconds, len(used))


def pareto(
    X: Spectra, budgets: Sequence[float], solver: str | Solver = "exact", **options: float
) -> list[CoreShapeResult]:
    """One result per budget from one computation of singular values, in the order of ``budgets``.

    A shape found for a smaller budget fits every larger one and replaces a worse result there, so that the value never
    falls as the budget grows (the approximation scheme alone does not promise that).
    """
    solve = get_solver(solver, **options)
    s = as_hosv(X)
    best: CoreShapeResult | None = None
    found: dict[int, CoreShapeResult] = {}
    for place in sorted(range(len(budgets)), key=lambda i: budgets[i]):
        result = solve(s, budgets[place])
        if best is not None and best.value > result.value:
            result = replace(
                best, seconds=result.seconds, evaluations=result.evaluations, certificate=result.certificate
            )
        best = found[place] = result
    return [found[place] for place in range(len(budgets))]


@dataclass(frozen=True)
class CoreShapeSelection:
    """A chosen core shape, the fitted ``tensorly`` Tucker (None for sparse tensors) and its squared relative error."""

    result: CoreShapeResult
    tucker: TuckerTensor | None
    relative_error: float

    @property
    def shape(self) -> Shape:
        """The core shape."""
        return self.result.shape


def _smallest_budget(s: HOSV, loss: float, solve: Solver) -> CoreShapeResult:
    """The result of the smallest budget whose surrogate loss is at most ``loss``, by bisection."""
    low, high = sum(s.shape), num_params(s.shape, s.ranks)
    best = solve(s, high)
    if best.surrogate_loss > loss:
        raise ValueError(
            f"no core shape within the numerical ranks {s.ranks} has a squared error certified below {loss:.3g}; "
            f"the full core has {best.surrogate_loss:.3g}"
        )
    while high - low > 1:
        middle = (low + high) // 2
        result = solve(s, middle)
        if result.surrogate_loss <= loss:
            best, high = (result if result.params <= best.params else best), middle
        else:
            low = middle
    return best


def select_core_shape(
    X: Float[np.ndarray, "*_"] | COO,
    budget: float | None = None,
    *,
    compression: float | None = None,
    target_error: float | None = None,
    solver: str | Solver | None = None,
    n_iter: int = 20,
) -> CoreShapeSelection:
    """Choose a core shape and fit the decomposition. Give exactly one of

    - ``budget``: parameters at most,
    - ``compression``: parameters at most this part of the number of cells of ``X``, between 0 and 1,
    - ``target_error``: the smallest budget found whose surrogate loss, an upper bound of ‖X - X̂‖², is at most this
      part of ‖X‖². HOOI usually does better than the bound.

    ``solver``: a name in :data:`SOLVERS` or a function; default ``"exact"`` up to 12 modes, ``"packing_ip"`` above.
    Raises ValueError when the budget fits nothing, naming the smallest that does.
    """
    given = {"budget": budget, "compression": compression, "target_error": target_error}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise ValueError(f"give exactly one of budget, compression and target_error, not {named or 'none'}")
    X = as_tensor(X)
    solve = get_solver(solver or ("exact" if X.ndim <= EXACT_MODES else "packing_ip"))
    s = hosv(X)
    if budget is not None:
        result = solve(s, budget)
    elif compression is not None:
        if not 0 < compression <= 1:
            raise ValueError(f"compression {compression} must lie in (0, 1]: parameters over the {X.size} cells")
        result = solve(s, compression * X.size)
    else:
        if not 0 <= target_error < 1:  # type: ignore[operator]
            raise ValueError(f"target_error {target_error} must lie in [0, 1): squared error over the squared norm")
        result = _smallest_budget(s, target_error * s.norm2, solve)  # type: ignore[operator]
    if isinstance(X, COO):
        return CoreShapeSelection(result, None, relative_error(X, result.shape, n_iter=0))
    rotated = rotate(X)
    tucker = fit_tucker(rotated, result.shape, n_iter)
    core = np.asarray(tucker.core)
    return CoreShapeSelection(result, tucker, max(0.0, 1.0 - float(np.vdot(core, core)) / max(s.norm2, 1e-300)))
