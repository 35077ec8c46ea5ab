"""Normal coordinates on positive-definite matrices, structured groups, variational inference: their properties."""

import math

import numpy as np
import pytest
import torch

from tensorbench.optimizers.structured_ngd import GaussianVI, RGDMomentum
from tensorbench.optimizers.structured_ngd import spd as S
from tensorbench.optimizers.structured_ngd import structures as st

F64 = torch.float64
DIM = 6
KINDS = [
    st.Dense(DIM),
    st.Diagonal(DIM),
    st.LowerTriangular(DIM),
    st.BlockDiagonal(DIM, 4),
    st.BlockTriangular(DIM, 2),
    st.UpperHierarchical(DIM, 2, 1),
    st.ToeplitzTriangular(DIM),
    st.Kronecker(DIM, 2),
    st.GaussianEmbedding(DIM, st.LowerTriangular(DIM - 1)),
]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def symmetric(d, seed=0, scale=1.0):
    return scale * S.sym(torch.randn(d, d, generator=gen(seed), dtype=F64))


def point(d, seed=0):
    return torch.eye(d, dtype=F64) + 0.2 * torch.randn(d, d, generator=gen(seed), dtype=F64)


@pytest.mark.parametrize("order", ["exact", 2])
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_a_step_stays_positive_definite(order, scale):
    for seed in range(5):
        A = S.gnc_step(point(5, seed), symmetric(5, seed + 10, scale), order)
        assert torch.linalg.eigvalsh(A @ A.mT).min() > 0


def test_truncation_errors_have_the_orders_they_should():
    m, eps = symmetric(6), torch.tensor([1e-3, 1e-2], dtype=F64)
    for order in (1, 2):
        errors = [float((S.expm(e * m, order) - S.expm(e * m)).norm()) for e in eps]
        slope = math.log(errors[1] / errors[0]) / math.log(10)
        assert abs(slope - (order + 1)) < 0.2
    left = torch.eye(6, dtype=F64) + m
    assert torch.allclose(S.expm(m, 2), (torch.eye(6, dtype=F64) + left @ left.mT) / 2)


def test_the_metric_is_the_identity_at_the_origin():
    A, m, h = point(4), symmetric(4, 1), 1e-4
    tau = A @ A.mT
    moved = [A @ S.expm(sign * h * m) @ A.mT for sign in (1, -1)]
    second = sum(float(S.distance(tau, t)) ** 2 for t in moved) / (2 * h**2)
    assert second == pytest.approx(float(m.norm()) ** 2, rel=1e-5)


def test_coordinates_make_the_textbook_step_with_parallel_transport():
    problem = symmetric(5, 3)
    rgd = RGDMomentum(S.SPD(point(5)), lr=0.05, beta=0.8, order="exact")
    tau, V = rgd.tau, torch.zeros(5, 5, dtype=F64)
    for _ in range(6):
        egrad = problem - torch.linalg.inv(tau) + tau
        rgd.step(problem - torch.linalg.inv(rgd.tau) + rgd.tau)
        V = 0.8 * V + tau @ egrad @ tau
        tau, V = S.riemannian_step(tau, V, 0.05)
        assert torch.allclose(rgd.tau, tau, atol=1e-10)
        assert torch.allclose(rgd.A @ rgd.m @ rgd.A.mT, V, atol=1e-9)


@pytest.mark.parametrize("order", ["exact", 1, 2])
def test_trajectories_follow_congruences(order):
    W, C = point(5, 7), point(5, 8)
    W = W @ W.mT

    def egrad(tau):  # of tr(W tau) - logdet tau
        return S.sym(W - torch.linalg.inv(tau))

    start = point(5) @ point(5).mT
    plain = RGDMomentum(start, 0.1, 0.9, order)
    Ci = torch.linalg.inv(C)
    moved = RGDMomentum(S.sym(C @ start @ C.mT), 0.1, 0.9, order)
    for _ in range(20):
        plain.step(egrad(plain.tau))
        moved.step(S.sym(Ci.mT @ egrad(Ci @ moved.tau @ Ci.mT) @ Ci))
    assert torch.allclose(moved.tau, C @ plain.tau @ C.mT, rtol=1e-8, atol=1e-10)


def cholesky_adam(start, egrad, steps=20):
    L = torch.linalg.cholesky(start).requires_grad_()
    adam = torch.optim.Adam([L], lr=0.05)
    for _ in range(steps):
        L.grad = (2 * egrad((L @ L.mT).detach()) @ L.detach()).tril()
        adam.step()
    return (L @ L.mT).detach()


def test_adam_on_choleskys_factor_does_not_follow_congruences():
    W, C = torch.eye(4, dtype=F64), point(4, 8)
    Ci = torch.linalg.inv(C)

    def egrad(tau):
        return W - torch.linalg.inv(tau)

    start = point(4) @ point(4).mT
    plain = cholesky_adam(start, egrad)
    moved = cholesky_adam(C @ start @ C.mT, lambda t: Ci.mT @ egrad(Ci @ t @ Ci.mT) @ Ci)
    assert not torch.allclose(moved, C @ plain @ C.mT, rtol=1e-2)


def full(kind, X):
    return kind.algebra(X) if isinstance(kind, st.Kronecker) else kind.dense(X)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: type(k).__name__)
def test_structures_are_closed_under_steps_and_products(kind):
    X = kind.random(gen(1), 0.3, F64)
    A = kind.retract(kind.identity(F64), kind.random(gen(2), 0.3, F64), "exact")
    assert torch.allclose(kind.dense(kind.expm(X)), torch.linalg.matrix_exp(full(kind, X)), atol=1e-12)
    stepped = kind.retract(A, X, "exact")
    assert torch.allclose(kind.dense(stepped), kind.dense(A) @ torch.linalg.matrix_exp(full(kind, X)), atol=1e-12)
    assert torch.allclose(kind.dense(kind.matmul(A, stepped)), kind.dense(A) @ kind.dense(stepped), atol=1e-12)
    M = torch.randn(DIM, 3, generator=gen(3), dtype=F64)
    assert torch.allclose(kind.apply(A, M), kind.dense(A) @ M)
    assert torch.allclose(kind.apply_transpose(A, M), kind.dense(A).mT @ M)
    for order in (1, 2):
        near = kind.retract(A, 1e-4 * X, order)
        assert torch.allclose(near, kind.retract(A, 1e-4 * X, "exact"), atol=2e-7 if order == 1 else 1e-11)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: type(k).__name__)
def test_projection_is_the_natural_gradient_of_the_fisher_metric(kind):
    """<X, Y> = ½ <X + Xᵀ, Y + Yᵀ> equals the derivative 2 <S, Y> for every Y of the algebra, and only for X."""
    if isinstance(kind, st.GaussianEmbedding):
        M = symmetric(DIM, 4)
        M[-1, -1] = 0.0
    else:
        M = symmetric(DIM, 4)
    X = full(kind, kind.project(M))
    for seed in range(4):
        Y = full(kind, kind.random(gen(20 + seed), 1.0, F64))
        metric = ((X + X.mT) * (Y + Y.mT)).sum() / 2
        assert float(metric) == pytest.approx(2 * float((M * Y).sum()), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kind", [k for k in KINDS if isinstance(k, st.Pattern)], ids=lambda k: type(k).__name__)
def test_patterns_are_transitive_and_hold_the_diagonal(kind):
    reach = kind.mask.double() @ kind.mask.double() > 0
    assert bool((kind.mask | ~reach).all())
    assert bool(kind.mask.diagonal().all())


def test_diagonal_on_a_diagonal_problem_is_dense():
    target = torch.arange(1.0, DIM + 1, dtype=F64)
    runs = [RGDMomentum(kind.identity(F64), 0.1, 0.9, 2, kind) for kind in (st.Diagonal(DIM), st.Dense(DIM))]
    for _ in range(30):
        for run in runs:
            run.step(torch.diag(target) - torch.linalg.inv(run.tau))
    assert torch.allclose(runs[0].tau, runs[1].tau, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS[:-1], ids=lambda k: type(k).__name__)
def test_structured_descent_finds_the_best_covariance_of_its_structure(kind):
    """Planted: τ* in the structure is the minimiser of tr(τ*⁻¹ τ) − log det τ."""
    A = kind.retract(kind.identity(F64), kind.random(gen(5), 0.2, F64), "exact")
    target = kind.dense(A) @ kind.dense(A).mT
    W = S.sym(torch.linalg.inv(target))
    run = RGDMomentum(kind.identity(F64), 0.2, 0.5, 2, kind)
    tau = run.minimise(lambda t: S.sym(W - torch.linalg.inv(t)), 400)
    assert torch.allclose(tau, target, atol=1e-6)


def test_singd_projects_alike():
    pytest.importorskip("singd")
    from singd.structures.diagonal import DiagonalMatrix
    from singd.structures.hierarchical import Hierarchical15_15Matrix
    from singd.structures.triltoeplitz import TrilToeplitzMatrix

    pairs = [
        (Hierarchical15_15Matrix, st.UpperHierarchical(40, 15, 15)),
        (DiagonalMatrix, st.Diagonal(40)),
        (TrilToeplitzMatrix, st.ToeplitzTriangular(40)),
    ]
    M = symmetric(40, 6).float()
    for theirs, ours in pairs:
        assert torch.allclose(theirs.from_dense(M).to_dense(), ours.dense(ours.project(M)), atol=1e-5)


def test_the_embedded_gaussian_moves_by_the_natural_gradient():
    n = 4
    kind = st.GaussianEmbedding(n + 1)
    mean, L = torch.randn(n, generator=gen(1), dtype=F64), point(n, 2)
    A, Sigma = kind.pack(mean, L), L @ L.mT
    g_mean, g_cov = torch.randn(n, generator=gen(3), dtype=F64), symmetric(n, 4)
    egrad = torch.zeros(n + 1, n + 1, dtype=F64)
    egrad[:n, :n] = g_cov
    egrad[:n, n] = egrad[n, :n] = (g_mean - 2 * g_cov @ mean) / 2
    h = 1e-6
    new_mean, new_L = kind.unpack(kind.retract(A, -h * kind.inner(A, egrad), "exact"))
    assert torch.allclose((new_mean - mean) / -h, Sigma @ g_mean, rtol=1e-4)
    assert torch.allclose((new_L @ new_L.mT - Sigma) / -h, 2 * Sigma @ g_cov @ Sigma, rtol=1e-3, atol=1e-3)
    only_mean = torch.zeros_like(egrad)
    only_mean[:n, n] = only_mean[n, :n] = g_mean / 2
    new_mean, new_L = kind.unpack(kind.retract(A, -0.1 * kind.inner(A, only_mean), 1))
    assert torch.allclose(new_mean, mean - 0.1 * Sigma @ g_mean)
    assert torch.allclose(new_L, L)


@pytest.mark.parametrize("estimator", ["reparametrise", "stein"])
@pytest.mark.parametrize("kind", [st.Dense(3), st.LowerTriangular(3)], ids=lambda k: type(k).__name__)
def test_variational_inference_finds_a_gaussian_posterior(estimator, kind):
    P = point(3, 9) @ point(3, 9).mT
    centre = torch.tensor([1.0, -2.0, 0.5], dtype=F64)

    def logp(theta):
        e = theta - centre
        return -((e @ P) * e).sum(1) / 2

    exact = estimator == "stein"
    vi = GaussianVI(logp, kind, lr=0.3 if exact else 0.1, samples=20, estimator=estimator, generator=gen(0))
    vi.fit(60 if exact else 300)
    if not exact:
        vi.lr = 0.01
        vi.fit(300)
    tolerance = 1e-4 if exact else 0.1
    assert torch.allclose(vi.covariance @ P, torch.eye(3, dtype=F64), atol=tolerance)
    assert torch.allclose(vi.mean, centre, atol=0.1)


def test_the_door():
    with pytest.raises(ValueError, match="smallest eigenvalue is -1"):
        S.SPD.from_matrix(-torch.eye(3, dtype=F64))
    with pytest.raises(ValueError, match="tau is not symmetric"):
        S.SPD.from_matrix(point(3))
    with pytest.raises(ValueError, match="m is not symmetric"):
        S.gnc_step(point(3), point(3))
    with pytest.raises(ValueError, match="does not fit A"):
        S.gnc_step(point(3), symmetric(4))
    with pytest.raises(ValueError, match="unknown order '3'"):
        S.expm(symmetric(3), 3)
    with pytest.raises(ValueError, match="beta 1"):
        RGDMomentum(torch.eye(2), 0.1, 1.0)
    run = RGDMomentum(torch.eye(2), 0.1)
    with pytest.raises(ValueError, match="no step was made"):
        run.step(torch.full((2, 2), math.nan))
    assert torch.equal(run.tau, torch.eye(2))
    with pytest.raises(ValueError, match=r"an element of Diagonal of dim 3 has \(3,\)"):
        RGDMomentum(torch.eye(3), 0.1, structure=st.Diagonal(3))
    with pytest.raises(ValueError, match="Dense has dim 3"):
        st.Dense(3).project(torch.eye(4))
    with pytest.raises(ValueError, match="p 4 does not divide dim 6"):
        st.Kronecker(6, 4)
    with pytest.raises(ValueError, match="did you mean 'lower_triangular'"):
        st.structure("lower_triangle", 4)
    with pytest.raises(ValueError, match=r"must be a Pattern .*got Diagonal"):
        GaussianVI(lambda t: t.sum(1), st.Diagonal(3))
    vi = GaussianVI(lambda t: t.sum(1) * np.nan, st.Dense(3))
    with pytest.raises(ValueError, match="no step was made"):
        vi.step()
