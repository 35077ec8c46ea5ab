"""Derivatives against torch.func on small models, with tied weights, unused parameters and losses without curvature."""

import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from tensorbench.optimizers import autodiff, curvature, flat, probes


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture
def small():
    g = generator()
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.5, generator=g)
    x = torch.randn(11, 5, generator=g, dtype=torch.float64)
    return model, (x, torch.randint(0, 3, (11,), generator=g))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.embedding(tokens).sin())


def oracle_hessian(model, batch):
    names = [name for name, _ in model.named_parameters()]
    params = list(model.parameters())

    def of(vector):
        given = dict(zip(names, flat.unflatten(vector, params), strict=True))
        return F.cross_entropy(functional_call(model, given, batch[0]), batch[1])

    return torch.func.hessian(of)(flat.flatten(params).detach())


def test_vectors_and_lists_are_the_same_numbers(small):
    params = flat.trainable(small[0])
    vector = flat.flatten(params)
    assert all(torch.equal(a, b) for a, b in zip(flat.unflatten(vector, params), params, strict=True))
    assert [vector[s].numel() for s in flat.slices(params)] == [p.numel() for p in params]
    block = torch.randn(len(vector), 2, dtype=torch.float64)
    parts = flat.unflatten(block, params)
    assert parts[0].shape == (7, 5, 2) and torch.equal(parts[0][..., 1].reshape(-1), block[:35, 1])
    with pytest.raises(ValueError, match="cannot be cut into 66 numbers"):
        flat.unflatten(vector[:-1], params)
    with pytest.raises(ValueError, match="several kinds"):
        flat.flatten([torch.ones(1), torch.ones(1, dtype=torch.float64)])
    assert flat.working_dtype(torch.bfloat16) == torch.float32 and flat.working_dtype(torch.float64) == torch.float64
    with pytest.raises(ValueError, match="floating-point"):
        flat.working_dtype(torch.int64)


def test_a_tied_weight_counts_once():
    model = Tied()
    assert flat.tied(model) == [("embedding.weight", "head.weight")] and len(flat.trainable(model)) == 1
    with pytest.raises(ValueError, match="tied"):
        flat.flatten([model.embedding.weight, model.head.weight])
    with pytest.raises(ValueError, match="tied"):
        autodiff.grad(model.head.weight.sum(), [model.embedding.weight, model.head.weight])
    model = model.double()
    batch = (torch.tensor([0, 3, 5, 3]), torch.tensor([1, 2, 0, 4]))
    found = autodiff.full_hessian(autodiff.objective(model, cross_entropy, batch), flat.trainable(model))
    assert torch.allclose(found, oracle_hessian(model, batch), atol=1e-12)


@pytest.mark.parametrize(
    ("method", "tolerance"), [("double_backward", 1e-11), ("forward_over_reverse", 1e-11), ("finite_difference", 1e-6)]
)
def test_hessian_products_are_those_of_the_whole_hessian(small, method, tolerance):
    model, batch = small
    params, closure = flat.trainable(model), autodiff.objective(model, cross_entropy, batch)
    whole = autodiff.full_hessian(closure, params, chunk=20)
    assert torch.allclose(whole, oracle_hessian(model, batch), atol=1e-12)
    before = [p.detach().clone() for p in params]
    v = probes.gaussian(params, generator(1))
    product = autodiff.hvp(closure, params, v, method)
    assert torch.allclose(flat.flatten(product), whole @ flat.flatten(v), atol=tolerance, rtol=tolerance)
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True)) and all(p.grad is None for p in params)


def test_a_plain_closure_serves_and_forward_mode_says_what_it_needs(small):
    model, batch = small
    params = flat.trainable(model)
    v = probes.gaussian(params, generator(1))
    plain = autodiff.hvp(lambda: cross_entropy(model, batch), params, v)
    through = autodiff.hvp(autodiff.objective(model, cross_entropy, batch), params, v)
    assert torch.equal(flat.flatten(plain), flat.flatten(through))
    with pytest.raises(ValueError, match="objective"):
        autodiff.hvp(lambda: cross_entropy(model, batch), params, v, "forward_over_reverse")
    with pytest.raises(ValueError, match="double_backward"):
        autodiff.hvp(lambda: cross_entropy(model, batch), params, v, "double_back")
    with pytest.raises(ValueError, match="shapes"):
        autodiff.hvp(lambda: cross_entropy(model, batch), params, v[:-1])


def test_no_curvature_is_zero():
    a, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    v = [torch.ones(3), torch.ones(2)]
    for closure in (lambda: (2 * a).sum(), lambda: a.square().sum()):
        product = autodiff.hvp(closure, [a, unused], v)
        assert not product[1].any() and product[0].tolist() in ([0] * 3, [2] * 3)
        assert not autodiff.third_vec(closure, [a, unused], v)[0].any()
    assert not autodiff.full_hessian(lambda: (2 * a).sum(), [a, unused]).any()
    with pytest.raises(ValueError, match="no graph"):
        autodiff.grad(torch.tensor(1.0), [a])


def test_gauss_newton_is_the_jacobian_around_the_hessian_of_the_outputs(small):
    model, batch = small
    params = flat.trainable(model)
    names = [name for name, _ in model.named_parameters()]

    def outputs(vector):
        return functional_call(model, dict(zip(names, flat.unflatten(vector, params), strict=True)), batch[0]).ravel()

    jacobian = torch.func.jacrev(outputs)(flat.flatten(params).detach())
    inner = torch.func.hessian(lambda z: F.cross_entropy(z.reshape(11, 3), batch[1]))(model(batch[0]).detach().ravel())
    exact = jacobian.T @ inner @ jacobian
    assert torch.allclose(autodiff.full_ggn(model, cross_entropy, batch, chunk=30), exact, atol=1e-12)
    v = probes.gaussian(params, generator(2))
    product = autodiff.ggnvp(model, cross_entropy, batch, v)
    assert torch.allclose(flat.flatten(product), exact @ flat.flatten(v), atol=1e-12)
    assert torch.allclose(autodiff.full_fisher(model, cross_entropy, batch, "softmax"), exact, atol=1e-12)
    with pytest.raises(ValueError, match="2 times"):
        autodiff.ggnvp(model, lambda m, b: cross_entropy(m, b) + cross_entropy(m, b), batch, v)


def test_a_linear_softmax_model_has_its_gauss_newton_matrix_as_hessian(small):
    _, batch = small
    model = nn.Linear(5, 3).double()
    hessian = autodiff.full_hessian(autodiff.objective(model, cross_entropy, batch), flat.trainable(model))
    assert torch.allclose(hessian, autodiff.full_ggn(model, cross_entropy, batch), atol=1e-12)


def test_gradients_of_samples_average_to_the_gradient(small):
    model, batch = small
    rows = autodiff.per_sample_grads(model, cross_entropy, batch)
    mean = flat.flatten(autodiff.grad(cross_entropy(model, batch), flat.trainable(model)))
    assert rows.shape == (11, 66) and torch.allclose(rows.mean(0), mean, atol=1e-14)
    one = autodiff.grad(cross_entropy(model, (batch[0][4:5], batch[1][4:5])), flat.trainable(model))
    assert torch.allclose(rows[4], flat.flatten(one), atol=1e-14)
    fisher = autodiff.full_fisher(model, cross_entropy, batch)
    assert torch.allclose(fisher, sum(torch.outer(r, r) for r in rows) / 11, atol=1e-14)
    normed = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)).double()
    with pytest.raises(ValueError, match=r"1 normalises by its batch"):
        autodiff.per_sample_grads(normed, cross_entropy, batch)
    assert autodiff.per_sample_grads(normed.eval(), cross_entropy, batch).shape == (11, 24)


def test_the_third_derivative_is_that_of_a_cubic_and_of_a_model(small):
    x = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    h = torch.tensor([0.3, 1.0, -1.0], dtype=torch.float64)
    assert torch.allclose(autodiff.third_vec(lambda: (x**3).sum(), [x], [h])[0], 6 * h**2)
    model, batch = small
    params, closure = flat.trainable(model), autodiff.objective(model, cross_entropy, batch)
    direction = probes.gaussian(params, generator(3))
    found = flat.flatten(autodiff.third_vec(closure, params, direction))
    step, ends = 1e-4, []
    start = [p.detach().clone() for p in params]
    for sign in (1, -1):
        with torch.no_grad():
            for p, s, v in zip(params, start, direction, strict=True):
                p.copy_(s + sign * step * v)
        ends.append(flat.flatten(autodiff.hvp(closure, params, direction)))
    assert torch.allclose(found, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-6)


def test_large_matrices_are_refused():
    big = nn.Parameter(torch.zeros(2001))
    with pytest.raises(ValueError, match="2001 parameters"):
        autodiff.full_hessian(lambda: big.square().sum(), [big])


def test_operators_agree_with_the_matrices_and_with_curvlinops(small):
    curvlinops = pytest.importorskip("curvlinops")
    model, batch = small
    params = flat.trainable(model)
    block = torch.randn(66, 2, generator=generator(4), dtype=torch.float64)
    ours = curvature.hessian_of(model, cross_entropy, batch) @ block
    arguments = (model, nn.CrossEntropyLoss(), params, [batch])
    assert torch.allclose(ours, curvlinops.HessianLinearOperator(*arguments) @ block, atol=1e-12)
    ggn = curvature.ggn_operator(model, cross_entropy, batch) @ block
    assert torch.allclose(ggn, curvlinops.GGNLinearOperator(*arguments) @ block, atol=1e-12)
    whole = autodiff.full_hessian(autodiff.objective(model, cross_entropy, batch), params)
    assert torch.allclose(ours, whole @ block, atol=1e-12)


def test_an_operator_knows_that_the_weights_moved(small):
    model, batch = small
    op = curvature.hessian_of(model, cross_entropy, batch)
    v = torch.ones(66, dtype=torch.float64)
    assert torch.equal(op @ v, op @ v)
    with torch.no_grad():
        model[0].weight += 0.1
    with pytest.raises(ValueError, match="changed"):
        op @ v


def test_a_stochastic_or_infinite_loss_is_refused_and_kinks_are_told_of_once(small):
    _, batch = small
    dropping = nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5)).double()
    with pytest.raises(ValueError, match="dropout"):
        curvature.hessian_of(dropping, cross_entropy, batch)
    with pytest.raises(ValueError, match="finite"):
        curvature.check_deterministic(lambda: torch.tensor(float("nan")))
    curvature._told.clear()
    kinked = nn.Sequential(nn.Linear(5, 3), nn.ReLU()).double()
    with pytest.warns(UserWarning, match="ReLU"):
        curvature.hessian_of(kinked, cross_entropy, batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curvature.hessian_of(kinked, cross_entropy, batch)
