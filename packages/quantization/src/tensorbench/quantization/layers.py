"""A linear layer whose three matrix products are quantised each in its own way, and the conversion of a whole model.

A linear layer multiplies three times in training, and each product sums along another axis:

- forward ``y = x wᵀ`` along the input features (both operands in blocks along their last axis),
- input gradient (dgrad) ``dx = dy w`` along the output features,
- weight gradient (wgrad) ``dw = dyᵀ x`` along the tokens.

Blocks that share a scale must run along the axis that is summed, so ``w``, ``x`` and ``dy`` are each quantised twice,
and the two copies differ. Products are of decoded numbers with float32 accumulation: an emulation, bit-exact in the
operands. Weights stay in float32 (the master copy). Sources: arXiv 2506.08027 (MXFP8), arXiv 2509.17791 (FP4).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown

from .blocks import BlockSpec, fake_quantize


class Quantiser(Protocol):
    """What an operand goes through: values in, quantised values of the same shape out, in blocks along ``axis``."""

    def __call__(self, x: Tensor, axis: int, *, generator: torch.Generator | None) -> Tensor: ...


Operand = BlockSpec | Quantiser | None
Transform = Callable[[Tensor, int], Tensor]
Pullback = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class GemmSpec:
    """How each operand of the three products is quantised: a ``BlockSpec``, a function, or None for float32.

    Args:
        forward_x, forward_w, dgrad_dy, dgrad_w, wgrad_dy, wgrad_x: the six operands.
        forward_transform, dgrad_transform, wgrad_transform: an orthonormal map along the summed axis,
            ``transform(tensor, axis)``, applied to both operands before they are quantised (a Hadamard transform): the
            exact product does not change.
        pullback_x, pullback_w: ``pullback(value, gradient)``, the gradient through the forward quantiser; None is the
            straight-through estimate.
        name: what figures and logs call it.
    """

    forward_x: Operand = None
    forward_w: Operand = None
    dgrad_dy: Operand = None
    dgrad_w: Operand = None
    wgrad_dy: Operand = None
    wgrad_x: Operand = None
    forward_transform: Transform | None = None
    dgrad_transform: Transform | None = None
    wgrad_transform: Transform | None = None
    pullback_x: Pullback | None = None
    pullback_w: Pullback | None = None
    name: str = "custom"

    @classmethod
    def uniform(cls, forward: Operand, gradient: Operand = None, *, name: str = "custom", **more: Any) -> GemmSpec:
        """``forward`` for every x and w, ``gradient`` for every dy (``forward`` too where it is None)."""
        gradient = forward if gradient is None else gradient
        return cls(forward, forward, gradient, forward, gradient, forward, name=name, **more)

    @property
    def is_float(self) -> bool:
        return all(getattr(self, f.name) is None for f in fields(self) if f.name != "name")


def apply_operand(
    operand: Operand, x: Tensor, axis: int, transform: Transform | None, generator: torch.Generator | None
) -> Tensor:
    """``x`` as the product sees it: transformed, then quantised, in blocks along ``axis``."""
    if transform is not None:
        x = transform(x, axis)
    if operand is None:
        return x
    if isinstance(operand, BlockSpec):
        return fake_quantize(x, operand, axis, generator=generator)
    return operand(x, axis, generator=generator)


class _QuantProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, spec: GemmSpec, generator: torch.Generator | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.spec, ctx.generator = spec, generator
        xq = apply_operand(spec.forward_x, x, -1, spec.forward_transform, generator)
        wq = apply_operand(spec.forward_w, weight, -1, spec.forward_transform, generator)
        return xq @ wq.T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (dy,) = gradients
        x, weight = ctx.saved_tensors
        spec, generator = ctx.spec, ctx.generator
        dx = dw = None
        if ctx.needs_input_grad[0]:
            left = apply_operand(spec.dgrad_dy, dy, -1, spec.dgrad_transform, generator)
            dx = left @ apply_operand(spec.dgrad_w, weight, 0, spec.dgrad_transform, generator)
            if spec.pullback_x is not None:
                dx = spec.pullback_x(x, dx)
        if ctx.needs_input_grad[1]:
            left = apply_operand(spec.wgrad_dy, dy, 0, spec.wgrad_transform, generator)
            dw = left.T @ apply_operand(spec.wgrad_x, x, 0, spec.wgrad_transform, generator)
            if spec.pullback_w is not None:
                dw = spec.pullback_w(weight, dw)
        return dx, dw, None, None


class QuantLinear(nn.Linear):
    """``nn.Linear`` with quantised products. Parameters, and so the ``state_dict``, are those of ``nn.Linear``.

    ``generator`` serves stochastic rounding. The products of ``GemmSpec()`` are exactly those of ``nn.Linear``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        spec: GemmSpec,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.spec = spec
        self.generator = generator

    @classmethod
    def of(cls, linear: nn.Linear, spec: GemmSpec, generator: torch.Generator | None = None) -> QuantLinear:
        """A quantised layer around the very parameters of ``linear`` (shared, so that tied weights stay tied)."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.in_features, layer.out_features = linear.in_features, linear.out_features
        layer.weight, layer.bias = linear.weight, linear.bias
        layer.spec, layer.generator = spec, generator
        layer.train(linear.training)
        return layer

    def forward(self, x: Float[Tensor, "*batch in_features"]) -> Float[Tensor, "*batch out_features"]:
        flat = x.reshape(-1, x.shape[-1])
        y = _QuantProduct.apply(flat, self.weight, self.spec, self.generator)
        y = y.reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, spec={self.spec.name}"


def convert(
    model: nn.Module, spec: GemmSpec, keep: Iterable[str] = (), *, generator: torch.Generator | None = None
) -> list[str]:
    """Replace every ``nn.Linear`` of ``model`` in place by a ``QuantLinear`` with the same parameters.

    Args:
        keep: names (``head``) or shell patterns (``blocks.0.*``) of layers that stay as they are.

    Returns:
        the names of the converted layers. ``state_dict`` keys do not change; ``restore`` undoes it.

    A layer that stands in several places is converted in all of them. ``nn.MultiheadAttention`` multiplies by its
    weights without calling a linear layer, so it must be kept (by its name), and says so.

    Raises:
        ValueError: a pattern that matches no linear layer, nothing left to convert, or an ``nn.MultiheadAttention``.
    """
    keep = list(keep)
    attention = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    inside = [name for name in attention if name not in keep]
    if inside:
        raise ValueError(
            f"{', '.join(inside)}: nn.MultiheadAttention calls no linear layer that could be converted; use attention "
            f"of nn.Linear projections, or keep={inside!r} leaves it as it is"
        )
    keep = [pattern for pattern in keep if pattern not in attention]
    places = [
        (name, module)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear) and not any(name.startswith(f"{outer}.") for outer in attention)
    ]
    names = [name for name, _ in places]
    if isinstance(model, nn.Linear):
        raise ValueError("the model is a single nn.Linear; use QuantLinear.of(model, spec)")
    kept: set[str] = set()
    for pattern in keep:
        matched = fnmatch.filter(names, pattern)
        if not matched:
            raise ValueError(unknown("linear layer to keep", pattern, names))
        kept.update(matched)
    chosen = [name for name in names if name not in kept]
    if not chosen:
        raise ValueError("the model has no linear layer to convert" + (" beside those kept" if names else ""))
    made: dict[int, QuantLinear] = {}
    for name, module in places:
        if name in chosen:
            layer = made.setdefault(id(module), QuantLinear.of(module, spec, generator))
            _replace(model, name, layer)
    return chosen


def restore(model: nn.Module) -> None:
    """Turn every ``QuantLinear`` back into an ``nn.Linear`` with the same parameters."""

    def plain(old: nn.Linear) -> nn.Linear:
        layer = nn.Linear.__new__(nn.Linear)
        nn.Module.__init__(layer)
        layer.in_features, layer.out_features = old.in_features, old.out_features
        layer.weight, layer.bias = old.weight, old.bias
        layer.train(old.training)
        return layer

    made: dict[int, nn.Linear] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, QuantLinear):
            _replace(model, name, made.setdefault(id(module), plain(module)))


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    path, _, last = name.rpartition(".")
    setattr(model.get_submodule(path), last, layer)
