"""The language and its limit: identities of Gaussian matrices, closed forms, and limits of training."""

import math

import numpy as np
import pytest
import torch

from tensorbench.optimizers.tensor_programs import abcd as ab
from tensorbench.optimizers.tensor_programs import kets, limits, updates
from tensorbench.optimizers.tensor_programs.master_theorem import master_theorem_check, rate
from tensorbench.optimizers.tensor_programs.program import (
    Avg,
    MatMul,
    NonlinMap,
    OuterNonlin,
    Program,
    TransposeMatMul,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def arc_cosine(xx, yy, xy):
    """E relu(u) relu(v) for Gaussians of these second moments (Cho, Saul 2009)."""
    angle = math.acos(xy / math.sqrt(xx * yy))
    return math.sqrt(xx * yy) * (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / (2 * math.pi)


def test_hat_parts_have_the_arc_cosine_kernel():
    space = kets.Space(1_000_000, seeded())
    u, W = space.vector(2), space.matrix(1.0)
    x = torch.stack([u[:, 0], 0.6 * u[:, 0] + 0.5 * u[:, 1]], 1)
    h = W.matmul(x)
    assert float(h.dot.abs().max()) == 0
    K = kets.bracket(h.ket.relu(), h.ket.relu())
    assert abs(float(K[0, 1]) - arc_cosine(1, 0.61, 0.6)) < 1e-3
    assert torch.allclose(kets.bracket(h.hat, h.hat), kets.bracket(x, x), atol=1e-9)


def test_a_matrix_and_its_transpose_are_one():
    space = kets.Space(20_000, seeded())
    u, W = space.vector(3), space.matrix(1.0)
    y = W.matmul(u)
    back = W.transpose_matmul(y.ket)
    assert torch.allclose(kets.bracket(u, back.ket), kets.bracket(u, u), atol=1e-9)
    assert torch.allclose(back.dot, u, atol=1e-9)  # W'W x = x + noise
    assert float((kets.bracket(back.hat, back.hat) - kets.bracket(y.ket, y.ket)).abs().max()) < 1e-9
    x = torch.tanh(u) * torch.sigmoid(back.ket)
    v = torch.relu(y.ket + 0.3)
    left, right = W.matmul(x).ket, W.transpose_matmul(v).ket
    assert torch.allclose(kets.bracket(v, left), kets.bracket(right, x), atol=1e-9)
    again = W.matmul(x).ket
    assert torch.allclose(left, again, atol=1e-3)  # revealed once, it stays


def test_expected_derivatives_are_those_of_autograd():
    space = kets.Space(200_000, seeded())
    W = space.matrix(0.7)
    first, second = W.matmul(space.vector(1)).hat, W.matmul(space.vector(1) ** 2 + 1).hat
    z = torch.cat([first, second], 1).requires_grad_()
    x = torch.tanh(z[:, :1] + 0.5 * z[:, 1:]) * torch.exp(-z[:, 1:].square())
    (expected,) = torch.autograd.grad(x.sum(), z)
    found = [float(W.partial(x.detach(), k)) for k in (0, 1)]
    assert np.allclose(found, expected.mean(0), atol=4e-3)


def test_a_product_is_a_rank_one_matrix():
    space = kets.Space(3000, seeded())
    x, y, z = space.vector(2), space.vector(2), space.vector(3) + 0.5
    linear = kets.outer_nonlin(lambda a, b: a @ b.T, x, y, z)
    assert torch.allclose(linear, x @ kets.bracket(y, z), atol=1e-9)
    few = kets.outer_nonlin(lambda a, b: a @ b.T, x, y, z, copies=1000)
    assert (few - linear).square().mean().sqrt() < 0.2
    signs = kets.outer_nonlin(lambda a, b: (a @ b.T).sign(), x, y, z)
    assert torch.allclose(signs, (x @ y.T).sign() @ z / 3000, atol=1e-9)


def example(**changes):
    parts = {
        "vectors": {"u": 1.0, "v": 0.8},
        "matrices": {"W": 1.0},
        "scalars": {"two": 2.0},
        "instructions": {
            "mean": Avg("s"),  # in any order
            "h": MatMul("W", "u"),
            "x": NonlinMap(lambda h, two: torch.tanh(two * h), ("h",), ("two",)),
            "back": TransposeMatMul("W", "x"),
            "s": NonlinMap(torch.mul, ("back", "u")),
            "o": OuterNonlin(lambda x, y: torch.sign(x * y + 0.5), ("x",), ("v",), "v"),
            "q": NonlinMap(lambda o, x: o * x, ("o", "x")),
            "other": Avg("q"),
        },
    }
    return Program(**(parts | changes))


def test_a_program_is_interpreted():
    values = example().interpret(100_000, seeded(), copies=1000)
    # <u|W' x> = E tanh'(2h) · 2 <u|u>
    h = values.vectors["h"]
    expected = float((2 / torch.cosh(2 * h).square()).mean())
    assert abs(float(values.scalars["mean"]) - expected) < 5e-3
    assert abs(values.partial("x", "h") - expected) < 5e-3
    assert abs(values.bracket("u", "back") - float(values.scalars["mean"])) < 1e-9
    assert torch.allclose(values.hats["back"] + values.dots["back"], values.vectors["back"])


def test_finite_programs_tend_to_their_limit():
    check = master_theorem_check(example(), [64, 256, 1024], seeds=12, samples=200_000)
    assert set(check["average"]) == {"mean", "other"}
    found = rate(check)
    assert -0.75 < found.mean < -0.25
    assert check[check.width == 1024].error.abs().mean() < 0.05


def test_the_closed_form_of_the_first_sign_step():
    x = torch.tensor([[1.0, -2.0, 0.5, 0.3]])
    arch, problem = limits.Arch(4, 1, 1, "linear", (1.0, 1.0)), limits.Problem(x, torch.tensor([[-9.0]]), x[:0])
    expected = -math.sqrt(2 / math.pi) * float(x.abs().sum() + x.norm())
    options = {"lr": 0.01, "steps": 1, "samples": 1_000_000, "generator": seeded()}
    f = limits.limit_mup_adam(arch, problem, updates.Sign(), **options)
    assert abs(float(f[1] - f[0]) / (0.01 * expected) - 1) < 5e-3
    change = limits.adam_kernel(arch, x, x, torch.ones(1, 1), updates.Sign(), samples=1_000_000, generator=seeded())
    assert abs(float(change) / -expected - 1) < 5e-3


def test_for_gradient_descent_the_operator_is_the_tangent_kernel():
    x = torch.randn(4, 5, generator=seeded(3), dtype=torch.float64)
    S = x @ x.T / 5
    K = torch.tensor(
        [[arc_cosine(float(S[i, i]), float(S[j, j]), float(S[i, j]) - 1e-12) for j in range(4)] for i in range(4)]
    )
    angle = torch.acos((S / (S.diag()[:, None] * S.diag()).sqrt()).clamp(-1, 1))
    slopes = (math.pi - angle) / (2 * math.pi)
    ntk = K + 2 * (5 * S) * slopes  # output layer, and input layer with output weights of variance 2
    kernel = limits.OperatorKernel(
        limits.Arch(5, 1, 1, "relu", (5**-0.5, math.sqrt(2))), x, 4, samples=2_000_000, generator=seeded()
    )
    assert (kernel.tangent() - ntk).norm() / ntk.norm() < 2e-3


def test_the_operator_is_not_linear_and_predicts_wide_networks():
    x = torch.randn(10, 8, generator=seeded(3))
    problem, arch = limits.Problem(x[:6], x[:6, :1].sign(), x[6:]), limits.Arch(8, 2, 1)
    kernel = limits.OperatorKernel(arch, problem.points, 6, samples=40_000, generator=seeded())
    finite = limits.finite_run(
        arch, problem, updates.Sign(), ab.ntp_adam(), width=2048, lr=0.01, steps=2, generator=seeded()
    )
    options = {"lr": 0.01, "steps": 2, "kernel": kernel, "generator": seeded()}
    found = limits.limit_operator(arch, problem, updates.Sign(), f0=finite[0], **options)
    change, expected = found[2] - found[0], (finite[2] - finite[0]).double()
    assert (change - expected).norm() / expected.norm() < 0.06
    chi = problem.errors(finite[0])
    assert torch.allclose(kernel([3 * chi], updates.Sign()), kernel([chi], updates.Sign()), atol=2e-2)


def test_dot_parts_matter_with_two_hidden_layers():
    x = torch.randn(6, 8, generator=seeded(3))
    problem, arch = limits.Problem(x[:4], x[:4, :1].sign(), x[4:]), limits.Arch(8, 2, 1)
    options = {"lr": 0.05, "steps": 2, "samples": 20_000, "copies": 500}
    rule = updates.Sign()
    full, without = (
        limits.limit_mup_adam(arch, problem, rule, dots=dots, generator=seeded(), **options) for dots in (True, False)
    )
    wide = torch.stack(
        [
            limits.finite_run(arch, problem, rule, ab.mup_adam(), width=2048, lr=0.05, steps=2, generator=seeded(k))
            for k in range(4)
        ]
    ).mean(0)
    error, error_without = ((wide - f)[2].norm() for f in (full, without))
    assert error < 0.4 * error_without


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"matrices": {"V": 1.0}}, "undeclared matrix"),
        ({"vectors": {"u": 1.0}}, "undeclared vector"),
        ({"scalars": {}}, "undeclared scalar"),
        ({"matrices": {"W": 0.0}}, "sigma"),
        ({"vectors": {"u": 1.0, "v": 1.0, "W": 1.0}}, "more than one thing"),
        (
            {"instructions": {"a": MatMul("W", "b"), "b": TransposeMatMul("W", "a")}},
            "cyclic: a -> b -> a|cyclic: b -> a -> b",
        ),
        ({"instructions": {"a": Avg("u"), "b": MatMul("W", "a")}}, "undeclared vector"),
    ],
)
def test_programs_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        example(**changes)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kets.Space(1, seeded()), "samples"),
        (lambda: kets.Space(6, seeded()).vector(5), "too few"),
        (lambda: kets.Space(10, seeded()).matrix().matmul(torch.ones(9, 1)), "10 samples"),
        (lambda: kets.Space(10, seeded()).matrix().partial(torch.ones(10, 1)), "not been multiplied"),
        (lambda: example().interpret(100, seeded()).partial("x", "u"), "product"),
        (lambda: master_theorem_check(Program({"u": 1.0}, {}, {}), [4, 8, 16]), "averages nothing"),
        (lambda: limits.Arch(3, 2, 1, stds=(1.0,)), "stds"),
        (lambda: limits.Arch(3, 0), "hidden"),
    ],
)
def test_bad_input_is_told(call, words):
    with pytest.raises(ValueError, match=words):
        call()
