"""GP and NTK limits of a one-hidden-layer ReLU network as learners that live in function space.

A learner holds arrays A, B, C: the function is f(x) = sum_i K(x, x_i) C_i over all samples x_i that a gradient was
taken at, stored as directions A_i = x_i / s_i and B_i = 1 / s_i with s_i = sqrt(varw |x_i|^2 + varb). A step of SGD
appends (A, B, -lr delta s), delta the gradient with respect to the outputs. With the correlation
q = varw <A, A'> + varb B B', GP (last layer trained): K = s s' F00(q); NTK (the first layer's weights too):
K = s s' (F00(q) + varw2 F11(q) <A, A'>).
Yang, Hu (2021), arXiv 2011.14522, Appendix D; what is appended here follows their code in meaning.

:class:`PoolLearner` is the same function where all samples come from a finite pool: one coefficient for each of them
and a kernel matrix, so that the cost of a step does not grow.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tensorbench.core.errors import unknown

from .arccosine import lin_kernel, relu_F00, relu_F11

Gradient = tuple[Tensor, Tensor, Tensor]  # directions, inverse lengths, gradients at the outputs times lengths
KERNELS = ("relu_gp", "relu_ntk", "linear")


def _variances(**variances: float) -> None:
    for name, value in variances.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} {value} is a variance: finite and not negative")


class _Buffer:
    """Rows in memory that doubles when full, or the newest ``limit`` rows, where a limit is given."""

    def __init__(self, columns: int, dtype: torch.dtype, limit: int | None) -> None:
        self.rows = torch.zeros(16, columns, dtype=dtype)
        self.size, self.limit = 0, limit

    @property
    def view(self) -> Tensor:
        return self.rows[: self.size]

    def append(self, new: Tensor) -> None:
        if self.limit is not None and self.size + len(new) > self.limit:
            self.rows = torch.cat([self.view, new])[-self.limit :].clone()
            self.size = self.limit
            return
        needed = self.size + len(new)
        if needed > len(self.rows):
            grown = torch.zeros(max(2 * len(self.rows), needed), self.rows.shape[1], dtype=self.rows.dtype)
            grown[: self.size] = self.view
            self.rows = grown
        self.rows[self.size : needed] = new
        self.size = needed


class InfGP1LP:
    """The GP limit: a ReLU network of one hidden layer whose last layer alone is trained, from zero.

    ``limit`` keeps the newest so many samples (the function then forgets); None keeps all.

    Raises:
        ValueError: sizes or ``limit`` below 1, or a negative variance.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        varw: float = 1.0,
        varb: float = 0.0,
        *,
        limit: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if min(d_in, d_out) < 1 or (limit is not None and limit < 1):
            raise ValueError(f"d_in {d_in}, d_out {d_out} and limit {limit} must be at least 1")
        _variances(varw=varw, varb=varb)
        self.d_in, self.d_out, self.varw, self.varb = d_in, d_out, float(varw), float(varb)
        self.A, self.B, self.C = (_Buffer(columns, dtype, limit) for columns in (d_in, 1, d_out))
        self._marks: list[int] = []

    def __len__(self) -> int:
        """Samples that are stored."""
        return self.A.size

    def _embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        s = (self.varw * x.square().sum(1, keepdim=True) + self.varb).sqrt().clamp_min(torch.finfo(x.dtype).tiny ** 0.5)
        return x / s, 1 / s, s

    def _unit_kernel(self, A: Tensor, B: Tensor, A2: Tensor, B2: Tensor) -> Tensor:
        """K over s s'."""
        return relu_F00(self.varw * (A @ A2.T) + self.varb * (B @ B2.T))

    def kernel(self, x: Float[Tensor, "left d_in"], y: Float[Tensor, "right d_in"]) -> Float[Tensor, "left right"]:
        """K(x, y)."""
        (A, B, s), (A2, B2, s2) = self._embed(x), self._embed(y)
        return self._unit_kernel(A, B, A2, B2) * s * s2.T

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_out"]:
        """The function at ``x``; zero before the first step."""
        A, B, s = self._embed(x)
        return (self._unit_kernel(A, B, self.A.view, self.B.view) @ self.C.view) * s

    __call__ = forward

    @torch.no_grad()
    def backward(self, x: Float[Tensor, "batch d_in"], delta: Float[Tensor, "batch d_out"]) -> Gradient:
        """The gradient for a loss whose gradient at the outputs of ``x`` is ``delta``; give it to :meth:`step`."""
        if delta.shape != (len(x), self.d_out):
            raise ValueError(f"delta has shape {tuple(delta.shape)}, the outputs {(len(x), self.d_out)}")
        A, B, s = self._embed(x)
        return A, B, delta * s

    @torch.no_grad()
    def step(self, gradient: Gradient, lr: float, weight_decay: float = 0.0) -> None:
        """SGD: shrink by 1 - lr weight_decay, then append."""
        A, B, C = gradient
        if weight_decay:
            self.C.view.mul_(1 - lr * weight_decay)
        self.A.append(A)
        self.B.append(B)
        self.C.append(-lr * C)

    def checkpoint(self) -> None:
        """Remember how many samples there are; :meth:`restore` forgets those that came later. May be nested."""
        if self.A.limit is not None:
            raise ValueError("a learner with a limit has overwritten samples; checkpoints need limit=None")
        self._marks.append(self.A.size)

    def restore(self) -> None:
        """Back to the last checkpoint."""
        if not self._marks:
            raise ValueError("there is no checkpoint to go back to; call checkpoint() first")
        size = self._marks.pop()
        for buffer in (self.A, self.B, self.C):
            buffer.size = size

    @torch.no_grad()
    def gradient_norm(self, gradient: Gradient) -> float:
        """Euclidean norm of the gradient in the weights of the infinite network: sqrt(tr delta^T K delta)."""
        A, B, C = gradient
        square = torch.einsum("ik,ij,jk->", C.double(), self._unit_kernel(A, B, A, B).double(), C.double())
        return math.sqrt(max(0.0, float(square)))

    def clip(self, gradient: Gradient, norm: float) -> Gradient:
        """The gradient, scaled down to ``norm`` where it is longer."""
        if not norm > 0:
            raise ValueError(f"norm {norm} must be positive")
        found = self.gradient_norm(gradient)
        return gradient if found <= norm else (gradient[0], gradient[1], gradient[2] * (norm / found))


class InfNTK1LP(InfGP1LP):
    """The NTK limit: both layers are trained (not the first biases); ``varw2`` is the last layer's initial variance.

    Raises:
        ValueError: sizes or ``limit`` below 1, or a negative variance.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        varw: float = 1.0,
        varb: float = 0.0,
        varw2: float = 1.0,
        *,
        limit: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(d_in, d_out, varw, varb, limit=limit, dtype=dtype)
        _variances(varw2=varw2)
        self.varw2 = float(varw2)

    def _unit_kernel(self, A: Tensor, B: Tensor, A2: Tensor, B2: Tensor) -> Tensor:
        inner = A @ A2.T
        q = self.varw * inner + self.varb * (B @ B2.T)
        return relu_F00(q) + self.varw2 * relu_F11(q) * inner


@torch.no_grad()
def kernel_matrix(
    x: Float[Tensor, "left d_in"],
    y: Float[Tensor, "right d_in"],
    kernel: str,
    varw: float = 1.0,
    varb: float = 0.0,
    varw2: float = 1.0,
) -> Float[Tensor, "left right"]:
    """K(x, y) by name: ``relu_gp``, ``relu_ntk``, or ``linear`` ((varw + varw2) <x, y> + varb).

    ``linear`` is the NTK of a linear network whose first bias has its tangent scaled to ``varb``.

    Raises:
        ValueError: an unknown kernel or a negative variance.
    """
    _variances(varw=varw, varb=varb, varw2=varw2)
    if kernel == "linear":
        return lin_kernel(x, y, varw + varw2, varb)
    if kernel == "relu_gp":
        return InfGP1LP(x.shape[1], 1, varw, varb, dtype=x.dtype).kernel(x, y)
    if kernel == "relu_ntk":
        return InfNTK1LP(x.shape[1], 1, varw, varb, varw2, dtype=x.dtype).kernel(x, y)
    raise ValueError(unknown("kernel", kernel, KERNELS))


class PoolLearner:
    """A kernel learner on a finite pool: ``outputs`` = ``K @ C`` there, coefficients C (pool x outputs) from zero.

    Exactly :class:`InfGP1LP` or :class:`InfNTK1LP` with the samples that occur more than once added up.
    """

    def __init__(self, K: Float[Tensor, "pool pool"], d_out: int) -> None:
        if K.ndim != 2 or K.shape[0] != K.shape[1] or d_out < 1:
            raise ValueError(f"K must be square and d_out at least 1, got {tuple(K.shape)} and {d_out}")
        self.K = K
        self.C = torch.zeros(len(K), d_out, dtype=K.dtype)
        self._outputs = torch.zeros(d_out, len(K), dtype=K.dtype)  # rows are long: a step adds to them at full speed

    @property
    def outputs(self) -> Float[Tensor, "pool d_out"]:
        """The function at the pool."""
        return self._outputs.T

    def forward(self, index: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch d_out"]:
        """The function at samples of the pool."""
        return self.outputs[index]

    def step(self, index: Int[Tensor, " batch"], delta: Float[Tensor, "batch d_out"], lr: float) -> None:
        """SGD on a loss whose gradient at these samples' outputs is ``delta``; samples may repeat."""
        self.C.index_add_(0, index, delta, alpha=-lr)
        self._outputs.sub_(delta.T.contiguous() @ self.K.index_select(0, index), alpha=lr)

    def elsewhere(self, K: Float[Tensor, "new new"], cross: Float[Tensor, "new pool"]) -> PoolLearner:
        """The same function on another pool, to go on there: its kernel matrix, and the kernel with this pool."""
        learner = PoolLearner(K, self.C.shape[1])
        learner._outputs = (cross @ self.C).T.contiguous()
        return learner
