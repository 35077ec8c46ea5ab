"""The solvers of Burgers, heat, Darcy and Navier-Stokes: orders, conservation, an independent library, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from tensorbench.core.timing import growth
from tensorbench.pde_operators import grids
from tensorbench.pde_operators.solvers import burgers, darcy, heat, navier_stokes2d

TWO_PI = 2 * np.pi


def relative(found, exact):
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


# --- Burgers ---------------------------------------------------------------------------------------------------------


def burgers_error(n, dt, nu=0.05, t=1.0, depth=0.9):
    x = grids.periodic_grid(n, TWO_PI)
    exact = dict(viscosity=nu, length=TWO_PI, depth=depth)
    found = burgers.solve(burgers.cole_hopf(x, 0.0, **exact) + 0.0, t, viscosity=nu, dt=dt, length=TWO_PI)
    return relative(found, burgers.cole_hopf(x, t, **exact))


def test_burgers_is_of_order_four_in_time():
    # A stronger wave than Cole-Hopf's, whose size goes with the viscosity: against a much smaller step.
    u0 = np.sin(grids.periodic_grid(64, TWO_PI))
    fine = burgers.solve(u0, 0.8, viscosity=0.1, dt=1e-3, length=TWO_PI)
    steps = np.array([0.08, 0.04, 0.02])
    errors = [relative(burgers.solve(u0, 0.8, viscosity=0.1, dt=d, length=TWO_PI), fine) for d in steps]
    assert 3.7 < growth(steps, errors).exponent < 4.5


def test_burgers_matches_cole_and_hopf_with_exponential_accuracy():
    errors = [burgers_error(n, 0.02) for n in (16, 32, 64, 128)]
    assert errors[0] > 1e-3 and errors[1] < errors[0] / 5 and errors[2] < errors[1] / 25 and errors[3] < 1e-9


def test_burgers_keeps_the_mean_and_loses_energy_at_the_exact_rate():
    nu, dt = 0.02, 1e-3
    u = burgers.solve(
        0.3 + np.sin(grids.periodic_grid(256, TWO_PI)), [0.5 - dt, 0.5, 0.5 + dt], viscosity=nu, dt=dt, length=TWO_PI
    )
    np.testing.assert_allclose(u.mean(axis=-1), 0.3, atol=1e-14)
    energy = 0.5 * (u**2).mean(axis=-1)
    slope = grids.spectral_derivative(u[1], length=TWO_PI)
    assert (energy[2] - energy[0]) / (2 * dt) == pytest.approx(-nu * (slope**2).mean(), rel=1e-5)


def py_pde(evolution, u0, t, dt, length=TWO_PI):
    """u_t = evolution(u) by py-pde's operators and its Runge-Kutta method, on a periodic grid of cells.

    Its points are half a cell from ours, which a problem without a place in space does not notice.
    """
    pde = pytest.importorskip("pde")

    class Equation(pde.PDEBase):
        def evolution_rate(self, state, t=0):
            return pde.ScalarField(state.grid, evolution(state))

    state = pde.ScalarField(pde.CartesianGrid([[0, length]] * u0.ndim, u0.shape, periodic=True), u0)
    return Equation().solve(state, t, dt=dt, backend="numpy", tracker=None, solver="runge-kutta").data


def slopes(field):
    return field.gradient("periodic", backend="scipy").data


def curvature(field):
    return field.laplace("periodic", backend="scipy").data


def test_burgers_agrees_with_py_pde():
    u0, nu, t = np.sin(grids.periodic_grid(128, TWO_PI)), 0.1, 0.5
    theirs = py_pde(lambda u: nu * curvature(u) - u.data * slopes(u)[0], u0, t, dt=4e-3)
    ours = burgers.solve(u0, t, viscosity=nu, dt=5e-3, length=TWO_PI)
    assert relative(theirs, ours) < 2e-3 < relative(u0, ours)  # theirs is of second order in h


def test_burgers_takes_batches():
    u0 = np.stack([np.sin(grids.periodic_grid(32, 1.0) * TWO_PI), np.zeros(32)])
    both = burgers.solve(u0, [0.1, 0.2], viscosity=0.05)
    assert both.shape == (2, 2, 32) and not both[1].any()
    np.testing.assert_allclose(both[0, -1], burgers.solve(u0[0], 0.2, viscosity=0.05), atol=1e-10)


# --- heat ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bc", grids.BOUNDARIES)
def test_heat_is_exact_for_what_the_grid_resolves(bc):
    n, kappa, t = 12, 0.3, 0.4
    x, y = grids.mesh(grids.grid(n, 1.0, bc))
    wave = {"periodic": lambda s: np.cos(TWO_PI * s), "dirichlet": lambda s: np.sin(np.pi * s)}
    wave |= {"neumann": lambda s: np.cos(np.pi * s)}
    rate = kappa * 5 * (np.pi * (2 if bc == "periodic" else 1)) ** 2
    u0 = wave[bc](x) * wave[bc](2 * y)
    found = heat.solve(u0, [0.0, t], diffusivity=kappa, bc=bc, dims=2)
    np.testing.assert_allclose(found[0], u0, atol=1e-14)
    np.testing.assert_allclose(found[1], u0 * np.exp(-rate * t), atol=1e-15)


@pytest.mark.parametrize("bc", ["dirichlet", "neumann"])
def test_semilinear_heat_is_of_order_four_on_a_manufactured_solution(bc):
    """u = cos(2t) w(x) with w an eigenfunction: the source is u_t - κ u_xx - (u - u³)."""
    n, kappa = 24, 0.1
    x = grids.grid(n, 1.0, bc)
    w = np.sin(np.pi * x) if bc == "dirichlet" else np.cos(np.pi * x)

    def source(t):
        u = np.cos(2 * t) * w
        return -2 * np.sin(2 * t) * w + kappa * np.pi**2 * u - (u - u**3)

    steps = np.array([0.25, 0.125, 0.0625])
    errors = [
        relative(
            heat.solve(w, 1.0, diffusivity=kappa, reaction=lambda u: u - u**3, source=source, bc=bc, dt=dt),
            np.cos(2.0) * w,
        )
        for dt in steps
    ]
    assert 3.6 < growth(steps, errors).exponent < 4.6 and errors[-1] < 1e-4


def test_insulated_heat_is_conserved_and_allen_cahn_loses_energy():
    rng = np.random.default_rng(0)
    u0 = rng.standard_normal((3, 20, 20))
    np.testing.assert_allclose(
        heat.solve(u0, 0.1, bc="neumann", dims=2).mean(axis=(1, 2)), u0.mean(axis=(1, 2)), atol=1e-14
    )
    u = heat.solve(
        0.5 * rng.standard_normal(64),
        np.linspace(0, 2, 9),
        diffusivity=0.01,
        reaction=lambda u: u - u**3,
        bc="periodic",
    )
    energy = heat.ginzburg_landau_energy(u, diffusivity=0.01)
    assert (np.diff(energy) < 0).all() and energy[-1] < energy[0] / 10


def test_heat_agrees_with_py_pde():
    x, y = grids.mesh(grids.periodic_grid(48, TWO_PI))
    u0 = np.cos(x) * np.sin(2 * y) + 0.2
    theirs = py_pde(lambda u: 0.1 * curvature(u) + u.data - u.data**3, u0, 0.5, dt=0.01)
    ours = heat.solve(
        u0, 0.5, diffusivity=0.1, reaction=lambda u: u - u**3, bc="periodic", dims=2, dt=0.01, length=TWO_PI
    )
    assert relative(theirs, ours) < 2e-3 < relative(u0, ours)


# --- Darcy -----------------------------------------------------------------------------------------------------------


def darcy_error(n, method="direct"):
    """a = 2 + sin(πx) y, u = sin(πx) sin(2πy); f = -div(a ∇u) by hand."""
    x, y = grids.mesh(grids.cell_grid(n))
    sx, cx, sy, cy = np.sin(np.pi * x), np.cos(np.pi * x), np.sin(TWO_PI * y), np.cos(TWO_PI * y)
    a, exact = 2 + sx * y, sx * sy
    f = a * 5 * np.pi**2 * exact - np.pi * cx * y * np.pi * cx * sy - sx * sx * TWO_PI * cy
    return relative(darcy.solve(a, f, method=method), exact)


def test_darcy_is_of_order_two():
    sizes = np.array([8, 16, 32, 64])
    assert -2.2 < growth(sizes, [darcy_error(n) for n in sizes]).exponent < -1.9


def test_darcy_has_the_known_maximum_and_conserves():
    u = darcy.solve(np.ones((64, 64)))
    assert u.max() == pytest.approx(0.0736713, abs=5e-5)
    a = np.where(grids.grf((32, 32), 1, 2, 3, bc="neumann", generator=0)[0] > 0, 12.0, 3.0)
    u = darcy.solve(a)
    assert darcy.boundary_flux(a, u) == pytest.approx(1.0, abs=1e-12) and (u > 0).all()
    matrix = darcy.assemble(a)
    assert abs(matrix - matrix.T).max() == 0


def test_darcy_is_of_order_two_when_the_permeability_jumps_between_cells():
    """a u = sin(2πx) sin(πy) is smooth, a jumps from 1 to 50 at x = 1/2, and f = 5π² a u."""
    errors, sizes = [], np.array([8, 16, 32, 64])
    for n in sizes:
        x, y = grids.mesh(grids.cell_grid(n))
        a = np.where(x < 0.5, 1.0, 50.0)
        flux = np.sin(TWO_PI * x) * np.sin(np.pi * y)
        errors.append(relative(darcy.solve(a, 5 * np.pi**2 * flux), flux / a))
    assert -2.2 < growth(sizes, errors).exponent < -1.8


def test_multigrid_iterations_hardly_grow_and_agree_with_the_direct_solution():
    iterations = {}
    for n in (32, 64, 128):
        a = np.where(grids.grf((n, n), 1, 2, 3, bc="neumann", generator=1)[0] > 0, 12.0, 3.0)
        seen = []
        u = darcy.solve(a, method="multigrid_cg", report=seen.append)
        iterations[n] = seen[0].iterations
        assert seen[0].residual <= 1e-10
        if n < 128:
            np.testing.assert_allclose(u, darcy.solve(a), atol=1e-9)
    assert iterations[128] <= iterations[32] + 6 and iterations[128] <= 25


def test_multigrid_is_a_symmetric_positive_preconditioner():
    n = 16
    a = np.exp(np.random.default_rng(0).standard_normal((n, n)))
    cycle = darcy.Multigrid.build(darcy.assemble(a), n)
    dense = np.stack([cycle(e) for e in np.eye(n * n)])
    np.testing.assert_allclose(dense, dense.T, atol=1e-10)
    assert np.linalg.eigvalsh((dense + dense.T) / 2).min() > 0


# --- Navier-Stokes ---------------------------------------------------------------------------------------------------


def flow(n, waves, seed=0):
    """A smooth random vorticity of unit size, the same function on every grid."""
    rng = np.random.default_rng(seed)
    x, y = grids.mesh(grids.periodic_grid(n, TWO_PI))
    w = np.zeros((n, n))
    for i in range(waves):
        for j in range(1 - (i > 0), waves):
            w += rng.standard_normal() * np.cos(i * x + j * y + rng.uniform(0, TWO_PI))
    return w / 2


def test_taylor_green_decays_exactly():
    x, y = grids.mesh(grids.periodic_grid(32, TWO_PI))
    w0, nu = 2 * np.cos(x) * np.cos(y), 0.05
    found = navier_stokes2d.solve(w0, [0.5, 1.0], viscosity=nu, dt=0.05)
    for w, t in zip(found, (0.5, 1.0), strict=True):
        np.testing.assert_allclose(w, w0 * np.exp(-2 * nu * t), atol=1e-8 * 1e-4)


def test_navier_stokes_is_of_order_four_and_exact_in_space_on_a_manufactured_solution():
    """w = cos(t) (cos x sin 2y + cos 2x): the forcing is w_t + (u·∇)w - ν Lap w, products by hand on the grid."""
    n, nu = 24, 0.02
    x, y = grids.mesh(grids.periodic_grid(n, TWO_PI))
    a, b = np.cos(x) * np.sin(2 * y), np.cos(2 * x)
    psi_x, psi_y = -np.sin(x) * np.sin(2 * y) / 5 - np.sin(2 * x) / 2, 2 * np.cos(x) * np.cos(2 * y) / 5
    w_x, w_y = -np.sin(x) * np.sin(2 * y) - 2 * np.sin(2 * x), 2 * np.cos(x) * np.cos(2 * y)

    def forcing(t):
        return -np.sin(t) * (a + b) + np.cos(t) ** 2 * (psi_y * w_x - psi_x * w_y) + nu * np.cos(t) * (5 * a + 4 * b)

    steps = np.array([0.2, 0.1, 0.05])
    errors = [
        relative(navier_stokes2d.solve(a + b, 1.0, viscosity=nu, forcing=forcing, dt=dt), np.cos(1.0) * (a + b))
        for dt in steps
    ]
    assert 3.6 < growth(steps, errors).exponent < 4.6 and errors[-1] < 1e-5


def test_enstrophy_and_energy_balance():
    n, nu, dt = 64, 0.01, 2e-3
    w0, f = flow(n, 4), 0.5 * flow(n, 3, seed=1)
    w = navier_stokes2d.solve(w0, [0.4 - dt, 0.4, 0.4 + dt], viscosity=nu, forcing=f, dt=dt)
    now = w[1]
    grad2 = sum((grids.spectral_derivative(now, axis=a, length=TWO_PI) ** 2).mean() for a in (0, 1))
    production = (grids.dealias(f, 2) * now).mean()
    change = np.diff(navier_stokes2d.enstrophy(w)[[0, 2]])[0] / (2 * dt)
    assert change == pytest.approx(production - nu * grad2, rel=1e-4)
    free = navier_stokes2d.solve(w0, [0.1, 0.2], viscosity=0.0, dt=2e-3)
    assert np.ptp(navier_stokes2d.energy(free)) < 1e-9 and np.ptp(navier_stokes2d.enstrophy(free)) < 1e-8
    np.testing.assert_allclose(w.mean(axis=(1, 2)), w0.mean(), atol=1e-12)


def test_velocity_is_free_of_divergence_and_curls_to_the_vorticity():
    w = grids.dealias(flow(32, 5), 2)
    u, v = navier_stokes2d.velocity(w)
    du = [grids.spectral_derivative(f, axis=a, length=TWO_PI) for f, a in ((u, 0), (u, 1), (v, 0), (v, 1))]
    assert np.abs(du[0] + du[3]).max() < 1e-12
    np.testing.assert_allclose(du[2] - du[1], w - w.mean(), atol=1e-12)


def test_batches_blocks_and_steps_change_nothing_that_matters():
    w0 = np.stack([flow(64, 4, seed) for seed in range(18)])  # more than one block
    f = np.stack([0.3 * flow(64, 3, seed + 50) for seed in range(18)])
    both = navier_stokes2d.solve(w0, 0.2, viscosity=0.002, forcing=f, dt=0.02)
    alone = navier_stokes2d.solve(w0[17], 0.2, viscosity=0.002, forcing=f[17], dt=0.02)
    np.testing.assert_allclose(both[17], alone, atol=1e-12)
    adapted = navier_stokes2d.solve(w0[17], 0.2, viscosity=0.002, forcing=f[17], dt=0.1, adaptive=True, courant=0.25)
    assert relative(adapted, alone) < 1e-4
    shared = navier_stokes2d.solve(w0[:2], 0.1, viscosity=0.002, forcing=f[0], dt=0.02)
    np.testing.assert_allclose(shared[1], navier_stokes2d.solve(w0[1], 0.1, viscosity=0.002, forcing=f[0]), atol=1e-12)


def test_navier_stokes_agrees_with_py_pde():
    """An independent solver: finite differences, with the stream function from py-pde's own Poisson solver."""
    pde = pytest.importorskip("pde")
    n, nu, t = 32, 0.1, 0.3
    w0 = flow(n, 3)

    def evolution(w):
        psi = pde.solve_poisson_equation(-1 * (w - w.data.mean()), bc="periodic")
        (psi_x, psi_y), (w_x, w_y) = slopes(psi), slopes(w)
        return nu * curvature(w) - psi_y * w_x + psi_x * w_y

    theirs = py_pde(evolution, w0, t, dt=0.05)
    ours = navier_stokes2d.solve(w0, t, viscosity=nu, dt=0.02)
    assert relative(theirs, ours) < 0.05 < relative(w0, ours)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused(monkeypatch):
    wave = np.sin(grids.periodic_grid(16, TWO_PI))
    with pytest.raises(ValueError, match="viscosity must be positive"):
        burgers.solve(wave, 1.0, viscosity=0.0)
    with pytest.raises(ValueError, match="times must ascend"):
        burgers.solve(wave, [1.0, 0.5], viscosity=0.1)
    with pytest.raises(ValueError, match="not finite"):
        burgers.solve(np.full(16, np.nan), 1.0, viscosity=0.1)
    with pytest.raises(ValueError, match="complex"):
        burgers.solve(wave + 0j, 1.0, viscosity=0.1)
    with pytest.raises(ValueError, match="depth"):
        burgers.cole_hopf(wave, 0.0, viscosity=0.1, depth=1.0)
    with pytest.raises(FloatingPointError, match="blew up"):
        burgers.solve(1e4 * wave, 1.0, viscosity=1e-4, dt=0.1)
    with pytest.raises(ValueError, match="time step"):
        heat.solve(wave, 1.0, dt=0.0)
    with pytest.raises(ValueError, match="ill-posed"):
        heat.solve(wave, 1.0, diffusivity=-1.0)
    with pytest.raises(ValueError, match="unknown boundary condition"):
        heat.solve(wave, 1.0, bc="robin")
    with pytest.raises(ValueError, match="dims"):
        heat.solve(wave, 1.0, dims=4)
    with pytest.raises(ValueError, match="must be square"):
        navier_stokes2d.solve(np.zeros((8, 16)), 1.0, viscosity=0.1)
    with pytest.raises(ValueError, match="fits neither"):
        navier_stokes2d.solve(np.zeros((8, 8)), 1.0, viscosity=0.1, forcing=np.zeros((4, 4)))
    with pytest.raises(FloatingPointError, match="adaptive=True"):
        navier_stokes2d.solve(1e3 * flow(16, 4), 10.0, viscosity=1e-3, dt=0.5)
    with pytest.raises(ValueError, match="viscosity"):
        navier_stokes2d.solve(np.zeros((8, 8)), 1.0, viscosity=-1.0)
    with pytest.raises(ValueError, match="smallest value is -1"):
        darcy.solve(np.full((4, 4), -1.0))
    with pytest.raises(ValueError, match="square grid"):
        darcy.solve(np.ones((4, 6)))
    with pytest.raises(ValueError, match="did you mean 'direct'"):
        darcy.solve(np.ones((4, 4)), method="dirct")
    with pytest.raises(ValueError, match="source of shape"):
        darcy.solve(np.ones((4, 4)), np.ones((3, 3)))
    with pytest.raises(ValueError, match="tolerance"):
        darcy.solve(np.ones((4, 4)), method="multigrid_cg", tolerance=0.0)
    monkeypatch.setattr(darcy, "_MOST_ITERATIONS", 2)
    with pytest.raises(ArithmeticError, match="did not reach"):
        darcy.solve(np.exp(flow(16, 4)), method="multigrid_cg")
    assert not darcy.solve(np.ones((16, 16)), 0.0, method="multigrid_cg").any()
    assert sp.issparse(darcy.assemble(np.ones((4, 4))))
