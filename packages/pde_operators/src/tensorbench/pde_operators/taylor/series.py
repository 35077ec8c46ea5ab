"""Recurrences for truncated Taylor series: what each elementary function does to the coefficients.

A series is a list ``[x0, x1, …, xK]`` of tensors with x(t) = Σ xₖ tᵏ; ``None`` stands for a coefficient that is exactly
zero, and costs nothing. A rule takes series of one length and returns one of the same length. All coefficients
broadcast against each other, and everything is made of differentiable torch operations.

Most rules come from an ordinary differential equation y′ = h x′, whose coefficients are
k yₖ = Σⱼ j xⱼ hₖ₋ⱼ (Griewank and Walther, *Evaluating Derivatives*, 2008, chapter 13); for tanh, h = 1 - y².
:func:`faa_di_bruno` serves every other elementwise function, from its derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

Series = list[Tensor | None]
SlopeRule = Callable[[Series], tuple[Series, Series]]  # the series of φ(x) and of φ′(x)


def _dot(terms: Iterable[tuple[float, Tensor | None, Tensor | None]]) -> Tensor | None:
    """Σ weight · a · b, one pass over memory a term; None where every term has a zero."""
    total: Tensor | None = None
    recording = torch.is_grad_enabled()
    for weight, a, b in terms:
        if a is None or b is None or weight == 0:
            continue
        if total is not None and not recording and total.shape == torch.broadcast_shapes(total.shape, a.shape, b.shape):
            total.addcmul_(a, b, value=weight)
        elif total is not None:
            total = torch.addcmul(total, a, b, value=weight)
        elif weight == 1:
            total = a * b
        else:
            total = torch.addcmul(torch.zeros((), dtype=a.dtype, device=a.device), a, b, value=weight)
    return total


def plus(a: Tensor | None, b: Tensor | None, scale: float = 1.0) -> Tensor | None:
    """a + scale · b, where either may be zero."""
    if b is None:
        return a
    if a is None:
        return b if scale == 1 else scale * b
    return torch.add(a, b, alpha=scale)


def _start(x: Series) -> Tensor:
    assert x[0] is not None
    return x[0]


# --- arithmetic ----------------------------------------------------------------------------------------------------


def add(a: Series, b: Series, alpha: float = 1.0) -> Series:
    return [plus(p, q, alpha) for p, q in zip(a, b, strict=True)]


def mul(a: Series, b: Series) -> Series:
    """yₖ = Σᵢ aᵢ bₖ₋ᵢ."""
    return [_dot((1.0, a[i], b[k - i]) for i in range(k + 1)) for k in range(len(a))]


def square(x: Series) -> Series:
    """The product with itself, each pair of coefficients once."""
    out: Series = []
    for k in range(len(x)):
        pairs = [(2.0, x[i], x[k - i]) for i in range((k + 1) // 2)]
        out.append(_dot(pairs + ([(1.0, x[k // 2], x[k // 2])] if k % 2 == 0 else [])))
    return out


def div(a: Series, b: Series) -> Series:
    """yₖ = (aₖ - Σⱼ≥₁ bⱼ yₖ₋ⱼ) / b₀."""
    start = _start(b)
    out: Series = []
    for k in range(len(a)):
        top = plus(a[k], _dot((1.0, b[j], out[k - j]) for j in range(1, k + 1)), -1.0)
        out.append(None if top is None else top / start)
    return out


def reciprocal(x: Series) -> Series:
    return div([torch.ones_like(_start(x))] + [None] * (len(x) - 1), x)


def scale(x: Series, factor: float) -> Series:
    return [None if c is None else factor * c for c in x]


def power(x: Series, exponent: float) -> Series:
    """xᵃ: products for a small whole number (right at x₀ = 0 too), else k x₀ yₖ = Σⱼ (a j - (k - j)) xⱼ yₖ₋ⱼ."""
    if exponent == int(exponent) and abs(exponent) <= 32:
        n = abs(int(exponent))
        out: Series = [torch.ones_like(_start(x))] + [None] * (len(x) - 1)
        base, started = x, False
        while n:
            if n % 2:
                out, started = (mul(out, base) if started else base), True
            n //= 2
            base = square(base) if n else base
        return reciprocal(out) if exponent < 0 else out
    y: Series = [_start(x) ** exponent]
    for k in range(1, len(x)):
        top = _dot(((exponent * j - (k - j)) / k, x[j], y[k - j]) for j in range(1, k + 1))
        y.append(None if top is None else top / _start(x))
    return y


def sqrt(x: Series) -> Series:
    return power(x, 0.5)


def rsqrt(x: Series) -> Series:
    return power(x, -0.5)


# --- functions of one variable -------------------------------------------------------------------------------------


def integral(x: Series, slope: Series, start: Tensor) -> Series:
    """y with y′ = h x′ and y₀ = ``start``: yₖ = Σⱼ (j/k) xⱼ hₖ₋ⱼ."""
    return [start] + [_dot((j / k, x[j], slope[k - j]) for j in range(1, k + 1)) for k in range(1, len(x))]


class _Fused(torch.autograd.Function):
    """An elementwise function whose backward pass needs its slope alone.

    y(t) = φ(x(t)) gives dy(t) = φ′(x(t)) dx(t), a product of series: the gradient of xᵢ is Σₖ≥ᵢ ȳₖ hₖ₋ᵢ with the series
    h of φ′(x(t)), which the recurrences make anyway. Differentiating the recurrences themselves costs more.
    """

    @staticmethod
    def forward(ctx: Any, rule: SlopeRule, *x: Tensor | None) -> tuple[Tensor | None, ...]:
        y, h = rule(list(x))
        ctx.rule, ctx.length = rule, len(x)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*x, *h)
        return tuple(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        x, h = list(saved[: ctx.length]), list(saved[ctx.length :])
        if torch.is_grad_enabled():  # a second backward pass is wanted: h as a function of x
            h = ctx.rule(x)[1]
        out: list[Tensor | None] = []
        for i, c in enumerate(x):
            if c is None or not ctx.needs_input_grad[1 + i]:
                out.append(None)
                continue
            terms: dict[torch.Size, list[tuple[float, Tensor | None, Tensor | None]]] = {}
            for k in range(i, ctx.length):  # the primal, say, has no tangents: what is summed must be of one shape
                if (g := gradients[k]) is not None and h[k - i] is not None:
                    terms.setdefault(g.shape, []).append((1.0, g, h[k - i]))
            total: Tensor | None = None
            for group in terms.values():
                part = _dot(group)
                total = plus(total, None if part is None else part.sum_to_size(c.shape))
            out.append(total)
        return None, *out


def _with_slope(rule: SlopeRule, x: Series) -> Series:
    """The value part of ``rule(x) -> (φ(x), φ′(x))``, with a cheap backward pass."""
    if torch.is_grad_enabled() and any(c is not None and c.requires_grad for c in x):
        return list(_Fused.apply(rule, *x))
    return rule(x)[0]


def exp(x: Series) -> Series:
    return _with_slope(_exp, x)


def _exp(x: Series) -> tuple[Series, Series]:
    y: Series = [_start(x).exp()]
    for k in range(1, len(x)):
        y.append(_dot((j / k, x[j], y[k - j]) for j in range(1, k + 1)))
    return y, y


def expm1(x: Series) -> Series:
    return [_start(x).expm1(), *exp(x)[1:]]


def log(x: Series) -> Series:
    return integral(x, reciprocal(x), _start(x).log())


def log1p(x: Series) -> Series:
    return integral(x, reciprocal([1 + _start(x), *x[1:]]), _start(x).log1p())


def sin_cos(x: Series) -> tuple[Series, Series]:
    s: Series = [_start(x).sin()]
    c: Series = [_start(x).cos()]
    for k in range(1, len(x)):
        s.append(_dot((j / k, x[j], c[k - j]) for j in range(1, k + 1)))
        c.append(_dot((-j / k, x[j], s[k - j]) for j in range(1, k + 1)))
    return s, c


def sin(x: Series) -> Series:
    return _with_slope(sin_cos, x)


def cos(x: Series) -> Series:
    def rule(x: Series) -> tuple[Series, Series]:
        s, c = sin_cos(x)
        return c, scale(s, -1.0)

    return _with_slope(rule, x)


def tan(x: Series) -> Series:
    return _with_slope(lambda x: _autonomous(x, _start(x).tan(), (1.0, 0.0, 1.0)), x)


def sinh(x: Series) -> Series:
    up, down = exp(x), exp(scale(x, -1.0))
    return [_start(x).sinh(), *scale(add(up, down, -1.0), 0.5)[1:]]


def cosh(x: Series) -> Series:
    up, down = exp(x), exp(scale(x, -1.0))
    return [_start(x).cosh(), *scale(add(up, down), 0.5)[1:]]


def tanh(x: Series) -> Series:
    return _with_slope(lambda x: _autonomous(x, _start(x).tanh(), (1.0, 0.0, -1.0)), x)


def sigmoid(x: Series) -> Series:
    return _with_slope(lambda x: _autonomous(x, _start(x).sigmoid(), (0.0, 1.0, -1.0)), x)


def _autonomous(x: Series, start: Tensor, slope: tuple[float, float, float]) -> tuple[Series, Series]:
    """y′ = h x′ with h = p + q y + r y², which is tanh, the logistic function, and tan; gives y and h."""
    p, q, r = slope
    y: Series = [start]
    h: Series = []
    one = torch.ones((), dtype=start.dtype, device=start.device)
    for k in range(len(x)):
        if k:
            y.append(_dot((j / k, x[j], h[k - j]) for j in range(1, k + 1)))
        terms: list[tuple[float, Tensor | None, Tensor | None]] = [(p, one, one)] if k == 0 and p else []
        terms += [(q, one, y[k])] if q else []
        terms += [(2 * r, y[m], y[k - m]) for m in range((k + 1) // 2)]
        terms += [(r, y[k // 2], y[k // 2])] if k % 2 == 0 else []
        h.append(_dot(terms))
    return y, h


def softplus(x: Series, beta: float = 1.0) -> Series:
    """log(1 + e^(βx)) / β."""
    inner = scale(x, beta) if beta != 1 else x
    start = torch.nn.functional.softplus(_start(x), beta)
    return [start, *scale(integral(inner, sigmoid(inner), start), 1 / beta)[1:]]


def logsigmoid(x: Series) -> Series:
    return scale(softplus(scale(x, -1.0)), -1.0)


def erf(x: Series) -> Series:
    return integral(x, scale(exp(scale(square(x), -1.0)), 2 / math.sqrt(math.pi)), _start(x).erf())


def gelu(x: Series, approximate: str = "none") -> Series:
    """x Φ(x), or torch's approximation by tanh."""
    if approximate == "tanh":
        inner = scale(add(x, scale(power(x, 3), 0.044715)), math.sqrt(2 / math.pi))
        gate = scale(tanh(inner), 0.5)
    else:
        gate = scale(erf(scale(x, math.sqrt(0.5))), 0.5)
    return mul(x, [0.5 + _start(gate), *gate[1:]])


def silu(x: Series) -> Series:
    return mul(x, sigmoid(x))


def mish(x: Series) -> Series:
    return mul(x, tanh(softplus(x)))


def atan(x: Series) -> Series:
    inner = square(x)
    return integral(x, reciprocal([1 + _start(inner), *inner[1:]]), _start(x).atan())


def asin(x: Series) -> Series:
    inner = scale(square(x), -1.0)
    return integral(x, rsqrt([1 + _start(inner), *inner[1:]]), _start(x).asin())


def acos(x: Series) -> Series:
    return [_start(x).acos(), *scale(asin(x), -1.0)[1:]]


def atan2(y: Series, x: Series) -> Series:
    """The angle θ of (x, y): θ′ = (x y′ - y x′) / (x² + y²)."""
    squared = add(square(x), square(y))
    start = torch.atan2(_start(y), _start(x))
    one = integral(y, div(x, squared), start)
    return add(one, [None, *integral(x, scale(div(y, squared), -1.0), start)[1:]])


# --- any other function --------------------------------------------------------------------------------------------


def faa_di_bruno(derivatives: Sequence[Tensor], x: Series) -> Series:
    """The series of f(x(t)) from f(x₀), f′(x₀), …, f⁽ᴷ⁾(x₀).

    yₖ = Σₘ f⁽ᵐ⁾/m! · [tᵏ] (x(t) - x₀)ᵐ: the powers of the inner series without its constant term.
    """
    inner: Series = [None, *x[1:]]
    powers: list[Series] = [[], inner]
    for _ in range(2, len(x)):
        powers.append(mul(powers[-1], inner))
    out: Series = [derivatives[0]]
    for k in range(1, len(x)):
        out.append(_dot((1 / math.factorial(m), derivatives[m], powers[m][k]) for m in range(1, k + 1)))
    return out


def by_derivatives(function: Callable[[Tensor], Tensor], x: Series) -> Series:
    """Any elementwise function: its derivatives by nested autograd at x₀ alone, then :func:`faa_di_bruno`."""
    wanted = torch.is_grad_enabled()
    with torch.enable_grad():
        at = _start(x) if wanted and _start(x).requires_grad else _start(x).detach().requires_grad_()
        derivatives = [function(at)]
        for _ in range(1, len(x)):
            if not derivatives[-1].requires_grad:
                derivatives.append(torch.zeros_like(at))
                continue
            (slope,) = torch.autograd.grad(derivatives[-1].sum(), at, create_graph=True, allow_unused=True)
            derivatives.append(torch.zeros_like(at) if slope is None else slope)
    if not wanted:
        derivatives = [value.detach() for value in derivatives]
    return faa_di_bruno(derivatives, x)
