"""A recipe: the choices of FP4 training as data, and the ``GemmSpec`` that they make.

Hu, Luschi and Balança (2025, arXiv 2509.17791) sweep these choices; the first author's later recipe is
``Recipe(scale="ue5m3", tensor_scale=50, stochastic=True, random_bits=8, weight_tiles=True)``. Stochastic rounding is
for dy alone, in both backward products, each with its own draws; the Hadamard transform for the weight gradient,
along the tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import nn

from tensorbench.core.errors import unknown

from ..blocks import BlockSpec
from ..layers import GemmSpec, Operand, QuantLinear, convert
from .block_gradient import SCALE_GRADIENTS, BlockPullback, ScaleGradient
from .hadamard import Hadamard
from .operands import ClampCompensate, DelayedScale, MovingAbsmax, Percentile
from .relaxations import relaxation

ABSMAX = ("absmax", "percentile", "ema")


@dataclass(frozen=True)
class Recipe:
    """Defaults are plain FP4: E2M1 in blocks of 16 with E4M3 scales, rounded to nearest, straight-through gradients.

    Args:
        elem, scale, block: of every operand, see ``BlockSpec``.
        tensor_scale: None, ``absmax``, or a number k: a maximum sampled every k steps (``DelayedScale``).
        stochastic, random_bits: rounding of dy; with bits the midpoint variant.
        hadamard: size of the transform of the weight gradient's operands; None without.
        rounding_gradient, scale_gradient: of the forward quantisers, for x and for w (see ``BlockPullback``).
        weight_tiles: square tiles of the weight, so that both products see the same weight.
        outliers: quantile beyond which x is clamped and compensated; None without.
        absmax: what the scale of a block is taken from: ``absmax``, ``percentile`` or ``ema`` (of weights only: the
            places of other operands' blocks mean nothing from step to step).
        loss_scale: first factor on the loss; the training loop's business, recorded here.
    """

    elem: str = "e2m1"
    scale: str = "e4m3"
    block: int = 16
    tensor_scale: str | int | None = None
    stochastic: bool = False
    random_bits: int | None = None
    hadamard: int | None = None
    rounding_gradient: str = "ste"
    scale_gradient: ScaleGradient = "none"
    weight_tiles: bool = False
    outliers: float | None = None
    absmax: str = "absmax"
    loss_scale: float | None = None

    def __post_init__(self) -> None:
        self.spec()  # checks formats and block
        relaxation(self.rounding_gradient, self.elem)
        if self.scale_gradient not in SCALE_GRADIENTS:
            raise ValueError(unknown("gradient of the scale", self.scale_gradient, SCALE_GRADIENTS))
        if self.absmax not in ABSMAX:
            raise ValueError(unknown("statistic of a block", self.absmax, ABSMAX))
        if isinstance(self.tensor_scale, bool) or not (
            self.tensor_scale in (None, "absmax") or isinstance(self.tensor_scale, int)
        ):
            raise ValueError(
                f"tensor_scale {self.tensor_scale!r} must be None, 'absmax' or a number of steps between samples"
            )
        if self.absmax != "absmax" and self.tensor_scale is not None:
            raise ValueError(f"absmax={self.absmax!r} has no scale of the tensor; leave tensor_scale out")
        plain = self.absmax == "absmax" and not isinstance(self.tensor_scale, int)
        if self.outliers is not None and not plain:
            raise ValueError("outliers clamp the plain quantiser of x: leave absmax and a held tensor_scale out")
        straight = self.rounding_gradient == "ste" and self.scale_gradient == "none"
        if not straight and not (plain and self.outliers is None):
            raise ValueError(
                "gradients through the quantiser are those of the plain one: use rounding_gradient='ste' and "
                "scale_gradient='none' with outliers, absmax or a held tensor_scale"
            )
        if self.random_bits is not None and not self.stochastic:
            raise ValueError("random_bits are of stochastic rounding; set stochastic=True")

    def spec(self, *, tiles: bool = False, stochastic: bool = False) -> BlockSpec:
        """The block quantiser of an operand."""
        return BlockSpec(
            self.elem,
            scale=self.scale,
            block=(self.block, self.block) if tiles else self.block,
            tensor_scale="absmax" if self.tensor_scale == "absmax" else None,
            rounding="stochastic" if stochastic else "even",
            random_bits=self.random_bits if stochastic else None,
            midpoint=stochastic and self.random_bits is not None,
        )

    def build(self, seed: int = 0, *, name: str = "fp4") -> GemmSpec:
        """A spec for one layer: operands with state are its own, the random signs are those of ``seed``."""
        x, dy = self.spec(), self.spec(stochastic=self.stochastic)
        w = self.spec(tiles=self.weight_tiles)
        transform = None if self.hadamard is None else Hadamard(self.hadamard, seed)
        forward_x = self._operand(x)
        if self.outliers is not None:
            forward_x = ClampCompensate(x, self.outliers)
        straight = self.rounding_gradient == "ste" and self.scale_gradient == "none"
        pull_x = None if straight else BlockPullback(x, self.rounding_gradient, self.scale_gradient)
        pull_w = None if straight else BlockPullback(w, self.rounding_gradient, self.scale_gradient)
        return GemmSpec(
            forward_x=forward_x,
            forward_w=self._operand(w, weight=True),
            dgrad_dy=self._operand(dy),
            dgrad_w=self._operand(w, weight=True),
            wgrad_dy=self._operand(dy),
            wgrad_x=self._operand(x),
            wgrad_transform=transform,
            pullback_x=pull_x,
            pullback_w=pull_w,
            name=name,
        )

    def _operand(self, spec: BlockSpec, *, weight: bool = False) -> Operand:
        if isinstance(self.tensor_scale, int):
            return DelayedScale(spec, self.tensor_scale, min(448.0, spec.scale_format.max))
        if self.absmax == "percentile":
            return Percentile(spec)
        if self.absmax == "ema" and weight:
            return MovingAbsmax(spec)
        return spec


def install(
    model: nn.Module,
    recipe: Recipe,
    keep: Iterable[str] = (),
    *,
    seed: int = 0,
    generator: torch.Generator | None = None,
) -> list[str]:
    """``layers.convert`` with a spec of its own for each layer, so that no state is shared; names of the layers."""
    if recipe.stochastic and generator is None:
        raise ValueError("stochastic rounding needs a torch.Generator, so that it can be repeated")
    names = convert(model, recipe.build(seed), keep, generator=generator)
    for number, name in enumerate(names):
        layer = model.get_submodule(name)
        assert isinstance(layer, QuantLinear)
        layer.spec = recipe.build(seed + number)
    return names


MXFP8 = Recipe(elem="e4m3", scale="e8m0", block=32)
MXFP4 = Recipe(scale="e8m0", block=32)
NVFP4 = Recipe(tensor_scale="absmax")
COMBINED = replace(NVFP4, stochastic=True, hadamard=16)
"""Hadamard transform, tensor scaling and stochastic rounding: the combination that the paper finds best."""
UE5M3 = Recipe(scale="ue5m3", tensor_scale=50, stochastic=True, random_bits=8, weight_tiles=True)
"""The first author's later recipe."""
