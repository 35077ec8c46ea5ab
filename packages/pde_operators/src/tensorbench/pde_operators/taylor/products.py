"""Products of Taylor tensors, and functions that are composed of other rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tensorbench.pde_operators.taylor import series as rules
from tensorbench.pde_operators.taylor.elementwise import add, divide, multiply, subtract
from tensorbench.pde_operators.taylor.linear import summed
from tensorbench.pde_operators.taylor.table import OPERATIONS, table
from tensorbench.pde_operators.taylor.tensor import Support, TaylorTensor, apply, collapsed, constant, first, product

# --- products ------------------------------------------------------------------------------------------------------


@table("product", "linear")
def _linear(x: Any, weight: Any, bias: Any = None) -> TaylorTensor:
    """x Wᵀ + b. With support, columns of W are gathered and nothing of the size of x is made."""
    if isinstance(weight, TaylorTensor) or not isinstance(x, TaylorTensor):
        out = _matmul(x, OPERATIONS["t"](weight) if isinstance(weight, TaylorTensor) else weight.t())
        return out if bias is None else add(out, bias)
    linear = torch.nn.functional.linear
    plain = not isinstance(bias, TaylorTensor)
    primal = linear(x.primal, weight, bias if plain else None)
    out = _gathered(x, weight, primal)
    if out is None:
        x = x.dense()
        out = x.like(primal, [None if c is None else linear(c, weight) for c in x.coefficients])
    return out if plain else add(out, bias)


def _gathered(x: TaylorTensor, weight: Tensor, primal: Tensor) -> TaylorTensor | None:
    """A linear layer on few entries; None where they do not lie along the last axis alone."""
    support = x.support
    if support is None:
        return None
    index, length, out = support.index, x.shape[-1], weight.shape[0]
    columns = weight.index_select(1, (index % length).reshape(-1)).t().contiguous().reshape(*index.shape, out)
    if support.axes == 1:
        one = index.shape[-1] == 1
        weighted = [None if c is None else c.unsqueeze(-1) * columns for c in x.coefficients]
        values = [None if c is None else c.squeeze(-2) if one else c.sum(-2) for c in weighted]
        return x.like(primal, collapsed(values, x.tangents, x.collapse) if x.collapse else values)
    if index.shape[-1] > 1:
        return None  # two entries may fall into one block
    block = (index // length) * out + torch.arange(out, device=index.device)
    values = [None if c is None else c * columns.squeeze(-2) for c in x.coefficients]
    return x.like(primal, values, Support(block, support.axes))


@table("product", "matmul", "mm", "bmm", "mv", "dot", "vdot", "__matmul__")
def _matmul(a: Any, b: Any) -> TaylorTensor:
    jet = first((a, b))
    a, b = constant(a, jet).dense(), constant(b, jet).dense()
    primal_shape = (a.primal @ b.primal).shape
    row, column = a.ndim == 1, b.ndim == 1
    if row:
        a = OPERATIONS["unsqueeze"](a, 0)
    if column:
        b = OPERATIONS["unsqueeze"](b, 1)
    ndim = max(a.ndim, b.ndim)

    def widened(x: TaylorTensor) -> TaylorTensor:
        return x if x.ndim == ndim else x.like(x.primal.reshape((1,) * (ndim - x.ndim) + x.shape), x.series(ndim)[1:])

    # A coefficient may have size 1 where its primal has not; contracted axes need their full size.
    out = product(_full(widened(a)), _full(widened(b)), torch.matmul)
    return OPERATIONS["reshape"](out, primal_shape) if out.shape != primal_shape else out


@table("product", "addmm", "baddbmm", "addmv")
def _add_product(bias: Any, a: Any, b: Any, *, beta: float = 1.0, alpha: float = 1.0) -> TaylorTensor:
    moves = isinstance(a, TaylorTensor) or isinstance(b, TaylorTensor)
    return add(bias if beta == 1 else beta * bias, _matmul(a, b) if moves else a @ b, alpha=alpha)


@table("product", "prod")
def _prod(x: TaylorTensor, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> TaylorTensor:
    """Halves times each other: no quotient, so that zeros are no trouble."""
    if dim is None:
        x, dim = OPERATIONS["flatten"](x), 0
    if x.shape[dim] == 0:
        return constant(x.primal.prod(dim, keepdim), x)
    narrow = OPERATIONS["narrow"]
    while (length := x.shape[dim]) > 1:
        half = length // 2
        pairs = multiply(narrow(x, dim, 0, half), narrow(x, dim, half, half))
        x = OPERATIONS["cat"]([pairs, narrow(x, dim, length - 1, 1)], dim) if length % 2 else pairs
    return x if keepdim else OPERATIONS["squeeze"](x, dim)


@table("product", "inner")
def _inner_product(a: Any, b: Any) -> TaylorTensor:
    """Over the last axis of both, where ``matmul`` takes the last of one and the last but one of the other."""
    jet = first((a, b))
    a, b = constant(a, jet), constant(b, jet)
    if a.ndim == 0 or b.ndim == 0:
        return multiply(a, b)
    left, right = "ijklmn"[: a.ndim - 1], "opqrst"[: b.ndim - 1]
    return _einsum(f"{left}z,{right}z->{left}{right}", a, b)


def _full(x: TaylorTensor) -> TaylorTensor:
    return x.like(x.primal, [None if c is None else x.full(c) for c in x.coefficients])


def squared_norm(x: Any) -> Any:
    """|x|² along the last axis, of a plain or a Taylor tensor.

    The same as ``(x * x).sum(-1)``, but a tangent that all points of a (points, d) batch share is not written out for
    each of them.
    """
    if not isinstance(x, TaylorTensor):
        return torch.einsum("...i,...i->...", x, x)
    if x.support is not None:
        return summed(apply(rules.square, x), -1)
    return product(x, x, _inner)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    if a.ndim > b.ndim:
        a, b = b, a
    if a.ndim == 2 and b.ndim == 3 and b.shape[1] == 1:
        return (a @ b.squeeze(1).t()).t()
    return (a * b).sum(-1)


@table("product", "__rmatmul__")
def _rmatmul(a: Any, b: Any) -> TaylorTensor:
    return _matmul(b, a)


@table("product", "einsum")
def _einsum(equation: str, *operands: Any) -> TaylorTensor:
    """One or two Taylor tensors among any number of operands."""
    operands = tuple(operands[0]) if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    letter = next(c for c in "ZYXWVUTSRQ" if c not in equation)
    inputs, _, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if "->" not in equation:
        output = "".join(sorted(c for c in set(inputs) if inputs.count(c) == 1 and c.isalpha()))
    places = [k for k, value in enumerate(operands) if isinstance(value, TaylorTensor)]
    if len(places) > 2:
        raise NotImplementedError("einsum takes at most two Taylor tensors; multiply in steps")

    def contract(*values: Tensor) -> Tensor:
        given, names, grown = list(operands), list(terms), False
        for k, value in zip(places, values, strict=True):
            given[k] = value
            if value.ndim > operands[k].ndim:
                names[k], grown = letter + terms[k], True
        return torch.einsum(f"{','.join(names)}->{letter if grown else ''}{output}", *given)

    jets = [operands[k].dense() for k in places]
    if len(jets) == 1:
        return jets[0].map(contract(jets[0].primal), contract)
    return product(_full(jets[0]), _full(jets[1]), contract)


# --- made of the others --------------------------------------------------------------------------------------------


@table("composed", "softmax")
def _softmax(x: TaylorTensor, dim: int, _stacklevel: int = 3, dtype: Any = None) -> TaylorTensor:
    weights = apply(rules.exp, subtract(x, x.primal.amax(dim, keepdim=True)))
    return divide(weights, summed(weights, dim, True))


@table("composed", "logsumexp")
def _logsumexp(x: TaylorTensor, dim: Any, keepdim: bool = False) -> TaylorTensor:
    shift = x.primal.amax(dim, keepdim=True)
    total = apply(rules.log, summed(apply(rules.exp, subtract(x, shift)), dim, True))
    total = add(total, shift)
    return total if keepdim else OPERATIONS["reshape"](total, x.primal.logsumexp(dim).shape)


@table("composed", "log_softmax")
def _log_softmax(x: TaylorTensor, dim: int, _stacklevel: int = 3, dtype: Any = None) -> TaylorTensor:
    return subtract(x, _logsumexp(x, dim, True))


@table("composed", "norm")
def _norm_of_order(x: TaylorTensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, **_: Any) -> TaylorTensor:
    """``torch.norm`` calls the order p, and takes a matrix for a vector where it is 2."""
    return _vector_norm(x, 2 if p == "fro" else p, dim, keepdim)


@table("composed", "linalg_norm")
def _linalg_norm(x: TaylorTensor, ord: Any = None, dim: Any = None, keepdim: bool = False, **_: Any) -> TaylorTensor:
    axes = x.ndim if dim is None else 1 if isinstance(dim, int) else len(dim)
    if axes == 2 and ord not in (None, "fro"):
        raise NotImplementedError(f"the norm of order {ord!r} of a matrix has no Taylor rule; that of Frobenius has")
    return _vector_norm(x, 2 if ord in (None, "fro") else ord, dim, keepdim)


@table("composed", "linalg_vector_norm", "vector_norm")
def _vector_norm(x: TaylorTensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> TaylorTensor:
    if ord != 2:
        raise NotImplementedError(f"norm of order {ord!r} has no Taylor rule; the Euclidean one has")
    return apply(rules.sqrt, summed(apply(rules.square, x), dim, keepdim))


@table("composed", "var")
def _var(
    x: TaylorTensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> TaylorTensor:
    if isinstance(dim, bool):  # torch.var(x, unbiased)
        dim, unbiased = None, dim
    centred = subtract(x, summed(x, dim, True, mean=True))
    total = summed(apply(rules.square, centred), dim, keepdim)
    count = x.numel() // max(total.numel(), 1)
    return divide(total, max(count - (float(unbiased) if correction is None else correction), 0.0))


@table("composed", "std")
def _std(x: TaylorTensor, *args: Any, **kwargs: Any) -> TaylorTensor:
    return apply(rules.sqrt, _var(x, *args, **kwargs))


@table("composed", "glu")
def _glu(x: TaylorTensor, dim: int = -1) -> TaylorTensor:
    value, gate = OPERATIONS["chunk"](x, 2, dim)
    return multiply(value, apply(rules.sigmoid, gate))


@table("composed", "batch_norm")
def _batch_norm(
    x: TaylorTensor,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> TaylorTensor:
    """With the moments that were kept, one affine map a channel."""
    if training:
        raise NotImplementedError(
            "batch_norm has no Taylor rule while it takes moments of the batch; call model.eval()"
        )
    channels = lambda values: values.reshape(-1, *(1,) * (x.ndim - 2))  # noqa: E731
    out = multiply(subtract(x, channels(running_mean)), channels((running_var + eps).rsqrt()))
    out = out if weight is None else multiply(out, channels(weight))
    return out if bias is None else add(out, channels(bias))


@table("composed", "layer_norm")
def _layer_norm(
    x: TaylorTensor, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> TaylorTensor:
    dims = tuple(range(-len(normalized_shape), 0))
    centred = subtract(x, summed(x, dims, True, mean=True))
    spread = summed(apply(rules.square, centred), dims, True, mean=True)
    out = multiply(centred, apply(rules.rsqrt, add(spread, eps)))
    out = out if weight is None else multiply(out, weight)
    return out if bias is None else add(out, bias)


@table("composed", "dropout", "feature_dropout")
def _dropout(x: TaylorTensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> TaylorTensor:
    if training and p > 0:
        raise NotImplementedError("dropout has no derivative that means anything while it draws; call model.eval()")
    return x
