"""Norms: duality, brute force, known operator norms, projections, bad input."""

import itertools
import math

import pytest
import torch

from tensorbench.optimizers.norms import (
    RMS,
    ColNorm,
    ConvSpectral,
    Frobenius,
    L1ToRMS,
    MaxEntry,
    NoClosedFormError,
    RMSToRMS,
    RowNorm,
    Schatten,
    Spectral,
    Transposed,
    conjugate,
    induced_norm,
)

F64 = torch.float64
MATRIX_NORMS = [
    MaxEntry(), Spectral(), RMSToRMS(), Spectral(scaling="muon"), Spectral(scaling="adam"), L1ToRMS(),
    Transposed(L1ToRMS()), RowNorm(1.0), RowNorm(2.0), RowNorm(3.0), RowNorm(math.inf), ColNorm(1.0), ColNorm(2.0),
    ColNorm(3.0), ColNorm(math.inf), Frobenius(), RMS(), Schatten(1.0), Schatten(1.5), Schatten(2.0), Schatten(4.0),
    Schatten(math.inf),
]  # fmt: skip
SHAPES = [(1, 1), (1, 5), (5, 1), (3, 4), (4, 3), (6, 6), (2, 9), (9, 2), (7, 5), (12, 3)]


def named(norm):
    return repr(norm)


def samples():
    g = torch.Generator().manual_seed(0)
    for shape in SHAPES:
        yield torch.randn(shape, generator=g, dtype=F64)
        yield torch.outer(
            torch.randn(shape[0], generator=g, dtype=F64), torch.randn(shape[1], generator=g, dtype=F64)
        )  # rank 1


@pytest.mark.parametrize("norm", MATRIX_NORMS, ids=named)
def test_the_direction_is_of_norm_one_and_reaches_the_dual_norm(norm):
    for G in samples():
        T = norm.lmo(G)
        assert float(norm.value(T)) == pytest.approx(1.0, abs=1e-6)
        assert float((G * T).sum()) == pytest.approx(float(norm.dual(G)), rel=1e-6)
    assert not norm.lmo(torch.zeros(3, 2)).any()


@pytest.mark.parametrize("norm", MATRIX_NORMS, ids=named)
def test_no_random_point_of_the_ball_beats_the_direction(norm):
    g = torch.Generator().manual_seed(1)
    G = torch.randn(3, 4, generator=g)
    best = float(norm.dual(G))
    points = torch.randn(4000, 3, 4, generator=g)
    values = torch.stack([norm.value(W) for W in points]) if norm.axes is None else norm.value(points)
    reached = (points * G).sum(dim=(-2, -1)) / values
    assert float(reached.max()) <= best * (1 + 1e-5)
    # Near the direction itself, where a wrong one would be beaten.
    near = norm.lmo(G) + 0.1 * points
    values = torch.stack([norm.value(W) for W in near]) if norm.axes is None else norm.value(near)
    assert float(((near * G).sum(dim=(-2, -1)) / values).max()) <= best * (1 + 1e-5)


def test_the_sign_beats_every_other_pattern_of_signs():
    G = torch.randn(2, 4, generator=torch.Generator().manual_seed(2))
    patterns = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=8))).view(-1, 2, 4)
    inner = (patterns * G).sum(dim=(1, 2))
    assert torch.equal(patterns[inner.argmax()], MaxEntry().lmo(G))


def test_operator_norms_are_what_they_are_called():
    W = torch.randn(4, 6, generator=torch.Generator().manual_seed(3), dtype=F64)
    assert Spectral().value(W) == pytest.approx(float(torch.linalg.matrix_norm(W, 2)), abs=1e-9)
    for p in (1.0, 2.0, 3.0, math.inf):
        columns = max(float(torch.linalg.vector_norm(W[:, j], p)) for j in range(6))
        assert induced_norm(1, p).value(W) == pytest.approx(columns, rel=1e-12)
        rows = max(float(torch.linalg.vector_norm(W[i], conjugate(p))) for i in range(4))
        assert induced_norm(p, math.inf).value(W) == pytest.approx(rows, rel=1e-12)
    x = torch.randn(6, 2000, generator=torch.Generator().manual_seed(4), dtype=F64)
    rms = (W @ x).pow(2).mean(0).sqrt() / x.pow(2).mean(0).sqrt()
    assert 0.9 * float(RMSToRMS().value(W)) < float(rms.max()) <= float(RMSToRMS().value(W)) * (1 + 1e-12)
    assert induced_norm(2, 2) == Spectral()
    for alpha, beta in ((math.inf, 1), (3, 3), (2, 4)):
        with pytest.raises(NoClosedFormError, match="NP-hard"):
            induced_norm(alpha, beta)


@pytest.mark.parametrize("combine", ["max", "sum"])
def test_the_norm_of_a_kernel_bounds_the_convolution_and_is_dual(combine):
    g = torch.Generator().manual_seed(5)
    K = torch.randn(4, 3, 3, 3, generator=g, dtype=F64)
    norm = ConvSpectral(combine)
    T = norm.lmo(K)
    assert float(norm.value(T)) == pytest.approx(1.0, abs=1e-9)
    assert float((T * K).sum()) == pytest.approx(float(norm.dual(K)), rel=1e-9)
    x = torch.randn(50, 3, 8, 8, generator=g, dtype=F64)
    y = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (1, 1, 1, 1), mode="circular"), K)
    ratio = y.pow(2).mean((1, 2, 3)).sqrt() / x.pow(2).mean((1, 2, 3)).sqrt()
    assert float(ratio.max()) <= float(norm.value(K))
    points = torch.randn(2000, 4, 3, 3, 3, generator=g, dtype=F64)
    assert ((points * K).sum((1, 2, 3, 4)) / norm.value(points)).max() <= norm.dual(K) * (1 + 1e-9)


@pytest.mark.parametrize("combine", ["max", "sum"])
@pytest.mark.parametrize("spatial", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_kernel_has_the_norm_of_the_convolution_that_makes_the_same_sums(combine, spatial, groups):
    """Stride 1: the taps mirrored and the channels of each group swapped."""
    g = torch.Generator().manual_seed(6)
    transposed = torch.randn(6, 4, *[3] * spatial, generator=g, dtype=F64)  # (in, out / groups, ...)
    blocks = transposed.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    plain = blocks.flip(tuple(range(-spatial, 0)))
    x = torch.randn(2, 6, *[5] * spatial, generator=g, dtype=F64)
    conv = getattr(torch.nn.functional, f"conv{spatial}d")
    same = getattr(torch.nn.functional, f"conv_transpose{spatial}d")
    torch.testing.assert_close(same(x, transposed, groups=groups), conv(x, plain, padding=2, groups=groups))

    norm, of = ConvSpectral(combine, spatial=spatial), ConvSpectral(combine, "svd", None, spatial, True, groups)
    for number in (norm.value, norm.dual):
        assert float(getattr(of, number.__name__)(transposed)) == pytest.approx(float(number(plain)), rel=1e-12)
    step = of.lmo(transposed)
    assert step.shape == transposed.shape and float(of.value(step)) == pytest.approx(1.0, abs=1e-9)
    assert float((step * transposed).sum()) == pytest.approx(float(norm.dual(plain)), rel=1e-9)
    batch = torch.stack([transposed, 2 * transposed.flip(0)])
    torch.testing.assert_close(of.lmo(batch)[0], step)
    if combine == "max":
        near = of.project(transposed, 0.1)
        assert float(of.value(near)) == pytest.approx(0.1) and float((near - transposed).norm()) == pytest.approx(
            float((norm.project(plain, 0.1) - plain).norm())
        )


def test_kernels_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="spatial=0"):
        ConvSpectral(spatial=0)
    with pytest.raises(ValueError, match="groups"):
        ConvSpectral(transposed=True, groups=0)
    with pytest.raises(ValueError, match="do not make 2 groups"):
        ConvSpectral(transposed=True, groups=2).lmo(torch.ones(3, 2, 3, 3))
    with pytest.raises(ValueError, match="width"):
        ConvSpectral(spatial=1).lmo(torch.ones(3, 3))


@pytest.mark.parametrize(
    "norm",
    [MaxEntry(), Frobenius(), RMS(), Spectral(), RMSToRMS(), L1ToRMS(), Transposed(L1ToRMS()), RowNorm(1.0),
     RowNorm(2.0), RowNorm(math.inf), ColNorm(1.0), ColNorm(math.inf), Schatten(1.0)],
    ids=named,
)  # fmt: skip
def test_a_projection_is_the_nearest_point_of_the_ball(norm):
    g = torch.Generator().manual_seed(6)
    W = 3 * torch.randn(4, 5, generator=g, dtype=F64)
    radius = 0.5 * float(norm.value(W))
    P = norm.project(W, radius)
    assert float(norm.value(P)) == pytest.approx(radius, rel=1e-9)
    # The variational inequality of a projection on a convex set, against random points of the ball and the farthest.
    for _ in range(200):
        Q = torch.randn(4, 5, generator=g, dtype=F64)
        Q = Q * (radius / float(norm.value(Q)))
        assert float(((W - P) * (Q - P)).sum()) <= 1e-9
    assert float(((W - P) * (radius * norm.lmo(W - P) - P)).sum()) <= 1e-8
    assert torch.allclose(norm.project(0.1 * P, radius), 0.1 * P)


@pytest.mark.parametrize("norm", [n for n in MATRIX_NORMS if n.axes == 2], ids=named)
def test_batches_are_dealt_with_one_by_one(norm):
    batch = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(7), dtype=F64)
    for whole, single in ((norm.lmo(batch), norm.lmo), (norm.value(batch), norm.value), (norm.dual(batch), norm.dual)):
        assert torch.allclose(whole, torch.stack([single(G) for G in batch]))


@pytest.mark.parametrize("norm", [Spectral(), L1ToRMS(), RowNorm(), Schatten(3.0)], ids=named)
def test_half_precision_in_half_precision_out(norm):
    G = torch.randn(6, 4, generator=torch.Generator().manual_seed(8)).bfloat16()
    T = norm.lmo(G)
    assert T.dtype == torch.bfloat16
    assert float(norm.value(T.float())) == pytest.approx(1, abs=0.02)


def test_bad_input():
    for norm in (Spectral(), L1ToRMS(), RowNorm(), Schatten()):
        with pytest.raises(ValueError, match="matrix"):
            norm.lmo(torch.ones(3))
    with pytest.raises(ValueError, match="kernel"):
        ConvSpectral().lmo(torch.ones(3, 3))
    with pytest.raises(ValueError, match="real"):
        Spectral().value(torch.eye(2, dtype=torch.cfloat))
    with pytest.raises(ValueError, match="at least 1"):
        Schatten(0.5)
    with pytest.raises(ValueError, match="scaling"):
        Spectral(scaling="rsm")
    with pytest.raises(ValueError, match="closed form"):
        Schatten(3.0).project(torch.eye(2), 0.5)
