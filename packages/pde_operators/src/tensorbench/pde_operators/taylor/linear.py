"""Operations on Taylor tensors that are linear in one tensor: each coefficient goes through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tensorbench.pde_operators.taylor.table import OPERATIONS, table
from tensorbench.pde_operators.taylor.tensor import Support, TaylorTensor, collapsed, constant, first

_RESHAPING = "reshape view flatten unflatten squeeze unsqueeze view_as reshape_as".split()  # noqa: SIM905
_BY_VMAP = (  # noqa: SIM905
    "permute movedim swapaxes swapdims transpose t flip roll cumsum narrow select index_select gather "
    "take_along_dim repeat expand expand_as broadcast_to tile tril triu diagonal trace rot90 repeat_interleave clone "
    "contiguous adjoint fliplr flipud avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d"
).split()

# --- linear in one tensor ------------------------------------------------------------------------------------------


def _reshaping(name: str) -> Callable[..., TaylorTensor]:
    """Anything that only names the axes anew: the coefficients follow the primal's new shape."""

    def rule(x: TaylorTensor, *args: Any, **kwargs: Any) -> TaylorTensor:
        args = tuple(a.primal if isinstance(a, TaylorTensor) else a for a in args)  # of view_as: its shape
        primal = getattr(torch.Tensor, name)(x.primal, *args, **kwargs)
        if x.support is not None:
            batch = x.ndim - x.support.axes
            if primal.shape[:batch] == x.shape[:batch] and primal.ndim > batch:
                return x.like(primal, x.coefficients, Support(x.support.index, primal.ndim - batch))
        return x.map(primal, lambda c: c.reshape(c.shape[0], *primal.shape))

    return rule


for _name in _RESHAPING:
    table("linear", _name)(_reshaping(_name))


def _by_vmap(name: str) -> Callable[..., TaylorTensor]:
    """A linear operation whose arguments name axes of the primal; a coefficient goes through it tangent by tangent."""
    function = _function(name)

    def rule(x: TaylorTensor, *args: Any, **kwargs: Any) -> TaylorTensor:
        args = tuple(a.primal if isinstance(a, TaylorTensor) else a for a in args)
        return x.map(function(x.primal, *args, **kwargs), torch.vmap(lambda c: function(c, *args, **kwargs)))

    return rule


def _function(name: str) -> Callable[..., Tensor]:
    owner = next(space for space in (torch.Tensor, torch, torch.nn.functional) if hasattr(space, name))
    return getattr(owner, name)


for _name in _BY_VMAP:
    table("linear", _name)(_by_vmap(_name))
table("linear", "moveaxis")(OPERATIONS["movedim"])


@table("linear", "pad")
def _pad(x: TaylorTensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> TaylorTensor:
    """What stands around the tensor does not move: the coefficients get zeros there."""
    function = torch.nn.functional.pad
    return x.map(function(x.primal, pad, mode, value), torch.vmap(lambda c: function(c, pad, mode)))


@table("linear", "diff")
def _diff(x: TaylorTensor, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> TaylorTensor:
    if prepend is not None or append is not None:
        raise NotImplementedError("diff with prepend or append has no Taylor rule; use torch.cat before diff")
    return x.map(torch.diff(x.primal, n, dim), torch.vmap(lambda c: torch.diff(c, n, dim)))


def _convolution(name: str) -> Callable[..., Any]:
    """Linear in the input; weights and bias stand still, and the coefficients have no bias."""
    function = _function(name)

    def rule(input: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(part, TaylorTensor) and not part.constant for part in (weight, bias)):
            raise NotImplementedError(f"{name} with a weight or bias that moves has no Taylor rule; use matmul")
        weight, bias = (part.primal if isinstance(part, TaylorTensor) else part for part in (weight, bias))
        if not isinstance(input, TaylorTensor):
            return function(input, weight, bias, *args, **kwargs)
        return input.map(
            function(input.primal, weight, bias, *args, **kwargs),
            torch.vmap(lambda c: function(c, weight, None, *args, **kwargs)),
        )

    return rule


for _name in ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
    table("linear", _name)(_convolution(_name))


@table("linear", "__getitem__")
def _getitem(x: TaylorTensor, index: Any) -> TaylorTensor:
    sparse = _last_axis(x, index) if x.support is not None and x.support.axes == 1 else None
    if sparse is not None:
        return sparse
    # Tangents last: before the others they would change where torch puts the axes of indices that are apart.
    places = _without_ellipsis(index if isinstance(index, tuple) else (index,), x.ndim)
    return x.map(x.primal[index], lambda c: c.movedim(0, -1)[places].movedim(-1, 0))


def _without_ellipsis(places: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
    """The index with all axes that an ellipsis stands for written out."""
    at = next((k for k, part in enumerate(places) if part is Ellipsis), None)
    if at is None:
        return places
    taken = sum(_axes_taken(part) for part in places)
    return places[:at] + (slice(None),) * (ndim - taken) + places[at + 1 :]


def _axes_taken(part: Any) -> int:
    """Axes that one part of an index uses up; a mask uses as many as it has."""
    if part is None or part is Ellipsis or isinstance(part, bool):
        return 0
    is_mask = getattr(part, "dtype", None) in (torch.bool, np.dtype(bool))
    return part.ndim if is_mask else 1


def _last_axis(x: TaylorTensor, index: Any) -> TaylorTensor | None:
    """x[..., a:b] and x[..., k] keep the support; None where the index is anything else."""
    assert x.support is not None
    if not (isinstance(index, tuple) and index[-1:] and all(part in (Ellipsis, slice(None)) for part in index[:-1])):
        return None
    if len(index) != x.ndim and Ellipsis not in index[:-1]:
        return None
    last, places, length = index[-1], x.support.index, x.shape[-1]
    if isinstance(last, int):
        hit = (places == last % length).to(x.dtype)
        values = [None if c is None else (c * hit).sum(-1) for c in x.coefficients]
        return x.like(x.primal[index], collapsed(values, x.tangents, x.collapse) if x.collapse else values)
    if not isinstance(last, slice) or last.step not in (None, 1):
        return None
    start, stop, _ = last.indices(length)
    if stop <= start:
        return None
    inside = (places >= start) & (places < stop)
    moved = (places - start).clamp(0, stop - start - 1)
    values = [None if c is None else c * inside.to(x.dtype) for c in x.coefficients]
    return x.like(x.primal[index], values, Support(moved))


@table("linear", "unbind")
def _unbind(x: TaylorTensor, dim: int = 0) -> tuple[TaylorTensor, ...]:
    return tuple(OPERATIONS["select"](x, dim, k) for k in range(x.shape[dim]))


@table("linear", "chunk")
def _chunk(x: TaylorTensor, chunks: int, dim: int = 0) -> tuple[TaylorTensor, ...]:
    return _split(x, [piece.shape[dim] for piece in x.primal.chunk(chunks, dim)], dim)


@table("linear", "tensor_split")
def _tensor_split(x: TaylorTensor, indices_or_sections: Any, dim: int = 0) -> tuple[TaylorTensor, ...]:
    return _split(x, [piece.shape[dim] for piece in x.primal.tensor_split(indices_or_sections, dim)], dim)


@table("linear", "split", "split_with_sizes")
def _split(x: TaylorTensor, sizes: int | Sequence[int], dim: int = 0) -> tuple[TaylorTensor, ...]:
    lengths = [piece.shape[dim] for piece in torch.split(x.primal, sizes, dim)]  # type: ignore[arg-type]
    ends = [sum(lengths[: k + 1]) for k in range(len(lengths))]
    axis = dim % x.ndim
    index = [(slice(None),) * axis + (slice(end - n, end),) for end, n in zip(ends, lengths, strict=True)]
    return tuple(_getitem(x, where + (slice(None),) * (x.ndim - axis - 1)) for where in index)


def _axes(x: TaylorTensor, dim: Any) -> tuple[int, ...]:
    """Reduced axes as negative numbers, which mean the same behind an axis of tangents."""
    dims = range(x.ndim) if dim is None or dim == () else (dim,) if isinstance(dim, int) else dim
    return tuple(sorted(d % x.ndim - x.ndim for d in dims))


@table("linear", "sum", "mean")
def summed(
    x: TaylorTensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, mean: bool = False
) -> TaylorTensor:
    axes = _axes(x, dim)
    reduce = torch.mean if mean else torch.sum
    primal = reduce(x.primal, dim=axes, keepdim=keepdim) if axes else x.primal
    if x.support is not None and axes == tuple(range(-x.support.axes, 0)):
        share = 1 / torch.Size(x.shape[-x.support.axes :]).numel() if mean else 1.0
        values = [None if c is None else share * c.sum(-1) for c in x.coefficients]
        if keepdim:
            values = [None if c is None else c.reshape(*c.shape, *(1,) * len(axes)) for c in values]
        return x.like(primal, collapsed(values, x.tangents, x.collapse) if x.collapse else values)
    return x.map(primal, lambda c: reduce(c, dim=axes, keepdim=keepdim) if axes else c)


OPERATIONS["mean"] = partial(summed, mean=True)


@table("linear", "to", "float", "double", "cpu", "cuda", "type_as")
def _to(x: TaylorTensor, *args: Any, **kwargs: Any) -> TaylorTensor:
    if not args and not kwargs:
        raise ValueError("give the type with x.to(dtype); x.float() and x.double() are not for Taylor tensors")
    return x.map(x.primal.to(*args, **kwargs), lambda c: c.to(*args, **kwargs))


@table("linear", "cat", "concat", "concatenate")
def _cat(tensors: Sequence[Any], dim: int = 0, *, axis: int | None = None) -> TaylorTensor:
    dim = dim if axis is None else axis
    jet = first(tensors)
    parts = [constant(t, jet) for t in tensors]
    primal = torch.cat([p.primal for p in parts], dim)
    place = dim % jet.ndim - jet.ndim
    moving = [k for k, p in enumerate(parts) if not p.constant]
    if len(moving) == 1 and place == -1 and (support := parts[moving[0]].support) is not None and support.axes == 1:
        before = sum(p.shape[-1] for p in parts[: moving[0]])
        return jet.like(primal, parts[moving[0]].coefficients, Support(support.index + before))
    parts = [p.dense() for p in parts]
    return jet.like(primal, [_joined(parts, k, lambda pieces: torch.cat(pieces, place)) for k in range(jet.order)])


@table("linear", "stack")
def _stack(tensors: Sequence[Any], dim: int = 0) -> TaylorTensor:
    jet = first(tensors)
    parts = [constant(t, jet).dense() for t in tensors]
    place = dim % (jet.ndim + 1) - (jet.ndim + 1)
    primal = torch.stack([p.primal for p in parts], place)
    return jet.like(primal, [_joined(parts, k, lambda pieces: torch.stack(pieces, place)) for k in range(jet.order)])


def _joined(parts: list[TaylorTensor], k: int, join: Callable[[list[Tensor]], Tensor]) -> Tensor | None:
    """Coefficient k of tensors put together; zero where all are."""
    found = [p.coefficients[k] for p in parts]
    if all(c is None for c in found):
        return None
    count = max(c.shape[0] for c in found if c is not None)
    zero = parts[0].primal.new_zeros(())
    return join([(zero if c is None else c).expand(count, *p.shape) for c, p in zip(found, parts, strict=True)])
