"""What range of a tensor to represent: from what was seen while calibrating.

- ``max``: the smallest and largest number seen;
- ``moving_average``: of the extremes of each batch, ``momentum`` of the old kept;
- ``percentile``: quantiles, so that a few outliers saturate;
- ``mse``: the share of the largest range with the least squared error of quantisation at that width;
- ``entropy``: the share with the least Kullback-Leibler divergence from the histogram to that of the quantised (the
  idea
  of TensorRT's calibration: Migacz, GTC 2017).

The last three look at a sample of at most ``LIMIT`` numbers of each batch and row, evenly spaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown

from .quantizer import Quantizer, QuantSpec

Observer = Literal["max", "moving_average", "percentile", "mse", "entropy"]
OBSERVERS: tuple[Observer, ...] = get_args(Observer)
LIMIT = 8192
_BINS_A_CODE, _MOST_BINS = 16, 2048
_ENTROPY_SAMPLE = 1 << 16
Range = tuple[Float[Tensor, " groups"], Float[Tensor, " groups"]]


@dataclass
class Seen:
    """Extremes of each batch and a sample, by rows that share a scale."""

    lows: list[Tensor] = field(default_factory=list)
    highs: list[Tensor] = field(default_factory=list)
    samples: list[Tensor] = field(default_factory=list)

    def add(self, rows: Float[Tensor, "groups values"], where: str = "the tensor") -> None:
        """Look at one more batch.

        Raises:
            ValueError: NaN or infinity (the message names ``where``), or nothing to look at.
        """
        if rows.numel() == 0:
            raise ValueError(f"{where} is empty: nothing can be calibrated on it")
        low, high = torch.aminmax(rows.detach(), dim=1)
        if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
            kind = "NaN" if bool(torch.isnan(low).any() or torch.isnan(high).any()) else "infinity"
            raise ValueError(f"{where} holds {kind}; its range cannot be calibrated")
        self.lows.append(low)
        self.highs.append(high)
        stride = max(1, -(-rows.shape[1] // LIMIT))
        self.samples.append(rows.detach()[:, ::stride].clone())

    def extremes(self) -> Range:
        if not self.lows:
            raise ValueError("nothing was seen: the calibration loader gave no batch")
        return torch.stack(self.lows).amin(0), torch.stack(self.highs).amax(0)


def choose_range(
    seen: Seen,
    spec: QuantSpec,
    observer: Observer = "max",
    *,
    momentum: float = 0.9,
    percentile: float = 99.9,
    candidates: int = 80,
) -> Range:
    """Low and high of every row.

    Args:
        momentum: of the moving average; ``percentile``: numbers within the range, in per cent of all (of the two tails
            each has half of the rest); ``candidates``: shares of the largest range that ``mse`` and ``entropy`` try.

    Raises:
        ValueError: an unknown observer, nothing seen, a momentum or percentile out of range.
    """
    if observer not in OBSERVERS:
        raise ValueError(unknown("observer", observer, OBSERVERS))
    low, high = seen.extremes()
    if observer == "max":
        return low, high
    if observer == "moving_average":
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum {momentum} must be in [0, 1)")
        return _average(seen.lows, momentum), _average(seen.highs, momentum)
    sample = torch.cat(seen.samples, dim=1)
    if observer == "percentile":
        if not 50 < percentile <= 100:
            raise ValueError(f"percentile {percentile} must be above 50 and at most 100")
        if spec.symmetric:
            alpha = _quantile(sample.abs(), percentile / 100)
            return -alpha, alpha
        tail = (100 - percentile) / 200
        return _quantile(sample, tail), _quantile(sample, 1 - tail)
    if spec.symmetric:
        high = torch.maximum(low.abs(), high.abs())
        low = -high
    shares = torch.linspace(1 / candidates, 1, candidates)
    error = _mse if observer == "mse" else _divergence
    errors = torch.stack([error(sample, share * low, share * high, spec) for share in shares])
    best = shares[errors.argmin(0)]
    return best * low, best * high


def _average(batches: Sequence[Tensor], momentum: float) -> Tensor:
    value = batches[0]
    for batch in batches[1:]:
        value = momentum * value + (1 - momentum) * batch
    return value


def _quantile(rows: Tensor, share: float) -> Tensor:
    place = min(rows.shape[1] - 1, max(0, round(share * (rows.shape[1] - 1))))
    return rows.kthvalue(place + 1, dim=1).values


def _quantised(rows: Tensor, low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    per_row = QuantSpec(spec.bits, spec.symmetric, "channel", spec.fmt)
    quantizer = Quantizer(per_row)
    tiny = torch.finfo(rows.dtype).tiny
    quantizer.set_range(low, torch.where(low == high, high + tiny, high))
    with torch.no_grad():
        return quantizer(rows)


def _mse(rows: Tensor, low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    return (_quantised(rows, low, high, spec) - rows).square().mean(1)


def _divergence(rows: Tensor, low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    """KL divergence of each row's clipped histogram from the histogram as the codes know it (spread within a code)."""
    out, bins = [], min(_MOST_BINS, _BINS_A_CODE * 2**spec.bits)
    for row, bottom, top in zip(rows, low.tolist(), high.tolist(), strict=True):
        whole = float(row.abs().amax())
        if whole == 0 or top <= bottom:
            out.append(torch.zeros(()))
            continue
        row = row[:: max(1, len(row) // _ENTROPY_SAMPLE)]
        p = torch.histc(row.clamp(bottom, top), bins, -whole, whole) / len(row)
        centres = (torch.arange(bins) + 0.5) * (2 * whole / bins) - whole
        one = torch.tensor
        code = _quantised(centres[None].clamp(bottom, top), one([bottom]), one([top]), spec)[0]
        _, index = torch.unique(code, return_inverse=True)
        unclipped = torch.histc(row[(row >= bottom) & (row <= top)], bins, -whole, whole) / len(row)
        held = (unclipped > 0).float()
        size = torch.zeros(int(index.max()) + 1).index_add_(0, index, held)
        mass = torch.zeros_like(size).index_add_(0, index, unclipped)
        q = held * (mass / size.clamp(min=1))[index]
        q = q / q.sum().clamp(min=1e-12)
        seen = p > 0
        out.append((p[seen] * (p[seen] / q[seen].clamp(min=1e-9)).log()).sum())
    return torch.stack(out)
