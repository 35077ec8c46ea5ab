"""A perceptron in an abc-parametrisation: multiplier n^-a, initial standard deviation n^-b, learning rate eta n^-c.

Yang, Hu (2021), arXiv 2011.14522, Section 3. Biases are not in the paper: hidden ones are input weights of a
constant 1 (multiplier n^-a_1), the last one has the multiplier n^(c/2), both start at 0; so the symmetry
(a + t, b - t, c - 2t) holds with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown

from .abc import ABC

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "linear": lambda x: x,
}


class ABCMLP(nn.Module):
    """``widths`` = (inputs, n, ..., n, outputs); hidden widths are equal, as the scaling is in one n.

    Train with plain SGD at ``learning_rate(eta)``. ``gain`` multiplies the initial weights (1 for all, or one a layer).

    Raises:
        ValueError: widths below 1, hidden widths that differ, exponents for another depth, unknown activation.
    """

    def __init__(
        self,
        widths: Sequence[int],
        abc: ABC,
        act: str = "tanh",
        bias: bool = False,
        *,
        generator: torch.Generator,
        gain: float | Sequence[float] = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if len(widths) < 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in widths):
            raise ValueError(f"widths {tuple(widths)} must be whole numbers >= 1: inputs, hidden layers, outputs")
        if len(set(widths[1:-1])) != 1:
            raise ValueError(f"hidden widths {tuple(widths[1:-1])} must be equal: exponents are of one width n")
        if abc.hidden != len(widths) - 2:
            raise ValueError(f"abc has exponents for {abc.hidden} hidden layers, widths for {len(widths) - 2}")
        if act not in _ACTIVATIONS:
            raise ValueError(unknown("activation", act, _ACTIVATIONS))
        layers = len(widths) - 1
        gains = [float(gain)] * layers if isinstance(gain, int | float) else [float(g) for g in gain]
        if len(gains) != layers:
            raise ValueError(f"gain has {len(gains)} values for {layers} layers")
        n = float(widths[1])
        self.abc, self.act, self.width = abc, act, widths[1]
        self.multipliers = [n**-a for a in abc.a]
        self.bias_multipliers = [n ** -abc.a[0]] * (layers - 1) + [n ** (abc.c / 2)]
        self.weights = nn.ParameterList()
        for layer in range(layers):
            draw = torch.randn(widths[layer + 1], widths[layer], generator=generator, dtype=dtype)
            self.weights.append(nn.Parameter(draw * (gains[layer] * n ** -abc.b[layer])))
        sizes = widths[1:] if bias else ()
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(size, dtype=dtype)) for size in sizes)

    def learning_rate(self, eta: float) -> float:
        """eta n^-c."""
        return eta * float(self.width) ** -self.abc.c

    def features(self, x: Float[Tensor, "batch inputs"]) -> list[Float[Tensor, "batch width"]]:
        """Preactivations of every hidden layer."""
        found, at = [], x
        for layer in range(self.abc.hidden):
            found.append(self._layer(layer, at))
            at = _ACTIVATIONS[self.act](found[-1])
        return found

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """The network's output."""
        return self._layer(self.abc.hidden, _ACTIVATIONS[self.act](self.features(x)[-1]))

    def _layer(self, layer: int, x: Tensor) -> Tensor:
        out = self.multipliers[layer] * (x @ self.weights[layer].T)
        return out + self.bias_multipliers[layer] * self.biases[layer] if len(self.biases) else out
