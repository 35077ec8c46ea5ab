"""Jets: derivatives of any order along curves, in one pass through a function, for many points and tangents at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tensorbench.pde_operators.taylor import linear, products, questions  # noqa: F401  (they fill the table)
from tensorbench.pde_operators.taylor.partitions import MultiIndex, plan
from tensorbench.pde_operators.taylor.series import Series
from tensorbench.pde_operators.taylor.tensor import Support, TaylorTensor, collapsed


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Unit tangents along coordinates of the last axis, never written out: ``index`` of shape (tangents,), the same for
    all points, or (tangents, *batch)."""

    index: Int[Tensor, "..."]


Term = Tensor | Coordinates | None


def jet(
    f: Callable[..., Any],
    primals: Tensor | Sequence[Tensor],
    series: Sequence[Any],
    *,
    collapse: int = 0,
) -> tuple[Tensor, list[Tensor]]:
    """Push truncated Taylor series through ``f``.

    The input moves along x(t) with derivatives ``series`` at t = 0; the result is f(x(0)) and the derivatives of
    f(x(t)) at t = 0, from the first to the K-th. With x = ``primals`` and ``series`` = [v, None, …] these are the
    directional derivatives dᵏf(v, …, v).

    Args:
        f: a plain function or an ``nn.Module`` made of supported operations (``supported_operations()``).
        Differentiable
            by an ordinary backward pass, parameters included.
        primals: the point or points x, one tensor, or a sequence of tensors where f takes several.
        series: K derivatives of the input, for each primal a sequence of them where there are several. Each is a tensor
            of the primal's shape, or with one more leading axis of tangents (size 1 in other axes where it is
            constant), or :class:`Coordinates`, or None for zero.
        collapse: give the K-th derivative summed over the tangents, for about half the work at order 2. A number of
            groups sums over each of so many groups of tangents that follow each other; True is one group.

    Returns:
        f's value, and K derivatives, with a leading axis of tangents where a term has one. With
        ``collapse`` the last has none, or with several groups one of groups.

    Raises:
        ValueError: no terms, terms whose shapes do not fit, NaN among them.
        TypeError: f returns no tensor.
        NotImplementedError: f uses an operation without a Taylor rule, which the message names.
    """
    single = isinstance(primals, Tensor)
    points: list[Tensor] = [primals] if isinstance(primals, Tensor) else list(primals)
    terms: list[list[Term]] = [list(series)] if single else [list(part) for part in series]
    order = _check(points, terms)
    counts = {c for part, x in zip(terms, points, strict=True) for term in part if (c := _tangents(term, x))}
    if len(counts - {1}) > 1:
        raise ValueError(f"the terms hold {sorted(counts)} tangents; their number must be one, or 1")
    tangents = max(counts, default=1)
    groups = int(collapse) if counts else 0
    if groups and tangents % groups:
        raise ValueError(f"{tangents} tangents do not make {groups} groups of one size")
    inputs = [_input(x, part, tangents, groups) for x, part in zip(points, terms, strict=True)]
    out = f(*inputs)
    if isinstance(out, Tensor):  # f does not depend on what moves
        out = TaylorTensor(out, [None] * order, tangents, collapse=groups)
    if not isinstance(out, TaylorTensor):
        raise TypeError(f"f must return one tensor, got {type(out).__name__}; return a stack, or one output at a time")
    return _output(out, bool(counts), groups)


def _output(out: TaylorTensor, batched: bool, groups: int) -> tuple[Tensor, list[Tensor]]:
    out = out.dense()
    derivatives = []
    for k, c in enumerate(out.coefficients, start=1):
        top = bool(groups) and k == out.order
        size = (groups if top else out.tangents, *out.shape)
        full = out.primal.new_zeros(size) if c is None else (float(math.factorial(k)) * c if k > 1 else c).expand(size)
        derivatives.append(full[0] if not batched or (top and groups == 1) else full)
    return out.primal, derivatives


def _tangents(term: Term, x: Tensor) -> int:
    """How many tangents a term holds; 0 where it has no axis of them."""
    if isinstance(term, Coordinates):
        return term.index.shape[0]
    return term.shape[0] if term is not None and term.ndim == x.ndim + 1 else 0


def _check(points: list[Tensor], terms: list[list[Term]]) -> int:
    if len(points) != len(terms):
        raise ValueError(f"{len(points)} primals need as many series, got {len(terms)}")
    orders = {len(part) for part in terms}
    if len(orders) != 1 or orders == {0}:
        raise ValueError(f"every primal needs the same number of terms, one or more; got {sorted(orders)}")
    for x, part in zip(points, terms, strict=True):
        if not x.is_floating_point():
            raise ValueError(f"a primal has type {x.dtype}; derivatives need floating-point numbers")
        for k, term in enumerate(part, start=1):
            if isinstance(term, Tensor):
                _check_term(term, x, k)
            elif isinstance(term, Coordinates):
                _check_coordinates(term, x, k)
            elif term is not None:
                raise ValueError(f"term {k} is a {type(term).__name__}; give a tensor, Coordinates, or None for zero")
    return orders.pop()


def _check_term(term: Tensor, x: Tensor, k: int) -> None:
    tail = term.shape[1:] if term.ndim == x.ndim + 1 else term.shape
    if len(tail) != x.ndim or any(a not in (1, b) for a, b in zip(tail, x.shape, strict=True)):
        raise ValueError(
            f"term {k} has shape {tuple(term.shape)}, the primal {tuple(x.shape)}; give the primal's shape, or one "
            "more leading axis of tangents"
        )
    if bool(torch.isnan(term).any()):
        raise ValueError(f"term {k} of the series has NaN")


def _check_coordinates(term: Coordinates, x: Tensor, k: int) -> None:
    index = term.index
    if x.ndim < 1 or index.ndim not in (1, x.ndim) or (index.ndim > 1 and index.shape[1:] != x.shape[:-1]):
        raise ValueError(
            f"term {k}: coordinates of shape {tuple(index.shape)} for a primal of shape {tuple(x.shape)}; give "
            "(tangents,) or (tangents, *batch)"
        )
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= x.shape[-1]):
        raise ValueError(
            f"term {k}: coordinates must lie in 0 … {x.shape[-1] - 1}, got {int(index.min())} … {int(index.max())}"
        )


def _input(x: Tensor, part: list[Term], tangents: int, groups: int) -> TaylorTensor:
    """The moving input: with support where all terms are coordinates, else dense."""
    places = [term for term in part if term is not None]
    if places and all(isinstance(term, Coordinates) for term in places):
        return _on_support(x, part, tangents, groups)
    coefficients: Series = []
    for k, term in enumerate(part, start=1):
        if isinstance(term, Coordinates):
            one = _on_support(x, [term], tangents, 0)
            term = one.dense().coefficients[0]
        elif isinstance(term, Tensor) and term.ndim == x.ndim:
            term = term.unsqueeze(0)
        coefficients.append(None if term is None else term / math.factorial(k) if k > 1 else term)
    return TaylorTensor(
        x, collapsed(coefficients, tangents, groups) if groups else coefficients, tangents, collapse=groups
    )


def _on_support(x: Tensor, part: Sequence[Term], tangents: int, groups: int) -> TaylorTensor:
    """Terms along coordinates. One coordinate twice in a tangent keeps its values in the first of the two places."""
    found: list[Coordinates] = []
    for term in part:
        if isinstance(term, Coordinates) and all(term.index is not other.index for other in found):
            found.append(term)
    batch = (1,) * (x.ndim - 1)
    wide = [c.index.reshape(-1, *batch) if c.index.ndim == 1 else c.index for c in found]
    index = torch.stack(torch.broadcast_tensors(*(w.expand(tangents, *w.shape[1:]) for w in wide)), dim=-1)
    coefficients: Series = []
    for k, term in enumerate(part, start=1):
        if not isinstance(term, Coordinates):
            coefficients.append(None)
            continue
        own = term.index.reshape(-1, *batch) if term.index.ndim == 1 else term.index
        same = (index == own.unsqueeze(-1)).to(x.dtype)
        leading = same * (same.cumsum(-1) == 1).to(x.dtype)
        coefficients.append(leading / math.factorial(k))
    return TaylorTensor(x, coefficients, tangents, collapse=groups, support=Support(index))


def directional(
    f: Callable[..., Any], x: Float[Tensor, "..."], v: Float[Tensor, "..."] | Coordinates, order: int
) -> tuple[Tensor, list[Tensor]]:
    """f and its derivatives f′(x)v, f″(x)[v, v], … up to ``order`` along straight lines."""
    if order < 1:
        raise ValueError(f"order {order} must be at least 1")
    return jet(f, x, [v] + [None] * (order - 1))


def partials(
    f: Callable[..., Any], x: Float[Tensor, "*batch d"], targets: Sequence[Sequence[int]]
) -> dict[MultiIndex, Tensor]:
    """Mixed partial derivatives of any order, exact up to rounding: {(0, 0, 1): u_xxy, …}.

    The jets come from :func:`~.partitions.plan`; those of one order run as one. A target () is f itself.
    """
    wanted = [tuple(sorted(target)) for target in targets]
    outside = [c for target in wanted for c in target if not 0 <= c < x.shape[-1]]
    if outside:
        raise ValueError(f"coordinate {outside[0]} is not one of 0 … {x.shape[-1] - 1}")
    readings = plan([target for target in wanted if target])
    orders: dict[tuple[tuple[int, int], ...], int] = {}
    for reading in readings.values():
        orders[reading.slots] = max(orders.get(reading.slots, 0), reading.order)
    value: Tensor | None = None
    read: dict[tuple[tuple[int, int], ...], list[Tensor]] = {}
    for order in sorted(set(orders.values())):
        group = [slots for slots in orders if orders[slots] == order]
        value, out = jet(f, x, _tangents_of(group, order, x))
        read |= {slots: [term[k] for term in out] for k, slots in enumerate(group)}
    found: dict[MultiIndex, Tensor] = {} if value is None else {(): value}
    if value is None and () in wanted:
        found[()] = f(x)
    for target in sorted(readings, key=lambda t: (len(readings[t].corrections), len(t))):
        reading = readings[target]
        total = read[reading.slots][reading.order - 1]
        for term, count in reading.corrections:
            total = total - count * found[term]
        found[target] = total / reading.coefficient if reading.coefficient != 1 else total
    return {target: found[target] for target in wanted}


def _tangents_of(group: list[tuple[tuple[int, int], ...]], order: int, x: Tensor) -> list[Term]:
    """The series whose tangent k puts unit vectors into the slots of ``group[k]``."""
    series: list[Term] = []
    for slot in range(1, order + 1):
        chosen = [dict(slots).get(slot) for slots in group]
        if all(c is None for c in chosen):
            series.append(None)
            continue
        term = x.new_zeros(len(group), x.shape[-1])
        for k, c in enumerate(chosen):
            if c is not None:
                term[k, c] = 1.0
        series.append(term.reshape(len(group), *(1,) * (x.ndim - 1), x.shape[-1]))
    return series
