"""What a recipe costs beside its matrix products: operations and bits, counted for one linear layer and one step.

With T tokens, K inputs and N outputs the three products take 6 T K N operations (a multiplication and an addition
each), and six operands are quantised: x and w (forward), dy and w (dgrad), dy and x (wgrad). For each operand of n
elements in blocks of b:

- n comparisons for the largest magnitudes, n / b divisions (multiplications) for the scales, n multiplications by them;
- tensor scale: n / b comparisons more and one multiplication a block, and the operand is read twice; sampled every
  k-th step: a k-th of the comparisons and of the second read;
- stochastic rounding: n random numbers and n additions; Hadamard transform of size h: n log2 h additions and n
  multiplications for the signs (the 1 / sqrt(h) goes into the scale), the padding left out;
- outliers: 2 n comparisons to clamp, n additions for the rest, 4 n comparisons for the two quantiles (selection,
  linear time), and the sparse product: 2 (1 - share) of the elements times 2 N operations.

Gradients of rounding cost per element of x and of w (``ROUNDING_OPERATIONS``, beyond ``ste`` with one multiplication
by the slope), the gradient of the scale 2 multiplications and 2 additions. Bits: each operand is read at 16 bits and
written with its scales. Rounding itself and the scaling inside the product belong to the hardware. The counts are
ours; Hu, Luschi and Balança (2025, arXiv 2509.17791) give theirs by technique. A random number counts as one
operation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .recipes import Recipe

ROUNDING_OPERATIONS = {"ste": 0, "clipped_ste": 2, "spline": 4, "dge": 6, "sigmoid": 6, "tanh": 40}
"""Operations per element to find the slope and multiply by it; a power or an exponential counts as two."""


@dataclass(frozen=True)
class Overhead:
    """Operations of one step of one layer, by kind, and bits moved for its operands."""

    additions: float
    multiplications: float
    comparisons: float
    random_numbers: float
    bits: float
    gemm_operations: float

    @property
    def operations(self) -> float:
        return self.additions + self.multiplications + self.comparisons + self.random_numbers

    @property
    def relative(self) -> float:
        """Operations over those of the three products."""
        return self.operations / self.gemm_operations


def overhead(recipe: Recipe | None, shape: tuple[int, int, int]) -> Overhead:
    """Of a linear layer with ``shape = (tokens, inputs, outputs)``; None is a layer that is not quantised.

    Raises:
        ValueError: a shape that is not three positive numbers.
    """
    if len(shape) != 3 or any(size < 1 for size in shape):
        raise ValueError(f"shape {shape} must be (tokens, inputs, outputs), all positive")
    tokens, inputs, outputs = shape
    gemm = 6.0 * tokens * inputs * outputs
    x, w, dy = tokens * inputs, inputs * outputs, tokens * outputs
    if recipe is None:
        return Overhead(0, 0, 0, 0, 16.0 * 2 * (x + w + dy), gemm)
    twice = 2.0 * (x + w + dy)
    weights = float(w) if recipe.weight_tiles else 2.0 * w  # square tiles serve both products
    n = 2.0 * (x + dy) + weights
    additions, random_numbers = 0.0, 0.0
    scales = (2.0 * (x + dy)) / recipe.block + weights / recipe.block ** (2 if recipe.weight_tiles else 1)
    multiplications, comparisons = n + scales, n
    spec = recipe.spec()
    bits = 16.0 * n + spec.element_format.bits * twice + spec.scale_format.bits * scales
    if recipe.tensor_scale is not None:
        share = 1.0 / recipe.tensor_scale if isinstance(recipe.tensor_scale, int) else 1.0
        comparisons += share * scales
        multiplications += scales
        bits += share * 16.0 * n
    if recipe.stochastic:
        additions, random_numbers = additions + 2.0 * dy, random_numbers + 2.0 * dy
    if recipe.hadamard is not None:
        additions += math.log2(recipe.hadamard) * (x + dy)
        multiplications += x + dy
    if recipe.outliers is not None:
        sparse = 4.0 * (1 - recipe.outliers) * x * outputs
        comparisons, additions = comparisons + 6.0 * x, additions + x + sparse / 2
        multiplications += sparse / 2
    multiplications += ROUNDING_OPERATIONS[recipe.rounding_gradient] * (x + w)
    if recipe.scale_gradient != "none":
        additions, multiplications = additions + 2.0 * (x + w), multiplications + 2.0 * (x + w)
    return Overhead(additions, multiplications, comparisons, random_numbers, bits, gemm)


def total(parts: list[Overhead]) -> Overhead:
    """The sum over layers."""
    names = Overhead.__dataclass_fields__
    return Overhead(**{name: sum(getattr(part, name) for part in parts) for name in names})


def pareto(results: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names whose (cost, loss) no other is as good as in both and better in one, by rising cost. NaN never is."""
    points = {name: pair for name, pair in results.items() if all(map(math.isfinite, pair))}
    front = [
        name
        for name, (cost, loss) in points.items()
        if not any(c <= cost and v <= loss and (c, v) != (cost, loss) for c, v in points.values())
    ]
    return sorted(front, key=lambda name: points[name])
