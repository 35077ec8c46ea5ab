"""Fitters against closed forms and NumPy, their invariances, and what they refuse."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch

from tensorbench.optimizers import psgd
from tensorbench.optimizers.psgd import fitting_criterion as crit
from tensorbench.optimizers.psgd import studies
from tensorbench.optimizers.psgd.kronecker import dense_modes

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def random_spd(n, seed=0):
    A = torch.randn(n, n, dtype=F64, generator=rng(seed))
    return A @ A.T / n + 0.5 * torch.eye(n, dtype=F64)


def pair(n, seed=0):
    return torch.randn(2, n, dtype=F64, generator=rng(seed)).unbind()


# --- the criterion ---------------------------------------------------------------------------------------------------


def indefinite():
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=F64, generator=rng()))[0]
    return rotation @ torch.diag(torch.tensor([3.0, -2.0, 0.5, -1.0], dtype=F64)) @ rotation.T


@pytest.mark.parametrize("H", [random_spd(4), indefinite()], ids=["definite", "indefinite"])
def test_the_criterion_is_minimised_where_it_is_said(H):
    triangle = np.tril_indices(4)

    def c(x):
        factor = np.zeros((4, 4))
        factor[triangle] = x
        return crit.criterion(torch.from_numpy(factor @ factor.T), H)

    found = scipy.optimize.minimize(c, np.eye(4)[triangle], method="BFGS", options={"gtol": 1e-9})
    assert found.fun == pytest.approx(crit.minimum(H), rel=1e-6)
    factor = np.zeros((4, 4))
    factor[triangle] = found.x
    values, vectors = np.linalg.eigh(H)
    np.testing.assert_allclose(factor @ factor.T, vectors / np.abs(values) @ vectors.T, atol=1e-5)
    assert crit.criterion(psgd.minimiser(H), H) == pytest.approx(crit.minimum(H), rel=1e-12)


def test_an_indefinite_hessian_gives_the_inverse_of_its_absolute_value():
    """Where signs differ, a = ±b is all that holds at the minimiser, and the step must fall for P to settle."""
    H = indefinite()
    fitter, source = psgd.GLn(4), psgd.MatrixPairs(H, rng(1))
    for mu in (0.3, 0.03, 0.003):
        fitter.mu = mu
        for _ in range(800):
            fitter.update(*next(source))
    torch.testing.assert_close(fitter.P, psgd.minimiser(H), rtol=0.1, atol=0.05)
    assert crit.criterion(fitter.P, H) == pytest.approx(2 * 6.5, rel=0.01)


@pytest.mark.parametrize("geometry", ["euclid", "spd", "gl", "triangular"])
def test_gradients_of_the_criterion_against_autograd(geometry):
    H, at = random_spd(4), random_spd(4, 1) if geometry in ("euclid", "spd") else torch.randn(4, 4, dtype=F64)
    at = at.triu() + 2 * torch.eye(4, dtype=F64) if geometry == "triangular" else at
    E = torch.zeros(4, 4, dtype=F64, requires_grad=True)
    moved = at + E if geometry in ("euclid", "spd") else at + E @ at
    P = moved if geometry in ("euclid", "spd") else moved.T @ moved
    (slope,) = torch.autograd.grad(torch.trace(P @ H @ H) + torch.trace(torch.linalg.inv(P)), E)
    expected = {"euclid": slope, "spd": at @ slope @ at, "gl": slope, "triangular": slope.triu()}[geometry]
    torch.testing.assert_close(crit.gradient(at, H, geometry), expected)
    with pytest.raises(ValueError, match="geometry"):
        crit.gradient(at, H, "sphere")


def test_the_criterion_is_strongly_convex_but_for_rotations():
    H = random_spd(5)
    found = psgd.strong_convexity_probe(torch.linalg.cholesky(psgd.minimiser(H)).T, H, rng())
    assert found.smallest >= 0.999 * found.bound > 0
    assert found.rotations < 1e-6 * found.smallest
    away = psgd.strong_convexity_probe(torch.eye(5, dtype=F64) * 0.3, H, rng())
    assert away.smallest >= 0.999 * away.bound > 0


# --- one step --------------------------------------------------------------------------------------------------------


def numpy_gl_step(Q, v, h, mu, upper=False):
    a, b = Q @ h, np.linalg.solve(Q.T, v)
    E = np.outer(a, a) - np.outer(b, b)
    return Q - mu / (a @ a + b @ b) * ((np.triu(E) if upper else E) @ Q)


@pytest.mark.parametrize("kind", [psgd.GLn, psgd.Triangular])
def test_a_step_on_the_groups_is_the_formula(kind):
    fitter = kind(6, 0.7)
    Q = np.eye(6)
    for k in range(5):
        v, h = pair(6, k)
        fitter.update(v, h)
        Q = numpy_gl_step(Q, v.numpy(), h.numpy(), 0.7, upper=kind is psgd.Triangular)
    np.testing.assert_allclose(fitter.state["Q"], Q, rtol=1e-11, atol=1e-12)


def test_the_tracked_inverse_stays_an_inverse():
    fitter = psgd.GLn(8, 0.5, refresh=10**9)
    source = psgd.MatrixPairs(psgd.tridiagonal(8), rng(), noise=0.1)
    for _ in range(10_000):
        fitter.update(*next(source))
    product = fitter.state["Q"] @ fitter.state["inverse"]
    assert float((product - torch.eye(8, dtype=F64)).abs().max()) <= 1e-8


def test_errors_do_not_depend_on_a_rotation_of_the_factor():
    H = random_spd(5)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=F64, generator=rng(3)))[0]
    plain, turned = psgd.GLn(5, 0.5), psgd.GLn(5, 0.5)
    turned.state["Q"], turned.state["inverse"] = rotation.clone(), rotation.T.clone()
    source = psgd.MatrixPairs(H, rng())
    for _ in range(50):
        v, h = next(source)
        plain.update(v, h)
        turned.update(v, h)
        assert plain.error(H) == pytest.approx(turned.error(H), rel=1e-9)


@pytest.mark.parametrize("make", [psgd.GLn, psgd.Triangular, psgd.SPDGD, psgd.Diagonal])
def test_steps_below_one_keep_the_factor_invertible(make):
    fitter = make(4, 0.95)
    for k in range(300):
        v, h = pair(4, k)
        fitter.update(v * 10 ** float(torch.randn((), generator=rng(k))), h)
        assert float(torch.linalg.eigvalsh(fitter.P)[0]) > 0
        if "Q" in fitter.state:
            assert float(torch.linalg.det(fitter.state["Q"])) > 0


def test_bfgs_fulfils_the_secant_equation_and_agrees_with_the_textbook():
    H = random_spd(5)
    fitter = psgd.BFGS(5)
    P = np.eye(5)
    for k in range(4):
        v = pair(5, k)[0]
        h = H @ v
        fitter.update(v, h)
        s, y = v.numpy(), h.numpy()
        left = np.eye(5) - np.outer(s, y) / (y @ s)
        P = left @ P @ left.T + np.outer(s, s) / (y @ s)
        torch.testing.assert_close(fitter.apply(h), v)
    np.testing.assert_allclose(fitter.P, P, rtol=1e-9, atol=1e-10)


def test_the_closed_form_is_the_inverse_root_of_the_mean():
    fitter = psgd.ClosedForm(3, window=1.0)
    C, hs = np.eye(3), [pair(3, k)[1].numpy() for k in range(6)]
    for h in hs:
        fitter.update(torch.ones(3, dtype=F64), torch.from_numpy(h))
    C = (np.eye(3) + sum(np.outer(h, h) for h in hs)) / 7
    np.testing.assert_allclose(fitter.P, np.linalg.inv(scipy.linalg.sqrtm(C)), rtol=1e-9)


@pytest.mark.parametrize("geometry", ["QUAD", "QEQ", "QEP", "PRO4P", "Q0p5EQ1p5"])
def test_inverse_free_steps_agree_with_their_formula(geometry):
    """Up to the rotation, which P's invariants do not see: QᵀQ of Q0p5EQ1p5 and PRO4P's PᵀP."""
    fitter = psgd.InverseFree(4, geometry, 0.1, init_scale=0.8)
    v, h = pair(4)
    Q = 0.8 ** (2 if geometry == "PRO4P" else 1) * np.eye(4)
    P = Q if geometry == "PRO4P" else Q.T @ Q
    x, y = P @ h.numpy(), v.numpy()
    if geometry == "QEP":
        x, y = Q @ x, Q @ y
    D = 0.1 / (x @ x + y @ y) * (np.outer(x, x) - np.outer(y, y))
    expected = {
        "QUAD": (np.eye(4) - D / 2) @ Q @ (np.eye(4) - D / 2),
        "QEQ": Q - Q @ D,
    }.get(geometry, Q - D @ Q)  # fmt: skip
    fitter.update(v, h)
    new = fitter.state["Q"].numpy()
    np.testing.assert_allclose(new.T @ new, expected.T @ expected, rtol=1e-4, atol=1e-6)
    assert np.abs(new - new.T).max() <= max(np.abs(expected - expected.T).max(), 1e-12)


# --- convergence -----------------------------------------------------------------------------------------------------

EXACT = {
    "GLn": lambda n: psgd.GLn(n),
    "Triangular": lambda n: psgd.Triangular(n),
    "SPDGD": lambda n: psgd.SPDGD(n),
    "BFGS": lambda n: psgd.BFGS(n),
    "QUAD": lambda n: psgd.QUAD(n),
    "QEQ": lambda n: psgd.QEQ(n),
    "Q0p5EQ1p5": lambda n: psgd.Q0p5EQ1p5(n),
    "PRO4P": lambda n: psgd.PRO4P(n),
    "QEP": lambda n: psgd.QEP(n),
    "LowRank": lambda n: psgd.LowRank(n, n - 1, 0.1, generator=rng(9)),
    "EuclidGD": lambda n: psgd.EuclidGD(n),
    "ClosedForm": lambda n: psgd.ClosedForm(n),
}
REACHED = {"QEP": 1e-3, "LowRank": 0.3, "EuclidGD": 0.3, "ClosedForm": 0.3, "PRO4P": 1e-5}


@pytest.mark.parametrize("name", EXACT)
def test_clean_pairs_are_fitted(name):
    H = random_spd(4)
    errors = studies.convergence_study(EXACT[name], H, [0, 1500], rng())
    assert errors[1500] < min(REACHED.get(name, 1e-8), 0.5 * errors[0])


def test_diagonal_is_the_scalar_case_and_low_rank_of_rank_zero_is_diagonal():
    H = torch.diag(torch.tensor([4.0, 1.0, 0.25], dtype=F64))
    errors = studies.convergence_study(lambda n: psgd.Diagonal(n), H, [2000], rng())
    assert errors[2000] < 1e-8
    one, general = psgd.Diagonal(1, 0.7), psgd.GLn(1, 0.7)
    for k in range(20):
        v, h = pair(1, k)
        one.update(v, h)
        general.update(v, h)
    assert one.P.item() == pytest.approx(general.P.item(), rel=1e-10)
    # Rank 0 moves d as the diagonal group does, with its own bound in place of the maximum.
    flat = psgd.LowRank(3, 0, 0.4, beta=0.0)
    v, h = pair(3)
    up, down = (h * h).numpy(), (v * v).numpy()
    flat.update(v, h)
    np.testing.assert_allclose(flat.state["d"], 1 - 0.4 * (up - down) / (up.max() + down.max()), rtol=1e-12)


def test_low_rank_applies_its_matrix_and_moves_by_the_gradient():
    fitter = psgd.LowRank(7, 3, 1e-6, beta=0.0, generator=rng(2))
    fitter._balance()
    g = pair(7, 5)[0]
    torch.testing.assert_close(fitter.apply(g), fitter.P @ g)
    # A small step changes c(P) = hᵀPh + vᵀP⁻¹v downhill.
    v, h = pair(7, 6)

    def c():
        return float(h @ fitter.P @ h + v @ torch.linalg.solve(fitter.P, v))

    before = c()
    fitter.update(v, h)
    assert c() < before


# --- Kronecker -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", ["QUAD", "QEQ", "Q0p5EQ1p5", "QEP"])
def test_kron_of_order_one_is_dense(geometry):
    """One pair from the identity: the bound of the rank-2 sum is close to its trace, so steps are scaled alike."""
    v, h = pair(5)
    kron = psgd.Kron((5,), geometry, 0.1, max_skew=math.inf, damping=0.0, generator=rng())
    dense = psgd.InverseFree(5, geometry, 0.1)
    kron.update(v, h)
    dense.lr = 0.1 * float(dense.state["L"].new_tensor(float(v @ v + h @ h)) / kron.state["L"][0, 0])
    dense.update(v, h)
    torch.testing.assert_close(kron.P, dense.P, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(kron.apply(h), dense.apply(h), rtol=1e-8, atol=1e-10)


def test_kron_of_order_one_on_the_triangular_group_is_triangular():
    kron = psgd.Kron((5,), "EQ", 0.1, beta=0.0, max_skew=math.inf, damping=0.0, generator=rng())
    Q = np.eye(5)
    for k in range(4):
        v, h = pair(5, k)
        kron.update(v, h)
        a, b = Q @ h.numpy(), np.linalg.solve(Q.T, v.numpy())
        Q = Q - 0.1 / float(kron.state["L"][0, 0]) * np.triu(np.outer(a, a) - np.outer(b, b)) @ Q
    np.testing.assert_allclose(kron.state["Q0"][0], Q, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("geometry", ["Q0p5EQ1p5", "QEP"])
def test_whitening_a_kronecker_covariance(geometry):
    """With g = (A ⊗ B) z for positive definite A and B, P g has the identity as covariance."""
    A, B = random_spd(6, 1), random_spd(8, 2)
    fitter = psgd.Kron((6, 8), geometry, 0.1, max_skew=math.inf, generator=rng())
    z = rng(4)
    for lr, steps in ((0.1, 400), (0.01, 400), (0.001, 2000)):
        fitter.lr = lr
        for _ in range(steps):
            fitter.whiten(A @ torch.randn(6, 8, dtype=F64, generator=z) @ B)
    of_z = fitter.P @ torch.kron(A, B)
    error = torch.linalg.matrix_norm(of_z @ of_z.T - torch.eye(48, dtype=F64)) / math.sqrt(48)
    assert float(error) < 0.05


def test_kron_applies_what_it_says_also_with_diagonal_and_complex_factors():
    for shape, skew in (((3, 4, 2), math.inf), ((2, 9), 1.0), ((), 1.0), ((4,), 1.0)):
        fitter = psgd.Kron(shape, max_skew=skew, generator=rng())
        for k in range(3):
            fitter.update(*torch.randn(2, *shape, dtype=F64, generator=rng(k)).unbind())
        g = torch.randn(shape, dtype=F64, generator=rng(8))
        torch.testing.assert_close(fitter.apply(g).reshape(-1), fitter.P @ g.reshape(-1))
    fitter = psgd.Kron((3, 4), max_skew=math.inf, dtype=torch.complex128, generator=rng())
    for k in range(5):
        fitter.update(*torch.randn(2, 3, 4, dtype=torch.complex128, generator=rng(k)).unbind())
    P = fitter.P
    torch.testing.assert_close(P, P.mH)
    assert float(torch.linalg.eigvalsh(P)[0]) > 0
    g = torch.randn(3, 4, dtype=torch.complex128, generator=rng(8))
    torch.testing.assert_close(fitter.apply(g).reshape(-1), P @ g.reshape(-1))


@pytest.mark.parametrize("geometry", ["Q0p5EQ1p5", "EQ", "QEP"])
def test_members_do_not_see_each_other(geometry):
    pairs = torch.randn(6, 2, 2, 3, 4, dtype=F64, generator=rng())
    both = psgd.Kron((3, 4), geometry, members=2, beta=0.5, balance=0, damping=0.0, max_skew=math.inf)
    # The bound of the norm is random: one that is not lets the two be compared.
    with pytest.MonkeyPatch.context() as patch:
        exact = lambda A, **_: torch.linalg.matrix_norm(A, ord=2)  # noqa: E731
        patch.setattr("tensorbench.optimizers.psgd.kronecker.norm_lower_bound_spd", exact)
        alone = psgd.Kron((3, 4), geometry, beta=0.5, balance=0, damping=0.0, max_skew=math.inf)
        for v, h in pairs.unbind():
            both.update(v, h)
            alone.update(v[1], h[1])
    torch.testing.assert_close(both.state["Q0"][1], alone.state["Q0"][0])
    torch.testing.assert_close(both.state["Q1"][1], alone.state["Q1"][0])


def test_balancing_keeps_the_product():
    Q = [torch.randn(2, 3, 3, dtype=F64, generator=rng()) * 1e6, torch.rand(2, 4, dtype=F64, generator=rng()) + 1]
    new = psgd.balance_kron(Q)
    for m in range(2):
        before = torch.kron(Q[0][m], torch.diag(Q[1][m]))
        torch.testing.assert_close(torch.kron(new[0][m], torch.diag(new[1][m])), before)
        assert float(new[0][m].abs().max()) == pytest.approx(float(new[1][m].abs().max()))


def test_which_modes_are_dense():
    assert dense_modes((10, 50)) == (True, False)
    assert dense_modes((10, 50), max_skew=5) == (True, True)
    assert dense_modes((10, 50), max_size=5) == (False, False)
    assert dense_modes((1, 1)) == (False, False)


# --- norm bounds and rotations ---------------------------------------------------------------------------------------


def matrices(count, seed=0):
    g = np.random.default_rng(seed)
    for k in range(count):
        m, n = g.integers(1, 40, 2)
        kind = k % 4
        if kind == 0:
            yield g.standard_normal((m, n))
        elif kind == 1:
            yield g.random((m, n))
        elif kind == 2:
            yield g.standard_cauchy((m, n))
        else:
            yield np.outer(g.standard_normal(m), g.standard_normal(n))


def test_the_bounds_are_close_from_below():
    for k, A in enumerate(matrices(1000)):
        true = np.linalg.norm(A, 2)
        bound = float(psgd.norm_lower_bound(torch.from_numpy(A)))
        assert 1 - 1e-12 <= true / bound <= 1.5
        if k % 5 == 0:
            S = torch.from_numpy(A @ A.T)
            assert 1 - 1e-10 <= true**2 / float(psgd.norm_lower_bound_spd(S, generator=rng(k))) <= 1.5


def test_the_bound_of_skew_matrices_needs_no_columns():
    for k in range(100):
        A = torch.randn(k % 9 + 2, k % 9 + 2, dtype=F64, generator=rng(k))
        R = A - A.T
        assert float(psgd.norm_lower_bound(R, skew=True)) == pytest.approx(float(psgd.norm_lower_bound(R)))


def test_bounds_of_stacks_of_extreme_and_of_zero_matrices():
    A = torch.randn(3, 6, 6, generator=rng())
    scales = torch.tensor([1e-30, 1.0, 1e30])[:, None, None]
    expected = torch.linalg.matrix_norm(A, ord=2) * scales.flatten()
    ratio = expected / psgd.norm_lower_bound(A * scales)
    assert bool(((ratio > 0.999) & (ratio < 1.5)).all())
    assert not psgd.norm_lower_bound(torch.zeros(2, 4, 4)).any()
    assert not psgd.norm_lower_bound_spd(torch.zeros(2, 4, 4)).any()


@pytest.mark.parametrize("order", [2, 3])
def test_procrustes_steps_rotate_towards_symmetry(order):
    Q = torch.linalg.qr(torch.randn(4, 6, 6, dtype=F64, generator=rng()))[0] @ random_spd(6)
    Q = Q * torch.linalg.det(Q).sign()[:, None, None].clamp(min=0) + random_spd(6, 3) * 0.1
    gram, traces = Q.mT @ Q, []
    for _ in range(3):
        before = Q
        Q = psgd.procrustes_step(Q, order=order)
        change = torch.linalg.matrix_norm(Q.mT @ Q - before.mT @ before) / torch.linalg.matrix_norm(gram)
        assert float(change.max()) < 1e-3
        traces.append(Q.diagonal(dim1=-2, dim2=-1).sum(-1))
    assert bool((traces[0] <= traces[1] + 1e-9).all() and (traces[1] <= traces[2] + 1e-9).all())
    P = random_spd(5)  # asymmetry decreases near a symmetric matrix, and a symmetric one stays
    tilted = torch.matrix_exp(0.2 * (lambda R: R - R.T)(torch.randn(5, 5, dtype=F64, generator=rng(2)))) @ P
    for _ in range(30):
        tilted = psgd.procrustes_step(tilted, order=order)
    assert float((tilted - tilted.T).abs().max()) < 0.05 * float(P.abs().max())
    torch.testing.assert_close(psgd.procrustes_step(P, order=order), P)


# --- where pairs come from -------------------------------------------------------------------------------------------


def test_pairs_of_a_loss_are_hessian_products():
    x, y = torch.randn(3, dtype=F64, requires_grad=True), torch.randn(2, dtype=F64, requires_grad=True)

    def loss():
        return (x.pow(4).sum() + 1) * y.square().sum() + x.prod()

    H = torch.autograd.functional.hessian(
        lambda z: (z[:3].pow(4).sum() + 1) * z[3:].square().sum() + z[:3].prod(), torch.cat([x, y]).detach()
    )
    kept = x.detach().clone()
    for products, tolerance in (("exact", 1e-10), ("finite_difference", 1e-5)):
        v, h = next(psgd.hvp_pairs(loss, [x, y], rng(), products))
        torch.testing.assert_close(h, H @ v, rtol=tolerance, atol=tolerance)
    assert torch.equal(x, kept)


def test_sources_know_what_they_determine():
    H = random_spd(3)
    noisy = psgd.MatrixPairs(H, rng(), noise=0.3)
    torch.testing.assert_close(noisy.target @ noisy.target, H @ H + 0.09 * torch.eye(3, dtype=F64))
    drifting = psgd.DriftingPairs(H, rng())
    for _ in range(300):
        v, h = next(drifting)
    torch.testing.assert_close(drifting.target @ v, h)
    assert float(torch.trace(drifting.target)) == pytest.approx(float(torch.trace(H)) + 300, rel=0.1)
    with pytest.raises(ValueError, match="symmetric"):
        psgd.MatrixPairs(torch.ones(2, 3), rng())


# --- bad input -------------------------------------------------------------------------------------------------------


def test_bad_pairs_are_refused_or_skipped():
    ones = torch.ones(3, dtype=F64)
    with pytest.raises(ValueError, match="shape"):
        psgd.GLn(3).update(ones, torch.ones(4, dtype=F64))
    with pytest.raises(ValueError, match="h is zero"):
        psgd.Diagonal(3).update(ones, 0 * ones)
    assert psgd.LowRank(3, 1, damping=1e-3).update(ones, 0 * ones)
    with pytest.raises(ValueError, match="NaN"):
        psgd.BFGS(3).update(ones, ones * math.nan)
    for fitter in (psgd.GLn(3, nonfinite="skip"), psgd.Kron((3,), nonfinite="skip")):
        before = {name: tensor.clone() for name, tensor in fitter.state.items()}
        assert not fitter.update(ones * math.inf, ones)
        assert all(torch.equal(before[name], tensor) for name, tensor in fitter.state.items())
    with pytest.raises(ValueError, match="real"):
        psgd.GLn(3).update(ones.to(torch.complex128), ones.to(torch.complex128))


def test_bad_options_are_refused():
    for mu in (0, -1, 2.5, math.nan):
        with pytest.raises(ValueError, match="mu"):
            psgd.GLn(3, mu)
    with pytest.raises(ValueError, match="rank 3"):
        psgd.LowRank(3, 3)
    with pytest.raises(ValueError, match="order 27"):
        psgd.Kron((1,) * 27)
    with pytest.raises(ValueError, match="QUAD"):
        psgd.Kron((3, 3), "QUADD")
    with pytest.raises(ValueError, match="Triangular"):
        psgd.InverseFree(3, "EQ")
    with pytest.raises(ValueError, match="nonfinite"):
        psgd.GLn(3, nonfinite="ignore")
    with pytest.raises(ValueError, match="one matrix"):
        _ = psgd.Kron((2, 2), members=2).P
