"""Seconds of the pieces of the Barron construction beside named peers, in one process on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import sparse
from scipy.sparse.linalg import spsolve

from tensorbench.core import plotting
from tensorbench.core.run import Run
from tensorbench.core.timing import compare, measure
from tensorbench.pde_operators.barron import networks
from tensorbench.pde_operators.barron.descent import descend
from tensorbench.pde_operators.datasets.barron import Manufactured
from tensorbench.pde_operators.trig import TrigFunction


def flow(run: Run, data: Manufactured, *, steps: int, repeats: int) -> None:
    """The flow by sine transforms; the peer is Newton's method on central differences with SciPy's sparse LU."""
    grid, problem = data.problem.grid, data.problem
    values = grid.values(problem.source)[grid.pad - 1 :: grid.pad, grid.pad - 1 :: grid.pad].ravel()
    ((_, a),) = problem.energy.powers

    seconds = compare(
        {
            "flow": lambda: descend(problem, 0.5, steps, measure=False),
            "newton": lambda: newton_differences(values, grid.n, problem.energy.reaction, a),
        },
        repeats=repeats,
    )
    run.log(flow_seconds=seconds["flow"], newton_seconds=seconds["newton"])
    run.log(flow_over_newton=seconds.ratio("flow", "newton").value)


def newton_differences(f: np.ndarray, n: int, reaction: float, quartic: float) -> np.ndarray:
    """-Δ_h u + c u + 4 a u³ = f by Newton's method."""
    line = sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n)) * (n + 1) ** 2
    eye = sparse.identity(n)
    laplacian = sparse.kron(line, eye) + sparse.kron(eye, line)
    u = np.zeros_like(f)
    for _ in range(30):
        residual = f - laplacian @ u - reaction * u - 4 * quartic * u**3
        update = spsolve((laplacian + sparse.diags(reaction + 12 * quartic * u**2)).tocsc(), residual)
        u = u + update
        if np.abs(update).max() <= 1e-10 * np.abs(u).max():
            break
    return u


def product(run: Run, data: Manufactured, *, terms: int, d: int, drop: float, small: int, repeats: int) -> None:
    """A pruned product of two functions with many terms; the peer, a dictionary of frequencies, on fewer of them."""
    rng = run.rng
    f, g = (_decaying(rng, terms, d) for _ in range(2))
    with measure() as cost:
        found = f.times(g, drop=drop)
    run.log(
        product_seconds=cost.seconds, product_terms=found.function.terms, dropped_mass=found.mass / f.mass() / g.mass()
    )
    a, b = f.pruned(most=small).function, g.pruned(most=small).function
    seconds = compare({"join": lambda: a * b, "dictionary": lambda: by_dictionary(a, b)}, repeats=repeats)
    run.log(join_over_dictionary=seconds.ratio("join", "dictionary").value)


def _decaying(rng: np.random.Generator, terms: int, d: int) -> TrigFunction:
    """Random frequencies up to 9 along each axis, coefficients that fall as the inverse of their rank."""
    freqs = rng.integers(-9, 10, (terms, d))
    return TrigFunction(freqs, rng.standard_normal(terms) / np.arange(1, terms + 1) + 0j, 1.0)


def by_dictionary(f: TrigFunction, g: TrigFunction) -> dict[tuple[int, ...], complex]:
    """The product by a loop over pairs."""
    total: dict[tuple[int, ...], complex] = {}
    left = list(zip(map(tuple, f.freqs.tolist()), f.coeffs.tolist(), strict=True))
    right = list(zip(map(tuple, g.freqs.tolist()), g.coeffs.tolist(), strict=True))
    for k, a in left:
        for m, b in right:
            key = tuple(x + y for x, y in zip(k, m, strict=True))
            total[key] = total.get(key, 0) + a * b
    return total


def greedy(run: Run, data: Manufactured, *, units: int, dictionary: int, points: int) -> None:
    """A greedy fit with a cached Gram matrix; the peer, scikit-learn's orthogonal matching pursuit, on fewer units.

    The atoms are Gaussian, so that none depends on others and all units are really placed.
    """
    from sklearn.linear_model import orthogonal_mp_gram

    rng = run.rng
    atoms, values = rng.standard_normal((points, dictionary)), rng.standard_normal(points)
    with measure() as cost:
        found = networks.greedy_fit(atoms, values, units)
    run.log(greedy_seconds=cost.seconds, greedy_units=len(found.chosen))
    atoms = atoms[:, : dictionary // 4] / np.linalg.norm(atoms[:, : dictionary // 4], axis=0)
    few = units // 8

    def peer() -> object:
        return orthogonal_mp_gram(atoms.T @ atoms, atoms.T @ values, n_nonzero_coefs=few)

    seconds = compare({"ours": lambda: networks.greedy_fit(atoms, values, few), "sklearn": peer}, repeats=2)
    run.log(greedy_over_sklearn=seconds.ratio("ours", "sklearn").value)


METHODS: dict[str, Callable[..., None]] = {"flow": flow, "product": product, "greedy": greedy}


def run(run: Run) -> None:
    """Time one piece."""
    METHODS[run.method.uses](run, run.dataset.load(run.seed), **run.method.params)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Ratios to the peers."""
    fig, ax = plotting.figure(height=6)
    names = {
        "flow_over_newton": "flow / Newton with sparse LU",
        "join_over_dictionary": "join / dictionary",
        "greedy_over_sklearn": "greedy / scikit-learn",
    }
    found = [(text, records[name].dropna()) for name, text in names.items() if len(records) and name in records]
    if not found:
        plotting.empty(ax)
    else:
        plotting.log_axis(ax, "x")
        for at, (_, values) in enumerate(found):
            ax.plot(
                values, [at] * len(values), "o", color=plotting.styles(names)["flow_over_newton"]["color"], alpha=0.7
            )
        ax.set_yticks(range(len(found)), [text for text, _ in found])
        plotting.reference(ax, x=1.0)
        ax.set(xlabel="seconds over the peer's seconds", ylim=(-0.5, len(found) - 0.5))
    yield "ratios", fig
