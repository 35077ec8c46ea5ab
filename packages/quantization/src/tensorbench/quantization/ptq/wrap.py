"""A trained model with a choice of precision for every layer.

``QuantModel.wrap`` copies a model and puts a quantiser for each precision on the weight and on the input of every
``nn.Linear`` and ``nn.Conv2d``, and on both operands of the matrix products of ``nn.MultiheadAttention`` (see
``attention``). ``set_config({layer: bits})`` chooses; 16 is bfloat16, 32 leaves a layer as it is. Biases, sums and
everything between the layers stay in float32 (Schaefer et al. 2023, arXiv 2302.01382).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tensorbench.core.errors import unknown

from .attention import ExplicitAttention, MatMul
from .quantizer import Quantizer, QuantSpec

Precision = int | str
Config = dict[str, Precision]


@dataclass(frozen=True)
class LayerInfo:
    """What a layer costs. Counts are for one sample.

    ``rows``, ``inner``, ``columns`` is the matrix product it amounts to (a convolution's patches being the rows;
    batches of products are counted in the rows), ``weights`` the numbers quantised once, ``parameters`` those with the
    bias.
    """

    name: str
    kind: str
    parameters: int
    weights: int
    macs: int
    input_size: int
    output_size: int
    rows: int
    inner: int
    columns: int


class QuantLayer(nn.Module):
    """A layer and its quantisers, by precision. ``noise`` is added to weight and operands where it is set."""

    def __init__(self, inner: nn.Linear | nn.Conv2d | MatMul, specs: Mapping[Precision, QuantSpec],
                 weight_specs: Mapping[Precision, QuantSpec]) -> None:  # fmt: skip
        super().__init__()
        self.inner = inner
        summed = 1 if isinstance(inner, nn.Conv2d) else -1  # the axis that the product sums over
        axes = (-1, -2) if isinstance(inner, MatMul) else (summed,)
        self.input_quantizers = nn.ModuleList(
            nn.ModuleDict({str(p): Quantizer(spec, axis) for p, spec in specs.items()}) for axis in axes
        )
        self.weight_quantizers = nn.ModuleDict(
            {str(p): Quantizer(spec, summed) for p, spec in weight_specs.items()} if self.has_weight else {}
        )
        self.use(32)
        self.noise: tuple[Tensor | None, Sequence[Tensor] | None] | None = None
        self._kept: dict[str, tuple[tuple, Tensor]] = {}

    def use(self, precision: Precision) -> None:
        """Compute at this precision from now on."""
        self.precision = precision
        self._active = None if precision == 32 else tuple(q[str(precision)] for q in self.input_quantizers)

    @property
    def has_weight(self) -> bool:
        return not isinstance(self.inner, MatMul)

    def quantised_weight(self, precision: Precision | None = None) -> Tensor:
        """The weight at a precision (default: the present one), kept until the weight or the scale changes."""
        weight = self.inner.weight
        key = str(self.precision if precision is None else precision)
        if key == "32":
            return weight
        quantizer = self.weight_quantizers[key]
        if torch.is_grad_enabled() and (weight.requires_grad or quantizer.scale.requires_grad):
            return quantizer(weight)
        version = tuple(
            (id(t), t._version, t.data_ptr(), t.dtype, t.device)
            for t in (weight, quantizer.scale, quantizer.zero_point)
        )
        if key not in self._kept or self._kept[key][0] != version:
            with torch.no_grad():
                self._kept[key] = (version, quantizer(weight))
        return self._kept[key][1]

    def forward(self, *operands: Tensor) -> Tensor:
        if self._active is not None:
            operands = tuple(quantizer(x) for quantizer, x in zip(self._active, operands, strict=True))
        weight = self.quantised_weight() if self.has_weight else None
        if self.noise is not None:
            on_weight, on_operands = self.noise
            if on_weight is not None:
                weight = weight + on_weight
            if on_operands is not None:
                operands = tuple(x + n for x, n in zip(operands, on_operands, strict=True))
        if isinstance(self.inner, nn.Linear):
            return F.linear(operands[0], weight, self.inner.bias)
        if isinstance(self.inner, nn.Conv2d):
            return self.inner._conv_forward(operands[0], weight, self.inner.bias)
        return self.inner(*operands)


class QuantModel(nn.Module):
    """A model whose layers have a precision each; made by ``wrap``."""

    def __init__(self, model: nn.Module, layers: dict[str, QuantLayer], infos: Sequence[LayerInfo],
                 precisions: Sequence[Precision]) -> None:  # fmt: skip
        super().__init__()
        self.model = model
        self._layers, self._infos = layers, tuple(infos)
        self.precisions = tuple(precisions)

    @classmethod
    def wrap(
        cls,
        model: nn.Module,
        example: Any,
        precisions: Iterable[Precision] = (16, 8, 4),
        *,
        weight: QuantSpec = QuantSpec(),  # noqa: B008 - frozen
        activation: QuantSpec = QuantSpec(),  # noqa: B008
        keep: Iterable[str] = (),
    ) -> QuantModel:
        """A copy of ``model`` in evaluation mode with quantisers, all layers at 32 bits.

        Args:
            example: an input of one or more samples (the first axis), for the counts.
            precisions: bit-widths and formats (``"nvfp4"``) to choose from.
            weight, activation: granularity and symmetry of the integer widths.
            keep: names of layers that are not to be quantised.

        Raises:
            ValueError: no layer that can be quantised, one module under two names, a name in ``keep`` that is none,
                activations by channel or group.
        """
        if activation.granularity != "tensor":
            raise ValueError("activations have one scale a tensor (axis 0 is the batch); use granularity='tensor'")
        precisions = tuple(dict.fromkeys(precisions))

        def specs(base: QuantSpec) -> dict[Precision, QuantSpec]:
            return {p: QuantSpec(fmt=p) if isinstance(p, str) else replace(base, bits=p) for p in precisions}

        model = copy.deepcopy(model).eval().requires_grad_(False)
        for name, module in [*model.named_modules()]:
            if isinstance(module, nn.MultiheadAttention):
                _put(model, name, ExplicitAttention(module))
        found: dict[str, nn.Linear | nn.Conv2d | MatMul] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            if isinstance(module, nn.Linear | nn.Conv2d | MatMul):
                if (twin := next((n for n, m in found.items() if m is module), None)) is not None:
                    raise ValueError(
                        f"layers {twin!r} and {name!r} are one module; copy it, so that each can be quantised"
                    )
                found[name] = module
        for name in keep:
            if name not in found:
                raise ValueError(unknown("layer to keep", name, found))
        found = {n: m for n, m in found.items() if n not in set(keep)}
        if not found:
            raise ValueError(
                "the model has no layer that can be quantised (nn.Linear, nn.Conv2d, nn.MultiheadAttention)"
            )
        if "" in found:
            model = nn.Sequential(model)
            found = {"0": found[""]}
        layers = {name: QuantLayer(module, specs(activation), specs(weight)) for name, module in found.items()}
        for name, layer in layers.items():
            _put(model, name, layer)
        infos = _count(model, layers, example)
        layers = {info.name: layers[info.name] for info in infos}
        return cls(model, layers, infos, precisions)

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return self.model(*inputs, **keywords)

    def layers(self) -> tuple[LayerInfo, ...]:
        """The layers in the order in which they run."""
        return self._infos

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._layers)

    def layer(self, name: str) -> QuantLayer:
        """Raises ValueError for an unknown name, with the nearest."""
        if name not in self._layers:
            raise ValueError(unknown("layer", name, self._layers))
        return self._layers[name]

    @property
    def config(self) -> Config:
        return {name: layer.precision for name, layer in self._layers.items()}

    def set_config(self, config: Mapping[str, Precision] | Precision) -> None:
        """Choose precisions; layers not named keep theirs, a single one goes to all. 32 is always there.

        Raises:
            ValueError: an unknown layer, or a precision that the model was not wrapped with.
        """
        if not isinstance(config, Mapping):
            config = dict.fromkeys(self.names, config)
        for name, precision in config.items():
            self.layer(name)
            if precision != 32 and precision not in self.precisions:
                raise ValueError(f"layer {name!r}: " + unknown("precision", str(precision), (*self.precisions, 32)))
        for name, precision in config.items():
            self._layers[name].use(precision)

    @contextmanager
    def at(self, config: Mapping[str, Precision] | Precision):
        """``with model.at({layer: 4}): ...``, and then back."""
        before = self.config
        self.set_config(config)
        try:
            yield self
        finally:
            self.set_config(before)

    def capture(self, x: Any) -> tuple[Any, dict[str, list[Tensor]]]:
        """The output for ``x`` and what goes into each layer (before its quantisers)."""
        seen: dict[str, list[Tensor]] = {}

        def hook(name: str) -> Callable:
            return lambda module, operands: seen.__setitem__(name, [o.detach() for o in operands])

        handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in self._layers.items()]
        try:
            with torch.no_grad():
                out = self(x)
        finally:
            for handle in handles:
                handle.remove()
        return out, seen


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    path, _, last = name.rpartition(".")
    setattr(model.get_submodule(path), last, module)


def _count(model: nn.Module, layers: Mapping[str, QuantLayer], example: Any) -> list[LayerInfo]:
    counts: dict[str, LayerInfo] = {}

    def hook(name: str) -> Callable:
        def count(module: QuantLayer, operands: tuple[Tensor, ...], out: Tensor) -> None:
            inner = module.inner
            weights = inner.weight.numel() if module.has_weight else 0
            bias = inner.bias.numel() if module.has_weight and inner.bias is not None else 0
            depth = operands[0].shape[-1] if isinstance(inner, MatMul) else inner.weight[0].numel()
            columns = out.shape[1] if isinstance(inner, nn.Conv2d) else out.shape[-1]
            size = out[0].numel() // columns if out.ndim > 1 else 1
            before = counts.get(name)  # a layer that runs twice costs twice
            counts[name] = LayerInfo(
                name,
                type(inner).__name__.lower(),
                weights + bias,
                weights,
                out[0].numel() * depth + (before.macs if before else 0),
                sum(o[0].numel() for o in operands) + (before.input_size if before else 0),
                out[0].numel() + (before.output_size if before else 0),
                size + (before.rows if before else 0),
                depth,
                columns,
            )

        return count

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    missing = [name for name in layers if name not in counts]
    if missing:
        raise ValueError(f"layer {missing[0]!r} was not used by the example; name it in keep")
    return list(counts.values())
