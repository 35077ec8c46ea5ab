"""A tensor that carries its truncated Taylor series through torch code.

:class:`TaylorTensor` holds x(t) = x₀ + x₁ t + … + x_K tᴷ, for one or many tangents at once: the coefficients have the
primal's shape behind one leading axis of tangents, while the primal itself is computed once. It looks like its primal
(``shape``, indexing, operators, torch functions), so that a plain function or an ``nn.Module`` takes it for a tensor.

Three things make it cheap:

- a coefficient that is zero is ``None``; one that is the same along an axis has size 1 there;
- *support*: where a tangent touches few entries of the last axes (coordinate directions), only these entries are kept.
  Elementwise functions keep the support, and a linear layer gathers the columns of its weight;
- *collapse*: where only the sum of the top derivative over the tangents is wanted (a Laplacian), its coefficients are
  summed as early as a function allows, since they enter everything linearly: one tensor instead of one a tangent
  (Dangel, Mucsányi, Weber, Eschenhagen, *Collapsing Taylor Mode Automatic Differentiation*, 2025; the forward
  Laplacian of Li et al., 2023, is the case of order 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tensorbench.pde_operators.taylor.series import Series, plus

Rule = Callable[..., Series]


@dataclass(frozen=True, eq=False)
class Support:
    """Which entries of the last ``axes`` axes, taken as one, the coefficients touch.

    ``index`` is (tangents, batch axes of size 1 or full, entries); entries of one tangent that coincide carry zeros in
    all but the first place.
    """

    index: Tensor
    axes: int = 1

    def gather(self, dense: Tensor) -> Tensor:
        """The entries of a tensor of the primal's shape: (tangents, *batch, entries)."""
        batch = dense.shape[: dense.ndim - self.axes]
        flat = dense.reshape(*batch, -1)
        tangents, entries = self.index.shape[0], self.index.shape[-1]
        if all(size == 1 for size in self.index.shape[1:-1]):
            picked = flat.index_select(-1, self.index.reshape(-1))
        else:
            index = self.index.expand(tangents, *batch, entries).movedim(0, -2)
            picked = flat.gather(-1, index.reshape(*batch, -1))
        return picked.reshape(*batch, tangents, entries).movedim(-2, 0)

    def scatter(self, values: Tensor, shape: Sequence[int]) -> Tensor:
        """Coefficients of full size, (tangents, *shape)."""
        batch = tuple(shape[: len(shape) - self.axes])
        size = (self.index.shape[0], *batch, self.index.shape[-1])
        length = torch.Size(shape[len(batch) :]).numel()
        empty = torch.zeros(*size[:-1], length, dtype=values.dtype, device=values.device)
        full = empty.scatter_add(-1, self.index.expand(size), values.expand(size))
        return full.reshape(size[0], *shape)


class TaylorTensor:
    """A tensor with Taylor coefficients (not derivatives: the k-th is x⁽ᵏ⁾/k!)."""

    __array_ufunc__ = None  # so that a NumPy array on the left lets us answer
    operations: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __init__(
        self,
        primal: Tensor,
        coefficients: Series,
        tangents: int,
        *,
        collapse: int = 0,
        support: Support | None = None,
    ) -> None:
        self.primal = primal
        self.coefficients = coefficients
        self.tangents = tangents
        self.collapse = collapse
        self.support = support if any(c is not None for c in coefficients) else None

    # --- what it looks like ------------------------------------------------------------------------------------

    @property
    def order(self) -> int:
        return len(self.coefficients)

    @property
    def constant(self) -> bool:
        """Whether every coefficient is zero."""
        return all(c is None for c in self.coefficients)

    shape = property(lambda self: self.primal.shape)
    ndim = property(lambda self: self.primal.ndim)
    dtype = property(lambda self: self.primal.dtype)
    device = property(lambda self: self.primal.device)
    requires_grad = property(lambda self: self.primal.requires_grad)
    is_cuda = property(lambda self: self.primal.is_cuda)
    T = property(lambda self: self.operations["t"](self))
    mT = property(lambda self: self.operations["transpose"](self, -2, -1))

    def size(self, dim: int | None = None) -> Any:
        return self.primal.size() if dim is None else self.primal.size(dim)

    def dim(self) -> int:
        return self.primal.ndim

    def numel(self) -> int:
        return self.primal.numel()

    def __len__(self) -> int:
        return len(self.primal)

    def __repr__(self) -> str:
        return f"TaylorTensor(shape={tuple(self.shape)}, order={self.order}, tangents={self.tangents})"

    def __bool__(self) -> bool:
        return bool(self.primal)

    # --- dispatch ----------------------------------------------------------------------------------------------

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict | None = None
    ) -> Any:
        name = getattr(func, "__name__", str(func))
        if name == "__get__":  # of a property of torch.Tensor
            name = getattr(getattr(func, "__self__", None), "__name__", name)
        return cls.operation(name)(*args, **(kwargs or {}))

    @classmethod
    def operation(cls, name: str) -> Callable[..., Any]:
        """The rule for the torch function or method of this name. NotImplementedError where there is none."""
        short = name.removeprefix("special_")
        if (rule := cls.operations.get(name) or cls.operations.get(short)) is not None:
            return rule
        raise NotImplementedError(
            f"torch operation {name!r} has no Taylor rule. taylor.supported_operations() lists those that have one; "
            "wrap an elementwise function in taylor.elementwise(...), or write it with supported ones."
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(Tensor, name):
            raise AttributeError(f"TaylorTensor has no attribute {name!r}")
        rule = self.operation(name)
        return lambda *args, **kwargs: rule(self, *args, **kwargs)

    # --- inside ------------------------------------------------------------------------------------------------

    def series(self, ndim: int | None = None) -> Series:
        """[x₀, x₁, …] with axes of size 1 put behind the axis of tangents, so that it broadcasts in ``ndim`` axes."""
        if ndim is None or ndim == self.primal.ndim:
            return [self.primal, *self.coefficients]
        more = (1,) * (ndim - self.primal.ndim)
        return [self.primal, *(None if c is None else c.reshape(c.shape[0], *more, *c.shape[1:])
                               for c in self.coefficients)]  # fmt: skip

    def full(self, coefficient: Tensor) -> Tensor:
        """A coefficient with every axis of the primal at its full size (a view)."""
        return coefficient.expand(coefficient.shape[0], *self.primal.shape)

    def dense(self) -> TaylorTensor:
        """The same without support."""
        if self.support is None:
            return self
        support = self.support
        full: Series = [None if c is None else support.scatter(c, self.shape) for c in self.coefficients]
        return self.like(self.primal, collapsed(full, self.tangents, self.collapse) if self.collapse else full)

    def like(self, primal: Tensor, coefficients: Series, support: Support | None = None) -> TaylorTensor:
        return TaylorTensor(primal, coefficients, self.tangents, collapse=self.collapse, support=support)

    def map(self, primal: Tensor, linear: Callable[[Tensor], Tensor]) -> TaylorTensor:
        """A linear function, given what it does to the primal and to a coefficient of full size (behind tangents)."""
        dense = self.dense()
        return self.like(primal, [None if c is None else linear(dense.full(c)) for c in dense.coefficients])


def _sum_tangents(coefficient: Tensor | None, tangents: int, groups: int) -> Tensor | None:
    """Summed over the tangents of each of ``groups`` groups that follow each other."""
    if coefficient is None:
        return None
    if coefficient.shape[0] != tangents:  # the same for all
        return tangents // groups * coefficient
    return coefficient.unflatten(0, (groups, -1)).sum(1)


def collapsed(coefficients: Series, tangents: int, groups: int) -> Series:
    """The top coefficient summed over the tangents of each group."""
    return [*coefficients[:-1], _sum_tangents(coefficients[-1], tangents, groups)]


def constant(value: Any, like: TaylorTensor) -> TaylorTensor:
    """A number or tensor as a TaylorTensor without coefficients."""
    if isinstance(value, TaylorTensor):
        return value
    if isinstance(value, bool | int | float):
        value = torch.tensor(value, dtype=like.dtype, device=like.device)
    else:
        value = torch.as_tensor(value, device=like.device)
    return like.like(value, [None] * like.order)


def first(values: Sequence[Any]) -> TaylorTensor:
    """The TaylorTensor among arguments. Mixing jets of different orders is an error."""
    jets = [value for value in values if isinstance(value, TaylorTensor)]
    if len({(jet.order, jet.collapse) for jet in jets}) > 1 or len({jet.tangents for jet in jets} - {1}) > 1:
        raise ValueError(f"tensors of different jets meet in one operation: {', '.join(map(repr, jets))}")
    return max(jets, key=lambda jet: jet.tangents)


def apply(rule: Rule, *values: Any) -> TaylorTensor:
    """An elementwise function of one or several arguments: ``rule(series, …) -> series``."""
    jet = first(values)
    args = [constant(value, jet) for value in values]
    supports = {id(arg.support): arg.support for arg in args if not arg.constant}
    shared = next(iter(supports.values())) if len(supports) == 1 else None
    if shared is not None:
        shape = torch.broadcast_shapes(*(arg.shape for arg in args))
        if all(arg.constant or arg.shape == shape for arg in args):
            primal = rule(*([arg.primal] for arg in args))[0]
            assert primal is not None
            picked = [[shared.gather(arg.primal.expand(shape)), *arg.coefficients] for arg in args]
            return jet.like(primal, rule(*picked)[1:], shared)
    args = [arg.dense() for arg in args]
    ndim = max(arg.ndim for arg in args)
    series = [arg.series(ndim) for arg in args]
    return jet.like(*_with_top(rule, series, jet))


def _with_top(rule: Rule, series: list[Series], jet: TaylorTensor) -> tuple[Tensor, Series]:
    """Apply a rule; under collapse the top coefficients enter linearly and are summed over tangents already."""
    if not jet.collapse:
        out = rule(*series)
    else:
        out = rule(*([*s[:-1], None] for s in series))
        top = rule(*([s[0], s[-1]] for s in series))[1]
        out = [*out[:-1], plus(top, _sum_tangents(out[-1], jet.tangents, jet.collapse))]
    assert out[0] is not None
    return out[0], out[1:]


def product(a: TaylorTensor, b: TaylorTensor, multiply: Callable[[Tensor, Tensor], Tensor]) -> TaylorTensor:
    """A bilinear function such as a matrix product: yₖ = Σᵢ multiply(aᵢ, bₖ₋ᵢ)."""

    def rule(p: Series, q: Series) -> Series:
        out: Series = []
        for k in range(len(p)):
            total: Tensor | None = None
            for i in range(k + 1):
                left, right = p[i], q[k - i]
                if left is not None and right is not None:
                    total = plus(total, multiply(left, right))
            out.append(total)
        return out

    a, b = a.dense(), b.dense()
    jet = first([a, b])
    return jet.like(*_with_top(rule, [a.series(), b.series()], jet))
