"""Elementwise operations on Taylor tensors: recurrences, Faa di Bruno's formula, and piecewise functions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tensorbench.pde_operators.taylor import series as rules
from tensorbench.pde_operators.taylor.series import Series
from tensorbench.pde_operators.taylor.table import OPERATIONS, table
from tensorbench.pde_operators.taylor.tensor import TaylorTensor, apply, constant, first

_RECURRENCES = (  # noqa: SIM905
    "exp expm1 log log1p sin cos tan sinh cosh tanh sigmoid sqrt rsqrt reciprocal square erf silu mish logsigmoid "
    "atan asin acos"
).split()
_SAME = {"log_sigmoid": "logsigmoid", "arctan": "atan", "arcsin": "asin", "arccos": "acos", "expit": "sigmoid"}
_FAA_DI_BRUNO = (  # noqa: SIM905
    "asinh acosh atanh lgamma digamma erfc erfinv erfcx i0 i0e i1 i1e ndtr log_ndtr bessel_j0 bessel_j1 sinc "
    "log2 log10 exp2 softsign tanhshrink elu selu celu"
).split()

_FAR = 20  # torch's threshold of softplus

# --- elementwise ---------------------------------------------------------------------------------------------------


def _recurrence(name: str) -> Callable[..., TaylorTensor]:
    rule = getattr(rules, name)
    return lambda x, inplace=False: apply(rule, x)


for _name in _RECURRENCES:
    table("elementwise, recurrence", _name)(_recurrence(_name))
for _name, _meant in _SAME.items():
    table("elementwise, recurrence", _name)(OPERATIONS[_meant])


def elementwise(function: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    """Let an elementwise function of the user's take Taylor tensors: its derivatives come from nested autograd.

    >>> my_activation = taylor.elementwise(lambda z: torch.special.i0(z) * torch.sin(z))
    """

    def wrapped(x: Any) -> Any:
        return apply(partial(rules.by_derivatives, function), x) if isinstance(x, TaylorTensor) else function(x)

    return wrapped


def _fallback(name: str) -> Callable[..., TaylorTensor]:
    owner = next(space for space in (torch, torch.special, torch.nn.functional) if hasattr(space, name))
    function = getattr(owner, name)

    def rule(x: TaylorTensor, *args: Any, **kwargs: Any) -> TaylorTensor:
        kwargs.pop("inplace", None)
        return elementwise(lambda z: function(z, *args, **kwargs))(x)

    return rule


for _name in _FAA_DI_BRUNO:
    table("elementwise, Faa di Bruno", _name)(_fallback(_name))


def _scaled(values: Sequence[Any], alpha: float) -> TaylorTensor:
    return apply(lambda a, b: rules.add(a, b, alpha), *values)


@table("elementwise, recurrence", "add", "__add__", "__radd__", "__iadd__")
def add(a: Any, b: Any, *, alpha: float = 1.0) -> TaylorTensor:
    return _scaled((a, b), alpha)


@table("elementwise, recurrence", "sub", "subtract", "__sub__", "__isub__")
def subtract(a: Any, b: Any, *, alpha: float = 1.0) -> TaylorTensor:
    return _scaled((a, b), -alpha)


@table("elementwise, recurrence", "rsub", "__rsub__")
def _rsub(a: Any, b: Any) -> TaylorTensor:
    return _scaled((b, a), -1.0)


@table("elementwise, recurrence", "mul", "multiply", "__mul__", "__rmul__", "__imul__")
def multiply(a: Any, b: Any) -> TaylorTensor:
    return apply(rules.square, a) if a is b else apply(rules.mul, a, b)


@table("elementwise, recurrence", "div", "divide", "true_divide", "__truediv__", "__itruediv__")
def divide(a: Any, b: Any) -> TaylorTensor:
    return apply(rules.div, a, b)


@table("elementwise, recurrence", "__rtruediv__", "__rdiv__")
def _rdiv(a: Any, b: Any) -> TaylorTensor:
    return apply(rules.div, b, a)


@table("elementwise, recurrence", "neg", "negative", "__neg__")
def _neg(x: TaylorTensor) -> TaylorTensor:
    return apply(lambda s: rules.scale(s, -1.0), x)


@table("elementwise, recurrence", "positive", "__pos__")
def _pos(x: TaylorTensor) -> TaylorTensor:
    return x


@table("elementwise, recurrence", "pow", "float_power", "__pow__", "__ipow__")
def _pow(x: Any, exponent: Any) -> TaylorTensor:
    """A number as exponent, or x^a = exp(a log x) for a tensor."""
    if isinstance(exponent, Tensor) and exponent.ndim == 0 and not exponent.requires_grad:
        exponent = float(exponent)
    if isinstance(exponent, int | float):
        return apply(lambda s: rules.power(s, float(exponent)), x)
    return apply(lambda s, a: rules.exp(rules.mul(a, rules.log(s))), x, exponent)


@table("elementwise, recurrence", "__rpow__", "rpow")
def _rpow(exponent: TaylorTensor, base: Any) -> TaylorTensor:
    return _pow(constant(base, exponent), exponent)


@table("elementwise, recurrence", "softplus")
def _softplus(x: TaylorTensor, beta: float = 1.0, threshold: float = math.inf) -> TaylorTensor:
    """torch's threshold, past which the function is x, changes nothing that floating point resolves from 20 on."""
    soft = apply(lambda s: rules.softplus(s, beta), x)
    return soft if threshold >= _FAR else _where(beta * x.primal > threshold, x, soft)


@table("elementwise, recurrence", "gelu")
def _gelu(x: TaylorTensor, *, approximate: str = "none") -> TaylorTensor:
    return apply(lambda s: rules.gelu(s, approximate), x)


@table("elementwise, recurrence", "xlogy")
def _xlogy(x: Any, y: Any) -> TaylorTensor:
    """x log y, and 0 where x is and y is not NaN."""
    return multiply(x, apply(rules.log, constant(y, first((x, y)))))


@table("elementwise, recurrence", "atan2", "arctan2")
def _atan2(y: Any, x: Any) -> TaylorTensor:
    return apply(rules.atan2, y, x)


@table("elementwise, recurrence", "addcmul")
def _addcmul(x: Any, a: Any, b: Any, *, value: float = 1.0) -> TaylorTensor:
    return add(x, multiply(a, b), alpha=value)


# --- piecewise: the branch is the primal's -------------------------------------------------------------------------


def _mask(mask: Tensor, s: Series) -> Series:
    return [None if c is None else mask * c for c in s]


def _warn(name: str, x: TaylorTensor) -> None:
    if x.order >= 2:
        warnings.warn(
            f"{name} has no derivatives of order 2 and above where it bends; they count as zero here. A network that "
            "solves an equation of this order needs a smooth activation (tanh, sin, gelu, softplus)",
            stacklevel=5,
        )


@table("piecewise", "relu", "relu_")
def _relu(x: TaylorTensor, inplace: bool = False) -> TaylorTensor:
    _warn("relu", x)
    return apply(lambda s: _mask((s[0] > 0).to(s[0].dtype), s), x)


@table("piecewise", "leaky_relu")
def _leaky_relu(x: TaylorTensor, negative_slope: float = 0.01, inplace: bool = False) -> TaylorTensor:
    _warn("leaky_relu", x)
    return apply(lambda s: _mask(torch.where(s[0] > 0, torch.ones_like(s[0]), negative_slope), s), x)


@table("piecewise", "prelu")
def _prelu(x: Any, weight: Any) -> TaylorTensor:
    """One weight, or one for each channel of axis 1."""
    if isinstance(x, TaylorTensor):
        _warn("prelu", x)
    if weight.numel() > 1 and x.ndim > 1:
        weight = weight.reshape(-1, *(1,) * (x.ndim - 2))
    return _where((x.primal if isinstance(x, TaylorTensor) else x) > 0, x, multiply(weight, x))


@table("piecewise", "abs", "absolute", "__abs__")
def _abs(x: TaylorTensor) -> TaylorTensor:
    return apply(lambda s: _mask(s[0].sign(), s), x)


@table("piecewise", "where")
def _where(condition: Any, a: Any, b: Any) -> TaylorTensor:
    def rule(c: Series, p: Series, q: Series) -> Series:
        keep = c[0].bool()  # type: ignore[union-attr]
        zero = torch.zeros_like(p[0])  # type: ignore[arg-type]
        pairs = [(zero if u is None else u, zero if v is None else v) for u, v in zip(p, q, strict=True)]
        return [None if u is zero and v is zero else torch.where(keep, u, v) for u, v in pairs]

    return apply(rule, condition, *(constant(v, first((a, b))) for v in (a, b)))


@table("piecewise", "maximum")
def _maximum(a: Any, b: Any) -> TaylorTensor:
    p, q = (constant(v, first((a, b))) for v in (a, b))
    return _where(p.primal >= q.primal, p, q)


@table("piecewise", "minimum")
def _minimum(a: Any, b: Any) -> TaylorTensor:
    p, q = (constant(v, first((a, b))) for v in (a, b))
    return _where(p.primal <= q.primal, p, q)


@table("piecewise", "clamp", "clip")
def _clamp(x: TaylorTensor, min: Any = None, max: Any = None) -> TaylorTensor:
    x = x if min is None else _maximum(x, min)
    return x if max is None else _minimum(x, max)
