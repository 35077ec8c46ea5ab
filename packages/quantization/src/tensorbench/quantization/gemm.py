"""One matrix product for every kind of arithmetic, so that a network can be evaluated on any matrix unit.

``matmul(a, b, unit)`` rounds the operands to the unit's format, multiplies as the unit does (``tensorcore.unit``) and
returns float32 (float64 on fp64 units). Integer units scale each operand by its largest magnitude, multiply in int32
and scale back;
``int_matmul`` is the integer product alone. ``on_unit`` evaluates all ``nn.Linear`` layers of a model on a unit.
Forward only: rounding has no gradient; ``layers`` has trainable quantised products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from .tensorcore.presets import get_unit
from .tensorcore.unit import MMAUnit

_INT32 = 2**31


def int_matmul(
    a: Int[Tensor, "*batch m k"], b: Int[Tensor, "*batch k n"], *, wrap: bool = False
) -> Int[Tensor, "*batch m n"]:
    """The product of integer matrices of at most 16 bits in int32, exact; with ``wrap`` modulo 2^32 as hardware does.

    Raises:
        ValueError: operands that are no integers or beyond 16 bits, shapes that do not fit, a sum beyond int32.
    """
    for name, x in (("a", a), ("b", b)):
        if torch.is_floating_point(x) or x.dtype == torch.bool:
            raise ValueError(
                f"{name} is {x.dtype}; integer matrices are expected (encode with formats.get_format('int8'))"
            )
        if x.numel() and not (int(x.min()) >= -(2**15) and int(x.max()) < 2**15):
            raise ValueError(f"{name} reaches beyond 16 bits ({int(x.min())} to {int(x.max())})")
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"a {tuple(a.shape)} and b {tuple(b.shape)} do not multiply")
    total = (a.to(torch.float64) @ b.to(torch.float64)).to(torch.int64)  # |sums| < 2^53: exact
    beyond = (total < -_INT32) | (total >= _INT32)
    if bool(beyond.any()) and not wrap:
        raise ValueError(f"a sum of {a.shape[-1]} products leaves int32; use wrap=True for hardware's modulo 2^32")
    return ((total + _INT32) % (2 * _INT32) - _INT32).to(torch.int32)


def matmul(a: Shaped[Tensor, "*rows k"], b: Shaped[Tensor, "k n"], unit: str | MMAUnit) -> Float[Tensor, "*rows n"]:
    """``a b`` on a matrix unit (a preset's name or a ``MMAUnit``); leading dimensions of ``a`` are rows.

    Raises:
        ValueError: an unknown unit, shapes that do not fit, NaN for an integer unit.
    """
    unit = get_unit(unit)
    if a.ndim < 1 or b.ndim != 2 or a.shape[-1] != b.shape[0]:
        raise ValueError(f"a {tuple(a.shape)} and b {tuple(b.shape)} do not multiply; expected (…, k) and (k, n)")
    rows = a.reshape(-1, a.shape[-1])
    if unit.align != "integer":
        return unit.mma(unit.cast(rows), unit.cast(b)).reshape(*a.shape[:-1], b.shape[1])
    left, left_scale = _to_integers(rows, unit)
    right, right_scale = _to_integers(b, unit)
    product = unit.mma(left, right).to(torch.float64) * (left_scale * right_scale)
    return product.to(torch.float32).reshape(*a.shape[:-1], b.shape[1])


def _to_integers(x: Tensor, unit: MMAUnit) -> tuple[Tensor, float]:
    """Whole numbers (as floats) and the scale that they count."""
    x = x.to(torch.float64)
    largest = float(x.abs().max())
    if not largest < float("inf"):
        raise ValueError(f"NaN or infinity has no place on {unit.name}, whose operands are integers")
    scale = largest / unit.operand.max if largest > 0 else 1.0
    return unit.cast(x / scale), scale


@contextmanager
def on_unit(model: nn.Module, unit: str | MMAUnit) -> Iterator[nn.Module]:
    """Inside the ``with``, every ``nn.Linear`` of ``model`` multiplies on ``unit``; the bias is added in float32.

    May be nested: leaving restores what was there. The output projection of ``nn.MultiheadAttention`` is never called
    as a layer, so a model with one is refused.

    Raises:
        ValueError: an unknown unit, a model without linear layers, one with ``nn.MultiheadAttention``.
    """
    unit = get_unit(unit)
    if any(isinstance(module, nn.MultiheadAttention) for module in model.modules()):
        raise ValueError("nn.MultiheadAttention multiplies without calling its layers; write its products as nn.Linear")
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError("the model has no nn.Linear layer to put on a matrix unit")

    def replaced(layer: nn.Linear):
        def forward(x: Tensor) -> Tensor:
            y = matmul(x.detach(), layer.weight.detach().T, unit).to(x.dtype)
            return y if layer.bias is None else y + layer.bias.detach()

        return forward

    before = [layer.__dict__.get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = replaced(layer)  # type: ignore[method-assign]
        yield model
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward  # type: ignore[method-assign]
