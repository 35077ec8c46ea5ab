"""Random inputs of differential equations and their solutions, as the package's own solvers give them.

Made once and kept; ``datasets.operators`` cuts them into training, validation and test sets at several resolutions.
"""

from __future__ import annotations

from math import pi
from typing import Any

import numpy as np

from tensorbench.core.data import dataset

OWN: dict[str, Any] = {"source": "generated here", "licence": "Apache-2.0", "generated": True, "cache": True}


@dataset(title="Vorticity of randomly forced flows on the torus", **OWN)
def navier_stokes_samples(
    *,
    seed: int,
    samples: int = 240,
    resolution: int = 64,
    viscosity: float = 0.002,
    forcing_std: float = 0.5,
    first: float = 2.0,
    last: float = 5.0,
    dt: float = 0.02,
) -> dict[str, np.ndarray]:
    """Forcing and the vorticity at two times that it makes from rest, at Reynolds number 500 on [0, 2π]².

    The forcing is Gaussian with a covariance proportional to (-Lap + 9)^-4, scaled to the given standard deviation at a
    point: the paper's text (27 (-Lap + 9)^-4) leaves the normalisation of the eigenfunctions open.
    """
    from tensorbench.pde_operators.grids import grf, periodic_field_std
    from tensorbench.pde_operators.solvers import navier_stokes2d

    shape = (resolution, resolution)
    field: dict[str, Any] = {"alpha": 4.0, "tau": 3.0, "length": 2 * pi}
    sigma = forcing_std / periodic_field_std(shape, **field)
    forcing = grf(shape, samples, sigma=sigma, generator=np.random.default_rng([seed, 64]), **field)
    vorticity = navier_stokes2d.solve(
        np.zeros_like(forcing), [first, last], viscosity=viscosity, forcing=forcing, dt=dt
    )
    return {
        "times": np.array([first, last]),
        "forcing": forcing.astype(np.float32),
        "vorticity": vorticity.astype(np.float32),
    }


@dataset(title="Pressure of Darcy flow through a random medium of two permeabilities", **OWN)
def darcy_fv_samples(
    *, seed: int, samples: int = 600, resolution: int = 64, coarsest: int = 16, high: float = 12.0, low: float = 3.0
) -> dict[str, np.ndarray]:
    """Finite volumes on the finest grid; 12 where a Gaussian field, (-Lap + 9)^-2 without flux, is positive, else 3.

    The permeability of a coarser grid is that of its cells' centres, the pressure the mean over its cells.
    """
    from tensorbench.pde_operators.grids import cell_grid, grf, to_spectral
    from tensorbench.pde_operators.solvers import darcy

    if resolution % coarsest or (resolution // coarsest) & (resolution // coarsest - 1):
        raise ValueError(f"resolution {resolution} must be coarsest {coarsest} times a power of two")
    field = grf((resolution, resolution), samples, 2.0, 3.0, bc="neumann", generator=np.random.default_rng([seed, 7]))
    waves = to_spectral(field, "neumann", 2)
    pressure = darcy.solve(np.where(field > 0, high, low))
    result: dict[str, np.ndarray] = {}
    n = resolution
    while n >= coarsest:
        basis = np.cos(pi * np.outer(cell_grid(n), np.arange(resolution))) * np.sqrt(2 / resolution)
        basis[:, 0] /= np.sqrt(2)
        at_centres = np.einsum("ik, bkl, jl -> bij", basis, waves, basis, optimize=True)
        part = resolution // n
        cells = pressure.reshape(samples, n, part, n, part).mean(axis=(2, 4))
        result |= {f"x_{n}": np.where(at_centres > 0, high, low).astype(np.float32), f"y_{n}": cells.astype(np.float32)}
        n //= 2
    return result


@dataset(title="Burgers' equation from random initial states", **OWN)
def burgers_samples(
    *, seed: int, samples: int = 800, resolution: int = 128, viscosity: float = 0.01, time: float = 1.0
) -> dict[str, np.ndarray]:
    """Initial states from N(0, 625 (-Lap + 25)^-2) on the periodic unit interval, as Li et al. (2021) draw them."""
    from tensorbench.pde_operators.grids import grf
    from tensorbench.pde_operators.solvers import burgers

    x = grf(resolution, samples, 2.0, 5.0, 25.0, generator=np.random.default_rng([seed, 31]))
    y = burgers.solve(x, time, viscosity=viscosity, dt=2e-3)
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}
