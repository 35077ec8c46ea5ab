"""Stationary kernels of one coordinate whose spectrum is a mixture of bumps, with derivatives in closed form.

    k(d) = Σ_q w_q R(d; l_q) cos(2π f_q d)

Fang, Cooley, Long, Li, Kirby and Zhe, "Solving High Frequency and Multi-Scale PDEs with Gaussian Processes", ICLR 2024,
arXiv 2311.04465. R is a Matérn-5/2 correlation (its spectrum is a Student t with five degrees of freedom, "StM") or a
squared exponential (a Gaussian, "GM"); without the cosine they are the plain kernels; without R only the cosines stay.

    Matérn-5/2: (1 + ar + a²r²/3) e^{-ar}, r = |d|, a = √5 e^l      squared exponential: e^{-e^l d²}

Frequencies f are in cycles per unit of d: sin(100x) has f = 100/2π. Weights live in the log domain by default, where
Jeffreys' prior 1/w is flat, and the log-determinant of the covariance prunes what is not needed. Of the paper the
abstract was at hand, and the reference code at 6b978f1; formulas are the code's.

Derivatives are written out because autograd of |d| is wrong at d = 0 in torch: it gives R''(0) = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown

MAX_ORDER = 4
Radial = Callable[[Tensor, Tensor, int], list[Tensor]]


def matern52(d: Tensor, log_rate: Tensor, order: int) -> list[Tensor]:
    """The derivatives 0…order in d of the Matérn-5/2 correlation, a = √5 e^log_rate."""
    a = math.sqrt(5) * log_rate.exp()
    r = a * d.abs()
    decay = torch.exp(-r)
    written: list[Callable[[], Tensor]] = [
        lambda: (1 + r + r**2 / 3) * decay,
        lambda: -(a**2 / 3) * d * (1 + r) * decay,
        lambda: -(a**2 / 3) * (1 + r - r**2) * decay,
        lambda: a**4 / 3 * d * (3 - r) * decay,
        lambda: a**4 / 3 * (3 - 5 * r + r**2) * decay,
    ]
    return [derivative() for derivative in written[: order + 1]]


def squared_exponential(d: Tensor, log_rate: Tensor, order: int) -> list[Tensor]:
    """The derivatives 0…order in d of exp(-c d²), c = e^log_rate."""
    c = log_rate.exp()
    g = torch.exp(-c * d**2)
    written: list[Callable[[], Tensor]] = [
        lambda: g + 0 * c,
        lambda: -2 * c * d * g,
        lambda: (4 * c**2 * d**2 - 2 * c) * g,
        lambda: (12 * c**2 * d - 8 * c**3 * d**3) * g,
        lambda: (12 * c**2 - 48 * c**3 * d**2 + 16 * c**4 * d**4) * g,
    ]
    return [derivative() for derivative in written[: order + 1]]


def constant(d: Tensor, log_rate: Tensor, order: int) -> list[Tensor]:
    """1 and its derivatives: with it the mixture is one of pure cosines."""
    one = torch.ones_like(d) + 0 * log_rate
    return [one] + [torch.zeros_like(one)] * order


RADIALS: dict[str, Radial] = {
    "matern52": matern52,
    "squared_exponential": squared_exponential,
    "constant": constant,
}
WEIGHTS = ("log", "linear")
PRIORS = ("jeffreys", "uniform", "exponential")


class MixtureKernel(nn.Module):
    """Q components of one radial shape.

    Args:
        radial: ``matern52``, ``squared_exponential`` or ``constant``.
        freq_scale: frequencies start evenly spaced from 0 to this (cycles per unit); None fixes them at 0, which makes
            the plain kernel.
        weights: ``log`` (the parameter is log w) or ``linear`` (it is w, used as |w|).
        prior: density of w in the log domain: ``jeffreys`` 1/w (flat), ``uniform``, or ``exponential`` with rate 1;
            with linear weights the parameter itself has a flat prior, and no other can be asked for.

    Raises:
        ValueError: Q < 1, unknown names, a frequency scale that is not positive.
    """

    def __init__(
        self,
        components: int = 30,
        *,
        radial: str = "matern52",
        freq_scale: float | None = 20.0,
        weights: str = "log",
        prior: str = "jeffreys",
        dtype: torch.dtype = torch.float64,
    ):
        super().__init__()
        for kind, name, valid in (("radial shape", radial, RADIALS), ("prior", prior, PRIORS)):
            if name not in valid:
                raise ValueError(unknown(kind, name, valid))
        if weights not in WEIGHTS:
            raise ValueError(unknown("weights", weights, WEIGHTS))
        if weights == "linear" and prior != "jeffreys":
            raise ValueError(f"linear weights have a flat prior of their own; prior={prior!r} needs weights='log'")
        if components < 1:
            raise ValueError(f"a mixture needs at least one component, got {components}")
        if freq_scale is not None and not freq_scale > 0:
            raise ValueError(f"freq_scale {freq_scale} must be a positive frequency, or None for a plain kernel")
        self.radial, self.in_logs, self.prior = radial, weights == "log", prior
        start = torch.full((components,), 1 / components, dtype=dtype)
        self.raw_weight = nn.Parameter(start.log() if self.in_logs else start)
        self.log_rate = nn.Parameter(torch.zeros(components, dtype=dtype), requires_grad=radial != "constant")
        frequencies = torch.linspace(0, 1, components, dtype=dtype) * (freq_scale or 0.0)
        self.frequency = nn.Parameter(frequencies, requires_grad=freq_scale is not None)

    @property
    def components(self) -> int:
        return len(self.raw_weight)

    @property
    def weight(self) -> Float[Tensor, " q"]:
        """w, positive."""
        return self.raw_weight.exp() if self.in_logs else self.raw_weight.abs()

    def set(self, weight: Sequence[float], log_rate: Sequence[float], frequency: Sequence[float]) -> MixtureKernel:
        """Give the components these parameters."""
        with torch.no_grad():
            w = torch.as_tensor(weight, dtype=self.raw_weight.dtype)
            self.raw_weight.copy_(w.log() if self.in_logs else w)
            self.log_rate.copy_(torch.as_tensor(log_rate, dtype=self.log_rate.dtype))
            self.frequency.copy_(torch.as_tensor(frequency, dtype=self.frequency.dtype))
        return self

    def forward(self, d: Float[Tensor, "*shape"], order: int = 0) -> Float[Tensor, "*shape"]:
        """The derivative of this order of k at the lags d."""
        return self.derivatives(d, [order])[order]

    def derivatives(self, d: Float[Tensor, "*shape"], orders: Iterable[int]) -> dict[int, Tensor]:
        """k and its derivatives of the given orders (0 to 4) at the lags d, sharing what they have in common."""
        orders = sorted(set(orders))
        if not orders or orders[0] < 0 or orders[-1] > MAX_ORDER:
            raise ValueError(f"derivatives of orders {orders}: 0 to {MAX_ORDER} are there")
        lag = d[..., None]
        radial = RADIALS[self.radial](lag, self.log_rate, orders[-1])
        omega = 2 * math.pi * self.frequency
        cosine, sine = torch.cos(omega * lag), torch.sin(omega * lag)
        # d^n/dx^n cos(ωd) = ω^n cos(ωd + nπ/2)
        wave = [cosine, -omega * sine, -(omega**2) * cosine, omega**3 * sine, omega**4 * cosine]
        result = {}
        for n in orders:
            parts = [math.comb(n, j) * radial[j] * wave[n - j] for j in range(n + 1)]
            result[n] = sum(parts[1:], parts[0]) @ self.weight
        return result

    def log_prior(self) -> Tensor:
        """Log density of the weights' parameters, up to a constant."""
        if self.prior == "jeffreys":  # flat in log w; for linear weights flat in w
            return self.raw_weight.new_zeros(())
        if self.prior == "uniform":
            return self.raw_weight.sum()
        return (self.raw_weight - self.weight).sum()

    def spectral_density(self, f: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """S(f) with k(d) = ∫ S(f) e^{2πifd} df, f in cycles per unit; symmetric bumps at ±f_q."""
        if self.radial == "constant":
            raise ValueError("pure cosines have no density: their spectrum is the weights at the frequencies")

        def bump(shift: Tensor) -> Tensor:
            if self.radial == "matern52":
                a = math.sqrt(5) * self.log_rate.exp()
                return 16 / 3 * a**5 / (a**2 + (2 * math.pi * shift) ** 2) ** 3
            c = self.log_rate.exp()
            return torch.sqrt(math.pi / c) * torch.exp(-(math.pi**2) * shift**2 / c)

        at = f[..., None]
        return (bump(at - self.frequency) + bump(at + self.frequency)) / 2 @ self.weight

    def keep(self, which: Sequence[int]) -> MixtureKernel:
        """A kernel of the same kind with these components only."""
        scale = 1.0 if self.frequency.requires_grad else None
        kernel = MixtureKernel(
            len(which), radial=self.radial, freq_scale=scale, weights="log" if self.in_logs else "linear",
            prior=self.prior, dtype=self.raw_weight.dtype,
        )  # fmt: skip
        index = torch.as_tensor(list(which))
        parts = (self.weight, self.log_rate, self.frequency)
        return kernel.set(*(p.detach()[index] for p in parts))  # type: ignore[arg-type]


def student_mixture(components: int = 30, freq_scale: float = 20.0, **options: str) -> MixtureKernel:
    """Matérn-5/2 times cosines: the paper's GP-HM-StM."""
    return MixtureKernel(components, radial="matern52", freq_scale=freq_scale, **options)  # type: ignore[arg-type]


def gaussian_mixture(components: int = 30, freq_scale: float = 20.0, **options: str) -> MixtureKernel:
    """Squared exponentials times cosines: the paper's GP-HM-GM (Wilson and Adams 2013)."""
    options = {"radial": "squared_exponential"} | options
    return MixtureKernel(components, freq_scale=freq_scale, **options)  # type: ignore[arg-type]


def plain(radial: str) -> MixtureKernel:
    """One Matérn-5/2 or squared exponential without frequency."""
    return MixtureKernel(1, radial=radial, freq_scale=None)


def periodic(components: int = 30, freq_scale: float = 20.0) -> MixtureKernel:
    """Cosines alone."""
    return MixtureKernel(components, radial="constant", freq_scale=freq_scale)


class ProductKernel(nn.Module):
    """k(d) = Π_k k_k(d_k), a kernel for each coordinate."""

    def __init__(self, kernels: Sequence[MixtureKernel]):
        super().__init__()
        if not kernels:
            raise ValueError("a product needs at least one kernel")
        self.kernels = nn.ModuleList(kernels)

    def forward(self, d: Float[Tensor, "*shape dim"], index: Sequence[int] | None = None) -> Float[Tensor, "*shape"]:
        """The derivative with this multi-index at the lags d."""
        orders = [0] * len(self.kernels) if index is None else list(index)
        if len(orders) != d.shape[-1] or len(self.kernels) != d.shape[-1]:
            raise ValueError(f"lags of {d.shape[-1]} coordinates, {len(self.kernels)} kernels, index {index}")
        parts = [kernel(d[..., k], orders[k]) for k, kernel in enumerate(self.kernels)]
        return torch.stack(parts).prod(dim=0)
