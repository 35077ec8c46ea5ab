"""The wave solvers: orders on standing waves, energy, dispersion in closed form, two solvers, open sides."""

import math

import numpy as np
import pytest
import torch

from tensorbench.core.timing import growth
from tensorbench.pde_operators.datasets.waves import WaveData, fe_waves
from tensorbench.pde_operators.solvers.wave2d import (
    assemble,
    cfl_limit,
    energy,
    gaussian,
    leapfrog,
    newmark,
    on_grid,
    unit_square,
)

ROOT2 = math.sqrt(2)


def mode(points):
    return np.sin(np.pi * points[0]) * np.sin(np.pi * points[1])


def grid(n):
    line = np.linspace(0, 1, n)
    return np.stack(np.meshgrid(line, line, indexing="ij"))


def standing_error(element, cells, mass="consistent", time=0.5):
    """Relative error at a time at which all of the energy has turned over; dt shrinks with h."""
    wave = assemble(unit_square(cells, element), element, mass=mass)
    steps = 4 * cells
    run = newmark(wave, mode(wave.points), dt=time / steps, steps=steps, every=steps)
    exact = math.cos(ROOT2 * np.pi * time) * mode(wave.points)
    return np.linalg.norm(run.u[-1] - exact) / np.linalg.norm(mode(wave.points))


@pytest.mark.parametrize(("element", "mass"), [("p1", "consistent"), ("p1", "lumped"), ("q1", "consistent"),
                                               ("q1", "lumped")])  # fmt: skip
def test_second_order_on_a_standing_wave(element, mass):
    cells = [8, 16, 32]
    slope = -growth(cells, [standing_error(element, n, mass) for n in cells]).exponent
    assert 1.8 <= slope <= 2.2


def test_quadratic_elements_are_limited_by_time_alone():
    # In space they are of higher order; what is left at equal dt is the error of the time step, which linear ones beat.
    assert standing_error("p2", 8) < 0.2 * standing_error("p1", 8)


def test_second_order_of_leapfrog():
    cells, errors = [8, 16, 32], []
    for n in cells:
        run = leapfrog(np.ones((n + 1, n + 1)), mode(grid(n + 1)), dt=0.5 / (2 * n), steps=2 * n)
        errors.append(np.abs(run.u[-1] - math.cos(ROOT2 * np.pi * 0.5) * mode(grid(n + 1))).max())
    assert 1.8 <= -growth(cells, errors).exponent <= 2.2


def test_order_in_time_with_source_and_damping():
    # u = cos(t) mode solves u_tt = Δu − 2ζ u_t + f with f below; on a fine grid the error of the time step shows.
    zeta = 0.3
    wave = assemble(unit_square(24, "p2"), "p2")

    def source(x, t):
        return ((2 * np.pi**2 - 1) * math.cos(t) - 2 * zeta * math.sin(t)) * mode(x)

    steps, errors = [5, 10, 20], []
    for n in steps:
        run = newmark(wave, mode(wave.points), dt=1 / n, steps=n, damping=zeta, source=source)
        errors.append(np.abs(run.u[-1] - math.cos(1.0) * mode(wave.points)).max())
    assert 1.8 <= -growth(steps, errors).exponent <= 2.2


def test_frequency_of_the_difference_grid():
    # P1 on right triangles with lumped mass is the 5-point stencil; Newmark's frequency has a closed form.
    dt = 0.01
    wave = assemble(unit_square(32, "p1"), "p1", mass="lumped")
    u = newmark(wave, mode(wave.points), dt=dt, steps=2).u
    weights = u[0] / (u[0] @ u[0])
    frequency = math.acos((weights @ u[2] + weights @ u[0]) / (2 * weights @ u[1])) / dt
    semi = math.sqrt(8) * 32 * math.sin(np.pi / 64)
    assert math.isclose(frequency, 2 / dt * math.atan(semi * dt / 2), abs_tol=1e-6)
    assert math.isclose(frequency, 4.44036918, abs_tol=1e-6)
    assert math.isclose(ROOT2 * np.pi, 4.44288294, abs_tol=1e-8)


@pytest.mark.parametrize("element", ["p1", "p2", "q1"])
def test_energy_is_kept_and_matrices_are_symmetric(element):
    wave = assemble(unit_square(12, element), element, speed=lambda x: 1 + 0.5 * (x[0] > 0.5))
    run = newmark(wave, gaussian(wave.points, (0.4, 0.5), 0.1) * wave.free, dt=0.02, steps=1000, every=100)
    assert np.abs(run.energy / run.energy[0] - 1).max() <= 1e-10
    for matrix in (wave.mass, wave.stiffness):
        assert abs(matrix - matrix.T).max() < 1e-14
    assert math.isclose(wave.mass.sum(), 1.0, rel_tol=1e-12)  # the area
    np.testing.assert_allclose(wave.stiffness @ np.ones(wave.mass.shape[0]), 0, atol=1e-12)
    np.testing.assert_allclose(energy(wave, run.u, run.v), run.energy)


@pytest.mark.parametrize("options", [{"damping": 0.5}, {"rayleigh": (0.5, 0.0)}, {"rayleigh": (0.0, 0.01)}])
def test_damping_takes_energy_and_never_gives(options):
    wave = assemble(unit_square(12))
    run = newmark(wave, gaussian(wave.points, (0.4, 0.5), 0.1) * wave.free, dt=0.02, steps=100, **options)
    assert (np.diff(run.energy) <= 1e-14).all()
    assert run.energy[-1] < 0.9 * run.energy[0]


def test_damped_mode_has_the_closed_solution():
    zeta, wave = 0.4, assemble(unit_square(24))
    run = newmark(wave, mode(wave.points), dt=0.005, steps=200, damping=zeta)
    frequency = math.sqrt(2 * np.pi**2 - zeta**2)
    time = run.times[-1]
    exact = math.exp(-zeta * time) * (math.cos(frequency * time) + zeta / frequency * math.sin(frequency * time))
    assert math.isclose((run.u[-1] @ mode(wave.points)) / (mode(wave.points) @ mode(wave.points)), exact, abs_tol=0.01)


def test_two_solvers_meet():
    # Consistent mass makes short waves too fast, differences make them too slow: both errors fall as h².
    def speed(x):
        return 1 + 0.3 * np.sin(np.pi * x[0]) * np.cos(np.pi * x[1])

    apart = []
    for n in (32, 64):
        wave = assemble(unit_square(n), speed=speed)
        options = {"dt": 0.16 / n, "steps": 5 * n, "every": 5 * n}
        elements = newmark(wave, gaussian(wave.points, (0.45, 0.55), 0.15) * wave.free, **options)
        differences = leapfrog(speed(grid(n + 1)), gaussian(grid(n + 1), (0.45, 0.55), 0.15), **options).u[-1]
        apart.append(np.linalg.norm(on_grid(wave, elements.u)[-1] - differences) / np.linalg.norm(differences))
    assert apart[1] < 0.02
    assert 3 < apart[0] / apart[1] < 5


@pytest.mark.parametrize("solver", ["elements", "differences"])
def test_absorbing_sides_let_a_wave_out(solver):
    sides = dict.fromkeys(("left", "right", "bottom", "top"), "absorbing")
    left = []
    for kinds in (sides, None):
        if solver == "elements":
            wave = assemble(unit_square(32), sides=kinds)
            u = newmark(wave, gaussian(wave.points, (0.5, 0.5), 0.08), dt=0.01, steps=150, every=150).u[-1]
        else:
            u = leapfrog(np.ones((33, 33)), gaussian(grid(33), (0.5, 0.5), 0.08), dt=0.01, steps=150, sides=kinds).u[-1]
        left.append(np.linalg.norm(u))
    assert left[0] < 0.15 * left[1]


def test_obstacles_stand_still():
    wave = assemble(unit_square(16), obstacle=lambda x: (x[0] - 0.5) ** 2 + (x[1] - 0.5) ** 2 < 0.04)
    u = newmark(wave, gaussian(wave.points, (0.2, 0.2), 0.1), dt=0.02, steps=50).u
    assert not u[-1][~wave.free].any()
    assert (~wave.free).sum() > 4 * 16


def test_grids_are_ordered_by_x_then_y():
    for element in ("p1", "q1"):
        wave = assemble(unit_square(5, element), element)
        np.testing.assert_allclose(on_grid(wave, wave.points), grid(6), atol=1e-12)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": 0.0}, "positive"),
        ({"speed": lambda x: x[0] - 0.5}, "positive"),
        ({"element": "q2"}, "unknown element"),
        ({"mass": "lumpy"}, "did you mean 'lumped'"),
        ({"sides": {"letf": "absorbing"}}, "did you mean 'left'"),
        ({"sides": {"left": "open"}}, "unknown kind of side"),
        ({"obstacle": lambda x: x[0] >= 0}, "nothing is free"),
    ],
)
def test_bad_waves(options, message):
    with pytest.raises(ValueError, match=message):
        assemble(unit_square(4), **options)


def test_a_mesh_without_tags():
    from skfem import MeshQuad

    with pytest.raises(ValueError, match="no named boundaries"):
        assemble(MeshQuad().refined(2))
    with pytest.raises(ValueError, match="p2"):
        assemble(unit_square(4, "p2"), "p2", mass="lumped")


def test_bad_runs():
    wave = assemble(unit_square(4))
    u = np.zeros(25)
    with pytest.raises(ValueError, match="not finite"):
        newmark(wave, u + np.nan, dt=0.1, steps=1)
    with pytest.raises(ValueError, match="shape"):
        newmark(wave, u[1:], dt=0.1, steps=1)
    with pytest.raises(ValueError, match="gain energy"):
        newmark(wave, u, dt=0.1, steps=1, damping=-1)
    with pytest.raises(ValueError, match="dt 0"):
        newmark(wave, u, dt=0, steps=1)
    limit = cfl_limit(2.0, 1 / 8)
    with pytest.raises(ValueError, match=f"CFL.*{limit:g}"):
        leapfrog(2 * np.ones((9, 9)), np.zeros((9, 9)), dt=1.1 * limit, steps=1)
    with pytest.raises(ValueError, match="positive"):
        leapfrog(np.zeros((9, 9)), np.zeros((9, 9)), dt=0.01, steps=1)


# --- data -----------------------------------------------------------------------------------------------------------


def test_data_are_solutions_and_seeds_decide():
    data = fe_waves(seed=1, n=16, train=3, valid=1, test=2, beyond=2)
    assert isinstance(data, WaveData)
    assert data.train_u.shape == (3, 42, 16, 16) and data.train_c.shape == (3, 16, 16)
    assert data.beyond_u.shape == (2, 42, 16, 16)
    for u in (data.train_u, data.valid_u, data.test_u, data.beyond_u):
        assert np.isfinite(u).all() and u.dtype == np.float32
        assert not u[..., 0, :].any() and not u[..., :, -1].any()
    assert ((data.train_c > 0.49) & (data.train_c < 1.51)).all()
    again = fe_waves(seed=1, n=16, train=3, valid=1, test=2, beyond=2)
    np.testing.assert_array_equal(data.test_u, again.test_u)
    other = fe_waves(seed=2, n=16, train=3, valid=1, test=2, beyond=2)
    assert not np.array_equal(data.train_u, other.train_u)
    more = fe_waves(seed=1, n=16, train=5, valid=1, test=2, beyond=2)
    np.testing.assert_array_equal(data.train_u, more.train_u[:3])  # a larger training set contains the smaller
    np.testing.assert_array_equal(data.test_u, more.test_u)
    torch.from_numpy(data.train_u)


def test_obstacles_in_the_data():
    data = fe_waves(seed=0, n=24, train=2, valid=1, test=1, beyond=1, obstacles=True)
    for u, c in zip(data.train_u, data.train_c, strict=True):
        assert (c == 0).any() and not u[:, c == 0].any()


def test_bad_data_parameters():
    with pytest.raises(ValueError, match="n 3"):
        fe_waves(seed=0, n=3)
    with pytest.raises(ValueError, match="train"):
        fe_waves(seed=0, n=16, train=0)
