"""GP-HM: fit the process to an equation, by the paper's gradient descent on everything or with exact inner solves.

* :meth:`GPHMSolver.fit`: Adam on function values, kernels and precisions together (the paper's algorithm).
* :meth:`GPHMSolver.fit_exact`: Adam on kernels and precisions; the function values are the exact minimiser at each step
  (Gauss-Newton where the equation is not linear), so that the gradient is that of the profile.
* :meth:`GPHMSolver.newton`: the function values alone, at the present kernels.
* :meth:`GPHMSolver.refine`: a second process for what is left, with a kernel of its own, added to the first, which is
  then fixed (the paper's extra GP for solutions with a strong low-frequency part).

One, two or more coordinates by the same code; time is a coordinate. Double precision throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.training import History, fit
from tensorbench.pde_operators.diffops import Index
from tensorbench.pde_operators.gp_high_freq import predict
from tensorbench.pde_operators.gp_high_freq.inner import Inner, inner_solve
from tensorbench.pde_operators.gp_high_freq.model import HighFreqGP
from tensorbench.pde_operators.gp_high_freq.problem import GridProblem
from tensorbench.pde_operators.kernels import MixtureKernel
from tensorbench.pde_operators.kronecker import KroneckerCov


@dataclass(frozen=True)
class Component:
    """One bump of a learned spectrum: share of the weight, frequency (cycles per unit), log rate of the radial part."""

    share: float
    frequency: float
    log_rate: float


class _WithValues(nn.Module):
    """The process and its function values, for Adam on everything."""

    def __init__(self, process: HighFreqGP, U: Tensor):
        super().__init__()
        self.process, self.U = process, nn.Parameter(U)


class GPHMSolver:
    """Solve a problem on a grid.

    >>> problem = on_grid(manufactured(poisson("x"), "sin(100*x)"), [200])
    >>> solver = GPHMSolver(problem, [student_mixture(30, freq_scale=20)])
    >>> solver.fit_exact(200)
    >>> u = solver.predict([torch.linspace(0, 1, 300, dtype=torch.float64)])

    Args:
        kernels: one a coordinate, trained in place.
        boundary_weight, jitter: as in :class:`~tensorbench.pde_operators.gp_high_freq.model.HighFreqGP`.
        inner: ``dense`` or ``cg``; default by size.
        inner_options: further options of ``inner_solve`` (``tolerance``, ``newton_steps``, …).
    """

    def __init__(
        self,
        problem: GridProblem,
        kernels: Sequence[MixtureKernel],
        *,
        boundary_weight: float = 200.0,
        jitter: float = 1e-6,
        inner: str | None = None,
        **inner_options: Any,
    ):
        self.problem = problem
        self.model = HighFreqGP(problem, kernels, boundary_weight=boundary_weight, jitter=jitter)
        self.alpha = torch.zeros(problem.shape, dtype=torch.float64)  # K⁻¹U
        self.values = self.alpha  # U
        self.before: list[tuple[HighFreqGP, Tensor]] = []
        self.inner_options = {"method": inner, **inner_options}
        self.products = 0  # of the conjugate gradients so far

    def fit(self, steps: int = 2000, lr: float = 1e-2, *, start: Tensor | None = None, **options: Any) -> History:
        """The paper's algorithm: Adam on U, kernels and precisions, from U = 0 or ``start``.

        Further keywords go to ``tensorbench.core.training.fit``; ``evaluate`` is called with this solver.
        """
        U = torch.zeros(self.problem.shape, dtype=torch.float64) if start is None else start.clone()
        whole = _WithValues(self.model, U)

        def settle() -> None:
            with torch.no_grad():
                self.values = whole.U.detach().clone()
                self.alpha = KroneckerCov(self.model.factors().covariances).solve(self.values)

        def loss(module: nn.Module, _: Any) -> Tensor:
            return self.model.objective_of_values(whole.U)

        history = fit(whole, [None], loss, _adam(whole, lr), steps=steps, **self._hooks(options, settle))
        settle()
        return history

    def fit_exact(self, steps: int = 200, lr: float = 0.05, **options: Any) -> History:
        """Adam on kernels and precisions around exact inner solves; further keywords as for :meth:`fit`."""

        def loss(module: nn.Module, _: Any) -> Tensor:
            self.newton()
            return self.model.objective(self.alpha)

        optimizer = _adam(self.model, lr)
        history = fit(self.model, [None], loss, optimizer, steps=steps, **self._hooks(options, self.newton))
        self.newton()
        return history

    def newton(self, **options: Any) -> Inner:
        """The function values at the present kernels and precisions, from where they are."""
        result = inner_solve(self.model, self.values, **{**self.inner_options, **options})
        self.alpha, self.values = result.alpha, result.values
        self.products += result.products
        return result

    def refine(self, kernels: Sequence[MixtureKernel]) -> GPHMSolver:
        """Fix what is found and start a second process with these kernels for the rest; fit it as the first.

        The precision of the boundary goes on from its value, that of the equation starts anew, as in the reference.

        Raises:
            ValueError: kernels that do not fit, or that the processes before have: training them would change these.
        """
        taken = {id(kernel) for model, _ in self._parts() for kernel in model.kernels}
        if any(id(kernel) in taken for kernel in kernels):
            raise ValueError("a kernel of the process before would be trained again; make a new one for the second")
        offsets = self._derivatives()
        second = HighFreqGP(
            self.problem, kernels, boundary_weight=self.model.boundary_weight, jitter=self.model.jitter, offsets=offsets
        )
        with torch.no_grad():
            second.log_tau.copy_(self.model.log_tau)
        self.before.append((self.model, self.alpha))
        self.model = second
        self.values = self.alpha = torch.zeros(self.problem.shape, dtype=torch.float64)
        return self

    def _derivatives(self) -> dict[Index, Tensor]:
        """Of the whole solution on the grid."""
        with torch.no_grad():
            return self.model.with_offsets(self.model.derivatives(self.alpha, self.model.factors()))

    def residual(self) -> Float[Tensor, "*grid"]:
        """F(u) - source on the grid."""
        with torch.no_grad():
            return self.model.residual(self.model.derivatives(self.alpha, self.model.factors()))

    def objective(self) -> float:
        """The objective at the present values."""
        with torch.no_grad():
            return float(self.model.objective(self.alpha))

    def predict(self, axes: Sequence[Float[Tensor, " m"]], index: Index | None = None) -> Float[Tensor, "*grid"]:
        """The solution, or its derivative with this multi-index, on the grid of these axes."""
        parts = [predict.mean_on_grid(model, alpha, axes, index) for model, alpha in self._parts()]
        return torch.stack(parts).sum(dim=0)

    def predict_at(
        self, points: Float[Tensor, "m d"], index: Index | None = None
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
        """Mean and variance at scattered points; of two processes the variance is that of the second."""
        means = [predict.mean_at(model, alpha, points, index) for model, alpha in self._parts()]
        return torch.stack(means).sum(dim=0), predict.variance_at(self.model, self.alpha, points, index)

    def spectrum(self, coordinate: int = 0, stage: int = 0) -> list[Component]:
        """The learned components of a coordinate's kernel, heaviest first; ``stage`` 0 is the first process."""
        kernel = self._kernel(coordinate, stage)
        with torch.no_grad():
            share = kernel.weight / kernel.weight.sum()
            order = torch.argsort(share, descending=True).tolist()
            return [
                Component(float(share[q]), float(kernel.frequency[q].abs()), float(kernel.log_rate[q])) for q in order
            ]

    def pruned(self, threshold: float = 0.01, coordinate: int = 0, stage: int = 0) -> list[Component]:
        """The components that keep more than this share of the weight."""
        return [c for c in self.spectrum(coordinate, stage) if c.share > threshold]

    def _kernel(self, coordinate: int, stage: int) -> MixtureKernel:
        kernel = self._parts()[stage][0].kernels[coordinate]
        assert isinstance(kernel, MixtureKernel)
        return kernel

    def _parts(self) -> list[tuple[HighFreqGP, Tensor]]:
        return [*self.before, (self.model, self.alpha)]

    def _hooks(self, options: dict[str, Any], settle: Callable[[], object]) -> dict[str, Any]:
        """Let ``evaluate`` see this solver, its function values up to date."""
        evaluate: Callable[[GPHMSolver], Mapping[str, float]] | None = options.get("evaluate")
        if evaluate is None:
            return options

        def wrapped(_: nn.Module) -> Mapping[str, float]:
            before = self.alpha, self.values, self.products
            settle()
            found = evaluate(self)
            self.alpha, self.values, self.products = before  # looking must not move the next step's start
            return found

        return options | {"evaluate": wrapped}


def _adam(module: nn.Module, lr: float) -> torch.optim.Optimizer:
    if not lr > 0:
        raise ValueError(f"lr {lr} must be positive")
    return torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=lr)
