"""The orthogonal factor and inverse roots, against LAPACK."""

import pytest
import torch

from tensorbench.optimizers.matrix_functions import inv_root, orthogonalize

F64 = torch.float64


def conditioned(out, into, condition, seed=0, dtype=F64):
    g = torch.Generator().manual_seed(seed)
    rank = min(out, into)
    left = torch.linalg.qr(torch.randn(out, rank, generator=g, dtype=F64))[0]
    right = torch.linalg.qr(torch.randn(into, rank, generator=g, dtype=F64))[0]
    values = torch.logspace(0, -float(torch.log10(torch.tensor(condition))), rank, dtype=F64)
    return ((left * values) @ right.T).to(dtype)


def polar(G):
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    return U @ Vh


@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (12, 5), (1, 7), (7, 1)])
@pytest.mark.parametrize(
    ("method", "options"), [("svd", {}), ("cubic", {}), ("eigh", {}), ("polar_express", {"steps": 12})]
)
def test_converging_methods_give_the_polar_factor(method, options, shape):
    G = conditioned(*shape, 1e3)
    assert (orthogonalize(G, method, **options) - polar(G)).abs().max() < 1e-5
    batch = torch.stack([G, -3 * G])
    found = orthogonalize(batch, method, **options)
    assert torch.allclose(found[1], -found[0], atol=1e-9) and torch.allclose(found[0], polar(G), atol=1e-5)


def test_quintic_brings_singular_values_near_one_and_leaves_them_there():
    S = torch.linalg.svdvals(orthogonalize(conditioned(40, 60, 20.0), "quintic"))
    assert S.min() > 0.6 and S.max() < 1.3
    more = torch.linalg.svdvals(orthogonalize(conditioned(40, 60, 20.0), "quintic", 30))
    assert (more - 1).abs().max() > 0.05  # which is why it is no oracle


@pytest.mark.parametrize("shape", [(48, 32), (32, 48)])
def test_quintic_is_the_polynomial_of_the_singular_values_that_torchs_muon_steps_with(shape):
    p = torch.nn.Parameter(torch.zeros(shape))
    p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    U, S, Vh = torch.linalg.svd(p.grad.double(), full_matrices=False)
    S = S / S.norm()
    for _ in range(5):
        S = 3.4445 * S - 4.7750 * S**3 + 2.0315 * S**5
    exact = (U * S) @ Vh
    assert (orthogonalize(p.grad, "quintic") - exact).abs().max() < 1e-5
    torch.optim.Muon([p], lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0).step()
    peer = -p.detach() / max(1.0, shape[0] / shape[1]) ** 0.5
    half = orthogonalize(p.grad, "quintic", dtype=torch.bfloat16)
    assert (half - peer).norm() < 0.03 * exact.norm()
    assert (half - exact).norm() < 1.1 * (peer - exact).norm()  # no further from the exact one than torch's


@pytest.mark.parametrize("method", ["svd", "cubic", "quintic", "polar_express", "eigh"])
def test_zero_gives_zero_and_rank_one_stays_rank_one(method):
    assert not orthogonalize(torch.zeros(3, 4), method).any()
    G = torch.outer(torch.tensor([1.0, 2.0, 2.0], dtype=F64), torch.tensor([3.0, 4.0], dtype=F64))
    atol = 0.4 if method == "quintic" else 1e-6
    assert torch.allclose(orthogonalize(G, method), G / 15, atol=atol)
    tiny = orthogonalize(1e-20 * G.float(), method)
    assert torch.isfinite(tiny).all()


def test_a_sketch_of_full_rank_is_exact_and_of_the_rank_of_a_low_rank_matrix_too():
    g = torch.Generator().manual_seed(0)
    G = torch.randn(20, 3, generator=g, dtype=F64) @ torch.randn(3, 15, generator=g, dtype=F64)
    assert torch.allclose(orthogonalize(G, "sketch", rank=3, generator=g), orthogonalize(G), atol=1e-9)
    with pytest.raises(ValueError, match="rank"):
        orthogonalize(G, "sketch")


def test_damping_pulls_small_singular_values_down():
    G = conditioned(6, 6, 1e4)
    S = torch.linalg.svdvals(G)
    found = torch.linalg.svdvals(orthogonalize(G, "eigh", damping=1e-3))
    assert torch.allclose(found, (S / (S**2 + 1e-3).sqrt()).sort(descending=True).values, atol=1e-8)


def test_bad_input():
    with pytest.raises(ValueError, match="quintic"):
        orthogonalize(torch.eye(2), "quntic")
    for bad in (torch.ones(3), torch.eye(2, dtype=torch.cfloat), torch.eye(2).long()):
        with pytest.raises(ValueError, match="real matrices"):
            orthogonalize(bad)
    with pytest.raises(ValueError, match="steps"):
        orthogonalize(torch.eye(2), "cubic", 0)
    with pytest.raises(ValueError, match="square"):
        inv_root(torch.ones(2, 3), 2)


@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("method", ["eigh", "newton"])
def test_the_power_of_an_inverse_root_is_the_inverse(p, method):
    g = torch.Generator().manual_seed(p)
    B = torch.randn(3, 6, 6, generator=g, dtype=F64)
    A = B @ B.mT + 0.1 * torch.eye(6, dtype=F64)
    X = inv_root(A, p, method)
    assert torch.allclose(torch.linalg.matrix_power(X, p) @ A, torch.eye(6, dtype=F64), atol=1e-8)


def test_the_root_of_a_singular_matrix_is_that_of_its_pseudo_inverse_or_an_error():
    A = torch.diag(torch.tensor([4.0, 1.0, 0.0], dtype=F64))
    assert torch.allclose(inv_root(A, 2), torch.diag(torch.tensor([0.5, 1.0, 0.0], dtype=F64)))
    with pytest.raises(ValueError, match="damping"):
        inv_root(A, 4, "newton", steps=30)
