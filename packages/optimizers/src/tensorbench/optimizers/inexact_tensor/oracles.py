"""Where a second- or third-order method gets its derivatives, and how wrong they may be.

An oracle answers for one vector x of float64 (or float32): value, gradient, Hessian, Hessian times vector, and
D³f(x)[h, h]. It declares ``sigma1``, the standard deviation of its unbiased gradient (E|g - ∇f|² ≤ σ₁²), and
``delta2``, ``delta3``, bounds on the errors of Hessian and third derivative in operator norm, as in
Agafonov et al. (2024, arXiv 2309.01570). An oracle is exact if all three are 0.

Every answer draws its noise from the generator that it is given; the same generator state gives the same answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.optimizers.base import nonnegative, whole
from tensorbench.optimizers.landscapes.convex import Landscape

log = logging.getLogger(__name__)
Rng = torch.Generator | None


@runtime_checkable
class Oracle(Protocol):
    """What the methods of this package ask of a function."""

    sigma1: float
    delta2: float
    delta3: float

    def value(self, x: Float[Tensor, " d"]) -> Float[Tensor, ""]: ...
    def grad(self, x: Float[Tensor, " d"], rng: Rng = None) -> Float[Tensor, " d"]: ...
    def hess(self, x: Float[Tensor, " d"], rng: Rng = None) -> Float[Tensor, "d d"]: ...
    def hvp(self, x: Float[Tensor, " d"], rng: Rng = None) -> Callable[[Tensor], Tensor]: ...
    def third_vec(self, x: Float[Tensor, " d"], h: Float[Tensor, " d"], rng: Rng = None) -> Float[Tensor, " d"]: ...


def is_exact(oracle: Oracle) -> bool:
    """Whether the oracle declares no error at all."""
    return oracle.sigma1 == 0 and oracle.delta2 == 0 and oracle.delta3 == 0


def finite(name: str, answer: Tensor) -> Tensor:
    """The answer of an oracle, where it holds neither NaN nor infinity.

    Raises:
        ValueError: it does; the message says which answer and how many entries.
    """
    if not bool(torch.isfinite(answer.sum())):
        bad = int((~torch.isfinite(answer)).sum())
        if bad:
            raise ValueError(f"the oracle's {name} holds NaN or infinity in {bad} of {answer.numel()} entries")
    return answer


class ExactOracle:
    """Derivatives of ``function`` by automatic differentiation, or those that a :class:`Landscape` brings along."""

    sigma1 = delta2 = delta3 = 0.0

    def __init__(self, function: Callable[[Tensor], Tensor] | Landscape) -> None:
        self._closed = function if isinstance(function, Landscape) else None
        self.function: Callable[[Tensor], Tensor] = function.value if isinstance(function, Landscape) else function

    def value(self, x: Float[Tensor, " d"]) -> Float[Tensor, ""]:
        return self.function(x)

    def grad(self, x: Float[Tensor, " d"], rng: Rng = None) -> Float[Tensor, " d"]:
        return self._closed.grad(x) if self._closed else torch.func.grad(self.function)(x)

    def hess(self, x: Float[Tensor, " d"], rng: Rng = None) -> Float[Tensor, "d d"]:
        return self._closed.hess(x) if self._closed else torch.func.hessian(self.function)(x)

    def hvp(self, x: Float[Tensor, " d"], rng: Rng = None) -> Callable[[Tensor], Tensor]:
        """v ↦ ∇²f(x) v by forward over reverse, without the matrix."""
        gradient = self._closed.grad if self._closed else torch.func.grad(self.function)
        return lambda v: torch.func.jvp(gradient, (x,), (v,))[1]

    def third_vec(self, x: Float[Tensor, " d"], h: Float[Tensor, " d"], rng: Rng = None) -> Float[Tensor, " d"]:
        """D³f(x)[h, h]: the derivative of the Hessian-vector product along h."""
        if self._closed:
            return self._closed.third_vec(x, h)
        gradient = torch.func.grad(self.function)
        return torch.func.jvp(lambda y: torch.func.jvp(gradient, (y,), (h,))[1], (x,), (h,))[1]


class MiniBatchOracle:
    """A mean loss over rows of ``data``: gradients from ``bg`` rows, curvature from ``bh``, drawn anew for each answer.

    Args:
        loss: ``loss(x, *rows)``, the mean over the rows. Methods ``grad`` and ``hess`` of the same arguments are used
            where it has them; else torch differentiates it.
        data: tensors with one row a sample.
        bg, bh: batch sizes; None means all rows, which makes that answer exact.
        sigma1, delta2: what to declare; the methods' schedules use them.
        replacement: draw rows with replacement.

    Raises:
        ValueError: no data, tensors of different lengths, a batch larger than the data without replacement.
    """

    delta3 = 0.0

    def __init__(
        self,
        loss: Callable[..., Tensor],
        data: Sequence[Tensor],
        bg: int | None = None,
        bh: int | None = None,
        *,
        sigma1: float = 0.0,
        delta2: float = 0.0,
        replacement: bool = False,
    ) -> None:
        self.data = tuple(data)
        lengths = {len(part) for part in self.data}
        if len(lengths) != 1 or not min(lengths):
            raise ValueError(f"data must be tensors with the same number of rows, at least one; got {sorted(lengths)}")
        self.rows = lengths.pop()
        for name, size in (("bg", bg), ("bh", bh)):
            if size is not None and whole(name, size) > self.rows and not replacement:
                raise ValueError(
                    f"{name} {size} is larger than the data ({self.rows} rows); use at most that, or replacement=True"
                )
        self.loss, self.bg, self.bh, self.replacement = loss, bg, bh, replacement
        self.sigma1, self.delta2 = nonnegative("sigma1", sigma1), nonnegative("delta2", delta2)
        self.gradient_rows = self.hessian_rows = 0  # read so far

    def batch(self, size: int | None, rng: Rng) -> tuple[Tensor, ...]:
        """Rows for one answer."""
        if size is None or (size == self.rows and not self.replacement):
            return self.data
        if self.replacement:
            rows = torch.randint(self.rows, (size,), generator=rng)
        else:
            rows = torch.randperm(self.rows, generator=rng)[:size]
        return tuple(part[rows] for part in self.data)

    def value(self, x: Float[Tensor, " d"]) -> Float[Tensor, ""]:
        """The loss of all rows."""
        return self.loss(x, *self.data)

    def grad(self, x: Float[Tensor, " d"], rng: Rng = None) -> Float[Tensor, " d"]:
        rows = self.batch(self.bg, rng)
        self.gradient_rows += len(rows[0])
        own = getattr(self.loss, "grad", None)
        return own(x, *rows) if own else torch.func.grad(self.loss)(x, *rows)

    def hess(self, x: Float[Tensor, " d"], rng: Rng = None) -> Float[Tensor, "d d"]:
        rows = self.batch(self.bh, rng)
        self.hessian_rows += len(rows[0])
        own = getattr(self.loss, "hess", None)
        return own(x, *rows) if own else torch.func.hessian(self.loss)(x, *rows)

    def hvp(self, x: Float[Tensor, " d"], rng: Rng = None) -> Callable[[Tensor], Tensor]:
        """v ↦ B v with one batch for all v."""
        rows = self.batch(self.bh, rng)
        self.hessian_rows += len(rows[0])
        return ExactOracle(lambda y: self.loss(y, *rows)).hvp(x)

    def third_vec(self, x: Float[Tensor, " d"], h: Float[Tensor, " d"], rng: Rng = None) -> Float[Tensor, " d"]:
        rows = self.batch(self.bh, rng)
        return ExactOracle(lambda y: self.loss(y, *rows)).third_vec(x, h)


class _Wrapped:
    """An oracle that changes another one's answers; what it does not define is the other's."""

    def __init__(self, base: Oracle) -> None:
        self.base = base
        self.sigma1, self.delta2, self.delta3 = base.sigma1, base.delta2, base.delta3

    def __getattr__(self, name: str) -> Any:
        if name == "base":  # not there yet, while copying or unpickling
            raise AttributeError(name)
        return getattr(self.base, name)

    def hess(self, x: Float[Tensor, " d"], rng: Rng = None) -> Float[Tensor, "d d"]:
        return self.base.hess(x, rng)

    def hvp(self, x: Float[Tensor, " d"], rng: Rng = None) -> Callable[[Tensor], Tensor]:
        """Products with the changed Hessian, which is formed once."""
        H = self.hess(x, rng)
        return lambda v: H @ v


class AdditiveNoiseOracle(_Wrapped):
    """Gaussian noise on the answers of ``base``: E|noise|² = ``s1``² on gradients; on Hessians a symmetric matrix with

    a spectral norm of about ``s2`` (a Gaussian orthogonal ensemble scaled by s2/(2√d)). Zero noise draws nothing, so
    that the answers are bitwise the base's.
    """

    def __init__(self, base: Oracle, s1: float = 0.0, s2: float = 0.0) -> None:
        super().__init__(base)
        self.s1, self.s2 = nonnegative("s1", s1), nonnegative("s2", s2)
        self.sigma1 = (base.sigma1**2 + s1**2) ** 0.5
        self.delta2 = base.delta2 + s2

    def grad(self, x: Float[Tensor, " d"], rng: Rng = None) -> Float[Tensor, " d"]:
        g = self.base.grad(x, rng)
        if self.s1 == 0:
            return g
        return g + (self.s1 / len(x) ** 0.5) * torch.randn(x.shape, dtype=x.dtype, generator=rng)

    def hess(self, x: Float[Tensor, " d"], rng: Rng = None) -> Float[Tensor, "d d"]:
        H = self.base.hess(x, rng)
        if self.s2 == 0:
            return H
        noise = torch.randn(H.shape, dtype=H.dtype, generator=rng)
        return H + (self.s2 / (2 * (2 * len(x)) ** 0.5)) * (noise + noise.T)

    def hvp(self, x: Float[Tensor, " d"], rng: Rng = None) -> Callable[[Tensor], Tensor]:
        return self.base.hvp(x, rng) if self.s2 == 0 else super().hvp(x, rng)


class BiasedHessianOracle(_Wrapped):
    """The Hessian of ``base`` plus one fixed symmetric matrix of spectral norm ``delta2``, drawn from ``seed``."""

    def __init__(self, base: Oracle, delta2: float, seed: int = 0) -> None:
        super().__init__(base)
        self.bias_norm, self.seed = nonnegative("delta2", delta2), seed
        self.delta2 = base.delta2 + delta2
        self._bias: Tensor | None = None

    def hess(self, x: Float[Tensor, " d"], rng: Rng = None) -> Float[Tensor, "d d"]:
        H = self.base.hess(x, rng)
        if self.bias_norm == 0:
            return H
        if self._bias is None:
            own = torch.Generator().manual_seed(self.seed)
            bias = torch.randn(H.shape, dtype=H.dtype, generator=own)
            bias = bias + bias.T
            self._bias = bias * (self.bias_norm / torch.linalg.matrix_norm(bias, 2))
        return H + self._bias
