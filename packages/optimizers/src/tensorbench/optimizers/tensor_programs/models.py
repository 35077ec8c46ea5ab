"""A perceptron and a small transformer in abcd-parametrisation, and their parameter groups for any optimizer.

Everything is relative to a base width: n = width / base. At width = base the network is the usual one whatever the
exponents are, and a learning rate found there is the ``lr`` of every width.

Yang, Littwin (2023, arXiv 2308.01814); attention logits are q.k / d instead of / sqrt(d) where the parametrisation
says so (Yang et al., Tensor Programs V, 2022, arXiv 2203.03466).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tensorbench.core.errors import unknown

from .abcd import ABCD, from_mup

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda h: h,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": F.gelu,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """``linear``, ``tanh``, ``relu`` or ``gelu``."""
    if name not in ACTIVATIONS:
        raise ValueError(unknown("activation", name, ACTIVATIONS))
    return ACTIVATIONS[name]


class ScaledWeight(nn.Module):
    """Weights w ~ N(0, (std n^-b)²) that act as n^-a w, with how they are to be trained: n^-c and n^d."""

    def __init__(
        self, shape: tuple[int, int], std: float, n: float, abcd: Sequence[float], generator: torch.Generator
    ) -> None:
        super().__init__()
        a, b, c, d = abcd
        self.multiplier, self.lr_factor, self.gradient_scale = n**-a, n**-c, n**d
        self.weight = nn.Parameter(std * n**-b * torch.randn(shape, generator=generator))

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        return F.linear(x, self.weight) * self.multiplier


class ScaledTable(ScaledWeight):
    """The same as a table of vectors, looked up by number."""

    def forward(self, tokens: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch width"]:
        return F.embedding(tokens, self.weight) * self.multiplier


class AbcdMLP(nn.Module):
    """A perceptron without biases; its layers are ``layers.0``, ... , the last one the output.

    Args:
        width, base: of all hidden layers; n = width / base.
        abcd: exponents of the layers; their number gives the depth.
        stds: of each layer's weights at the base width; the default is 1 / sqrt(inputs) there.

    Raises:
        ValueError: widths below 1, other than one std a layer, an unknown activation.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        outputs: int,
        abcd: ABCD,
        generator: torch.Generator,
        *,
        activation: str = "tanh",
        base: int = 1,
        stds: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if min(inputs, width, outputs, base) < 1:
            raise ValueError(f"inputs {inputs}, width {width}, outputs {outputs} and base {base} must be at least 1")
        count = abcd.layers
        stds = [inputs**-0.5, *[base**-0.5] * (count - 1)] if stds is None else list(stds)
        if len(stds) != count:
            raise ValueError(f"{len(stds)} stds for {count} layers")
        sizes = [inputs, *[width] * (count - 1), outputs]
        self.activation = globals()["activation"](activation)
        self.layers = nn.ModuleList(
            ScaledWeight(
                (sizes[k + 1], sizes[k]), stds[k], width / base, (abcd.a[k], abcd.b[k], abcd.c[k], abcd.d[k]), generator
            )
            for k in range(count)
        )

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        *lower, last = self.layers
        for layer in lower:
            x = self.activation(layer(x))
        return last(x)


class AbcdTransformer(nn.Module):
    """A decoder with pre-norm blocks (no gains, no biases) and learned positions.

    The number of heads is the same at every width. Tables of tokens and positions are ``input``, the matrices of
    blocks ``hidden``, the head ``output``. ``attention="1/d"`` divides logits by the size of a head (times a constant
    that makes it the usual root at the base width), ``"1/sqrt(d)"`` by its root.

    Raises:
        ValueError: a width that is no multiple of the heads, an unknown kind of attention.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        abcd: ABCD,
        generator: torch.Generator,
        *,
        heads: int = 4,
        context: int = 64,
        depth: int = 2,
        base: int = 32,
        attention: str = "1/d",
    ) -> None:
        super().__init__()
        if width % heads or base % heads:
            raise ValueError(f"width {width} and base {base} must be multiples of the number of heads, {heads}")
        if attention not in ("1/d", "1/sqrt(d)"):
            raise ValueError(unknown("attention", attention, ["1/d", "1/sqrt(d)"]))
        n = width / base
        self.heads, self.context = heads, context
        self.scale = (base / heads) ** -0.5 / (n if attention == "1/d" else n**0.5)
        first, middle, last = (abcd.of_role(role) for role in ("input", "hidden", "output"))

        def hidden(outputs: int, inputs: int, std: float) -> ScaledWeight:
            return ScaledWeight((outputs * width, inputs * width), std, n, middle, generator)

        std, residual = base**-0.5, base**-0.5 * (2 * depth) ** -0.5
        self.tokens = ScaledTable((vocabulary, width), 1.0, n, first, generator)
        self.positions = ScaledTable((context, width), 1.0, n, first, generator)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "qkv": hidden(3, 1, std),
                    "proj": hidden(1, 1, residual),
                    "up": hidden(4, 1, std),
                    "down": hidden(1, 4, residual / 2),
                }
            )
            for _ in range(depth)
        )
        self.head = ScaledWeight((vocabulary, width), std, n, last, generator)

    def forward(self, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch context vocabulary"]:
        batch, length = tokens.shape
        if length > self.context:
            raise ValueError(f"{length} tokens are more than the model's context of {self.context}")
        x = self.tokens(tokens) + self.positions(torch.arange(length, device=tokens.device))
        width = x.shape[-1]
        for block in self.blocks:
            assert isinstance(block, nn.ModuleDict)
            q, k, v = (
                block["qkv"](F.layer_norm(x, (width,))).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            )
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
            x = x + block["proj"](mixed.transpose(1, 2).reshape(batch, length, width))
            x = x + block["down"](F.gelu(block["up"](F.layer_norm(x, (width,)))))
        return self.head(F.layer_norm(x, (width,)))


def abcd_param_groups(
    model: nn.Module, lr: float, *, weight_decay: float = 0.0, eps: float | None = None
) -> list[dict[str, Any]]:
    """A parameter group for each scaled weight of ``model``, for :class:`..updates.Entrywise` or any torch optimizer.

    ``lr`` n^-c; ``gradient_scale`` n^d; ``weight_decay`` n^c, so that lr · weight_decay, by which a decoupled decay
    shrinks weights, is the same at every width. With ``eps`` groups have ``eps`` n^-d, with which torch's own Adam,
    RMSprop and Adagrad do what a scaled gradient would do.

    Raises:
        ValueError: a parameter that belongs to no scaled weight.
    """
    groups = []
    known = set()
    for name, layer in model.named_modules():
        if isinstance(layer, ScaledWeight):
            known.add(layer.weight)
            group = {
                "params": [layer.weight],
                "name": name,
                "lr": lr * layer.lr_factor,
                "gradient_scale": layer.gradient_scale,
                "weight_decay": weight_decay / layer.lr_factor,
            }
            groups.append(group if eps is None else group | {"eps": eps / layer.gradient_scale})
    for name, p in model.named_parameters():
        if p not in known:
            raise ValueError(f"parameter {name!r} is no scaled weight, so that it has no exponents; see from_mup")
    return groups


def mup_param_groups(model: nn.Module, lr: float, base: nn.Module | None = None) -> list[dict[str, Any]]:
    """Groups for Adam on any model: ``lr`` over the width's multiple for hidden weights, ``lr`` for the others.

    The output layer must multiply its inputs by 1 / width_mult itself. Shapes as for :func:`..abcd.from_mup`.
    """
    parameters = dict(model.named_parameters())
    return [
        {"params": [parameters[name]], "name": name, "lr": lr * how.width_mult**-how.c}
        for name, how in from_mup(model, base).items()
    ]
