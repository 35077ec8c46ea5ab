"""Exactness and cost of the Kronecker algebra, up to a million collocation points, alone on the machine.

The work is one objective with its gradient in all function values, kernels and precisions, as a step of the paper's
algorithm needs it. Steps are points in each of two coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core.run import Run
from tensorbench.core.timing import compare, measure
from tensorbench.pde_operators.diffops import manufactured, poisson
from tensorbench.pde_operators.experiments import high_freq_figures as draw
from tensorbench.pde_operators.gp_high_freq.inner import inner_solve
from tensorbench.pde_operators.gp_high_freq.model import HighFreqGP
from tensorbench.pde_operators.gp_high_freq.problem import on_grid
from tensorbench.pde_operators.gp_high_freq.solver import GPHMSolver
from tensorbench.pde_operators.kernels import student_mixture
from tensorbench.pde_operators.kronecker import cholesky, kron_dense

METHODS = {"kronecker": HighFreqGP}


def run(run: Run) -> None:
    """Exactness, speed against dense matrices, growth, a million points, and the exact steps in one coordinate."""
    options = run.method.params
    pde, components = poisson("xy"), options["components"]
    truth = manufactured(pde, "sin(100*x)*sin(100*y)")
    generator = run.generator

    def model_of(n: int) -> tuple[HighFreqGP, torch.Tensor]:
        model = HighFreqGP(on_grid(truth, [n, n]), [student_mixture(components, 15.0) for _ in range(2)])
        return model, torch.randn(n, n, dtype=torch.float64, generator=generator).requires_grad_(True)

    model, U = model_of(options["exact_at"])
    fast, dense = gradients(model, U, by_kronecker), gradients(model, U, by_dense_matrices)
    value_off = abs(fast[0] - dense[0]) / abs(dense[0])
    gradient_off = float((fast[1] - dense[1]).norm() / dense[1].norm())
    run.log(value_difference=value_off, gradient_difference=gradient_off, exact=max(value_off, gradient_off) <= 1e-8)

    model, U = model_of(options["speed_at"])
    jobs = {
        "kronecker": lambda: gradients(model, U, by_kronecker),
        "dense": lambda: gradients(model, U, by_dense_matrices),
    }
    pair = compare(jobs, repeats=options["repeats"], warmup=0, min_seconds=0)
    run.log(speedup=pair.speedup("kronecker", "dense").value, dense_seconds=pair["dense"])

    for n in run.progress(options["sizes"], desc="sizes"):
        model, U = model_of(n)
        if n <= 400:
            gradients(model, U, by_kronecker)  # a first one touches memory for the first time
        seconds = []
        with measure() as cost:
            for _ in range(3 if n <= 400 else 1):
                with measure() as once:
                    gradients(model, U, by_kronecker)
                seconds.append(once.seconds)
        run.log(step=n, step_seconds=float(np.median(seconds)), step_mib=cost.peak_mib)
    if run.seed == 0:  # nothing is random in it
        _million(run)

    wave = manufactured(poisson("x"), "sin(100*x)")
    solver = GPHMSolver(on_grid(wave, [200]), [student_mixture(30, 20.0)])
    with measure() as cost:
        solver.fit_exact(options["exact_steps"])
    run.log(exact_seconds=cost.seconds)


def _million(run: Run) -> None:
    """Solve on the largest grid with a kernel that knows the frequency, by conjugate gradients with exact products."""
    options = run.method.params
    n, angular = options["solve_at"], options["solve_angular"]
    truth = manufactured(poisson("xy"), f"sin({angular}*x)*sin({angular}*y)")
    problem = on_grid(truth, [n, n])
    frequency = angular / (2 * math.pi)
    model = HighFreqGP(problem, [student_mixture(1, frequency).set([1.0], [0.0], [frequency]) for _ in range(2)])
    with torch.no_grad():
        model.log_v.fill_(options["solve_log_v"])
        model.log_tau.fill_(options["solve_log_tau"])
    with measure() as cost:
        found = inner_solve(model, method="cg", tolerance=1e-6, cg_steps=options["cg_steps"])
    exact = truth.solution(*problem.points())
    run.log(
        solved_points=n * n, solved_error=float((found.values - exact).norm() / exact.norm()),
        solved_seconds=cost.seconds, solved_mib=cost.peak_mib, solved_products=found.products,
        solved_residual=found.residual,
    )  # fmt: skip


def by_kronecker(model: HighFreqGP, U: torch.Tensor) -> torch.Tensor:
    """The objective as the package computes it."""
    return model.objective_of_values(U)


def by_dense_matrices(model: HighFreqGP, U: torch.Tensor) -> torch.Tensor:
    """The same from the covariance of all grid points at once."""
    factors = model.factors()
    K = kron_dense(factors.covariances)
    root = cholesky(K)
    flat = U.reshape(-1)
    alpha = torch.cholesky_solve(flat[:, None], root)[:, 0]
    found = {model.value_index: U}
    for index in model.problem.pde.operators:
        if index != model.value_index:
            matrix = kron_dense([m[n] for m, n in zip(factors.matrices, index, strict=True)])
            found[index] = (matrix @ alpha).reshape(U.shape)
    return root.diagonal().log().sum() + flat @ alpha / 2 + model.data_terms(found) - model.log_prior()


def gradients(model: HighFreqGP, U: torch.Tensor, objective: object) -> tuple[float, torch.Tensor]:
    """The objective, and its gradient in everything as one vector."""
    parameters = [U, *(p for p in model.parameters() if p.requires_grad)]
    value = objective(model, U)  # type: ignore[operator]
    parts = torch.autograd.grad(value, parameters)
    return float(value.detach()), torch.cat([p.reshape(-1) for p in parts])


def solved_error(records: pd.DataFrame) -> float:
    """Of the solution on the largest grid, which the first seed alone computes."""
    return float(records["solved_error"].dropna().iloc[0])


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Seconds and memory of a step."""
    yield "growth", draw.growth(records)
