"""Jets: against nested derivatives, closed forms and JAX; sparse tangents, collapse, gradients; what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from tensorbench.pde_operators import taylor
from tensorbench.pde_operators.taylor import Coordinates, find_jet, jet, partials, read_out

torch.manual_seed(0)


def nested(f, x, v, order):
    """Derivatives along v by nested forward mode."""
    out, g = [], lambda t: f(x + t * v)
    for _ in range(order):
        g = (lambda h: lambda t: torch.func.jvp(h, (t,), (torch.ones_like(t),))[1])(g)
        out.append(g(torch.zeros((), dtype=x.dtype)))
    return out


def net(d, width=7, activation=nn.Tanh, out=1):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(d, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, out)
    ).double()


UNARY = {
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "square": torch.square,
    "erf": torch.erf,
    "gelu": nn.functional.gelu,
    "gelu_tanh": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "silu": nn.functional.silu,
    "mish": nn.functional.mish,
    "softplus": nn.functional.softplus,
    "softplus_2": lambda x: nn.functional.softplus(x, 2.0),
    "softplus_near": lambda x: nn.functional.softplus(x, 1.5, 0.7),  # past 0.7 / 1.5 it is x
    "leaky_relu": lambda x: nn.functional.leaky_relu(x - 0.5, 0.3),
    "logsigmoid": nn.functional.logsigmoid,
    "atan": torch.atan,
    "asin": torch.asin,
    "acos": torch.acos,
    "power": lambda x: x**2.5,
    "cube": lambda x: x**3,
    "inverse": lambda x: x**-2,
    "two_to": lambda x: 2**x,
    "power_of_tensor": lambda x: x ** torch.tensor([0.3, 1.7, 2.0], dtype=torch.float64),
    "x_to_the_x": lambda x: x**x,
    "x_log_sin_x": lambda x: torch.xlogy(x, x.sin()),
    "quotient": lambda x: (1 + x) / (2 + x * x),
    "over": lambda x: 1.0 / x,
    "minus": lambda x: 1 - x * torch.ones(3, dtype=x.dtype),
    "lgamma": torch.lgamma,
    "asinh": torch.asinh,
    "elu": nn.functional.elu,
    "i0": torch.special.i0,
    "abs": torch.abs,
    "where": lambda x: torch.where(x > 0.5, x * x, x.sin()),
    "clamp": lambda x: x.clamp(0.4, 0.6) * x,
    "own": taylor.elementwise(lambda z: torch.sin(z) * torch.exp(-z)),
    "square_by_product": lambda x: x * x,
}


@pytest.mark.parametrize("name", UNARY)
def test_elementwise_functions_equal_nested_derivatives(name):
    f = UNARY[name]
    x = torch.tensor([0.31, 0.52, 0.83], dtype=torch.float64)
    v = torch.tensor([1.0, -0.7, 0.4], dtype=torch.float64)
    value, ours = jet(f, x, [v, None, None, None])
    assert torch.allclose(value, f(x), atol=1e-12)
    oracle = f
    if name in ("own", "lgamma", "i0", "elu"):
        terms, at = [], (x + 0 * v).requires_grad_()  # forward mode lacks some of these; reverse mode has them
        terms = [f(at)]
        for _ in range(4):
            terms.append(torch.autograd.grad(terms[-1].sum(), at, create_graph=True)[0] * v)
        expected = terms[1:]
    else:
        expected = nested(oracle, x, v, 4)
    for k in range(4):
        assert torch.allclose(ours[k], expected[k], rtol=1e-9, atol=1e-9), k + 1


STRUCTURE = {
    "reductions": lambda x: (x.sum(-1) * x.mean(dim=0).sum() + x.sum()) * x.mean(),
    "reshaping": lambda x: (
        (x.reshape(2, 6).view(3, 4).flatten() * x.flatten()).unflatten(0, (4, 3)).unsqueeze(1).squeeze(1).sin()
    ),
    "transposes": lambda x: x.T @ x.transpose(0, 1).mT.permute(0, 1) + x.t() @ x,
    "indexing": lambda x: x[1] * x[:, 0].sum() + x[[0, 2], [1, 3]].sum() * x[..., None, 2:].sum(),
    "joining": lambda x: torch.stack(
        [torch.cat([x, torch.ones(1, 4, dtype=x.dtype)]), torch.cat([x[:1], x])], -1
    ).exp(),
    "splitting": lambda x: x.split([1, 3], dim=-1)[1].sum(-1) * x.chunk(2, dim=1)[0][:, 0] + x.unbind(0)[1].sum(),
    "matmul": lambda x: torch.ones(5, 3, dtype=x.dtype) @ x @ x.T @ x[:, 0] + (x @ x[0]).sum(),
    "einsum": lambda x: (
        torch.einsum("bi,bj->ij", x, x.sin()) + torch.einsum("bi,ij->bj", x, torch.eye(4, dtype=x.dtype))[0]
    ),
    "einsum_implicit": lambda x: torch.einsum("bi,bi->b", x, x),
    "norms": lambda x: (
        x.norm(dim=-1) * torch.linalg.vector_norm(x) + torch.softmax(x, -1)[:, 0] + torch.logsumexp(x, -1)
    ),
    "log_softmax": lambda x: torch.log_softmax(x, -1),
    "moving": lambda x: x.roll(1, -1) * x.flip(0) + x.cumsum(0) * x.expand(2, 3, 4)[0] + torch.maximum(x, 0.5 * x),
    "convolution": lambda x: nn.functional.conv1d(
        x.unsqueeze(1), torch.ones(2, 1, 3, dtype=x.dtype), torch.ones(2, dtype=x.dtype), padding=1
    ).sin(),
    "numpy_on_the_left": lambda x: np.float64(2.0) * x * x,
    "padding": lambda x: nn.functional.pad(x.sin(), (1, 2), value=3.0),
    "inner": lambda x: torch.inner(x.sin(), x[:2].cos()) + torch.inner(x[0], x[1]),
    "indices_apart": lambda x: x.reshape(2, 3, 2).sin()[[0, 1, 1], :, [1, 0, 1]],
    "indices_and_ellipsis": lambda x: (
        x.sin()[..., [0, 2], None][:2] + x.sin()[torch.tensor([True, False, True])][:, :2, None]
    ),
    "differences": lambda x: x.sin().diff(n=2, dim=-1),
    "norms_by_name": lambda x: torch.norm(x, p=2, dim=0).sum() + x.norm(p="fro") + torch.linalg.norm(x, "fro"),
    "primal": lambda x: x * (x.detach() > 0.1) + torch.zeros_like(x) if x.shape[0] == 3 else None,
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_structural_operations_equal_nested_derivatives(name):
    f = STRUCTURE[name]
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(3, 4, generator=generator, dtype=torch.float64) + 0.2
    V = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    value, ours = jet(f, x, [V, None, None])
    assert torch.allclose(value, f(x))
    for s in range(2):
        for k, expected in enumerate(nested(f, x, V[s], 3)):
            assert ours[k][s].shape == expected.shape
            assert torch.allclose(ours[k][s], expected, rtol=1e-9, atol=1e-9)


def test_layer_norm_equals_its_definition():
    """Written out, since torch's own second forward derivatives of ``layer_norm`` are wrong (torch 2.13)."""
    x, v = torch.rand(2, 3, 4, dtype=torch.float64)
    weight, bias = torch.arange(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    _, ours = taylor.directional(lambda z: nn.functional.layer_norm(z, (4,), weight, bias), x, v, 3)

    def written_out(z):
        centred = z - z.mean(-1, keepdim=True)
        return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5) * weight + bias

    assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(ours, nested(written_out, x, v, 3), strict=True))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Softplus])
def test_networks_equal_nested_derivatives_to_order_four(activation):
    model = net(3, activation=activation)
    x, v = torch.randn(2, 5, 3, dtype=torch.float64)
    _, ours = taylor.directional(model, x, v, 4)
    for k, expected in enumerate(nested(model, x, v, 4)):
        assert torch.allclose(ours[k], expected, rtol=1e-9, atol=1e-9)


def test_jets_equal_jax_to_order_eight():
    jax = pytest.importorskip("jax")
    from jax.experimental import jet as jax_jet

    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        W, U, x = rng.normal(size=(6, 3)) / 2, rng.normal(size=(6, 6)) / 3, rng.normal(size=3)
        terms = [rng.normal(size=3) * (k != 2) for k in range(8)]

        def theirs(z):
            h = jax.numpy.tanh(W @ z)
            return jax.numpy.sum(jax.numpy.sin(U @ h) * jax.numpy.exp(h) / (1 + h * h))

        value, out = jax_jet.jet(theirs, (x,), (terms,))
        out, value = [np.asarray(v) for v in out], float(value)
    Wt, Ut = torch.tensor(W), torch.tensor(U)

    def ours(z):
        h = torch.tanh(Wt @ z)
        return (torch.sin(Ut @ h) * torch.exp(h) / (1 + h * h)).sum()

    mine, derivatives = jet(ours, torch.tensor(x), [torch.tensor(t) if k != 2 else None for k, t in enumerate(terms)])
    assert float(mine) == pytest.approx(value, rel=1e-12)
    for a, b in zip(derivatives, out, strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-9)


def test_two_inputs_move_at_once():
    x, t = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    v, w = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    f = lambda x, t: (x.sin().sum(-1) * t).exp()  # noqa: E731
    _, ours = jet(f, (x, t), ([v, None, None], [w, None, None]))
    expected = nested(lambda z: f(z[:, :2], z[:, 2]), torch.cat([x, t[:, None]], 1), torch.cat([v, w[:, None]], 1), 3)
    assert all(torch.allclose(a, b) for a, b in zip(ours, expected, strict=True))


SPARSE = {
    "linear": lambda W, x: torch.tanh(nn.functional.linear(x, W)).sum(-1),
    "factor": lambda W, x: (1 - (x * x).sum(-1)) * torch.tanh(nn.functional.linear(x, W)).sum(-1),
    "elementwise_first": lambda W, x: nn.functional.linear(x.sin() * x + 2 * x, W).exp().sum(-1),
    "slices": lambda W, x: (x[..., 1:] * x[..., :-1]).sin().sum(-1) + x[..., 2] ** 3 + x[:, :3].exp().sum(-1),
    "cat": lambda W, x: (
        nn.functional.linear(torch.cat([torch.ones(len(x), 2, dtype=x.dtype), x[:, :4]], -1), W).sin().sum(-1)
    ),
    "blocks": lambda W, x: (
        torch.tanh(nn.functional.linear(x.unflatten(-1, (2, 3)), W[:2, :3])).flatten(-2).sin().sum(-1)
    ),
    "one_channel": lambda W, x: (nn.functional.linear(x.unflatten(-1, (3, 2)), W[:1, :2]).tanh().squeeze(-1) ** 2).sum(
        -1
    ),
    "mean": lambda W, x: x.exp().mean(-1) * x.sum(dim=-1, keepdim=True).squeeze(-1),
    "parameters": lambda W, x: (x * W[0]).tanh().sum(-1) + (W[1] / (2 + x)).sum(-1),
    "einsum": lambda W, x: torch.einsum("bi,bi->b", x, x) * (x @ W.T).sum(-1),
    "squared_norm": lambda W, x: taylor.squared_norm(x) * taylor.squared_norm(nn.functional.linear(x, W)),
}


@pytest.mark.parametrize("collapse", [False, True])
@pytest.mark.parametrize("per_point", [False, True])
@pytest.mark.parametrize("name", SPARSE)
def test_coordinates_equal_unit_vectors_written_out(name, per_point, collapse):
    generator = torch.Generator().manual_seed(5)
    W = torch.randn(5, 6, generator=generator, dtype=torch.float64).requires_grad_()
    x = torch.rand(4, 6, generator=generator, dtype=torch.float64)
    f = lambda z: SPARSE[name](W, z)  # noqa: E731
    i, j = torch.randint(6, (2, 3, 4) if per_point else (2, 3), generator=generator)
    j[0] = i[0]  # the same coordinate in two slots
    eye = torch.eye(6, dtype=torch.float64)
    unit = [eye[k] if per_point else eye[k][:, None].expand(3, 4, 6) for k in (i, j)]
    value, ours = jet(f, x, [Coordinates(i), Coordinates(j), None], collapse=collapse)
    expected_value, expected = jet(f, x, [*unit, None])
    if collapse:
        expected[-1] = expected[-1].sum(0)
    assert torch.allclose(value, expected_value)
    for a, b in zip(ours, expected, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    if name not in ("slices", "mean"):  # these have no parameters
        (a,), (b,) = (torch.autograd.grad(sum(t.sum() for t in terms), W) for terms in (ours, expected))
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_collapse_is_the_sum_over_tangents(order):
    model, x = net(3), torch.randn(5, 3, dtype=torch.float64)
    V = torch.randn(4, 5, 3, dtype=torch.float64)
    _, plain = jet(model, x, [V] + [None] * (order - 1))
    _, short = jet(model, x, [V] + [None] * (order - 1), collapse=True)
    assert torch.allclose(short[-1], plain[-1].sum(0))
    assert all(torch.allclose(a, b) for a, b in zip(short[:-1], plain[:-1], strict=True))
    _, halves = jet(model, x, [V] + [None] * (order - 1), collapse=2)
    assert torch.allclose(halves[-1], torch.stack([plain[-1][:2].sum(0), plain[-1][2:].sum(0)]))
    _, moving = jet(model, x, [V, V.cos(), V.sin()], collapse=True)
    _, separate = jet(model, x, [V, V.cos(), V.sin()])
    assert torch.allclose(moving[-1], separate[-1].sum(0))


def test_parameter_gradients_equal_those_of_nested_derivatives():
    model, x = net(3), torch.randn(5, 3, dtype=torch.float64)
    v = torch.randn(5, 3, dtype=torch.float64)
    weights = list(model.parameters())[:-1]  # the last bias has no part in derivatives
    ours = torch.autograd.grad(taylor.directional(model, x, v, 3)[1][2].square().sum(), weights)
    theirs = torch.autograd.grad(nested(model, x, v, 3)[2].square().sum(), weights)
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "exp", "sin", "cos", "tan"])
@pytest.mark.parametrize("collapse", [False, True])
def test_second_backward_passes_are_right(name, collapse):
    """The fused functions have a backward pass of their own; it can be differentiated again."""
    W = torch.randn(4, 3, dtype=torch.float64).requires_grad_()
    x, V = torch.randn(5, 3, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)

    def value(W):
        out, terms = jet(lambda z: getattr(torch, name)(0.3 * nn.functional.linear(z, W)).sum(-1), x, [V, None, None],
                         collapse=collapse)  # fmt: skip
        return torch.stack([out.sum(), *(t.sin().sum() for t in terms)])

    assert torch.autograd.gradcheck(value, (W,))
    assert torch.autograd.gradgradcheck(value, (W,))


def test_sparse_tangents_never_make_an_array_of_the_size_of_the_input_times_the_tangents():
    d, points, tangents = 20_000, 16, 32
    model = nn.Sequential(nn.Linear(d, 8), nn.Tanh(), nn.Linear(8, 1))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple | list) else [out]:
                if isinstance(t, torch.Tensor) and all(s for s in t.stride()):
                    largest = max(largest, t.numel())
            return out

    x = torch.randn(points, d)
    f = lambda z: (1 - taylor.squared_norm(z)) * model(z)[:, 0]  # noqa: E731
    for tangent in (Coordinates(torch.arange(tangents)), torch.randn(tangents, 1, d)):
        with Watch():
            jet(f, x, [tangent, None], collapse=True)[1][1].sum().backward()
    assert largest <= max(points, tangents) * d


def test_known_partial_derivatives():
    def u(z):
        x, y, t = z[..., 0], z[..., 1], z[..., 2]
        return torch.sin(1.3 * x + 0.7 * y * t) * torch.exp(0.4 * y) + torch.tanh(x * t)

    known = {(0,): 1.628047774, (1,): 0.422841770, (0, 0): -0.563537161, (0, 1): 0.323528862, (1, 1): 0.256240632,
             (1, 2): 0.578536742, (0, 0, 1): -0.714602590, (0, 0, 0, 1): -0.546763777}  # fmt: skip
    z = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    found = partials(u, z, [*known, ()])
    for target, value in known.items():
        assert float(found[target]) == pytest.approx(value, abs=1e-8)
    assert float(found[()]) == pytest.approx(float(u(z)), abs=1e-14)


@pytest.mark.parametrize("target", [(0, 1), (0, 0, 1), (0, 0, 0, 1), (0, 1, 2), (0, 0, 1, 1), (0, 0, 1, 2)])
def test_isolating_jets_and_corrected_ones_equal_nested_derivatives(target):
    model = net(3)
    f = lambda z: model(z)[..., 0]  # noqa: E731
    x = torch.randn(3, dtype=torch.float64)
    g = f
    for c in target:
        g = (lambda h, e: lambda z: torch.func.jvp(h, (z,), (e,))[1])(g, torch.eye(3, dtype=x.dtype)[c])
    expected = float(g(x).detach())
    reading = find_jet(target)
    assert not reading.corrections
    slots = dict(reading.slots)
    series = [torch.eye(3, dtype=x.dtype)[slots[s]] if s in slots else None for s in range(1, reading.order + 1)]
    assert float(jet(f, x, series)[1][-1].detach()) / reading.coefficient == pytest.approx(expected, rel=1e-8)
    assert float(partials(f, x, [target])[target].detach()) == pytest.approx(expected, rel=1e-8)
    assert find_jet(target, corrections=True).order <= reading.order


def test_plans_share_jets():
    x, y, t = 0, 1, 2
    kdv = taylor.plan([(y, t), (x, x, x, y), (x, y), (x,), (y,), (x, x), (y, y)])
    assert len({reading.slots for reading in kdv.values()}) == 2  # two jets for seven derivatives
    assert all(set(term) <= {x, y, t} for reading in kdv.values() for term, _ in reading.corrections)


def test_contaminated_read_outs_are_refused():
    x, y, t = 0, 1, 2
    slots = {3: x, 4: y, 7: t}
    with pytest.raises(ValueError, match=r"read-out 7 .* 35 × \(0, 1\) plus 1 × \(2,\)"):
        read_out((x, y), slots)
    reading = read_out((x, y), slots, known=[(t,)])
    assert (reading.order, reading.coefficient, reading.corrections) == (7, 35, (((t,), 1),))
    with pytest.raises(ValueError, match="no slot"):
        read_out((x, y), {2: x})
    with pytest.raises(ValueError, match="corrections=True"):
        find_jet((x, x, x, y), largest=8)


def test_bad_input_is_refused():
    x = torch.randn(2, 3)
    with pytest.raises(NotImplementedError, match="'sort' has no Taylor rule"):
        jet(lambda z: z.sort()[0], x, [x])
    with pytest.raises(NotImplementedError, match="'cosine_similarity' has no Taylor rule"):
        jet(lambda z: torch.cosine_similarity(z, z), x, [x])
    with pytest.raises(TypeError, match="must return one tensor"):
        jet(lambda z: (z, z), x, [x])
    with pytest.raises(ValueError, match="NaN"):
        jet(torch.sin, x, [torch.full((2, 3), math.nan)])
    with pytest.raises(ValueError, match="one or more"):
        jet(torch.sin, x, [])
    with pytest.raises(ValueError, match="order 0"):
        taylor.directional(torch.sin, x, x, 0)
    with pytest.raises(ValueError, match="term 1 has shape"):
        jet(torch.sin, x, [torch.ones(4)])
    with pytest.raises(ValueError, match="coordinates must lie"):
        jet(torch.sin, x, [Coordinates(torch.tensor([3]))])
    with pytest.raises(ValueError, match="floating-point"):
        jet(torch.sin, torch.arange(3), [torch.arange(3)])
    with pytest.raises(NotImplementedError, match=r"model.eval"):
        jet(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), x, [x])
    with pytest.warns(UserWarning, match="smooth activation"):
        jet(torch.relu, x, [x, None])
    with pytest.raises(ValueError, match="tangents"):
        jet(torch.sin, x, [torch.ones(2, 2, 3), torch.ones(3, 2, 3)])
