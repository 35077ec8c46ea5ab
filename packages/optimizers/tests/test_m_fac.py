"""Inverse Fisher products against dense inverses, pruning against constrained minima, the optimizer against both."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from tensorbench.core.training import fit
from tensorbench.optimizers.autodiff import full_fisher, per_sample_grads
from tensorbench.optimizers.base import NonFiniteGradientError
from tensorbench.optimizers.m_fac import MFAC, DynamicMFAC, StaticMFAC, woodbury
from tensorbench.optimizers.m_fac.gradients import collect, search_damping
from tensorbench.optimizers.m_fac.pruner import (
    Masks,
    Policy,
    densities,
    gradual,
    multiply_adds,
    one_shot,
    places,
    prune_once,
    surgeon_move,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradients(m: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(m, d, generator=generator(seed), dtype=dtype)


def dense(grads: torch.Tensor, damp: float) -> torch.Tensor:
    eye = torch.eye(grads.shape[1], dtype=torch.float64)
    return torch.linalg.inv(damp * eye + grads.double().T @ grads.double() / len(grads))


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-9) -> bool:
    return float((a - b).norm() / b.norm()) <= tolerance


CASES = {"few": gradients(8, 50), "many": gradients(70, 50), "one": gradients(1, 50),
         "twins": gradients(4, 50).repeat(3, 1)}  # fmt: skip


# --- products with the inverse ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("damp", [1e-3, 1.0])
def test_all_algorithms_are_the_dense_inverse(name, damp):
    grads, x = CASES[name], gradients(1, 50, 9)[0]
    exact = dense(grads, damp)
    static = StaticMFAC(grads, damp)
    assert close(woodbury(grads, damp, x), exact @ x) and close(static.mul(x), exact @ x)
    assert close(static.diag(), exact.diagonal()) and close(static.row(7), exact[7])
    assert static.element(3, 11) == pytest.approx(float(exact[3, 11]), rel=1e-7)
    assert static.element(3, 11) == pytest.approx(static.element(11, 3), rel=1e-12)
    assert static.element(3, 3) == pytest.approx(float(exact[3, 3]), rel=1e-7)
    many = gradients(5, 50, 4).T
    assert close(static.mul_many(many), exact @ many)
    dynamic = DynamicMFAC(len(grads), 50, damp, torch.float64)
    for g in grads:
        dynamic.update(g)
    assert close(dynamic.mul(x), exact @ x)


def test_it_is_the_papers_recursion():
    grads, damp, x = CASES["few"], 1e-2, gradients(1, 50, 9)[0]
    m, rows, denominators = len(grads), [], []
    for g in grads:
        row = g / damp - sum((r * (r @ g) / c for r, c in zip(rows, denominators, strict=True)), torch.zeros_like(g))
        rows.append(row)
        denominators.append(m + g @ row)
    expected = x / damp - sum(r * (r @ x) / c for r, c in zip(rows, denominators, strict=True))
    static = StaticMFAC(grads, damp)
    assert close(static.mul(x), expected)
    assert close(static._parts[0].rows[0], torch.stack(rows))
    assert close(static._parts[0].denominators, torch.stack(denominators))


def test_the_order_of_the_gradients_does_not_matter():
    x = gradients(1, 50, 9)[0]
    assert close(StaticMFAC(CASES["few"].flip(0), 1e-3).mul(x), StaticMFAC(CASES["few"], 1e-3).mul(x))


@pytest.mark.parametrize(("d", "block"), [(103, 25), (103, 5), (100, 25), (40, 64)])
def test_blocks_are_inverted_by_themselves(d, block):
    grads, x = gradients(12, d), gradients(1, d, 3)[0]
    blocked = StaticMFAC(grads, 1e-2, block)
    parts = [dense(part, 1e-2) for part in grads.split(block, dim=1)]
    exact = torch.block_diag(*parts)
    assert close(blocked.mul(x), exact @ x) and close(blocked.diag(), exact.diagonal())
    assert close(blocked.row(d - 1), exact[d - 1])
    assert blocked.element(0, 1) == pytest.approx(float(exact[0, 1]), rel=1e-7, abs=1e-12)
    assert blocked.element(0, d - 1) == pytest.approx(float(exact[0, d - 1]), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("pages", [2, 4])
def test_pages_change_nothing(pages):
    grads, x = gradients(12, 103), gradients(1, 103, 3)[0]
    whole, paged = StaticMFAC(grads, 1e-3), StaticMFAC(grads, 1e-3, pages=pages)
    assert close(paged.mul(x), whole.mul(x), 1e-12) and close(paged.diag(), whole.diag(), 1e-12)
    assert close(paged.row(60), whole.row(60), 1e-12) and len(paged._parts[0].rows) == pages


def test_no_gradients_leave_the_damping():
    x = gradients(1, 30, 3)[0]
    assert close(StaticMFAC(torch.zeros(4, 30, dtype=torch.float64), 0.25).mul(x), 4 * x)
    assert close(DynamicMFAC(4, 30, 0.25, torch.float64).mul(x), 4 * x)


def test_the_window_holds_the_last_gradients():
    stream, x = gradients(23, 40), gradients(1, 40, 5)[0]
    window = DynamicMFAC(6, 40, 1e-2, torch.float64)
    for g in stream:
        window.update(g)
    assert torch.equal(window.window(), stream[-6:])
    assert close(window.mul(x), woodbury(stream[-6:], 1e-2, x)) and torch.equal(window.dots, window.dots.T)
    window.remove_oldest()
    left = torch.cat([stream[-5:], torch.zeros(1, 40, dtype=torch.float64)])  # it still divides by 6
    assert close(window.mul(x), woodbury(left, 1e-2, x)) and torch.equal(window.dots, window.dots.T)
    window.update(stream[0])
    assert torch.equal(window.window(), torch.cat([stream[-5:], stream[:1]]))


def test_update_and_product_in_one():
    one, two = (DynamicMFAC(5, 30, 1e-2, torch.float64) for _ in range(2))
    for g in gradients(9, 30):
        two.update(g)
        assert close(one.update_mul(g), two.mul(g), 1e-12)


def test_single_precision_is_near():
    grads, x = gradients(64, 2000), gradients(1, 2000, 3)[0]
    exact = woodbury(grads, 1e-3, x)
    assert close(StaticMFAC(grads.float(), 1e-3).mul(x.float()).double(), exact, 2e-3)


# --- gradients --------------------------------------------------------------------------------------------------------


def network(seed: int = 0, widths=(6, 5, 3)) -> nn.Sequential:
    torch.manual_seed(seed)
    a, b, c = widths
    return nn.Sequential(nn.Linear(a, b), nn.Tanh(), nn.Linear(b, c)).double()


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def samples(count: int = 40):
    return gradients(count, 6, 2), torch.randint(3, (count,), generator=generator(3))


def test_gradients_of_samples_and_batches():
    model, data = network(), samples()
    rows = collect(model, loss, data, 40, generator(), chunk=7)
    order = torch.randperm(40, generator=generator())
    assert close(rows, per_sample_grads(model, loss, data)[order], 1e-12)
    batches = collect(model, loss, data, 10, generator(), batch=4, chunk=9)
    assert close(batches, rows.reshape(10, 4, -1).mean(1), 1e-12)
    assert collect(model, loss, data, 10, generator(), centred=True).mean(0).abs().max() < 1e-12
    with pytest.raises(ValueError, match="need 44 samples"):
        collect(model, loss, data, 11, generator(), batch=4)


def test_true_fisher_draws_the_models_labels():
    model, (x, y) = network(), samples()
    x, y = x[:1].repeat(4000, 1), y[:1].repeat(4000)
    rows = collect(model, loss, (x, y), 4000, generator(), fisher="true", chunk=4000)
    exact = full_fisher(model, loss, (x[:1], y[:1]), "softmax")
    assert close(rows.T @ rows / 4000, exact, 0.1)
    assert not close(full_fisher(model, loss, (x[:1], y[:1])), exact, 0.1)


def test_damping_is_searched_on_the_loss_given():
    best, losses = search_damping(gradients(8, 20), [1e-3, 1e-1, 10.0], lambda inverse: abs(inverse.damp - 0.2))
    assert best == 0.1 and set(losses) == {1e-3, 1e-1, 10.0}
    with pytest.raises(ValueError, match="finite"):
        search_damping(gradients(8, 20), [1e-3], lambda inverse: float("nan"))


# --- pruning ----------------------------------------------------------------------------------------------------------


def test_the_move_is_the_constrained_minimum():
    grads, damp, w = gradients(9, 12), 0.1, gradients(1, 12, 5)[0]
    fisher = torch.linalg.inv(dense(grads, damp)).numpy()
    inverse = StaticMFAC(grads, damp)

    def minimum(fixed):
        held = [{"type": "eq", "fun": lambda v, i=i: v[i] + w[i].item(), "jac": lambda v, i=i: np.eye(12)[i]}
                for i in fixed]  # fmt: skip
        options = {"ftol": 1e-16, "maxiter": 500}
        return minimize(lambda v: v @ fisher @ v / 2, np.zeros(12), jac=lambda v: fisher @ v, constraints=held,
                        method="SLSQP", options=options).x  # fmt: skip

    for fixed, update in (([4], "sum"), ([4], "joint"), ([1, 4, 9], "joint")):
        removed = torch.zeros(12, dtype=torch.bool)
        removed[fixed] = True
        move = surgeon_move(w, removed, inverse, update)
        assert np.allclose(move.numpy(), minimum(fixed), atol=1e-8)
        rise = float(move @ torch.from_numpy(fisher) @ move / 2)
        if len(fixed) == 1:
            assert rise == pytest.approx(float(w[4] ** 2 / (2 * inverse.diag()[4])), rel=1e-9)


def test_the_cheapest_weight_goes_first():
    grads, w = gradients(9, 12), gradients(1, 12, 5)[0]
    cost = w**2 / (2 * dense(grads, 0.1).diagonal())
    _, kept = prune_once(w, torch.ones(12, dtype=torch.bool), 1 / 12, Policy(damp=0.1), grads)
    assert (~kept).nonzero().item() == int(cost.argmin())
    _, kept = prune_once(w, torch.ones(12, dtype=torch.bool), 1 / 12, Policy("magnitude"))
    assert (~kept).nonzero().item() == int(w.abs().argmin())


def test_sparsity_is_what_was_asked_and_only_grows():
    model, data = network(widths=(6, 20, 3)), samples()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    seen = []

    def finetune(trained, masks):
        seen.append(masks.vector())
        with torch.no_grad():
            for p in trained.parameters():
                p.add_(0.01)

    found = gradual(model, [0.3, 0.6, 0.8], Policy(), lambda m: collect(m, loss, data, 32, generator()), finetune)
    assert found.sparsity() == pytest.approx(0.8, abs=1 / 180) and set(found.kept) == {"0.weight", "2.weight"}
    assert all((later <= earlier).all() for earlier, later in itertools.pairwise(seen))
    assert torch.equal(Masks.of_nonzero(model).vector(), found.vector())
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert densities(0.75, 2) == pytest.approx([0.5, 0.75])


def test_second_order_pruning_hurts_less():
    """Inputs that copy one another: magnitude removes all copies, the surgeon lets one stand for the others."""
    x = gradients(400, 4, 2)
    x = torch.cat([x] * 4, dim=1) + 0.01 * gradients(400, 16, 6)
    y = x[:, :4] @ gradients(4, 3, 7)
    model = nn.Sequential(nn.Linear(16, 3)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.linalg.lstsq(x, y).solution.T)
        model[0].bias.zero_()
    # at the minimum errors are small; with a unit error a sample's squared gradient is that of the Hessian
    rows = torch.cat([torch.block_diag(*[x[i]] * 3).reshape(3, 48) for i in range(16 * 8)])
    grads = torch.cat([rows, torch.zeros(len(rows), 3, dtype=torch.float64)], dim=1)
    results = {}
    for rule in ("magnitude", "diagonal", "m_fac"):
        copy = nn.Sequential(nn.Linear(16, 3)).double()
        copy.load_state_dict(model.state_dict())
        one_shot(copy, 0.7, Policy(rule), lambda _: grads, recomputations=8)
        results[rule] = float((copy(x) - y).detach().square().mean())
    assert results["m_fac"] < 0.5 * min(results["magnitude"], results["diagonal"])


def test_densities_and_multiplications():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 16, 5))
    masks = one_shot(model, 0.5, Policy("magnitude"))
    sparse, full = multiply_adds(model, torch.zeros(1, 1, 6, 6), masks)
    assert full == 16 * 18 + 160
    assert sparse == 16 * int(masks.kept["0.weight"].sum()) + int(masks.kept["2.weight"].sum())
    assert sum(masks.densities()[n] * k.numel() for n, k in masks.kept.items()) == 89
    assert int(places(model).sum()) == 178


def test_a_layer_that_is_pruned_away_is_told_of():
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(1e-3)
    with pytest.warns(UserWarning, match=r"0\.weight"):
        one_shot(model, 0.7, Policy("magnitude"))


# --- the optimizer ----------------------------------------------------------------------------------------------------


def test_steps_are_products_with_the_windows_inverse():
    model, data = network(), samples()
    optimizer = MFAC(model.parameters(), lr=0.1, ngrads=4, damp=0.1, momentum=0.5, weight_decay=0.01)
    seen, v = [], 0
    for _ in range(6):
        w = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        optimizer.zero_grad()
        loss(model, data).backward()
        seen.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]) + 0.01 * w)
        window = torch.stack(seen[-4:] + [torch.zeros_like(w)] * max(0, 4 - len(seen)))
        v = 0.5 * v + 0.5 * woodbury(window, 0.1, seen[-1])
        optimizer.step()
        assert close(torch.cat([p.detach().reshape(-1) for p in model.parameters()]), w - 0.1 * v, 1e-10)


def test_pruned_weights_stay_zero():
    model, data = network(), samples()
    masks = one_shot(model, 0.6, Policy("magnitude"))
    optimizer = MFAC(model.parameters(), lr=0.05, ngrads=8, damp=0.1, momentum=0.9, sparse=True)
    fit(model, [data], loss, optimizer, steps=10)
    left = int(masks.vector().sum()) + 5 + 3 - int(sum((p == 0).sum() for n, p in model.named_parameters() if "b" in n))
    assert torch.equal(Masks.of_nonzero(model).vector(), masks.vector())
    assert optimizer.velocity.shape == (left,) == (optimizer.window.d,)


def test_it_trains_and_goes_on_from_its_state():
    x, _ = samples()
    data = x, (x @ gradients(6, 3, 8)).argmax(1)  # labels that can be learnt
    whole = network()
    options = {"lr": 0.2, "ngrads": 6, "damp": 0.1, "momentum": 0.5}
    history = fit(whole, [data], loss, MFAC(whole.parameters(), **options), steps=30)
    assert history.losses[-1] < 0.8 * history.losses[0]
    half = network()
    first = MFAC(half.parameters(), **options)
    fit(half, [data], loss, first, steps=12)
    other = network(1)
    other.load_state_dict(half.state_dict())
    second = MFAC(other.parameters(), **options)
    second.load_state_dict(first.state_dict())
    fit(other, [data], loss, second, steps=18)
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), other.parameters(), strict=True))
    with pytest.raises(ValueError, match="window"):
        MFAC(other.parameters(), ngrads=7, momentum=0.5).load_state_dict(first.state_dict())


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: StaticMFAC(gradients(3, 5), 0.0), lambda: StaticMFAC(gradients(3, 5), block=0),
        lambda: StaticMFAC(gradients(3, 5), pages=0), lambda: StaticMFAC(gradients(3, 5)[:0]),
        lambda: StaticMFAC(gradients(3, 5)).mul(torch.zeros(4, dtype=torch.float64)),
        lambda: StaticMFAC(gradients(3, 5)).element(0, 5), lambda: DynamicMFAC(0, 5), lambda: DynamicMFAC(3, 5, -1.0),
        lambda: DynamicMFAC(3, 5).update(torch.zeros(4)), lambda: DynamicMFAC(3, 5).remove_oldest(),
        lambda: MFAC([nn.Parameter(torch.ones(2))], damp=0.0), lambda: MFAC([nn.Parameter(torch.ones(2))], ngrads=0),
        lambda: MFAC([nn.Parameter(torch.zeros(2))], sparse=True), lambda: Policy("magnitud"),
        lambda: Policy(block=0), lambda: one_shot(network(), 1.0, Policy("magnitude")),
        lambda: one_shot(network(), 0.5, Policy()), lambda: one_shot(nn.BatchNorm1d(3), 0.5, Policy("magnitude")),
        lambda: gradual(network(), [0.5, 0.2], Policy("magnitude")),
    ],
)  # fmt: skip
def test_bad_input_is_refused(make):
    with pytest.raises(ValueError):
        make()


def test_what_is_not_finite_is_named_and_changes_nothing():
    grads = gradients(3, 5)
    grads[1, 2] = float("nan")
    with pytest.raises(ValueError, match="gradient 1 of 3"):
        StaticMFAC(grads)
    window = DynamicMFAC(3, 5, dtype=torch.float64)
    window.update(grads[0])
    with pytest.raises(ValueError, match="update 2"):
        window.update(grads[1])
    assert torch.equal(window.window(), grads[:1])
    x = nn.Parameter(torch.ones(2))
    optimizer = MFAC([x], ngrads=2)
    x.grad = torch.tensor([1.0, float("inf")])
    with pytest.raises(NonFiniteGradientError, match="parameter 0"):
        optimizer.step()
    assert torch.equal(x, torch.ones(2)) and optimizer.window.count == 0
