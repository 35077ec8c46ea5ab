"""Networks of sines as factors of a tensor function: Multiple, Tucker (LRTFR) and CP with the same networks.

A factor of mode n is a small network from the coordinate of that mode to the entries of its slice: two hidden layers
h ↦ sin(ω₀ (W h + b)) and a linear one (Sitzmann et al., arXiv 2006.09661). The three models differ only in how the
factors meet:

    Multiple  f(x) = Σ_p Π_n A_n(x_n)[p without p_n]      "Implicit Multiple Tensor Decomposition" (arXiv 2511.09916)
    Tucker    f(x) = Σ_a G[a] Π_n A_n(x_n)[a_n]           "Low-Rank Tensor Function Representation" (arXiv 2212.00262)
    CP        f(x) = Σ_r Π_n A_n(x_n)[r]

On a grid each network is evaluated once per coordinate of its mode and the factors are contracted in stages; nothing of
size (cells × product of ranks) is ever made. Coordinates are those of ``domain``, mapped to [-1, 1] inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import opt_einsum
import torch
from jaxtyping import Float
from torch import Tensor, nn

from .multiple import check_ranks, contraction, factor_shapes

TABLE_BYTES = 256 * 2**20  # the largest table of factor entries for scattered points; more points go in chunks


class Sine(nn.Module):
    """h ↦ sin(ω₀ (W h + b)), W uniform on ±1/inputs in the first layer and on ±√(6/inputs)/ω₀ in later ones."""

    def __init__(self, inputs: int, outputs: int, omega0: float, *, first: bool, generator: torch.Generator):
        super().__init__()
        bound = 1 / inputs if first else math.sqrt(6 / inputs) / omega0
        self.omega0 = omega0
        self.weight = nn.Parameter(_uniform((outputs, inputs), bound, generator))
        self.bias = nn.Parameter(_uniform((outputs,), 1 / math.sqrt(inputs), generator))

    def forward(self, h: Tensor) -> Tensor:
        return torch.sin(self.omega0 * nn.functional.linear(h, self.weight, self.bias))


class FactorNet(nn.Module):
    """Coordinate (n,) ↦ an array of shape (n, *shape), by ``depth`` sine layers of ``width`` and a linear one.

    ``gain`` is the standard deviation that the entries start with, about.
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int,
        depth: int = 2,
        omega0: float = 10.0,
        *,
        generator: torch.Generator,
        gain: float = 1.0,
    ):
        super().__init__()
        if width < 1 or depth < 1 or not omega0 > 0 or any(s < 1 for s in shape):
            raise ValueError(f"width {width}, depth {depth}, omega0 {omega0} and shape {list(shape)} must be positive")
        self.shape = tuple(shape)
        self.layers = nn.Sequential(
            *(Sine(width if k else 1, width, omega0, first=k == 0, generator=generator) for k in range(depth))
        )
        # sin² of a spread argument averages ½, so entries have variance bound² / 3 · width / 2 = gain²
        bound = gain * math.sqrt(6 / width)
        self.weight = nn.Parameter(_uniform((prod(self.shape), width), bound, generator))
        self.bias = nn.Parameter(_uniform((prod(self.shape),), 0.1 * gain, generator))

    def forward(self, x: Float[Tensor, " n"]) -> Float[Tensor, "n ..."]:
        hidden = self.layers(x[:, None])
        return nn.functional.linear(hidden, self.weight, self.bias).reshape(len(x), *self.shape)


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    return (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) * bound


class TensorFunction(nn.Module):
    """A function on a box, a product form of one network per mode. Subclasses say how the factors meet.

    Args:
        domain: (low, high) of the coordinate of every mode.
        ranks: short sizes (Multiple), core shape (Tucker) or one rank (CP).
        width, depth, omega0: of the networks; ``omega0`` may differ by mode.
        seed: of the start. Parameters are made in float64; ``.float()`` halves the cost of training.

    Raises:
        ValueError: a domain without extent, ranks that do not fit, coordinates outside the domain or NaN.
    """

    def __init__(
        self,
        domain: Sequence[tuple[float, float]],
        ranks: Sequence[int] | int,
        width: int = 64,
        depth: int = 2,
        omega0: float | Sequence[float] = 10.0,
        seed: int = 0,
    ):
        super().__init__()
        bounds = np.asarray(domain, dtype=float)
        if (
            bounds.ndim != 2
            or bounds.shape[1] != 2
            or not np.isfinite(bounds).all()
            or (bounds[:, 1] <= bounds[:, 0]).any()
        ):
            raise ValueError(f"domain {bounds.tolist()} must list (low, high) with low < high for every mode")
        self.order = len(bounds)
        self.register_buffer("low", torch.tensor(bounds[:, 0]))
        self.register_buffer("span", torch.tensor(bounds[:, 1] - bounds[:, 0]))
        self.ranks = self._check(ranks)
        omegas = list(omega0) if isinstance(omega0, Sequence) else [float(omega0)] * self.order
        if len(omegas) != self.order:
            raise ValueError(f"omega0 has {len(omegas)} values; expected one, or one per mode ({self.order})")
        generator = torch.Generator().manual_seed(seed)
        gain = self._terms() ** (-1 / (2 * self.order))  # entries of the tensor start with a variance of about 1
        shapes = self._shapes()
        self.nets = nn.ModuleList(
            FactorNet(s, width, depth, w, generator=generator, gain=gain) for s, w in zip(shapes, omegas, strict=True)
        )
        self._extra(generator)

    # what a subclass says
    def _check(self, ranks) -> tuple[int, ...]:
        return check_ranks(ranks, self.order)

    def _shapes(self) -> list[tuple[int, ...]]:
        raise NotImplementedError

    def _terms(self) -> int:
        return prod(self.ranks)

    def _extra(self, generator: torch.Generator) -> None:
        """Parameters beside the networks."""

    def _meet(self, factors: list[Tensor], out: str) -> Tensor:
        """The tensor on the grid of the factors' rows (``full``), or its values at points (``points``)."""
        raise NotImplementedError

    # what all share
    def num_params(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def _unit(self, x: Tensor, mode: int) -> Tensor:
        return 2 * (x.to(self.low) - self.low[mode]) / self.span[mode] - 1

    def factors(self, coords: Sequence[Tensor]) -> list[Tensor]:
        """Entries of every factor at the coordinates of its mode."""
        return [net(self._unit(x, n)) for n, (net, x) in enumerate(zip(self.nets, coords, strict=True))]

    def grid(self, coords: Sequence[Float[Tensor, " _"]], extrapolate: bool = False) -> Float[Tensor, "..."]:
        """Values on the product grid of one list of coordinates per mode; each network is evaluated once per entry."""
        if len(coords) != self.order:
            raise ValueError(f"{len(coords)} lists of coordinates; expected one per mode ({self.order})")
        coords = [torch.as_tensor(x) for x in coords]
        for n, x in enumerate(coords):
            self._refuse(x[:, None], [n], extrapolate)
        return self._meet(self.factors(coords), "full")

    def forward(self, coords: Float[Tensor, "n order"], extrapolate: bool = False) -> Float[Tensor, " n"]:
        """Values at scattered points, differentiable in the coordinates too."""
        coords = torch.as_tensor(coords)
        if coords.ndim != 2 or coords.shape[1] != self.order:
            raise ValueError(f"coords have shape {tuple(coords.shape)}; expected (points, {self.order})")
        self._refuse(coords, range(self.order), extrapolate)
        size = max(1, TABLE_BYTES // (8 * max(sum(prod(net.shape) for net in self.nets), self._terms())))
        parts = [self._meet(self.factors(list(part.T)), "points") for part in torch.split(coords, size)]
        return torch.cat(parts) if parts else coords.new_zeros(0)

    def gradient(self, coords: Float[Tensor, "n order"]) -> Float[Tensor, "n order"]:
        """∂f/∂x at scattered points, in units of the domain; part of the graph, so that it can enter a loss."""
        coords = torch.as_tensor(coords).detach().clone().requires_grad_(True)
        return torch.autograd.grad(self(coords, extrapolate=True).sum(), coords, create_graph=True)[0]

    def _refuse(self, coords: Tensor, modes: Sequence[int], extrapolate: bool) -> None:
        values = coords.detach().to(self.low)
        if torch.isnan(values).any():
            raise ValueError("coordinates hold NaN; drop those points first")
        if extrapolate:
            return
        modes = list(modes)
        low, high = self.low[modes], self.low[modes] + self.span[modes]
        slack = 1e-6 * self.span[modes]
        outside = ((values < low - slack) | (values > high + slack)).any(dim=0)
        if outside.any():
            k = int(outside.to(torch.int).argmax())
            raise ValueError(
                f"coordinates of mode {modes[k]} leave the domain [{float(low[k]):g}, {float(high[k]):g}]; "
                "pass extrapolate=True if that is meant"
            )


class INRMultiple(TensorFunction):
    """The implicit Multiple decomposition: network n gives an array of the short sizes of the other modes."""

    def _shapes(self) -> list[tuple[int, ...]]:
        shapes = factor_shapes((1,) * self.order, self.ranks)
        return [tuple(s for m, s in enumerate(shape) if m != n) for n, shape in enumerate(shapes)]

    def _meet(self, factors: list[Tensor], out: str) -> Tensor:
        if out == "full":
            factors = [f.movedim(0, n) for n, f in enumerate(factors)]
            return contraction(tuple(tuple(f.shape) for f in factors), "full")(*factors)
        return contraction(tuple(tuple(f.shape) for f in factors), "points")(*factors)


class INRTucker(TensorFunction):
    """LRTFR: a Tucker decomposition whose factor matrices are networks; the core is a parameter."""

    def _shapes(self) -> list[tuple[int, ...]]:
        return [(r,) for r in self.ranks]

    def _extra(self, generator: torch.Generator) -> None:
        self.core = nn.Parameter(torch.randn(self.ranks, generator=generator, dtype=torch.float64))

    def _meet(self, factors: list[Tensor], out: str) -> Tensor:
        if out == "full":
            result = self.core
            for factor in factors:
                result = torch.tensordot(result, factor, dims=([0], [1]))
            return result
        result = factors[0] @ self.core.flatten(1)  # (points, the other ranks)
        for factor in factors[1:]:
            result = torch.einsum("nr,nrq->nq", factor, result.reshape(len(factor), factor.shape[1], -1))
        return result[:, 0]


class INRCP(TensorFunction):
    """A CP decomposition whose factor matrices are networks."""

    def _check(self, ranks) -> tuple[int, ...]:
        rank = ranks[0] if isinstance(ranks, Sequence) and len(ranks) == 1 else ranks
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise ValueError(f"CP takes one rank of at least 1, got {ranks!r}")
        return (rank,)

    def _shapes(self) -> list[tuple[int, ...]]:
        return [self.ranks] * self.order

    def _meet(self, factors: list[Tensor], out: str) -> Tensor:
        if out == "points":
            return torch.stack(factors).prod(dim=0).sum(dim=1)
        letters = [opt_einsum.get_symbol(1 + n) for n in range(self.order)]
        point = opt_einsum.get_symbol(0)
        equation = ",".join(letter + point for letter in letters) + "->" + "".join(letters)
        return opt_einsum.contract(equation, *factors)


MODELS: dict[str, Callable[..., TensorFunction]] = {"multiple": INRMultiple, "tucker": INRTucker, "cp": INRCP}
