"""Training recipes by name, products of block-scaled tensors, and the studies that tell the choices apart.

MXFP8 (Mishra, Stosic, Layton, Micikevicius, arXiv 2506.08027): E4M3 for weights, activations and gradients, blocks of
32 with a power-of-two scale that is rounded up; the rounding of the OCP text (``floor``) and E5M2 for gradients are the
choices it argues against. ``nvfp4`` is the four-bit format with blocks of 16 and an E4M3 scale.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown

from .blocks import MX, NVFP4, BlockSpec, QuantTensor
from .fidelity import fidelity
from .formats import get_format
from .layers import GemmSpec, convert
from .scales import POWER_MODES


@dataclasses.dataclass(frozen=True)
class Cast:
    """An operand rounded to a format of its own range, without blocks: ``Cast("bf16")``."""

    form: str

    def __call__(self, x: Tensor, axis: int, *, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            return x.to(torch.bfloat16).to(x.dtype) if self.form == "bf16" else get_format(self.form).round(x)


def _mx(name: str, gradient: str | None = None, **change: str) -> GemmSpec:
    forward = dataclasses.replace(MX[name], **change)  # type: ignore[arg-type]
    back = dataclasses.replace(MX[gradient], **change) if gradient else None  # type: ignore[arg-type]
    return GemmSpec.uniform(forward, back)


_RECIPES: dict[str, GemmSpec] = {
    "fp32": GemmSpec(),
    "bf16": GemmSpec.uniform(Cast("bf16")),
    "mxfp8_e4m3": _mx("mxfp8_e4m3"),
    "mxfp8_e5m2_grad": _mx("mxfp8_e4m3", "mxfp8_e5m2"),
    "mxfp8_ocp_floor": _mx("mxfp8_e4m3", scale_mode="floor"),
    "mxfp6": _mx("mxfp6_e2m3", "mxfp6_e3m2"),
    "mxint8": _mx("mxint8"),
    "mxfp4": _mx("mxfp4"),
    "nvfp4": GemmSpec.uniform(NVFP4),
}
RECIPES: dict[str, GemmSpec] = {name: dataclasses.replace(spec, name=name) for name, spec in _RECIPES.items()}
"""How the six operands of a linear layer are quantised, by name. ``mxfp6`` has E2M3 forward and E3M2 gradients."""


def recipe(name: str) -> GemmSpec:
    """Raises ValueError for an unknown name, with the nearest known one."""
    if name not in RECIPES:
        raise ValueError(unknown("recipe", name, RECIPES))
    return RECIPES[name]


def mx_matmul(a: QuantTensor, b: QuantTensor, *, blockwise: bool = False) -> Float[Tensor, "rows columns"]:
    """``a @ b`` of decoded numbers, accumulated in float32.

    ``a`` (rows, k) is quantised along its last axis, ``b`` (k, columns) along its first, in blocks of one length.
    ``blockwise`` multiplies the elements of each block, scales that partial sum by both scales, and adds the partial
    sums in the order of the blocks, as matrix units do; otherwise one product of decoded matrices.

    Raises:
        ValueError: not two matrices, blocks along another axis, inner sizes or block lengths that differ.
    """
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise ValueError(f"mx_matmul multiplies two matrices, got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    if a.shape[1] != b.shape[0]:
        raise ValueError(
            f"shapes {tuple(a.shape)} and {tuple(b.shape)} do not match: {a.shape[1]} against {b.shape[0]}"
        )
    if a.layout.axis != 1 or b.layout.axis != 0:
        raise ValueError(
            "blocks must run along the axis that is summed: quantize(a, spec, axis=1) and quantize(b, spec, axis=0), "
            f"got axes {a.layout.axis} and {b.layout.axis}"
        )
    if a.layout.tile != b.layout.tile:
        raise ValueError(f"blocks of {a.layout.tile[1]} and of {b.layout.tile[1]} do not match; use one block length")
    if not blockwise:
        return a.dequantize() @ b.dequantize()
    left, right = (t.spec.element_format.decode(t.codes) for t in (a, b))
    left_scale, right_scale = a.decoded_scales() * a.tensor_scale, b.decoded_scales() * b.tensor_scale
    total = torch.zeros(a.shape[0], b.shape[1])
    for k in range(left.shape[1]):
        total += (left[:, k] @ right[:, k].T) * left_scale[:, k, None] * right_scale[None, :, k]
    return total


def scale_study(
    tensors: Mapping[str, Float[Tensor, "..."]],
    elems: Iterable[str] = ("e4m3", "e5m2", "e2m3", "e3m2", "e2m1"),
    modes: Iterable[str] = POWER_MODES,
    *,
    block: int = 32,
    axis: int = -1,
) -> pd.DataFrame:
    """What each rounding of a power-of-two scale loses: a row for each tensor, element format and mode.

    Columns ``tensor, elem, mode, sqnr_db, cosine_error, bias, saturated, underflowed, mean_slack`` (octaves).
    """
    rows = []
    modes = tuple(modes)
    for name, x in tensors.items():
        for elem in elems:
            for mode in modes:
                lost = fidelity(x, BlockSpec(elem, block=block, scale_mode=mode), axis)  # type: ignore[arg-type]
                numbers = {f.name: getattr(lost, f.name) for f in dataclasses.fields(lost) if f.name != "slack"}
                rows.append({"tensor": name, "elem": elem, "mode": mode, **numbers, "mean_slack": lost.slack.mean()})
    return pd.DataFrame(rows)


def train_parity(
    build: Callable[[int], nn.Module],
    train: Callable[[nn.Module, int], float],
    specs: Iterable[str | GemmSpec],
    *,
    seeds: Iterable[int] = (0, 1, 2),
    baseline: str | GemmSpec = "bf16",
    keep: Iterable[str] = (),
) -> pd.DataFrame:
    """Train the same model from the same seeds under several recipes.

    Args:
        build: the model of a seed. train: trains it in place, returns its validation loss.
        specs, baseline: recipes, by name or as specs. keep: layers to leave, see ``convert``.

    Returns:
        columns ``recipe, seed, loss, gap``, the last to the baseline of the same seed.
    """
    seeds, rows = tuple(seeds), []
    chosen = [recipe(spec) if isinstance(spec, str) else spec for spec in (baseline, *specs)]
    for seed in seeds:
        reference = math.nan
        for k, spec in enumerate(chosen):
            model = build(seed)
            convert(model, spec, keep)
            loss = train(model, seed)
            reference = loss if k == 0 else reference
            rows.append({"recipe": spec.name, "seed": seed, "loss": loss, "gap": loss - reference})
    return pd.DataFrame(rows)


def divergence_monitor(window: int = 20, rise: float = 0.5) -> Callable[[int, float], bool]:
    """A ``callback(step, loss)`` for ``core.training.fit`` that is True, which stops, once training has turned.

    Turned: the mean of the last ``window`` losses lies ``rise`` above the lowest such mean so far, or a loss is not
    finite. ``core.training`` itself notices only losses beyond all bounds.

    Raises:
        ValueError: a window below 1 or a rise that is not positive.
    """
    if window < 1 or not rise > 0:
        raise ValueError(f"window {window} must be at least 1 and rise {rise} positive")
    recent: deque[float] = deque(maxlen=window)
    lowest = [math.inf]

    def callback(step: int, loss: float) -> bool:
        recent.append(loss)
        mean = sum(recent) / len(recent)
        if not math.isfinite(loss):
            return True
        if len(recent) == window:
            lowest[0] = min(lowest[0], mean)
        return mean > lowest[0] + rise

    return callback
