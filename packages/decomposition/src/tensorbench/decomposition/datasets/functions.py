"""Functions and potentials to approximate: analytic and not so analytic functions of three variables, the Newton
kernel, and the electrostatic potentials of many particles.

``smooth_functions`` returns callables on [-1, 1]³. The other loaders return CP tensors (``formats.CP``) of values on
the cell centres of [-1, 1]³, terms ordered from the widest Gaussian to the narrowest, or :class:`Particles`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tensorbench.core.data import File, dataset
from tensorbench.core.errors import unknown

if TYPE_CHECKING:
    from tensorbench.decomposition.formats import CP
    from tensorbench.decomposition.functional.molecules import Particles

REPO = {
    "repository": "bonans/ChebTuck",
    "commit": "d3235cef615ad99995078d5b52c9fde91896ad27",
    "licence": "MIT",
}
GENERATED = {"source": "generated here", "licence": "Apache-2.0", "generated": True, "cache": False}
BOX = (-1.0, 1.0)


def _radius(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.sqrt(x**2 + y**2 + z**2)


FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "cosine": lambda x, y, z: np.cos(x + y + z),
    "exponential": lambda x, y, z: np.exp(np.sin(x + 2 * y) + z * x),
    "shifted_newton": lambda x, y, z: 1 / _radius(x - 1.5, y, z),
    "runge": lambda x, y, z: 1 / (1 + 25 * _radius(x, y, z) ** 2),
    "slater": lambda x, y, z: np.exp(-_radius(x, y, z)),
}


@dataset(title="Functions of three variables, from entire to merely continuous", **GENERATED)
def smooth_functions(*, seed: int, names: list[str] | None = None) -> dict[str, Callable[..., np.ndarray]]:
    """cos(x+y+z); exp(sin(x+2y) + zx); 1/|x - (1.5, 0, 0)|; Runge's 1/(1 + 25r²); Slater's exp(-r), a cusp at 0."""
    chosen = list(FUNCTIONS) if names is None else list(names)
    for name in chosen:
        if name not in FUNCTIONS:
            raise ValueError(unknown("function", name, list(FUNCTIONS)))
    return {name: FUNCTIONS[name] for name in chosen}


@dataset(title="The Newton kernel 1/|x| on grids, in canonical form", **GENERATED)
def newton_kernel(*, seed: int, grids: list[int] | tuple[int, ...] = (256, 1024), eps: float = 1e-7) -> dict[int, CP]:
    """Sinc quadrature accurate to ``eps`` from the nearest cell to the corners, by number of cells per direction."""
    from tensorbench.decomposition.functional.newton import sinc_quadrature_newton

    return {int(n): sinc_quadrature_newton(int(n), box=BOX, eps=eps) for n in grids}


@dataset(
    title="The Newton kernel on grids of 256³ and 1024³ cells, in canonical form",
    source="computed by the authors of the Chebyshev-Tucker format",
    licence="MIT",
    files=[
        File(
            path="data/Newton_CP_-1_1/Newt_canon_256.mat",
            sha256="36632af6553003e697f9409702c0b6011f26700c483c1a0b79e5850727c152ba",
            bytes=49001,
            **REPO,
        ),
        File(
            path="data/Newton_CP_-1_1/Newt_canon_1024.mat",
            sha256="e2d9b5d750034249378dbae713480b062f3e4c2c8b328dcef6b43452a1b87b2e",
            bytes=194492,
            **REPO,
        ),
    ],
)
def newton_reference(files: list[Path], *, seed: int) -> dict[int, CP]:
    """26 and 31 terms; the files hold cell integrals per direction, divided here by the cell width, as there."""
    from tensorbench.decomposition.formats import CP

    kernels = {}
    for file in files:
        columns = _matlab(file)["U1r"]
        n = len(columns)
        kernels[n] = CP(np.ones(columns.shape[1]), (columns * n / 2,) * 3)  # the same for every direction
    return kernels


@dataset(
    title="Long-range potential of a biomolecule with 500 charges on 256³ cells, in canonical form",
    source="computed by the authors of the Chebyshev-Tucker format",
    licence="MIT",
    files=[
        File(
            path="data/Data_256-2048/n256_Pn500.mat",
            sha256="d3071ad4f4dc7cd79ee35e1380479f44979d12b899873b3a62f53a8d6b123b89",
            bytes=3379877,
            **REPO,
        )
    ],
)
def biomolecule(files: list[Path], *, seed: int) -> CP:
    """743 terms with unit columns; the weights are divided by the cube of the cell width, as the authors do."""
    from tensorbench.decomposition.formats import CP

    content = _matlab(files[0])
    terms = content["LRed"][0, 0]
    weights = terms["LAM1C"].ravel() / content["Hunif"].item() ** 3
    return CP(weights, (terms["CU1"], terms["CU2"], terms["CU3"]))


@dataset(
    title="Potential of a lattice of 24 × 24 × 4 dipoles on 960³ cells, long-range terms",
    source="computed by the authors of the Chebyshev-Tucker format",
    licence="MIT",
    files=[
        File(
            path="data/lattice/Lattice_n960_ParticlesNumber_2304_Rank_50.mat",
            sha256="250caa30679ac8367702e580336471096f2c5e9cd4c5aaf8bfd898db7dffefe2",
            bytes=903514,
            **REPO,
        )
    ],
)
def lattice_reference(files: list[Path], *, seed: int, short_terms: int = 11) -> CP:
    """25 terms of positive and 25 of negative charges, the ``short_terms`` narrowest of either left out, as authors do.

    All 2304 particles share the terms: assembling along each direction keeps the rank.
    """
    from tensorbench.decomposition.formats import CP

    content = _matlab(files[0])
    sites, columns = content["Lat"][0, 0], content["Ldip"][0, 0]
    positive = content["ASC"][0, 0]["U1k"].shape[1]
    terms = columns["Ut1"].shape[1]
    if not 0 <= short_terms < min(positive, terms - positive):
        raise ValueError(f"short_terms {short_terms} must lie between 0 and {min(positive, terms - positive) - 1}")
    keep = [*range(positive - short_terms), *range(positive, terms - short_terms)]
    weights = np.where(np.arange(terms) < positive, 1.0, -1.0)[keep]
    # The authors' scales: 2 over the last site in x and y, 1 over it in z, where the lattice is thin.
    scales = [2 / sites["x"].ravel()[-1], 2 / sites["y"].ravel()[-1], 1 / sites["z"].ravel()[-1]]
    names = ("Ut1", "Ut2", "Ut3")
    return CP(weights, tuple(columns[name][:, keep] / s for name, s in zip(names, scales, strict=True)))


@dataset(title="Charged particles in a box, growing in number", **GENERATED)
def particle_clusters(
    *, seed: int, kind: str = "hard_core", counts: list[int] | tuple[int, ...] = (50, 100, 200, 400)
) -> dict[int, Particles]:
    """``kind="hard_core"``: random charges ±1 with a minimum distance; ``"body"``: grown particle by particle."""
    from tensorbench.decomposition.functional import molecules

    makers = {"hard_core": molecules.hard_core, "body": molecules.body}
    if kind not in makers:
        raise ValueError(unknown("kind of cluster", kind, list(makers)))
    return {int(count): makers[kind](int(count), seed=seed) for count in counts}


@dataset(title="Potential of a finite lattice with vacancies, long-range terms", **GENERATED)
def lattice_potential(
    *,
    seed: int,
    shape: list[int] | tuple[int, ...] = (8, 8, 4),
    vacancies: float = 0.1,
    cells: int = 256,
    eps: float = 1e-7,
) -> CP:
    """Charges ±1 in alternation, a site vacant with the given probability; one term per particle and wide Gaussian."""
    from tensorbench.decomposition.functional import molecules

    return long_range(molecules.lattice(tuple(shape), vacancies=vacancies, seed=seed), cells, eps)


def long_range(particles: Particles, cells: int = 256, eps: float = 1e-7) -> CP:
    """The long-range part of the potential on ``cells``³ cell centres: particles stay where they are, off the grid."""
    from tensorbench.decomposition.functional.chebyshev import midpoints
    from tensorbench.decomposition.functional.newton import newton_quadrature

    width = (BOX[1] - BOX[0]) / cells
    kernel, _ = newton_quadrature(width * np.sqrt(3) / 2, np.sqrt(3) * (BOX[1] - BOX[0]), eps=eps).split()
    return kernel.potential(particles.charges, particles.positions, [midpoints(cells, *BOX)] * 3)


def _matlab(file: Path) -> dict:
    from scipy.io import loadmat

    return loadmat(file)
