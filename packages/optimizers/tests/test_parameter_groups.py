"""Parameter groups with numbers of their own: checked as defaults are, and heeded; batches of tensors of one shape."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tensorbench.optimizers.adahessian import AdaHessian
from tensorbench.optimizers.m_fac import MFAC
from tensorbench.optimizers.norm_descent import SignDescent
from tensorbench.optimizers.prodigy import Prodigy, ProdigyNoEMA
from tensorbench.optimizers.psgd import PSGD
from tensorbench.optimizers.shampoo import Shampoo, ShampooNoEMA
from tensorbench.optimizers.structured_ngd.ingd import INGD
from tensorbench.optimizers.structured_ngd.kfac import KFAC
from tensorbench.optimizers.tensor_programs.updates import Adam, Entrywise

MAKERS = {
    "shampoo": Shampoo,
    "shampoo_no_ema": ShampooNoEMA,
    "prodigy": Prodigy,
    "prodigy_no_ema": ProdigyNoEMA,
    "sign": SignDescent,
    "adahessian": AdaHessian,
    "m_fac": lambda params: MFAC(params, ngrads=4),
    "psgd": PSGD,
    "entrywise": lambda params: Entrywise(params, Adam()),
}
BAD = [
    *((name, {"lr": lr}, "lr") for name in MAKERS for lr in (0.0, -1.0, float("nan"))),
    *((name, {"weight_decay": -0.1}, "weight_decay") for name in MAKERS if "no_ema" not in name),
    ("shampoo", {"beta": 1.5}, "beta"),
    ("shampoo", {"update_every": 0}, "update_every"),
    ("prodigy", {"betas": (0.9, 1.0)}, "betas"),
    ("prodigy", {"growth_rate": 1.0}, "growth_rate"),
    ("adahessian", {"betas": (1.0, 0.9)}, "betas"),
    ("adahessian", {"hessian_power": 2.0}, "hessian_power"),
    ("psgd", {"lr_preconditioner": 3.0}, "lr_preconditioner"),
    ("psgd", {"grad_clip_max_amps": (1.0, -1.0)}, "grad_clip_max_amps"),
    ("sign", {"momentum": 1.0}, "momentum"),
]


def parameter(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(("name", "numbers", "word"), BAD, ids=[f"{n}-{next(iter(o.items()))}" for n, o, _ in BAD])
def test_a_group_with_a_bad_number_is_refused(name, numbers, word):
    with pytest.raises(ValueError, match=word):
        MAKERS[name]([{"params": [parameter(3, 4)]}, {"params": [parameter(2, 2)], **numbers}])
    optimizer = MAKERS[name]([parameter(3, 4)])
    with pytest.raises(ValueError, match=word):
        optimizer.add_param_group({"params": [parameter(2, 2)], **numbers})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("make", [INGD, KFAC])
def test_kronecker_groups_are_checked(make):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    groups = [{"params": model[0].parameters()}, {"params": model[1].parameters(), "damping": -1.0}]
    with pytest.raises(ValueError, match="damping"):
        make(model, params=groups)


@pytest.mark.parametrize("numbers", [{"lr": 0.5}, {"betas": (0.8, 0.99)}, {"d0": 1e-3}, {"eps": 1e-3}])
def test_prodigy_has_one_of_each_number_but_weight_decay(numbers):
    with pytest.raises(ValueError, match="has one"):
        Prodigy([{"params": [parameter(3, 4)]}, {"params": [parameter(2, 2)], **numbers}])
    Prodigy([{"params": [parameter(3, 4)]}, {"params": [parameter(2, 2)], "weight_decay": 0.1}])


@pytest.mark.parametrize("make", [lambda p: PSGD(p, lr=0.1), lambda p: Shampoo(p, lr=0.1, eps=1e-3), SignDescent])
def test_a_group_moves_at_its_own_rate(make):
    p, q = parameter(3, 4), parameter(3, 4)
    optimizer = make([{"params": [p]}, {"params": [q]}])
    optimizer.param_groups[1]["lr"] = 10 * optimizer.param_groups[0]["lr"]
    start = p.detach().clone()
    for w in (p, q):
        w.grad = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    optimizer.step()
    if make is SignDescent or isinstance(optimizer, Shampoo):  # PSGD's preconditioners differ between groups
        torch.testing.assert_close(q.detach() - start, 10 * (p.detach() - start))
    assert float((q.detach() - start).norm()) > 3 * float((p.detach() - start).norm())


@pytest.mark.parametrize("options", [{}, {"beta": 0.9, "momentum": 0.9, "update_every": 2}, {"exponent": -0.3}])
def test_shampoo_in_batches_is_shampoo_one_by_one(options):
    """Four of one shape, a convolution with the matrix of another's shape, vectors; one joins later."""
    shapes = [(4, 6)] * 4 + [(4, 3, 2, 1), (5,), (5,), (3, 7)]
    together = [parameter(*shape, seed=k).double() for k, shape in enumerate(shapes)]
    together = [nn.Parameter(w.detach()) for w in together]
    alone = [nn.Parameter(w.detach().clone()) for w in together]
    one = Shampoo(together, lr=0.05, eps=1e-4, weight_decay=0.01, **options)
    many = [Shampoo([w], lr=0.05, eps=1e-4, weight_decay=0.01, **options) for w in alone]
    generator = torch.Generator().manual_seed(9)
    for step in range(5):
        for k, (p, q) in enumerate(zip(together, alone, strict=True)):
            late = k == 2 and step < 2
            p.grad = None if late else torch.randn(p.shape, generator=generator, dtype=torch.float64)
            q.grad = None if late else p.grad.clone()
        one.step()
        for optimizer, q in zip(many, alone, strict=True):
            if q.grad is not None:
                optimizer.step()
    for p, q in zip(together, alone, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
