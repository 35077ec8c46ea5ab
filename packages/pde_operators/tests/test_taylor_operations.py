"""Operations whose Taylor rule is easily that of another: norms, inner products, padding, indexing; what has none."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from tensorbench.pde_operators import taylor
from tensorbench.pde_operators.taylor import jet, jet_coefficients

MATRIX = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ROWS, COLUMNS = torch.tensor([0, 1]), torch.tensor([2, 3])
NORM = torch.nn.BatchNorm2d(2, dtype=torch.float64).eval()
RIGHT = {
    "norm": lambda x: x.norm() * torch.norm(x, p=2, dim=-1),
    "vector_norm": lambda x: torch.linalg.vector_norm(x, ord=2, dim=1, keepdim=True),
    "linalg_norm": lambda x: torch.linalg.norm(x) + torch.linalg.norm(x, 2, dim=-1),
    "inner_of_matrices": lambda x: torch.inner(x, MATRIX),
    "inner_of_two_that_move": lambda x: torch.inner(x, x.t()),
    "inner_of_vector_and_matrix": lambda x: torch.inner(x[0], MATRIX) + torch.inner(x, MATRIX[0]),
    "padding_with_ones": lambda x: F.pad(x, (1, 2), value=1.0).square(),
    "padding_around": lambda x: F.pad(x[None], (1, 1), mode="circular").square(),
    "lists_apart": lambda x: torch.stack([x, 2 * x, x * x])[ROWS, :, COLUMNS].square(),
    "lists_side_by_side": lambda x: torch.stack([x, 2 * x, x * x])[:, ROWS, COLUMNS].square(),
    "list_behind_dots": lambda x: torch.stack([x, x * x])[..., ROWS, :].square(),
    "new_axis_and_dots": lambda x: x[None, ..., 0].square(),
    "mask": lambda x: x[MATRIX > 0].square(),
    "pieces_that_do_not_divide": lambda x: torch.stack([p.sum() ** 2 for p in x.flatten()[:10].tensor_split(3)]),
    "pieces_by_place": lambda x: torch.cat([p * p.sum() for p in torch.tensor_split(x, [1, 3])]),
    "chunks": lambda x: torch.stack([p.sum() for p in x.chunk(chunks=3)]).square(),
    "differences": lambda x: x.diff(dim=0).square(),
    "moveaxis": lambda x: torch.moveaxis(x[None], 0, 1).square(),
    "view_as": lambda x: x.flatten().view_as(x).square(),
    "prod": lambda x: x.prod() + torch.prod(x[:3], dim=0).sum() + x.prod(-1, keepdim=True),
    "prod_with_zeros": lambda x: (x - x.detach() * (MATRIX > 0)).prod(dim=1),
    "var": lambda x: x.var() + torch.var(x, False) + x.var(dim=(0, 1), correction=2) + torch.var(x, 1, keepdim=True),
    "std": lambda x: x.std(0, unbiased=False) + torch.std(x, dim=-1, correction=0),
    "atan2": lambda x: torch.atan2(x - 1, MATRIX) + torch.atan2(MATRIX, x) + torch.arctan2(x, -x.t()),
    "prelu": lambda x: F.prelu(x - 1, MATRIX[0]).square() + torch.prelu(x - 1, MATRIX[0, :1]).pow(3),
    "prelu_of_images": lambda x: F.prelu((x - 1).reshape(2, 2, 2, 2), MATRIX[0, :2]).square(),
    "addmm": lambda x: torch.addmm(x, x, x.t(), beta=0.5, alpha=2.0) + torch.addmm(x, MATRIX, MATRIX) * x,
    "addmv": lambda x: torch.addmv(x[0], x, MATRIX[0]).square(),
    "baddbmm": lambda x: torch.baddbmm(MATRIX[None], x[None], x[None], beta=2.0).square(),
    "transposed_convolution": lambda x: F.conv_transpose1d(x[None], MATRIX[:, :2, None], MATRIX[0, :2]).square(),
    "strided_transposed_convolution": lambda x: F.conv_transpose2d(
        x[None, None], MATRIX[None, None], None, 2, 1, output_padding=1
    ).square(),
    "batch_norm": lambda x: F.batch_norm(x, MATRIX[0], MATRIX[1] ** 2, MATRIX[2], MATRIX[3]).square(),
    "batch_norm_module": lambda x: NORM(x.reshape(2, 2, 2, 2)).square(),
}


@pytest.mark.parametrize("name", RIGHT)
def test_operations_equal_nested_derivatives(name):
    f = RIGHT[name]
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(4, 4, generator=generator, dtype=torch.float64) + 0.5
    tangents = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
    value, (first, second) = jet(f, x, [tangents, None])
    torch.testing.assert_close(value, f(x))
    for v, one, two in zip(tangents, first, second, strict=True):
        slope = lambda z, v=v: torch.func.jvp(f, (z,), (v,))[1]  # noqa: E731
        torch.testing.assert_close(one, slope(x))
        torch.testing.assert_close(two, torch.func.jvp(slope, (x,), (v,))[1])


@pytest.mark.parametrize("dim", [-1, 0])
def test_gated_units_equal_nested_derivatives(dim):
    """Along a line: torch has no forward derivative of glu's own, so that the backward one is nested."""
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    f = lambda z: F.glu(z, dim).square().sum()  # noqa: E731
    _, terms = jet(f, x, [x.flip(0)[None], None, None])
    line, t = lambda t: f(x + t * x.flip(0)), torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = line(t)
    for term in terms:
        (value,) = torch.autograd.grad(value, t, create_graph=True)
        torch.testing.assert_close(term[0], value.detach())


def test_angles_to_the_fifth_order_and_collapsed():
    """With the angle of (x, y) the real and imaginary parts of log(x + iy) have the derivatives of the logarithm."""
    x = torch.tensor([[0.7, -0.4], [-0.3, 1.1]], dtype=torch.float64)
    v = torch.tensor([0.6, 0.8], dtype=torch.float64)
    _, terms = taylor.directional(lambda z: torch.atan2(z[..., 1], z[..., 0]), x, v.expand(2, 2), 5)
    z, w = torch.complex(x[:, 0], x[:, 1]), torch.complex(v[0], v[1])
    for k, term in enumerate(terms, start=1):  # (log z)⁽ᵏ⁾ = (-1)^(k-1) (k-1)! / zᵏ
        torch.testing.assert_close(term, ((-1) ** (k - 1) * math.factorial(k - 1) * (w / z) ** k).imag)
    angle = lambda z: torch.atan2(z[..., 1], z[..., 0])  # noqa: E731
    _, (_, laplacian) = jet(angle, x, [taylor.Coordinates(torch.arange(2)), None], collapse=True)
    torch.testing.assert_close(laplacian, torch.zeros(2, dtype=torch.float64))


REFUSED = {
    "norm_p": lambda x: torch.norm(x, p=1),
    "method_norm_p": lambda x: x.norm(p=3, dim=-1),
    "spectral_norm": lambda x: torch.linalg.norm(x, ord=2),
    "nuclear_norm": lambda x: x.norm(p="nuc"),
    "convolution_weight": lambda x: F.conv1d(x[:, None], x[:1, None, :2]),
    "convolution_bias": lambda x: F.conv1d(x[:, None], torch.ones(1, 1, 2), bias=x[0, :1]),
    "batch_norm_in_training": lambda x: F.batch_norm(x, None, None, training=True),
    "largest": lambda x: x.amax(),
    "fourier": lambda x: torch.fft.fft(x),
    "solve": lambda x: torch.linalg.solve(x[:, :2], x[:, 2]),
    "differences_from": lambda x: x.diff(dim=-1, prepend=torch.ones(2, 1)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_rather_than_taken_for_something_else(name):
    x = torch.rand(2, 3) + 0.5
    with pytest.raises(NotImplementedError, match="Taylor rule"):
        jet(REFUSED[name], x, [x])


def test_functions_that_do_not_move_have_zero_derivatives():
    x = torch.randn(2, 3)
    value, (first,) = jet(lambda z: z.detach().sum(-1), x, [x])
    assert torch.equal(value, x.sum(-1))
    assert torch.equal(first, torch.zeros(2))


def test_the_table_lists_what_is_supported():
    table = taylor.supported_operations()
    assert "tanh" in table["elementwise, recurrence"]
    assert "linear" in table["product"]


def test_partition_coefficients():
    assert jet_coefficients((1, 2), 4) == {(1, 1, 1, 1): 1, (1, 1, 2): 6, (2, 2): 3}
    assert jet_coefficients((2, 3), 9) == {(3, 3, 3): 280, (2, 2, 2, 3): 1260}
    assert jet_coefficients((3, 4, 7), 11) == {(4, 7): 330, (3, 4, 4): 5775}
    assert jet_coefficients((2,), 3) == {}
    # With every slot at 1 the read-out counts set partitions: Bell numbers.
    assert [sum(jet_coefficients(range(1, n + 1), n).values()) for n in range(1, 7)] == [1, 2, 5, 15, 52, 203]
