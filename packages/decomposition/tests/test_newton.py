"""The Newton kernel as Gaussians: accuracy of the quadrature, splitting, assembling, rank reduction; particles; the
functions' datasets and the baselines."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from tensorbench.core import data
from tensorbench.decomposition.baselines import functions as baselines
from tensorbench.decomposition.datasets.functions import FUNCTIONS, long_range
from tensorbench.decomposition.formats import CP
from tensorbench.decomposition.functional import molecules
from tensorbench.decomposition.functional.chebtuck_build import from_cp
from tensorbench.decomposition.functional.chebyshev import midpoints
from tensorbench.decomposition.functional.newton import (
    GaussianSum,
    RangeSeparated,
    assemble_potential,
    newton_quadrature,
    range_split,
    reduce_cp_rank,
    sinc_quadrature_newton,
)

needs_files = pytest.mark.skipif(
    "TENSORBENCH_DATA" not in os.environ, reason="TENSORBENCH_DATA names no folder with the files"
)


def worst(kernel: GaussianSum, low: float, high: float) -> float:
    rho = np.geomspace(low, high, 1777)
    return float(np.abs(kernel(rho) * rho - 1).max())


# --- quadrature ---


@pytest.mark.parametrize("eps", [1e-3, 1e-5, 1e-7, 1e-9])
@pytest.mark.parametrize("low", [1 / 32, 1 / 512])
def test_the_quadrature_keeps_its_error(eps, low):
    kernel = newton_quadrature(low, 4.0, eps=eps)
    assert worst(kernel, low, 4.0) <= 1.05 * eps  # the requested error is checked on other points
    assert worst(newton_quadrature(low, 4.0, M=len(kernel) - 2), low, 4.0) > eps  # and one term fewer is too few
    assert kernel.exponents[0] == 0 and np.all(np.diff(kernel.exponents) > 0)


@pytest.mark.parametrize("M", [6, 10, 16])
def test_doubling_the_terms_lowers_the_error_far(M):
    assert worst(newton_quadrature(0.01, 3.0, 2 * M), 0.01, 3.0) < 0.1 * worst(
        newton_quadrature(0.01, 3.0, M), 0.01, 3.0
    )


def test_the_kernel_on_a_grid_is_one_over_the_distance():
    n, eps = 32, 1e-6
    full = sinc_quadrature_newton(n, box=(0.0, 4.0), eps=eps).full().numpy()
    x = midpoints(n, 0.0, 4.0) - 2
    distance = np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2)
    assert np.abs(full * distance - 1).max() <= 1.05 * eps


def test_long_and_short_range_add_up():
    cp = sinc_quadrature_newton(64)
    long, short = range_split(cp)
    assert long.rank == -(-cp.rank // 2) - 3 and long.rank + short.rank == cp.rank
    np.testing.assert_allclose((long.full() + short.full()).numpy(), cp.full().numpy(), rtol=1e-12)
    kernel = newton_quadrature(0.01, 3.0)
    rho = np.geomspace(0.01, 3, 50)
    assert sum(map(len, kernel.split(5))) == len(kernel)
    np.testing.assert_allclose(sum(part(rho) for part in kernel.split(5)), kernel(rho), rtol=1e-12)
    assert np.abs(np.diff(kernel.split(5)[0](rho))).max() < 0.1 * np.abs(np.diff(kernel.split(5)[1](rho))).max()


# --- potentials of particles ---


def test_shifted_columns_are_the_potential_of_particles_at_corners():
    n, particles = 32, molecules.hard_core(7, 0.2, 0.7, seed=1)
    corners = np.rint((particles.positions + 1) / 2 * n) / n * 2 - 1
    kernel = newton_quadrature(1 / n, 7.0)
    wide = midpoints(2 * n, -2, 2)
    reference = CP(kernel.weights, (kernel.columns(wide, np.zeros(1)),) * 3)
    shifted = assemble_potential(particles.charges, particles.positions, reference)
    exact = kernel.potential(particles.charges, corners, [midpoints(n)] * 3)
    assert shifted.rank == 7 * len(kernel)
    np.testing.assert_allclose(shifted.full().numpy(), exact.full().numpy(), atol=1e-10)


def test_the_potential_is_the_sum_over_particles():
    particles = molecules.body(5, 0.3, seed=2)
    kernel = newton_quadrature(0.02, 4.0, eps=1e-8)
    axes = [np.linspace(-1, 1, n) for n in (7, 8, 9)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    distance = np.linalg.norm(grid[..., None, :] - particles.positions, axis=-1)
    full = kernel.potential(particles.charges, particles.positions, axes).full().numpy()
    np.testing.assert_allclose(full, kernel(distance) @ particles.charges, atol=1e-11)
    far = distance.min(axis=-1) > 0.02
    np.testing.assert_allclose(full[far], ((1 / distance) @ particles.charges)[far], rtol=1e-5, atol=1e-6)


def test_the_range_separated_potential_is_the_direct_sum():
    particles = molecules.hard_core(40, 0.1, seed=3)
    kernel = newton_quadrature(0.02, 4.0, eps=1e-7)
    potential = RangeSeparated.from_particles(particles.charges, particles.positions, kernel, m=65, tol=1e-6)
    points = np.random.default_rng(0).uniform(-1, 1, (300, 3))
    distance = np.linalg.norm(points[:, None] - particles.positions, axis=2)
    far = distance.min(axis=1) > 0.03
    exact = (1 / distance) @ particles.charges
    assert np.abs(potential(points) - exact)[far].max() <= 1e-4 * np.abs(exact[far]).max()
    near = particles.positions[:1] + np.array([[0.02, 0.0, 0.0]])  # here the short range is most of it
    assert abs(potential.short_range(near)[0]) > 10
    assert potential.storage < 100_000


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-7])
def test_canonical_to_tucker_to_canonical_lowers_the_rank_and_keeps_the_tensor(tol):
    cp = long_range(molecules.hard_core(60, 0.1, seed=0), cells=40, eps=1e-5)
    reduced = reduce_cp_rank(cp, tol)
    assert reduced.rank < (0.3 if tol >= 1e-2 else 0.9 if tol >= 1e-4 else 1.5) * cp.rank
    full = cp.full().numpy()
    assert np.linalg.norm(reduced.full().numpy() - full) <= 2 * tol * np.linalg.norm(full)


def test_the_error_is_relative_to_the_tensor_where_columns_cancel():
    rng = np.random.default_rng(0)
    first = [rng.standard_normal((12, 4)) for _ in range(3)]
    second = [F + 1e-4 * rng.standard_normal(F.shape) for F in first]
    factors = tuple(np.hstack(pair) for pair in zip(first, second, strict=True))
    cp = CP(np.repeat([1.0, -1.0], 4), factors)
    full = cp.full().numpy()
    assert np.linalg.norm(reduce_cp_rank(cp, 1e-3).full().numpy() - full) <= 2e-3 * np.linalg.norm(full)


def test_reduction_works_for_other_orders():
    rng = np.random.default_rng(0)
    for d in (2, 4):
        factors = [rng.standard_normal((6, 2)) @ rng.standard_normal((2, 30)) for _ in range(d)]
        cp = CP(rng.standard_normal(30), tuple(factors))
        reduced = reduce_cp_rank(cp, 1e-10)
        assert reduced.rank <= 2 ** (d - 1)
        np.testing.assert_allclose(reduced.full().numpy(), cp.full().numpy(), atol=1e-7)


def test_the_rank_of_the_long_range_is_far_below_the_nodes_and_hardly_grows():
    ranks = []
    for count in (20, 80):
        cp = long_range(molecules.hard_core(count, 0.1, seed=0), cells=64, eps=1e-5)
        ranks.append(max(from_cp(cp.weights.numpy(), [F.numpy() for F in cp.factors], 65, tol=1e-4).ranks))
    assert ranks[1] <= 32 and ranks[1] <= 1.3 * ranks[0]


# --- particles ---


@pytest.mark.parametrize("make", [molecules.hard_core, molecules.body])
def test_particles_keep_their_distance_and_follow_the_seed(make):
    a, b, c = make(60, 0.1, 0.7, seed=0), make(60, 0.1, 0.7, seed=0), make(60, 0.1, 0.7, seed=1)
    np.testing.assert_array_equal(a.positions, b.positions)
    assert not np.array_equal(a.positions, c.positions)
    gaps = np.linalg.norm(a.positions[:, None] - a.positions, axis=2) + 9 * np.eye(60)
    assert gaps.min() >= 0.1 and np.abs(a.positions).max() <= 0.7
    assert abs(a.charges.sum()) < 1e-12


def test_the_body_hangs_together():
    a = molecules.body(50, 0.1, seed=0)
    gaps = np.linalg.norm(a.positions[:, None] - a.positions, axis=2)
    assert all(gaps[i, :i].min() <= 0.15 for i in range(1, 50))


def test_the_lattice_alternates_and_has_vacancies():
    full = molecules.lattice((4, 3, 2), 0.2, 0.0)
    assert len(full) == 24 and full.charges.sum() == 0
    np.testing.assert_allclose(full.positions.mean(axis=0), 0, atol=1e-14)
    gaps = np.linalg.norm(full.positions[:, None] - full.positions, axis=2)
    neighbours = np.isclose(gaps, 0.2)
    assert np.all((full.charges[:, None] * full.charges)[neighbours] == -1)
    assert 150 < len(molecules.lattice((10, 10, 2), 0.1, 0.1, seed=0)) < 200


# --- datasets and baselines ---


def test_generated_datasets():
    assert list(data.load("smooth_functions", names=["slater"])) == ["slater"]
    assert data.load("newton_kernel", grids=[16], eps=1e-3)[16].shape == (16,) * 3
    assert {n: len(p) for n, p in data.load("particle_clusters", kind="body", counts=[3, 5]).items()} == {3: 3, 5: 5}
    assert data.load("lattice_potential", shape=[2, 2, 2], vacancies=0.0, cells=16, eps=1e-3).shape == (16,) * 3


@needs_files
@pytest.mark.parametrize("name", ["newton_reference", "biomolecule", "lattice_reference"])
def test_the_files_of_the_authors(name):
    for file in data.get(name).files:
        content = Path(data.fetch(file)).read_bytes()
        assert len(content) == file.bytes and hashlib.sha256(content).hexdigest() == file.sha256
    loaded = data.load(name)
    if name == "newton_reference":
        assert {n: kernel.rank for n, kernel in loaded.items()} == {256: 26, 1024: 31}
        diagonal = (loaded[256].factors[0].numpy() ** 3).sum(axis=1)
        exact = 1 / (np.sqrt(3) * np.abs(midpoints(256)))
        np.testing.assert_allclose(diagonal[:120], exact[:120], rtol=1e-3)  # means over cells, not values
    else:
        assert (loaded.shape, loaded.rank) == {"biomolecule": ((256,) * 3, 743)}.get(name, ((960,) * 3, 28))


@needs_files
def test_the_paper_s_numbers_for_the_kernel_and_the_biomolecule():
    long, _ = range_split(data.load("newton_reference")[256])
    assert from_cp(long.weights.numpy(), [F.numpy() for F in long.factors], 129).ranks == (9, 9, 9)
    molecule = data.load("biomolecule")
    weights, factors = molecule.weights.numpy(), [F.numpy() for F in molecule.factors]
    model = from_cp(weights, factors, 129)
    assert model.ranks == (40, 40, 47)
    assert from_cp(weights, factors, 129, tol=1e-12).ranks == (40, 40, 47)  # the columns' own rank, whatever the tol
    assert max(model.round(1e-6).ranks) < 47


@pytest.mark.parametrize(
    ("fit", "options", "bound"),
    [
        (baselines.plain_chebyshev, {}, 1e-9),
        (baselines.grid_tucker, {}, 2e-4),
        (baselines.grid_interpolator, {"kind": "cubic"}, 2e-4),
        (baselines.grid_interpolator, {"kind": "linear"}, 2e-2),
        (baselines.tt_cross, {}, 1e-6),
    ],
)
def test_baselines_approximate_a_smooth_function(fit, options, bound):
    points = np.random.default_rng(0).uniform(-1, 1, (200, 3))
    fitted = fit(FUNCTIONS["exponential"], 25, **options)
    exact = FUNCTIONS["exponential"](*points.T)
    assert np.abs(fitted.evaluate(points) - exact).max() <= bound * np.abs(exact).max()
    assert 0 < fitted.storage <= 25**3


# --- bad input ---


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: newton_quadrature(0.0, 1.0), "0 < rho_min < rho_max"),
        (lambda: newton_quadrature(0.1, 1.0, M=1), "M >= 2"),
        (lambda: newton_quadrature(0.1, 1.0, eps=1e-20), "cannot be reached"),
        (lambda: sinc_quadrature_newton(15), "must be even"),
        (lambda: range_split(sinc_quadrature_newton(16), 99), "long_terms 99 must lie between 1"),
        (lambda: assemble_potential(np.ones(1), np.full((1, 3), 1.5), sinc_quadrature_newton(16)), "lie outside"),
        (lambda: assemble_potential(np.ones(2), np.zeros((1, 3)), sinc_quadrature_newton(16)), r"\(count, d\)"),
        (lambda: reduce_cp_rank(sinc_quadrature_newton(16), 0.0), "tol 0.0"),
        (lambda: molecules.hard_core(500, 0.5), "no place found"),
        (lambda: molecules.body(0), "count 0"),
        (lambda: molecules.lattice((2, 2), vacancies=1.0), "share in"),
        (lambda: data.load("smooth_functions", names=["rungs"]), "runge"),
        (lambda: data.load("particle_clusters", kind="hard"), "hard_core"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
