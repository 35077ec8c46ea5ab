"""The four architectures that progressive volume distillation converts into each other, made by name; and trained
fields as plain arrays, to be kept and restored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.distill.vm import VMField
from tensorbench.radiance_fields.fields.hash import HashField
from tensorbench.radiance_fields.fields.mlp import MLPField
from tensorbench.radiance_fields.fields.staged import StagedField
from tensorbench.radiance_fields.fields.voxel import PlenoxelField
from tensorbench.radiance_fields.tensorf.alpha_mask import AlphaMask

# Sizes for a scene of 64 × 64 pixels; the paper's are the classes' defaults.
DESK: dict[str, dict[str, Any]] = {
    "vm": {"resolution": (48, 48, 48), "rank_sigma": 8, "rank_color": 16},
    "hash": {"levels": 8, "base": 8, "finest": 128, "log2_table": 14},
    "mlp": {"depth": 4, "width": 64, "skip": None, "frequencies": 6, "trunk_features": 16},
    "voxel": {"resolution": 48},
}
PAPER: dict[str, dict[str, Any]] = {"vm": {"resolution": (300, 300, 300)}, "hash": {}, "mlp": {}, "voxel": {}}
KINDS: dict[str, Callable[..., StagedField]] = {
    "vm": VMField,
    "hash": HashField,
    "mlp": MLPField,
    "voxel": PlenoxelField,
}


def make(
    kind: str,
    box: Float[Tensor, "2 3"],
    generator: torch.Generator | None = None,
    *,
    paper_size: bool = False,
    **sizes: Any,
) -> StagedField:
    """An untrained field: ``vm``, ``hash``, ``mlp`` or ``voxel``, at desk size or the paper's, but for ``sizes``.

    Raises ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(unknown("architecture", kind, KINDS))
    return KINDS[kind](box, generator=generator, **{**(PAPER if paper_size else DESK)[kind], **sizes})


def to_arrays(field: StagedField, mask: AlphaMask | None) -> dict[str, np.ndarray]:
    """A field's weights and its occupancy grid as arrays by name."""
    arrays = {f"state.{name}": value.detach().cpu().numpy() for name, value in field.state_dict().items()}
    if mask is not None:
        arrays |= {"mask.vertices": mask.vertices.cpu().numpy(), "mask.box": mask.box.cpu().numpy()}
    return arrays


def from_arrays(field: StagedField, arrays: Mapping[str, Any]) -> AlphaMask | None:
    """Give a field the weights of :func:`to_arrays`, in place; returns the occupancy grid."""
    state = {name.removeprefix("state."): torch.from_numpy(np.array(value)) for name, value in arrays.items()
             if name.startswith("state.")}  # fmt: skip
    field.load_state_dict(state)
    if "mask.vertices" not in arrays:
        return None
    return AlphaMask(torch.from_numpy(arrays["mask.vertices"]), torch.from_numpy(arrays["mask.box"])).to(field.box)
