"""The kinetic solver: what is exact in the continuum is exact or converges on the grid."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tensorbench.pde_operators.solvers.kinetic import DECAYS, Annulus, KineticSolver, random_inflow

CIRCLE, ELLIPSE = Annulus(1.0, 2.5), Annulus(0.4, 3.0)


def solver(domain=ELLIPSE, ell=0.7, shape=(12, 16, 8)) -> KineticSolver:
    return KineticSolver(shape, ell, domain)


def inflows(s: KineticSolver, n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((n, 2, s.shape[1], s.shape[2] // 2))


def free_flight(s: KineticSolver, x1: np.ndarray) -> np.ndarray:
    """A function that is constant along straight lines, on (x1, x2, w): smooth in the distance of the line from 0."""
    x1, x2, w = np.meshgrid(x1, s.x2, s.w, indexing="ij")
    x, y = s.domain.cartesian(x1, x2)
    return 2 + np.sin(x * np.sin(w) - y * np.cos(w) + w)


def matrix_free(s: KineticSolver, f: np.ndarray, walls: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The scheme written out with one-sided differences; ``walls`` are values at the two walls."""
    _, n2, nw = s.shape
    wide = np.concatenate([walls[0][None], f, walls[1][None]])
    gap = np.diff(s.walls)[:, None, None]
    slopes = np.diff(wide, axis=0) / gap
    d1 = np.where(s.speed1 > 0, slopes[:-1], slopes[1:])
    step = 2 * np.pi / n2
    d2 = np.where(s.speed2 > 0, f - np.roll(f, 1, 1), np.roll(f, -1, 1) - f) / step
    h = 2 * np.pi / nw
    far, near = np.roll(f, 2, 2) + np.roll(f, -2, 2), np.roll(f, 1, 2) + np.roll(f, -1, 2)
    return s.speed1 * d1 + s.speed2 * d2 - (16 * near - far - 30 * f) / (12 * h * h) / s.ell


@pytest.mark.parametrize("domain", [CIRCLE, ELLIPSE])
def test_operator_is_the_scheme_written_out(domain):
    s = solver(domain)
    f = np.random.default_rng(0).random(s.shape)
    zero = np.zeros(s.shape[1:])
    assert np.allclose(s.operator @ f.ravel(), matrix_free(s, f, (zero, zero)).ravel(), atol=1e-10)


@pytest.mark.parametrize("domain", [CIRCLE, ELLIPSE])
def test_inflow_enters_where_the_scheme_needs_it(domain):
    s = solver(domain)
    walls = free_flight(s, s.walls[[0, -1]])
    b = s.right_hand_side(s.sample(walls[0], walls[1]))
    zero = np.zeros(s.shape)
    used = [np.where(s.speed1[0] > 0, walls[0], 0), np.where(s.speed1[-1] < 0, walls[1], 0)]
    assert np.allclose(b, -matrix_free(s, zero, (used[0], used[1])).ravel(), atol=1e-10)


@pytest.mark.parametrize("domain", [CIRCLE, ELLIPSE])
def test_geometry(domain):
    s = solver(domain, shape=(20, 24, 8))
    x, y = s.domain.cartesian(*np.meshgrid(s.walls, s.x2, indexing="ij"))
    c2 = 1 - domain.a1**2
    outer = np.hypot(domain.a2, np.sqrt(c2))
    assert np.allclose((x[0] / domain.a1) ** 2 + y[0] ** 2, 1)
    assert np.allclose((x[-1] / domain.a2) ** 2 + (y[-1] / outer) ** 2, 1)
    # A step of flight in the plane is the step of flight in the coordinates.
    h, (v1, v2) = 1e-6, (s.speed1, s.speed2)
    x1, x2, w = np.meshgrid(s.x1, s.x2, s.w, indexing="ij")
    before, after = domain.cartesian(x1, x2), domain.cartesian(x1 + h * v1, x2 + h * v2)
    assert np.allclose((after[0] - before[0]) / h, np.cos(w), atol=1e-4)
    assert np.allclose((after[1] - before[1]) / h, np.sin(w), atol=1e-4)
    corners = domain.cell_corners(20, 24)
    assert corners[0].shape == (21, 25)
    assert np.allclose(np.hypot(corners[0][:, 0], corners[1][:, 0]), np.hypot(corners[0][:, -1], corners[1][:, -1]))


@pytest.mark.parametrize("domain", [CIRCLE, ELLIPSE])
@pytest.mark.parametrize("ell", [0.01, 1.0, 100.0])
def test_constant_inflow_gives_a_constant(domain, ell):
    s = solver(domain, ell)
    f = s.solve(np.full((2, 16, 4), 0.7))
    assert np.allclose(f, 0.7, atol=1e-8)
    assert np.allclose(s.density(f), 0.7 * 8, atol=1e-7)


@pytest.mark.parametrize("ell", [0.05, 1.0, 20.0])
def test_maximum_principle(ell):
    s = solver(ell=ell)
    f = s.solve((inflows(s, 10) > 0.5).astype(float))
    assert f.min() > -1e-2 and f.max() < 1.01
    assert f.std() > 0.05


def test_linearity_and_batches():
    s = solver()
    a, b = inflows(s, 2)
    f = s.solve(np.stack([a, b, 2 * a - 3 * b]))
    assert np.allclose(f[2], 2 * f[0] - 3 * f[1], atol=1e-9)
    assert np.allclose(s.solve(a), f[0], atol=1e-12)


def test_rotation_on_a_circle():
    s = solver(CIRCLE, shape=(10, 16, 8))  # two steps of x2 are one of w
    inflow = inflows(s, 1)[0]
    rho = s.density(s.solve(np.stack([inflow, np.roll(inflow, 4, axis=1)])))
    assert np.allclose(np.roll(rho[0], 4, axis=1), rho[1], atol=1e-8)


def test_gmres_is_the_direct_solution():
    s = solver()
    inflow = inflows(s, 2)
    direct, iterative = s.solve(inflow), s.solve(inflow, "gmres", tolerance=1e-8)
    assert np.linalg.norm(direct - iterative) < 1e-5 * np.linalg.norm(direct)
    assert s.residual(direct.reshape(2, -1).T, s.right_hand_side(inflow)) < 1e-12


@pytest.mark.parametrize("domain", [CIRCLE, ELLIPSE])
def test_free_streaming_converges_at_first_order(domain):
    errors = []
    for n in (16, 32):
        s = solver(domain, 1e8, (n, 2 * n, 16))
        f = s.solve(s.sample(*free_flight(s, s.walls[[0, -1]])))
        exact = free_flight(s, s.x1)
        errors.append(np.linalg.norm(f - exact) / np.linalg.norm(exact))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.25)
    assert errors[1] < 0.05


def test_small_mean_free_path_forgets_the_direction():
    rough, smooth = (np.ptp(solver(ell=ell).solve(inflows(solver(), 1)[0])[6], axis=-1).max() for ell in (10.0, 0.01))
    assert smooth < 0.1 * rough


def test_entering_directions_enter_in_order_of_their_angle():
    s = solver()
    for wall, sign, nodes in zip((0, -1), (1, -1), s.entering, strict=True):
        assert (sign * np.take_along_axis(s.speed1[wall], nodes, axis=1) > 0).all()
        assert (np.diff(np.take_along_axis(s.speed2[wall], nodes, axis=1), axis=1) > 0).all()


def test_random_inflows():
    s = solver()
    for family in ("random", "piecewise", "constant"):
        a, b = (random_inflow(s, np.random.default_rng(k), family=family) for k in (1, 1))
        assert np.array_equal(a, b) and a.shape == (2, 16, 4) and a.min() >= 0
    steep, flat = (random_inflow(s, np.random.default_rng(2), decay=decay) for decay in ("square", "none"))
    assert np.abs(np.diff(steep, axis=1)).mean() / np.ptp(steep) < np.abs(np.diff(flat, axis=1)).mean() / np.ptp(flat)
    assert len(DECAYS) == 4


def test_a_solution_of_nan_is_no_solution():
    broken = solver()
    broken.__dict__["_factors"] = SimpleNamespace(solve=lambda b: np.full_like(b, np.nan))
    with pytest.raises(RuntimeError, match="residual nan"):
        broken.solve(np.ones((2, 16, 4)))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Annulus(0.0, 2.0), "a1 0.0"),
        (lambda: Annulus(1.2, 2.0), "a1 1.2"),
        (lambda: Annulus(0.5, 1.0), "a2 1.0"),
        (lambda: solver(ell=0.0), "ell 0.0"),
        (lambda: solver(shape=(8, 8, 7)), "n_w 7"),
        (lambda: solver().solve(np.zeros((2, 16, 5))), "must end in"),
        (lambda: solver().solve(np.zeros((3, 2, 2, 16, 4))), "one inflow or a stack"),
        (lambda: solver().solve(np.full((2, 16, 4), np.nan)), "NaN"),
        (lambda: solver().solve(np.zeros((2, 16, 4)), "gmre"), "did you mean 'gmres'"),
        (lambda: random_inflow(solver(), np.random.default_rng(0), family="randm"), "did you mean 'random'"),
    ],
)
def test_bad_input(build, words):
    with pytest.raises(ValueError, match=words):
        build()
