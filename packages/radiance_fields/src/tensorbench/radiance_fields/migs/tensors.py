"""All Gaussians of many people as one tensor W (identities, Gaussians, attributes), kept as low-rank factors.

Chatziagapi, Chrysos, Samaras, "MIGS: Multi-Identity Gaussian Splatting via Tensor Decomposition" (2024, arXiv
2407.07284): the 43 attributes of a Gaussian are position 3, log-scale 3, quaternion 4, appearance features
32 and opacity logit 1, and

    W[i, g, m] = Σ_r U2[i, r] U3[g, r] U1[m, r]        (CP; (M + N_i + N_g) R weights)

U1 is kept in blocks, one for each kind of attribute, so that each can have its learning rate. Beside it the same
tensor by Tucker, by a tensor train, and in full (what one model a person amounts to); all share an interface.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

ATTRIBUTES = 43
BLOCKS = ("position", "log_scale", "rotation", "appearance", "opacity")
_FIXED = {"position": 3, "log_scale": 3, "rotation": 4, "opacity": 1}


def widths(attributes: int = ATTRIBUTES) -> dict[str, int]:
    """How many attributes each block has, in order; what is over goes to the appearance.

    Raises:
        ValueError: no room for one appearance feature.
    """
    left = attributes - sum(_FIXED.values())
    if left < 1:
        raise ValueError(f"attributes {attributes} must be at least {sum(_FIXED.values()) + 1}: 11 and an appearance")
    return {name: _FIXED.get(name, left) for name in BLOCKS}


@dataclass(frozen=True)
class Attributes:
    """Gaussians of one or several people: positions (m), log of the standard deviations (m), quaternions (w, x, y, z;
    any length), appearance features, opacity logits."""

    position: Float[Tensor, "*batch n 3"]
    log_scale: Float[Tensor, "*batch n 3"]
    rotation: Float[Tensor, "*batch n 4"]
    appearance: Float[Tensor, "*batch n f"]
    opacity: Float[Tensor, "*batch n 1"]

    @classmethod
    def of(cls, table: Float[Tensor, "*batch n m"]) -> Self:
        """Split the last axis of a table."""
        return cls(*torch.split(table, list(widths(table.shape[-1]).values()), dim=-1))


class AttributeTensor(nn.Module):
    """What the formats share. ``forward(identities)`` gives the table (b, n, m) of some people."""

    def __init__(self, identities: int, gaussians: int, attributes: int) -> None:
        super().__init__()
        for name, value in (("identities", identities), ("gaussians", gaussians)):
            if value < 1:
                raise ValueError(f"{name} {value} must be at least 1")
        self.identities, self.gaussians, self.attributes = identities, gaussians, attributes
        self.blocks = widths(attributes)

    def identity(self, i: int) -> Attributes:
        """The Gaussians of person ``i``.

        Raises:
            IndexError: there is no such person.
        """
        return Attributes.of(self(torch.tensor([i]))[0])

    def checked(self, people: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
        """The indices on this tensor's device, refused where they are out of range."""
        if wrong := [i for i in people.tolist() if not 0 <= i < self.identities]:
            raise IndexError(f"identity {wrong[0]}: there are {self.identities}, from 0; add_identity adds one")
        return people.to(next(self.parameters()).device)

    def full(self) -> Float[Tensor, "i n m"]:
        """The whole tensor."""
        return self(torch.arange(self.identities))

    def count(self) -> int:
        """Its weights."""
        return sum(p.numel() for p in self.parameters())

    def fit_init(self, table: Float[Tensor, "n m"], **options: Any) -> None:
        """Set the weights so that every person has about the Gaussians of ``table``."""
        raise NotImplementedError

    def add_identity(self, like: int | None = None) -> int:
        """Append a person, a copy of ``like`` or the mean of all; its index. Optimizers must be made anew."""
        rows = self.person_rows()
        with torch.no_grad():
            row = rows.mean(0, keepdim=True) if like is None else rows[like : like + 1]
            self.set_person_rows(torch.cat([rows, row]))
        self.identities += 1
        return self.identities - 1

    def person_rows(self) -> Tensor:
        """The parameter whose rows are the people."""
        raise NotImplementedError

    def set_person_rows(self, rows: Tensor) -> None:
        raise NotImplementedError

    def named_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the name of their learning rate: the blocks, and ``shared`` for factors over people and
        Gaussians."""
        raise NotImplementedError

    def _check_table(self, table: Tensor) -> None:
        if table.shape != (self.gaussians, self.attributes):
            raise ValueError(f"a table ({self.gaussians}, {self.attributes}) is expected, got {tuple(table.shape)}")


class GaussianTensorCP(AttributeTensor):
    """W[i, g, m] = Σ_r U2[i, r] U3[g, r] U1[m, r].

    >>> GaussianTensorCP(30, 50_000, rank=100).count()
    5007300
    """

    def __init__(
        self,
        identities: int,
        gaussians: int,
        attributes: int = ATTRIBUTES,
        *,
        rank: int = 100,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(identities, gaussians, attributes)
        if rank < 1:
            raise ValueError(f"rank {rank} must be at least 1")
        self.rank = rank
        self.u1 = nn.ParameterDict({k: _normal((w, rank), 0.1, generator) for k, w in self.blocks.items()})
        self.u2 = _normal((identities, rank), 1.0, generator)
        self.u3 = _normal((gaussians, rank), 0.1, generator)

    def attribute_factor(self) -> Float[Tensor, "m rank"]:
        """U1, its blocks joined."""
        return torch.cat([self.u1[name] for name in BLOCKS])

    def factors(self) -> list[Tensor]:
        """[U2, U3, U1], the factors of (identities, Gaussians, attributes) as TensorLy takes them."""
        return [self.u2, self.u3, self.attribute_factor()]

    def forward(self, people: Int[Tensor, "b"]) -> Float[Tensor, "b n m"]:
        rows = self.u2[self.checked(people)]
        return (self.u3 * rows[:, None]) @ self.attribute_factor().mT

    @torch.no_grad()
    def fit_init(
        self, table: Float[Tensor, "n m"], *, seed: int = 0, repeats: int = 3, iterations: int = 10, **_: Any
    ) -> None:
        """TensorLy's CP by power iteration and deflation of the tensor (1, m, n); the weights go into U3, the first
        person's row to everybody. Where components are left when nothing is (ranks beyond that of the table), the
        power iteration divides by zero: such directions are replaced by small random ones, with U3 zero.
        """
        self._check_table(table)
        import tensorly as tl
        from tensorly.decomposition import parafac_power_iteration

        rank = min(self.rank, *table.shape)  # beyond the rank of the table only rounding is left to fit
        state = np.random.get_state()
        np.random.seed(seed)  # TensorLy draws its starts from the global generator
        try:
            with tl.backend_context("numpy"), np.errstate(divide="ignore", invalid="ignore"):
                weights, (u2, u1, u3) = parafac_power_iteration(
                    table.detach().cpu().double().numpy().T[None], rank, n_repeat=repeats, n_iteration=iterations
                )
        finally:
            np.random.set_state(state)
        rng = np.random.default_rng(seed)
        first = np.where(np.isfinite(u2[0]), u2[0], 1.0)
        u1 = _without_nan(u1, rng)
        u3 = np.where(np.isfinite(u3), u3, 0.0) * np.where(np.isfinite(weights), weights, 0.0)
        # Unit columns of few and of many rows: bring both to the same root mean square.
        balance = np.sqrt(np.linalg.norm(u3, axis=0) * np.sqrt(len(u1) / len(u3)))
        balance[balance < 1e-8] = 1.0
        extra = self.rank - rank
        u1 = np.concatenate([u1 * balance, 0.1 * rng.standard_normal((len(u1), extra))], axis=1)
        u3 = np.concatenate([u3 / balance, np.zeros((len(u3), extra))], axis=1)
        row = torch.from_numpy(np.concatenate([first, np.ones(extra)]))
        self.u2.copy_(row.expand(self.identities, -1))
        self.u3.copy_(torch.from_numpy(u3))
        for name, part in zip(BLOCKS, np.split(u1, np.cumsum(list(self.blocks.values()))[:-1]), strict=True):
            self.u1[name].copy_(torch.from_numpy(part))

    def person_rows(self) -> Tensor:
        return self.u2

    def set_person_rows(self, rows: Tensor) -> None:
        self.u2 = nn.Parameter(rows.detach().clone())

    def named_groups(self) -> dict[str, list[nn.Parameter]]:
        return {name: [self.u1[name]] for name in BLOCKS} | {"shared": [self.u2, self.u3]}


class GaussianTensorTucker(AttributeTensor):
    """W = core ×₁ A ×₂ B ×₃ C with ranks (people, Gaussians, attributes)."""

    def __init__(
        self, identities: int, gaussians: int, attributes: int = ATTRIBUTES, *, ranks: tuple[int, int, int],
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__(identities, gaussians, attributes)
        sizes = (identities, gaussians, attributes)
        for mode, (rank, size) in enumerate(zip(ranks, sizes, strict=True)):
            if not 1 <= rank <= size:
                raise ValueError(f"rank {rank} of mode {mode} must be between 1 and its size {size}")
        self.ranks = tuple(ranks)
        self.core = _normal(self.ranks, 0.1, generator)
        self.a, self.b = _normal((identities, ranks[0]), 1.0, generator), _normal((gaussians, ranks[1]), 0.1, generator)
        self.c = nn.ParameterDict({k: _normal((w, ranks[2]), 0.1, generator) for k, w in self.blocks.items()})

    def forward(self, people: Int[Tensor, "b"]) -> Float[Tensor, "b n m"]:
        core = torch.einsum("bp,pqr->bqr", self.a[self.checked(people)], self.core)
        return self.b @ core @ torch.cat([self.c[name] for name in BLOCKS]).mT

    @torch.no_grad()
    def fit_init(self, table: Float[Tensor, "n m"], **_: Any) -> None:
        """The singular value decomposition of the table, everybody the same."""
        self._check_table(table)
        u, s, v = torch.linalg.svd(table.double(), full_matrices=False)
        keep = min(self.ranks[1], self.ranks[2], len(s))
        # The first column of A carries what all share; the others are small, to tell people apart later.
        self.a[:, 0] = 1.0
        self.core.mul_(0.0)
        root = s[:keep].sqrt()
        scale = (self.gaussians / self.attributes) ** 0.25
        self.core[0, range(keep), range(keep)] = torch.ones(keep)
        self.b[:, :keep] = (u[:, :keep] * root * scale).to(self.b.dtype)
        columns = v[:keep].mT * root / scale
        for name, part in zip(BLOCKS, columns.split(list(self.blocks.values())), strict=True):
            self.c[name][:, :keep] = part.to(self.b.dtype)

    def person_rows(self) -> Tensor:
        return self.a

    def set_person_rows(self, rows: Tensor) -> None:
        self.a = nn.Parameter(rows.detach().clone())

    def named_groups(self) -> dict[str, list[nn.Parameter]]:
        return {name: [self.c[name]] for name in BLOCKS} | {"shared": [self.core, self.a, self.b]}


class GaussianTensorTrain(AttributeTensor):
    """W[i, g, m] = A[i] G[g] C[m]: a tensor train with ranks (r1, r2)."""

    def __init__(
        self, identities: int, gaussians: int, attributes: int = ATTRIBUTES, *, ranks: tuple[int, int],
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__(identities, gaussians, attributes)
        if not 1 <= ranks[0] <= identities or not 1 <= ranks[1] <= attributes:
            raise ValueError(f"ranks {ranks} must be at most ({identities} people, {attributes} attributes)")
        self.ranks = tuple(ranks)
        self.a = _normal((identities, ranks[0]), 1.0, generator)
        self.g = _normal((ranks[0], gaussians, ranks[1]), 0.1, generator)
        self.c = nn.ParameterDict({k: _normal((w, ranks[1]), 0.1, generator) for k, w in self.blocks.items()})

    def forward(self, people: Int[Tensor, "b"]) -> Float[Tensor, "b n m"]:
        middle = torch.einsum("bp,pnq->bnq", self.a[self.checked(people)], self.g)
        return middle @ torch.cat([self.c[name] for name in BLOCKS]).mT

    @torch.no_grad()
    def fit_init(self, table: Float[Tensor, "n m"], **_: Any) -> None:
        """The singular value decomposition of the table, everybody the same."""
        self._check_table(table)
        u, s, v = torch.linalg.svd(table.double(), full_matrices=False)
        keep = min(self.ranks[1], len(s))
        self.a[:, 0] = 1.0
        self.g.mul_(0.0)
        root, scale = s[:keep].sqrt(), (self.gaussians / self.attributes) ** 0.25
        self.g[0, :, :keep] = (u[:, :keep] * root * scale).to(self.g.dtype)
        columns = v[:keep].mT * root / scale
        for name, part in zip(BLOCKS, columns.split(list(self.blocks.values())), strict=True):
            self.c[name][:, :keep] = part.to(self.g.dtype)

    def person_rows(self) -> Tensor:
        return self.a

    def set_person_rows(self, rows: Tensor) -> None:
        self.a = nn.Parameter(rows.detach().clone())

    def named_groups(self) -> dict[str, list[nn.Parameter]]:
        return {name: [self.c[name]] for name in BLOCKS} | {"shared": [self.a, self.g]}


class FullTensor(AttributeTensor):
    """Every attribute of everybody a weight of its own; with ``mean=True`` one cloud that all people share."""

    def __init__(
        self, identities: int, gaussians: int, attributes: int = ATTRIBUTES, *, mean: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__(identities, gaussians, attributes)
        self.mean = mean
        rows = 1 if mean else identities
        self.w = nn.ParameterDict({k: _normal((rows, gaussians, w), 0.1, generator) for k, w in self.blocks.items()})

    def forward(self, people: Int[Tensor, "b"]) -> Float[Tensor, "b n m"]:
        people = self.checked(people)
        rows = torch.zeros_like(people) if self.mean else people
        return torch.cat([self.w[name][rows] for name in BLOCKS], dim=-1)

    @torch.no_grad()
    def fit_init(self, table: Float[Tensor, "n m"], **_: Any) -> None:
        """Everybody gets the table."""
        self._check_table(table)
        for name, part in zip(BLOCKS, table.split(list(self.blocks.values()), dim=-1), strict=True):
            self.w[name].copy_(part.expand_as(self.w[name]))

    def person_rows(self) -> Tensor:
        return torch.cat([self.w[name] for name in BLOCKS], dim=-1)

    def set_person_rows(self, rows: Tensor) -> None:
        if self.mean:
            return
        for name, part in zip(BLOCKS, rows.split(list(self.blocks.values()), dim=-1), strict=True):
            self.w[name] = nn.Parameter(part.detach().clone())

    def named_groups(self) -> dict[str, list[nn.Parameter]]:
        return {name: [self.w[name]] for name in BLOCKS} | {"shared": []}


def starting_table(
    points: Float[Tensor, "n 3"],
    generator: torch.Generator,
    *,
    attributes: int = ATTRIBUTES,
    opacity: float = 0.1,
    appearance: float = 1.0,
) -> Float[Tensor, "n m"]:
    """Gaussians to start from at points of the skin: as wide as the mean distance to the three nearest, unturned,
    of random appearance (zeros would lower the rank of the table), and of the given ``opacity``.
    """
    if not 0 < opacity < 1:
        raise ValueError(f"opacity {opacity} must lie between 0 and 1")
    if len(points) < 4:
        raise ValueError(f"{len(points)} points are too few: the start takes the distance to the nearest three")
    distance = torch.cdist(points, points).topk(4, largest=False).values[:, 1:].mean(1, keepdim=True)
    random = torch.randn(len(points), widths(attributes)["appearance"], generator=generator) * appearance
    turn = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(points), 4)
    logit = torch.logit(torch.full((len(points), 1), opacity))
    scale = distance.clamp(min=1e-4).log().expand(-1, 3)
    return torch.cat([points, scale, turn, random.to(points), logit], dim=-1)


def _normal(shape: tuple[int, ...], scale: float, generator: torch.Generator | None) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=generator) * scale)


def _without_nan(factor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.where(np.isfinite(factor), factor, 0.1 * rng.standard_normal(factor.shape))
