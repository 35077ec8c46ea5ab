"""Swap the convolutions of a model for compressed ones, before training or after it, and back to dense ones.

- *A priori*: :func:`compress_model` puts untrained one-way (or other factored) layers in the place of dense ones, same
  stride, padding and dilation (Boukraichi et al. 2023, arXiv 2304.04964; abstract only).
- *After training*: :func:`posthoc_cp` decomposes the trained kernel by alternating least squares (TensorLy) into the
  canonical form of the whole 4-way kernel, which is executed as four small convolutions (Lebedev et al. 2015,
  arXiv 1412.6553). Whoever wants fine-tuning trains the result.
- :func:`decompress` multiplies every factored kernel out, for deployment and for checking.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown
from tensorbench.pde_operators import oneway_conv
from tensorbench.pde_operators.factored_convs import DepthwiseSeparableConv2d, SeparableConv2d, TwoWayOneWayConv2d
from tensorbench.pde_operators.oneway_conv import _OneWay

Kind = Literal["oneway", "two_way", "separable", "depthwise"]
Start = Literal["fresh", "exact", "cp"]
_STARTS = ("fresh", "exact", "cp")
_ONEWAY: dict[type[nn.Module], type[_OneWay]] = {
    nn.Conv1d: oneway_conv.OneWayConv1d,
    nn.Conv2d: oneway_conv.OneWayConv2d,
    nn.Conv3d: oneway_conv.OneWayConv3d,
    nn.ConvTranspose1d: oneway_conv.OneWayConvTranspose1d,
    nn.ConvTranspose2d: oneway_conv.OneWayConvTranspose2d,
    nn.ConvTranspose3d: oneway_conv.OneWayConvTranspose3d,
}
_OTHERS: dict[str, Callable[..., nn.Module]] = {
    "two_way": TwoWayOneWayConv2d,
    "separable": SeparableConv2d,
    "depthwise": DepthwiseSeparableConv2d,
}


@dataclass(frozen=True)
class Spec:
    """What dense convolutions become.

    ``start`` says where weights come from: ``fresh`` draws them (a priori), ``cp`` decomposes the trained kernel at
    ``rank`` by least squares, ``exact`` writes it exactly at the rank that this takes (``rank`` is then ignored).
    ``options`` go to the layers (``share``, ``order``, ``compute``, …); ``skip`` are names of modules to leave alone.
    """

    kind: Kind = "oneway"
    rank: int = 1
    start: Start = "fresh"
    options: dict[str, Any] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    iterations: int = 100


def compress_model(model: nn.Module, spec: Spec, generator: torch.Generator | None = None) -> nn.Module:
    """A copy of ``model`` in which every dense convolution is compressed; the others are shared copies as they are.

    Convolutions of kernel size 1 and grouped ones stay. Fresh weights come from ``generator``, one after another in
    the order of the modules.

    Raises:
        ValueError: an unknown kind or start, a name in ``skip`` that is no module, nothing to compress.
    """
    if spec.kind != "oneway" and spec.kind not in _OTHERS:
        raise ValueError(unknown("kind", spec.kind, ("oneway", *_OTHERS)))
    if spec.start not in _STARTS:
        raise ValueError(unknown("start", spec.start, _STARTS))
    names = [name for name, _ in model.named_modules()]
    for name in spec.skip:
        if name not in names:
            raise ValueError(unknown("module in skip", name, names))

    def convert(name: str, module: nn.Module) -> nn.Module | None:
        if type(module) not in _ONEWAY or name in spec.skip:
            return None
        if math.prod(module.kernel_size) == 1 or module.groups != 1:  # type: ignore[arg-type, operator]
            return None
        return _compressed(module, spec, generator)

    changed, result = _replace(model, convert)
    if not changed:
        raise ValueError("the model has no dense convolution with a kernel larger than 1 to compress")
    return result


def decompress(model: nn.Module) -> nn.Module:
    """A copy in which every layer with a method ``kernel()`` is torch's dense convolution with that kernel."""

    def convert(_: str, module: nn.Module) -> nn.Module | None:
        kernel = getattr(module, "kernel", None)
        if not callable(kernel):
            return None
        weight: Tensor = kernel().detach()
        transposed = bool(getattr(module, "transposed", False))
        cout, cin = (weight.shape[1], weight.shape[0]) if transposed else (weight.shape[0], weight.shape[1])
        kind = next(
            dense for dense, one in _ONEWAY.items() if one.dims == weight.ndim - 2 and one.transposed == transposed
        )
        options = {"output_padding": module.output_padding} if transposed else {"padding_mode": module.padding_mode}
        layer = kind(
            cin, cout, tuple(weight.shape[2:]), stride=module.stride, padding=module.padding,
            dilation=module.dilation, bias=module.bias is not None, **options,
        )  # fmt: skip
        state = {"weight": weight} | ({"bias": module.bias.detach()} if isinstance(module.bias, Tensor) else {})
        layer = layer.to(weight)
        layer.load_state_dict(state)
        return layer

    return _replace(model, convert)[1]


def posthoc_cp(
    conv: nn.Module, rank: int, *, share: oneway_conv.Share = "shared", iterations: int = 100, seed: int = 0
) -> nn.Module:
    """The one-way layer nearest to a trained dense convolution: canonical form by alternating least squares.

    Args:
        share: ``shared`` decomposes the whole kernel (out, in, kh, kw) at ``rank``; ``per_output`` each output's.

    Raises:
        ValueError: rank below 1, groups, a kernel that is not finite, a module that is no dense convolution.
    """
    return _compressed(conv, Spec(rank=rank, start="cp", options={"share": share}, iterations=iterations), None, seed)


def matched_rank(conv: nn.Module, weights: int) -> int:
    """The largest rank (at least 1) of the 4-way canonical form with at most as many ``weights``, without the bias."""
    cout, cin, sizes = conv.out_channels, conv.in_channels, conv.kernel_size
    return max(1, weights // (cout + cin + sum(sizes)))  # type: ignore[operator, arg-type, return-value]


def _replace(model: nn.Module, convert: Callable[[str, nn.Module], nn.Module | None]) -> tuple[int, nn.Module]:
    """A deep copy with the modules that ``convert`` gives another for replaced; how many there were."""
    if (whole := convert("", model)) is not None:
        return 1, whole
    model = copy.deepcopy(model)
    changed = 0
    for name, module in list(model.named_modules()):
        for child_name, child in list(module.named_children()):
            path = f"{name}.{child_name}" if name else child_name
            if (new := convert(path, child)) is not None:
                setattr(module, child_name, new)
                changed += 1
    return changed, model


def _compressed(conv: Any, spec: Spec, generator: torch.Generator | None, seed: int = 0) -> nn.Module:
    if type(conv) not in _ONEWAY:
        raise ValueError(f"expected one of torch's dense convolutions, got {type(conv).__name__}")
    weight: Tensor = conv.weight.detach()
    common: dict[str, Any] = {
        "stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation, "bias": conv.bias is not None
    }  # fmt: skip
    transposed = _ONEWAY[type(conv)].transposed
    common |= {"output_padding": conv.output_padding} if transposed else {"padding_mode": conv.padding_mode}
    if spec.kind != "oneway":
        if type(conv) is not nn.Conv2d or spec.start != "fresh":
            raise ValueError(f"kind {spec.kind!r} is for fresh two-dimensional convolutions")
        if isinstance(conv.padding, str):
            raise ValueError(f"kind {spec.kind!r} needs padding in numbers, got {conv.padding!r}")
        if len(set(conv.kernel_size)) > 1 or any(len(set(common[n])) > 1 for n in ("stride", "padding", "dilation")):
            raise ValueError(
                f"kind {spec.kind!r} needs the same kernel size, stride, padding and dilation on both axes"
            )
        common |= {name: common[name][0] for name in ("stride", "padding", "dilation")}
        if spec.kind == "two_way":
            common["rank"] = spec.rank
        size = conv.kernel_size[0]
        layer = _OTHERS[spec.kind](
            conv.in_channels, conv.out_channels, size, generator=generator, **common, **spec.options
        )
        return layer.to(weight)
    kernel = weight.transpose(0, 1) if transposed else weight  # outputs first
    share = spec.options.get("share", "per_output")
    rank = spec.rank
    factors: Any = None
    if spec.start != "fresh":
        if not torch.isfinite(weight).all():
            raise ValueError("the kernel has entries that are not finite; train again before compressing")
        if spec.rank < 1:
            raise ValueError(f"rank {spec.rank} must be at least 1")
        array = kernel.cpu().double().numpy()
        if spec.start == "exact":
            factors = _exact(array) if share == "shared" else [_exact(each) for each in array]
        else:
            factors = (
                _cp(array, rank, spec.iterations, seed)
                if share == "shared"
                else [_cp(each, rank, spec.iterations, seed) for each in array]
            )
        rank = factors[0].shape[1] if share == "shared" else factors[0][0].shape[1]
    layer = _ONEWAY[type(conv)](
        conv.in_channels, conv.out_channels, conv.kernel_size, rank, groups=conv.groups, generator=generator,
        **common, **spec.options,
    ).to(weight)  # fmt: skip
    if factors is not None:
        _load(layer, factors, share)
        if conv.bias is not None:
            with torch.no_grad():
                layer.bias.copy_(conv.bias)  # type: ignore[union-attr]
    return layer


@torch.no_grad()
def _load(layer: _OneWay, factors: list, share: str) -> None:
    """Canonical factors (each size × R) into the layer's parameters."""
    if share == "shared":
        mix, *rest = factors
        assert layer.mix is not None
        layer.mix.copy_(torch.from_numpy(np.ascontiguousarray(mix)))
        parts = [factor.T for factor in rest]
    else:
        parts = [np.stack([each[n].T for each in factors]) for n in range(len(factors[0]))]
    for target, part in zip([layer.channel, *layer.filters], parts, strict=True):
        target.copy_(torch.from_numpy(np.ascontiguousarray(part)))


def _cp(array: Float[np.ndarray, "*modes"], rank: int, iterations: int, seed: int) -> list[np.ndarray]:
    """Canonical factors by TensorLy's alternating least squares: the better of a start by singular vectors and a
    random one, the norms spread over the factors alike."""
    import tensorly as tl
    from tensorly.decomposition import parafac

    scale = np.linalg.norm(array) or 1.0
    best, smallest = None, np.inf
    with tl.backend_context("numpy", local_threadsafe=True):
        for start in ("svd", "random"):
            found = parafac(
                tl.tensor(array / scale), rank, n_iter_max=iterations, init=start, tol=1e-9, l2_reg=1e-9,
                normalize_factors=True, random_state=seed,
            )  # fmt: skip
            error = float(np.linalg.norm(array / scale - tl.cp_to_tensor(found)))
            if error < smallest:
                best, smallest = found, error
    if best is None:
        raise ValueError(f"the decomposition of a kernel of shape {array.shape} at rank {rank} did not end in numbers")
    weights, factors = best
    share = np.abs(scale * weights) ** (1 / len(factors))
    spread = [np.asarray(factor) * share for factor in factors]
    spread[0] = spread[0] * np.where(weights < 0, -1.0, 1.0)
    return spread


def _exact(array: Float[np.ndarray, "*modes"]) -> list[np.ndarray]:
    """The plain exact canonical form: unit vectors along all modes but the longest, which carries the numbers."""
    carrier = int(np.argmax(array.shape))
    others = [n for n in range(array.ndim) if n != carrier]
    cells = list(itertools.product(*(range(array.shape[n]) for n in others)))
    factors = [np.zeros((size, len(cells))) for size in array.shape]
    for r, cell in enumerate(cells):
        index: list[Any] = [slice(None)] * array.ndim
        for n, at in zip(others, cell, strict=True):
            factors[n][at, r] = 1.0
            index[n] = at
        factors[carrier][:, r] = array[tuple(index)]
    return factors
