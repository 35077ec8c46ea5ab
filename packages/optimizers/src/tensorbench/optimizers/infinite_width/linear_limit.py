"""The infinite-width muP limit of a linear network with one hidden layer, trained exactly; and finite ones.

f(x) = alpha V (U x + bias_alpha b). In the limit every vector of the hidden layer is a combination of d_in + d_out
independent normal coordinates (the columns of the first weights and the rows of the last at the start), and SGD moves
only the coefficients: U = [sigma_u I; 0], V = [0, sigma_v I] of h = d_in + d_out rows and columns, b = 0, and plain
SGD on these with the same learning rate *is* the limit. A network of width n with the same start is
U_n = Omega U / sqrt(n), V_n = V Omega^T / sqrt(n) for a standard normal Omega (n x h). Yang, Hu (2021), arXiv
2011.14522, and their code. This is muP with one hidden layer, b = 1/2, c = 0: its multipliers n^(1/2) and n^(-1/2)
cancel in a linear network, and the learning rate does not change with width.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Linear1LP(nn.Module):
    """What both have: ``U`` (hidden, d_in), ``V`` (d_out, hidden), ``b`` (hidden) or None, and the forward pass."""

    U: nn.Parameter
    V: nn.Parameter
    b: nn.Parameter | None

    def __init__(self, d_in: int, d_out: int, alpha: float, bias_alpha: float) -> None:
        super().__init__()
        for name, size in (("d_in", d_in), ("d_out", d_out)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} {size!r} must be a whole number of at least 1")
        if not (math.isfinite(alpha) and math.isfinite(bias_alpha)):
            raise ValueError(f"alpha {alpha} and bias_alpha {bias_alpha} must be finite")
        self.d_in, self.d_out, self.alpha, self.bias_alpha = d_in, d_out, float(alpha), float(bias_alpha)

    def hidden(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch hidden"]:
        """U x + bias_alpha b."""
        h = x @ self.U.T
        return h if self.b is None else h + self.bias_alpha * self.b

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """alpha V (U x + bias_alpha b)."""
        return self.alpha * (self.hidden(x) @ self.V.T)


def _sigmas(sigma_u: float, sigma_v: float) -> None:
    if not (sigma_u >= 0 and sigma_v >= 0 and math.isfinite(sigma_u) and math.isfinite(sigma_v)):
        raise ValueError(f"sigma_u {sigma_u} and sigma_v {sigma_v} are standard deviations: finite and not negative")


class InfLinear1LP(Linear1LP):
    """The limit. Train it like any module, with plain SGD at the learning rate of the finite networks.

    ``bias_alpha`` 0 means no bias. With several outputs each starts independently.

    Raises:
        ValueError: sizes below 1, or a standard deviation that is negative or not finite.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        sigma_u: float = 1.0,
        sigma_v: float = 1.0,
        alpha: float = 1.0,
        bias_alpha: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(d_in, d_out, alpha, bias_alpha)
        _sigmas(sigma_u, sigma_v)
        self.sigma_u, self.sigma_v = float(sigma_u), float(sigma_v)
        U, V = torch.zeros(d_in + d_out, d_in, dtype=dtype), torch.zeros(d_out, d_in + d_out, dtype=dtype)
        U[:d_in].fill_diagonal_(self.sigma_u)
        V[:, d_in:].fill_diagonal_(self.sigma_v)
        self.U, self.V = nn.Parameter(U), nn.Parameter(V)
        self.b = nn.Parameter(torch.zeros(d_in + d_out, dtype=dtype)) if bias_alpha else None

    @torch.no_grad()
    def sample(self, width: int, seed: int | torch.Generator) -> FinLinear1LP:
        """A network of ``width`` that is in the state of this limit, trained or not: its output tends to this one's."""
        net = FinLinear1LP(
            self.d_in, self.d_out, width, self.sigma_u, self.sigma_v, self.alpha, self.bias_alpha, seed=0,
            dtype=self.U.dtype,
        )  # fmt: skip
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        omega = torch.randn(width, self.d_in + self.d_out, generator=generator, dtype=self.U.dtype) / width**0.5
        net.U.copy_(omega @ self.U)
        net.V.copy_(self.V @ omega.T)
        if self.b is not None and net.b is not None:
            net.b.copy_(omega @ self.b)
        return net


class FinLinear1LP(Linear1LP):
    """Width n in muP: entries of U and V with standard deviations sigma_u / sqrt(n) and sigma_v / sqrt(n), b = 0.

    Raises:
        ValueError: sizes below 1, or a standard deviation that is negative or not finite.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        width: int,
        sigma_u: float = 1.0,
        sigma_v: float = 1.0,
        alpha: float = 1.0,
        bias_alpha: float = 0.0,
        *,
        seed: int | torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(d_in, d_out, alpha, bias_alpha)
        _sigmas(sigma_u, sigma_v)
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise ValueError(f"width {width!r} must be a whole number of at least 1")
        self.width = width
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        U = torch.randn(width, d_in, generator=generator, dtype=dtype)
        V = torch.randn(d_out, width, generator=generator, dtype=dtype)
        self.U, self.V = nn.Parameter(U * (sigma_u / width**0.5)), nn.Parameter(V * (sigma_v / width**0.5))
        self.b = nn.Parameter(torch.zeros(width, dtype=dtype)) if bias_alpha else None
