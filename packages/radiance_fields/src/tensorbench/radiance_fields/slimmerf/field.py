"""A TensoRF-VM field with a dynamic rank: masked while it trains, cut when it is used.

Yuan & Zhao 2024, *SlimmeRF: Slimmable Radiance Fields* (3DV, arXiv 2312.10034; code Shiran-Yuan/SlimmeRF). Components
beyond the dynamic rank r are multiplied by ε = 1e-6, which keeps gradients alive; appearance has three components for
each of the density's. The reference code multiplies both the plane and the line by ε, so that a product (and its
gradients) carry ε²; here the product carries ``epsilon``, and 1e-12 is the code's choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.radiance_fields.fields.base import Box
from tensorbench.radiance_fields.tensorf.base import check_rank
from tensorbench.radiance_fields.tensorf.vm import TensorVM

COLOR_PER_RANK = 3


class SlimVM(TensorVM):
    """A VM field of at most ``rank`` density and three times as many appearance components along each axis.

    ``set_rank`` changes how many are in use; the state dict keeps the number. The other arguments are those of
    :class:`TensorVM`.

    Raises:
        ValueError: a rank that is no whole number of at least 1; appearance ranks given and not three times as large.
    """

    def __init__(
        self,
        box: Box,
        resolution: Sequence[int],
        rank: int = 16,
        rank_color: int | None = None,
        *,
        epsilon: float = 1e-6,
        **options: Any,
    ) -> None:
        self.maximum = check_rank("rank", rank)
        if rank_color is not None and rank_color != COLOR_PER_RANK * rank:
            raise ValueError(f"rank_color {rank_color} must be {COLOR_PER_RANK} x rank = {COLOR_PER_RANK * rank}")
        if not 0 <= epsilon < 1:
            raise ValueError(f"epsilon {epsilon} scales components out of use and must be in [0, 1)")
        super().__init__(box, resolution, rank, COLOR_PER_RANK * rank, **options)
        self.epsilon, self.rank, self.frozen = epsilon, rank, 0

    def set_rank(self, rank: int, frozen: int = 0) -> None:
        """Use the first ``rank`` components; the first ``frozen`` of them do not learn (block coordinate descent)."""
        self.rank = check_cut(rank, self.maximum)
        if not 0 <= frozen < rank:
            raise ValueError(f"frozen {frozen} must be in [0, rank {rank})")
        self.frozen = frozen

    def mask(self, kind: str) -> Float[Tensor, "r"]:
        """1 for components in use, ε for the others."""
        scale = 1 if kind == "sigma" else COLOR_PER_RANK
        index = torch.arange(scale * self.maximum, device=self.box.device)
        return torch.where(index < scale * self.rank, 1.0, self.epsilon)

    def factors(self, kind: str) -> list[tuple[Tensor, Tensor]]:
        pairs = super().factors(kind)
        if self.frozen:
            still = self.frozen * (1 if kind == "sigma" else COLOR_PER_RANK)
            pairs = [(_freeze(plane, still), _freeze(line, still)) for plane, line in pairs]
        if self.rank == self.maximum:
            return pairs
        mask = self.mask(kind)[:, None, None]
        return [(plane, line * mask) for plane, line in pairs]

    def get_extra_state(self) -> dict[str, int]:
        """The ranks, kept in the state dict."""
        return {"rank": self.rank, "maximum": self.maximum, "frozen": self.frozen}

    def set_extra_state(self, state: dict[str, int]) -> None:
        if state["maximum"] != self.maximum:
            raise ValueError(f"the checkpoint has rank {state['maximum']}, this field {self.maximum}")
        self.set_rank(state["rank"], state["frozen"])


def _freeze(factor: Tensor, count: int) -> Tensor:
    return torch.cat([factor[:, :count].detach(), factor[:, count:]], 1)


def check_cut(rank: object, maximum: int) -> int:
    """A rank in 1..maximum."""
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= maximum:
        raise ValueError(f"rank {rank!r} must be a whole number from 1 to {maximum}")
    return rank


Indices = Sequence[Tensor]  # of components, for each of the three axes


@torch.no_grad()
def select(field: TensorVM, sigma: Indices, color: Indices) -> TensorVM:
    """A smaller field of chosen components, in this order: indices for each of the three axes (lines along z, y, x).

    The columns of the map to features go with the appearance components.
    """
    ranks = field.ranks("color")
    starts = [0, ranks[0], ranks[0] + ranks[1]]
    small = field.clone()
    for k in range(3):
        for kind, index in (("sigma", sigma[k]), ("color", color[k])):
            for part in (small.planes, small.lines):
                part[kind][k] = nn.Parameter(part[kind][k][:, index].clone())  # type: ignore[operator,index]
    columns = torch.cat([start + index for start, index in zip(starts, color, strict=True)])
    basis = nn.utils.skip_init(nn.Linear, len(columns), field.basis.out_features, bias=False)
    basis.weight = nn.Parameter(field.basis.weight[:, columns].clone())
    small.basis = basis.to(field.box.device)
    if isinstance(small, SlimVM):
        small.maximum = small.rank = len(sigma[0])
        small.frozen = 0
    return small


def slim(field: TensorVM, rank: int) -> TensorVM:
    """The field of the first ``rank`` density and ``3 rank`` appearance components of each axis.

    Raises:
        ValueError: a rank beyond the field's, or appearance ranks that are not three times the density's.
    """
    maximum = min(field.ranks("sigma"))
    check_cut(rank, maximum)
    if any(c != COLOR_PER_RANK * s for s, c in zip(field.ranks("sigma"), field.ranks("color"), strict=True)):
        raise ValueError(
            f"appearance ranks {field.ranks('color')} must be 3 times the density's {field.ranks('sigma')}"
        )
    first = torch.arange(COLOR_PER_RANK * rank)
    return select(field, [first[:rank]] * 3, [first] * 3)


def vm_weights(
    resolution: Sequence[int], rank_sigma: int, rank_color: int, features: int = 27, width: int = 128
) -> int:
    """Weights of a VM field in closed form, the colour network (150 inputs for 27 features) included."""
    nx, ny, nz = resolution
    vertices = nx * ny + nx * nz + ny * nz + nx + ny + nz
    cin = 5 * features + 15
    network = width * (cin + 1) + width * (width + 1) + 3 * (width + 1)
    return (rank_sigma + rank_color) * vertices + 3 * rank_color * features + network


def save_slim(field: TensorVM, path: str | Path, rank: int | None = None, *, half: bool = True) -> int:
    """Write the field (cut to ``rank``) with 16-bit floats, or 32-bit ones; returns the bytes of its weights."""
    small = field if rank is None else slim(field, rank)
    weights = {name: p.detach().cpu() for name, p in small.named_parameters()}
    weights = {name: w.half() if half else w for name, w in weights.items()}
    torch.save({"weights": weights, "box": small.box.cpu(), "resolution": small.resolution}, path)
    return sum(w.numel() * w.element_size() for w in weights.values())


def load_slim(path: str | Path, **options: Any) -> TensorVM:
    """The field that :func:`save_slim` wrote; ``options`` as they were (activation, frequencies, shift)."""
    found = torch.load(path, weights_only=True)
    weights = {name: w.float() for name, w in found["weights"].items()}
    rank, color = weights["lines.sigma.0"].shape[1], weights["lines.color.0"].shape[1]
    width, features = weights["net.layers.0.weight"].shape[0], weights["basis.weight"].shape[0]
    field = TensorVM(found["box"], found["resolution"], rank, color, width=width, features=features, **options)
    field.load_state_dict({**weights, "box": found["box"]})
    return field
