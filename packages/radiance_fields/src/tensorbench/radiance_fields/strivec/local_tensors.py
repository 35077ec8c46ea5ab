"""Many small tensors in boxes of one size: the local tri-vectors of Strivec, and its ablation with planes.

``LocalTriVector`` holds for each of ``n`` boxes ``rank`` components of three axis vectors (a CP decomposition): the
field in a box is Σ_r v_x,r(x) v_y,r(y) v_z,r(z), once for density and once, with the sum left out, for appearance.
``LocalVM`` holds planes and lines instead (a vector-matrix decomposition). Vectors have ``dim + 1`` entries and start
as 0.2 × normal values, as in the reference code.

Source: Gao, Xu, Su, Neumann, Xu, "Strivec: Sparse Tri-Vector Radiance Fields", ICCV 2023, arXiv 2307.13226.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.strivec.interpolation import PLANES, line_product, plane_line_product, trilinear

INIT = 0.2
EVALUATIONS = ("auto", "volume", "factors")
_NODES_PER_PAIR = 24  # multiply a scale's densities out where it has at most so many nodes for each pair


class LocalTensors(nn.Module):
    """What a cloud needs of the tensors of one scale: values, growth, pruning and a count of weights.

    Values are for pairs (tensor ``ids``, position ``local`` in [-1, 1]³ of its box).
    """

    centers: Tensor

    def __init__(
        self,
        centers: Float[Tensor, "n 3"],
        half_range: float,
        dim: int,
        rank_sigma: int,
        rank_color: int,
        *,
        generator: torch.Generator,
        init: float = INIT,
        evaluate: str = "auto",
    ) -> None:
        super().__init__()
        ranks = (rank_sigma, rank_color)
        if centers.ndim != 2 or centers.shape[1] != 3 or not len(centers):
            raise ValueError(f"centers must be (n, 3) with n >= 1, got {tuple(centers.shape)}")
        if not torch.isfinite(centers).all():
            raise ValueError("centers must be finite")
        if not half_range > 0:
            raise ValueError(f"half_range {half_range} must be positive: it is half the side of a tensor's box")
        _check_dim(dim)
        if evaluate not in EVALUATIONS:
            raise ValueError(unknown("evaluation", evaluate, EVALUATIONS))
        if min(ranks) < 1:
            raise ValueError(f"ranks {ranks} (density, colour) must be at least 1")
        self.register_buffer("centers", centers.detach().clone())
        self.half_range, self.dim = float(half_range), int(dim)
        self.rank_sigma, self.rank_color = ranks
        self.evaluate = evaluate
        self._make(init, generator)

    def _make(self, init: float, generator: torch.Generator) -> None:
        """Create the parameters."""
        raise NotImplementedError

    @property
    def features(self) -> int:
        """Appearance values a pair."""
        return self.rank_color

    def sigma(self, ids: Int[Tensor, "p"], local: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
        """Density features: the sum over components.

        From the densities multiplied out at the nodes or from the factors, as ``evaluate`` says; ``auto`` takes what is
        less work. Both give the same values.
        """
        nodes = len(self.centers) * (self.dim + 1) ** 3
        if self.evaluate == "volume" or (self.evaluate == "auto" and nodes <= _NODES_PER_PAIR * len(ids)):
            return trilinear(self.density_volume(), ids, local)
        return self.sigma_by_factors(ids, local)

    def density_volume(self) -> Float[Tensor, "n nodes nodes nodes"]:
        """Density features of every tensor at its nodes."""
        raise NotImplementedError

    def sigma_by_factors(self, ids: Int[Tensor, "p"], local: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
        """The same as :meth:`sigma` by interpolating the factors."""
        raise NotImplementedError

    def color(self, ids: Int[Tensor, "p"], local: Float[Tensor, "p 3"]) -> Float[Tensor, "p features"]:
        """Appearance components."""
        raise NotImplementedError

    def upsample(self, dim: int) -> None:
        """Interpolate every vector (and plane) to ``dim`` intervals; the parameters are new ones."""
        _check_dim(dim)
        self._replace(lambda values: _resize(values, dim + 1))
        self.dim = dim

    def prune(self, keep: Bool[Tensor, "n"]) -> None:
        """Drop the tensors where ``keep`` is false; the parameters are new ones."""
        if keep.shape != self.centers.shape[:1]:
            raise ValueError(f"keep must have one entry for each of {len(self.centers)} tensors, got {len(keep)}")
        if not keep.any():
            raise ValueError("keep is false everywhere: no tensor would be left; lower the threshold")
        self._replace(lambda values: values[:, keep])
        self.centers = self.centers[keep]

    def density_l1(self) -> Float[Tensor, ""]:
        """Mean absolute value of the density factors, summed over axes (the reference's sparsity term)."""
        return torch.stack([p.abs().flatten(1).mean(1).sum() for p in self.density_factors()]).sum()

    def density_factors(self) -> list[nn.Parameter]:
        """Parameters that density is made of; the others are appearance's."""
        raise NotImplementedError

    def counts(self) -> dict[str, int]:
        """Weights by part; positions are three fixed numbers a tensor."""
        density = sum(p.numel() for p in self.density_factors())
        return {"density": density, "appearance": sum(p.numel() for p in self.parameters()) - density}

    def _replace(self, change) -> None:
        with torch.no_grad():
            for name, parameter in list(self._parameters.items()):
                if parameter is not None:
                    setattr(self, name, nn.Parameter(change(parameter.detach()).contiguous()))


class LocalTriVector(LocalTensors):
    """Local CP tensors: ``sigma_lines`` (3, n, dim + 1, rank_sigma) and ``color_lines`` (3, n, dim + 1, rank_color)."""

    def _make(self, init: float, generator: torch.Generator) -> None:
        shape = (3, len(self.centers), self.dim + 1)
        self.sigma_lines = _normal((*shape, self.rank_sigma), init, generator, self.centers)
        self.color_lines = _normal((*shape, self.rank_color), init, generator, self.centers)

    def density_volume(self) -> Float[Tensor, "n nodes nodes nodes"]:
        x, y, z = self.sigma_lines
        return _outer(torch.einsum("nxr,nyr->nxyr", x, y), z)

    def sigma_by_factors(self, ids: Int[Tensor, "p"], local: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
        return line_product(self.sigma_lines, ids, local).sum(1)

    def color(self, ids: Int[Tensor, "p"], local: Float[Tensor, "p 3"]) -> Float[Tensor, "p features"]:
        return line_product(self.color_lines, ids, local)

    def density_factors(self) -> list[nn.Parameter]:
        return [self.sigma_lines]


class LocalVM(LocalTensors):
    """The ablation: three planes and three lines a box and component, so 3 × rank components of each kind."""

    def _make(self, init: float, generator: torch.Generator) -> None:
        nodes = self.dim + 1
        shape = (3, len(self.centers), nodes)
        self.sigma_planes = _normal((*shape, nodes, self.rank_sigma), init, generator, self.centers)
        self.sigma_lines = _normal((*shape, self.rank_sigma), init, generator, self.centers)
        self.color_planes = _normal((*shape, nodes, self.rank_color), init, generator, self.centers)
        self.color_lines = _normal((*shape, self.rank_color), init, generator, self.centers)

    @property
    def features(self) -> int:
        return 3 * self.rank_color

    def density_volume(self) -> Float[Tensor, "n nodes nodes nodes"]:
        parts = [
            _outer(plane, line).movedim((1, 2, 3), (1 + a, 1 + b, 1 + axis))
            for axis, ((a, b), plane, line) in enumerate(zip(PLANES, self.sigma_planes, self.sigma_lines, strict=True))
        ]
        return parts[0] + parts[1] + parts[2]

    def sigma_by_factors(self, ids: Int[Tensor, "p"], local: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
        return plane_line_product(self.sigma_planes, self.sigma_lines, ids, local).sum(1)

    def color(self, ids: Int[Tensor, "p"], local: Float[Tensor, "p 3"]) -> Float[Tensor, "p features"]:
        return plane_line_product(self.color_planes, self.color_lines, ids, local)

    def density_factors(self) -> list[nn.Parameter]:
        return [self.sigma_planes, self.sigma_lines]


KINDS: dict[str, type[LocalTriVector] | type[LocalVM]] = {"cp": LocalTriVector, "vm": LocalVM}


def local_tensors(kind: str) -> type[LocalTriVector] | type[LocalVM]:
    """``cp`` (tri-vectors) or ``vm`` (planes and lines)."""
    if kind not in KINDS:
        raise ValueError(unknown("kind of local tensor", kind, KINDS))
    return KINDS[kind]


def _outer(plane: Float[Tensor, "n a b r"], line: Float[Tensor, "n c r"]) -> Float[Tensor, "n a b c"]:
    """Σ_r plane ∘ line, as one matrix product a tensor."""
    n, a, b, rank = plane.shape
    return torch.bmm(plane.reshape(n, a * b, rank), line.mT).view(n, a, b, line.shape[1])


def _check_dim(dim: int) -> None:
    if dim < 2:
        raise ValueError(f"dim {dim} is the number of intervals along an axis of a tensor; use 2 or more")


def _normal(shape: tuple[int, ...], scale: float, generator: torch.Generator, like: Tensor) -> nn.Parameter:
    values = torch.randn(shape, generator=generator, device=generator.device, dtype=like.dtype)
    return nn.Parameter((scale * values).to(like.device))


def _resize(values: Tensor, count: int) -> Tensor:
    """Linear interpolation of the node axes (all between the second and the last) to ``count`` nodes."""
    for axis in range(2, values.ndim - 1):
        moved = values.movedim(axis, -1)
        at = torch.linspace(0, moved.shape[-1] - 1, count, device=values.device, dtype=values.dtype)
        below = at.long().clamp(max=moved.shape[-1] - 2)
        values = torch.lerp(moved[..., below], moved[..., below + 1], at - below).movedim(-1, axis)
    return values
