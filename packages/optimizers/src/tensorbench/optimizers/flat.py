"""A list of parameters as one vector and back, where parameters are shared, and in which precision they are.

Curvature is a matrix over *all* parameters, so every block that works with curvature speaks of vectors of d numbers in
the order of ``model.parameters()``, each tensor row by row. A tied weight is one parameter and stands once in it.

Precision: float64 where theory is checked, float32 otherwise; bfloat16 and float16 are for parameters, never for the
vectors of a Krylov method (:func:`working_dtype`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


def trainable(model: nn.Module) -> list[Tensor]:
    """The parameters that take gradients, each once, in the order of ``model.parameters()``.

    Raises:
        ValueError: there are none.
    """
    found: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    if not found:
        raise ValueError(f"{type(model).__name__} has no parameter with requires_grad=True")
    return found


def tied(model: nn.Module) -> list[tuple[str, ...]]:
    """Groups of names that are one and the same parameter, ``[("embedding.weight", "head.weight")]``."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [tuple(group) for group in names.values() if len(group) > 1]


def check_distinct(parameters: Sequence[Tensor]) -> None:
    """Refuse a list that would count a parameter twice.

    Raises:
        ValueError: a tensor stands in the list twice, or two of them share memory.
    """
    first: dict[int, int] = {}
    for number, parameter in enumerate(parameters):
        if parameter.numel() == 0 or parameter.device.type == "meta":
            continue
        place = parameter.data_ptr()
        if place and place in first:
            raise ValueError(
                f"parameters {first[place]} and {number} are one tensor (a tied weight); list it once, as "
                "model.parameters() does"
            )
        first[place] = number


def flatten(tensors: Iterable[Tensor]) -> Float[Tensor, " d"]:
    """All numbers of the tensors as one new vector, which keeps its graph.

    Raises:
        ValueError: no tensors, several dtypes or devices, or parameters that stand in the list twice.
    """
    tensors = list(tensors)
    if not tensors:
        raise ValueError("flatten needs at least one tensor")
    kinds = {(t.dtype, t.device) for t in tensors}
    if len(kinds) > 1:
        listed = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise ValueError(f"tensors of several kinds ({listed}) make no vector; convert them with .to() first")
    if all(t.is_leaf and t.requires_grad for t in tensors):
        check_distinct(tensors)
    return torch.cat([t.reshape(-1) for t in tensors])


def unflatten(vector: Float[Tensor, "d *more"], like: Iterable[Tensor]) -> list[Tensor]:
    """The vector cut into views with the shapes of ``like``, in ``like``'s dtype.

    A matrix of d rows is cut by rows, so that each part has the trailing axes of the matrix.

    Raises:
        ValueError: the vector's length is not the number of numbers in ``like``.
    """
    like = list(like)
    sizes = [t.numel() for t in like]
    if vector.ndim < 1 or vector.shape[0] != sum(sizes):
        raise ValueError(f"a vector of shape {tuple(vector.shape)} cannot be cut into {sum(sizes)} numbers")
    more = vector.shape[1:]
    return [part.reshape(*t.shape, *more).to(dtype=t.dtype) for part, t in zip(vector.split(sizes), like, strict=True)]


def slices(like: Iterable[Tensor]) -> list[slice]:
    """Where each tensor of ``like`` lies in the vector."""
    ends = itertools.accumulate((t.numel() for t in like), initial=0)
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype for vectors of an iteration: float32 for half precision, otherwise ``dtype`` itself.

    Raises:
        ValueError: ``dtype`` is no real floating-point dtype.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"{dtype} is no real floating-point dtype")
    return torch.float32 if dtype.itemsize < 4 else dtype
