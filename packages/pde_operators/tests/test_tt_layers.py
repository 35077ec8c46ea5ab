"""A tensor-train matrix is the matrix that it stands for, whatever the order of contraction."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from tensorbench.pde_operators.tt_layers import (
    DENSE_LIMIT,
    TTMatrixLayer,
    bounded_ranks,
    factor_modes,
    plan,
    tt_parameters,
)

MODES = ((2, 3, 2, 4), (3, 2, 4, 2), (1, 4, 5, 3, 1))
ORDERS = ["auto", "forward", "backward", "halves", "dense"]


def layer(copies: int | None = None, order: str = "auto", **options) -> TTMatrixLayer:
    return TTMatrixLayer(
        *MODES, copies=copies, order=order, generator=torch.Generator().manual_seed(0), **options
    ).double()


def brute_force(cores) -> torch.Tensor:
    """Entry by entry from the definition."""
    matrix = torch.zeros(48, 48, dtype=torch.float64)
    for i in range(48):
        for j in range(48):
            a, b, product = i, j, torch.ones(1, 1, dtype=torch.float64)
            digits = []
            for m, n in zip(reversed(MODES[0]), reversed(MODES[1]), strict=True):
                digits.append((a % m, b % n))
                a, b = a // m, b // n
            for core, (p, q) in zip(cores, reversed(digits), strict=True):
                product = product @ core[:, p, q, :]
            matrix[i, j] = product[0, 0]
    return matrix


def test_dense_is_the_definition():
    tt = layer()
    assert torch.allclose(tt.to_dense(), brute_force([c[0].detach() for c in tt.cores]), atol=1e-14)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("batch", [1, 7, 200])
def test_every_order_is_the_dense_product(order, batch):
    tt, x = layer(order=order), torch.randn(batch, 48, dtype=torch.float64)
    assert torch.allclose(tt(x), x @ tt.to_dense(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_stack_is_its_members_and_total_their_sum(order):
    tt, x = layer(copies=3, order=order), torch.randn(5, 2, 3, 48, dtype=torch.float64)
    each = torch.einsum("abkm,kmn->abkn", x, tt.to_dense())
    assert torch.allclose(tt(x), each, rtol=0, atol=1e-12)
    assert torch.allclose(tt(x, total=True), each.sum(dim=2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_gradients_are_those_of_the_dense_product(order):
    tt, x = layer(order=order), torch.randn(4, 48, dtype=torch.float64)
    (g,) = torch.autograd.grad(tt(x).square().sum(), tt.cores[1])
    cores = [core[0] for core in tt.cores]
    W = torch.einsum("imna,apqb,brsc,ctuj->mprtnqsu", *cores).reshape(48, 48)
    (h,) = torch.autograd.grad((x @ W).square().sum(), tt.cores[1])
    assert torch.allclose(g, h, atol=1e-11)


def test_tt_svd_with_full_ranks_is_exact_and_truncation_is_monotone():
    W = torch.randn(48, 48, dtype=torch.float64)
    full = bounded_ranks(MODES[0], MODES[1], 10**6)
    assert torch.allclose(TTMatrixLayer.from_dense(W, MODES[0], MODES[1], full).to_dense(), W, atol=1e-10)
    errors = [
        torch.linalg.norm(TTMatrixLayer.from_dense(W, *MODES[:2], bounded_ranks(*MODES[:2], r)).to_dense() - W).item()
        for r in (1, 2, 4, 8)
    ]
    assert all(a > b for a, b in pairwise(errors))
    again = TTMatrixLayer.from_dense(layer().to_dense(), *MODES)
    assert torch.allclose(again.to_dense(), layer().to_dense(), atol=1e-12)


def test_counts():
    tt = layer(copies=3, bias=True)
    assert sum(p.numel() for p in tt.parameters()) == 3 * tt_parameters(*MODES) + 48
    assert tt_parameters([2] * 7, [4] * 7, [1, 7, 16, 16, 16, 16, 7, 1]) == 8048
    # Two cores of rank 1: the first makes 2 of 2 inputs with the other 2 as spectators, the second likewise.
    assert plan((2, 2), (2, 2), (1, 1, 1), 1, "forward").macs == 2 * 4 + 2 * 4
    assert layer(copies=3).macs(4) == 3 * layer().macs(4)


def test_auto_is_no_dearer_than_any_order_and_forms_no_large_matrix():
    args = ((2,) * 7, (4,) * 7, (1, 7, 16, 16, 16, 16, 7, 1))
    for batch in (1, 100, 10**6):
        auto = plan(*args, batch)
        assert all(auto.macs <= plan(*args, batch, kind).macs for kind in ("forward", "backward", "halves"))
        assert auto.kind != "dense" and DENSE_LIMIT < 128 * 16384


def test_variance_of_the_initial_matrix():
    tt = TTMatrixLayer([4] * 3, [4] * 3, [1, 6, 6, 1], copies=400, generator=torch.Generator().manual_seed(1))
    assert tt.to_dense().square().mean().item() == pytest.approx(2 / 128, rel=0.15)


def test_same_generator_same_weights():
    assert all(torch.equal(a, b) for a, b in zip(layer().cores, layer().cores, strict=True))


@pytest.mark.parametrize(("size", "parts"), [(512, 5), (16384, 7), (60, 3), (7, 3), (1, 2)])
def test_factor_modes(size, parts):
    modes = factor_modes(size, parts)
    assert math.prod(modes) == size and len(modes) == parts and list(modes) == sorted(modes, reverse=True)


@pytest.mark.parametrize(
    ("modes", "words"),
    [
        (([2, 2], [2], [1, 2, 1]), "same length"),
        (([2, 2], [2, 2], [1, 2, 2]), "start and end with 1"),
        (([2, 2], [2, 2], [1, 1]), "3 entries"),
        (([2, 0], [2, 2], [1, 2, 1]), "at least 1"),
    ],
)
def test_bad_modes(modes, words):
    with pytest.raises(ValueError, match=words):
        TTMatrixLayer(*modes)


def test_bad_input():
    with pytest.raises(ValueError, match="must be 48"):
        layer()(torch.zeros(2, 47, dtype=torch.float64))
    with pytest.raises(ValueError, match="copies"):
        layer(copies=3)(torch.zeros(2, 48, dtype=torch.float64))
    with pytest.raises(ValueError, match="one matrix"):
        layer()(torch.zeros(2, 48, dtype=torch.float64), total=True)
    with pytest.raises(ValueError, match="did you mean 'forward'"):
        layer(order="foward")
    with pytest.raises(ValueError, match="not 48 x 48"):
        TTMatrixLayer.from_dense(torch.zeros(48, 47), *MODES)


def test_a_decomposed_matrix_stays_on_its_device():
    layer = TTMatrixLayer.from_dense(torch.empty(6, 4, device="meta"), [3, 2], [2, 2], [1, 4, 1])
    assert {core.device.type for core in layer.cores} == {"meta"}
