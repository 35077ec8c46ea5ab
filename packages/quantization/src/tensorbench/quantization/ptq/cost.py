"""What a config costs: bytes of weights, bit operations, time from a table or a roofline, energy.

Every function takes the layers of a ``QuantModel`` and a config. ``relative`` divides by the cost with all layers at 16
bits. Times are not additive where neighbours differ in precision: ``latency`` adds a conversion of the layer's input at
every such border.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tensorbench.core.errors import unknown

from .quantizer import QuantSpec
from .wrap import LayerInfo, Precision

ConfigLike = Mapping[str, Precision]
Cost = Callable[[Sequence[LayerInfo], ConfigLike], float]


def width(precision: Precision) -> float:
    """Bits of an element, the scales of block formats included."""
    return QuantSpec.of(precision).width


def _check(layers: Sequence[LayerInfo], config: ConfigLike) -> None:
    names = [layer.name for layer in layers]
    for name in config:
        if name not in names:
            raise ValueError(unknown("layer", name, names))
    for name in names:
        if name not in config:
            raise ValueError(f"the config says nothing about layer {name!r}")


def model_bytes(layers: Sequence[LayerInfo], config: ConfigLike) -> float:
    """Bytes of the quantised weights (biases and scales, which do not change, are left out)."""
    _check(layers, config)
    return sum(layer.weights * width(config[layer.name]) for layer in layers) / 8


def mean_weight_bits(layers: Sequence[LayerInfo], config: ConfigLike) -> float:
    """Bits of a weight, averaged over all weights."""
    return 8 * model_bytes(layers, config) / sum(layer.weights for layer in layers)


def bit_operations(layers: Sequence[LayerInfo], config: ConfigLike) -> float:
    """Multiply-accumulates of one sample, each times the widths of its two operands."""
    _check(layers, config)
    return sum(layer.macs * width(config[layer.name]) ** 2 for layer in layers)


def energy(layers: Sequence[LayerInfo], config: ConfigLike, mac_joules: Mapping[Precision, float]) -> float:
    """Joules of the multiply-accumulates of one sample, from a table by precision."""
    _check(layers, config)
    return sum(layer.macs * _entry(mac_joules, config[layer.name], "energy") for layer in layers)


def relative(cost: Cost, layers: Sequence[LayerInfo], config: ConfigLike, base: Precision = 16) -> float:
    """Share of what all layers at ``base`` cost."""
    return cost(layers, config) / cost(layers, dict.fromkeys(config, base))


@dataclass(frozen=True)
class Roofline:
    """A machine by its peaks: ``operations`` (multiply-accumulates a second) by precision, ``bandwidth`` (bytes a
    second)."""

    operations: Mapping[Precision, float]
    bandwidth: float

    def seconds(self, layer: LayerInfo, precision: Precision, batch: int = 1) -> float:
        """The longer of computing and moving weights, inputs and (16-bit) outputs."""
        element = width(precision) / 8
        moved = (layer.weights + batch * layer.input_size) * element + 2 * batch * layer.output_size
        return max(batch * layer.macs / _entry(self.operations, precision, "peak"), moved / self.bandwidth)

    def conversion(self, layer: LayerInfo, batch: int = 1) -> float:
        """Reading the layer's input in 16 bits and writing it in few."""
        return 4 * batch * layer.input_size / self.bandwidth


@dataclass(frozen=True)
class LatencyTable:
    """Seconds of each layer by precision, and of converting its input; ``latency.measure_table`` fills one."""

    seconds: Mapping[str, Mapping[Precision, float]]
    conversion: Mapping[str, float]
    kernels: Mapping[Precision, str] = field(default_factory=dict)  # precisions that one kernel serves; others differ

    @classmethod
    def of_roofline(
        cls, roofline: Roofline, layers: Sequence[LayerInfo], precisions: Sequence[Precision], batch: int = 1
    ) -> LatencyTable:
        return cls(
            {layer.name: {p: roofline.seconds(layer, p, batch) for p in precisions} for layer in layers},
            {layer.name: roofline.conversion(layer, batch) for layer in layers},
        )


def latency(layers: Sequence[LayerInfo], config: ConfigLike, table: LatencyTable, entry: Precision = 16) -> float:
    """Seconds of all layers, one after the other, with a conversion wherever the kernel changes.

    ``entry`` is the precision in which the first layer's input comes.
    """
    _check(layers, config)
    total, before = 0.0, entry
    for layer in layers:
        now = config[layer.name]
        total += _entry(table.seconds[layer.name], now, "latency")
        if table.kernels.get(now, now) != table.kernels.get(before, before):
            total += table.conversion[layer.name]
        before = now
    return total


def _entry(table: Mapping[Precision, float], precision: Precision, what: str) -> float:
    if precision not in table:
        raise ValueError(f"the table has no {what} for {unknown('precision', str(precision), map(str, table))}")
    return table[precision]
