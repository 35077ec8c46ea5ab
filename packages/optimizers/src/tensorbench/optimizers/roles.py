"""What each parameter of a model is for, and along which of its axes a model grows.

The role decides in which norm a step is measured (Bernstein, Newhouse 2024, arXiv 2409.20325) and how a step must scale
with the width (Yang, Hu 2021, arXiv 2011.14522).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from torch import nn

from tensorbench.core.errors import unknown

Role = Literal["input", "hidden", "output", "embedding", "conv", "bias", "norm"]
ROLES: tuple[str, ...] = get_args(Role)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


def roles(model: nn.Module, overrides: Mapping[str, Role] | None = None) -> dict[str, Role]:
    """The role of every parameter by its name in ``model.named_parameters()``.

    The last linear layer is ``output``; the first is ``input`` unless an embedding or a convolution comes before it (or
    it is the last one too); other matrices are ``hidden``. A weight that several modules share appears once, under its
    first name and with that module's role. Order is that of ``model.named_modules()``, which is that of definition.

    Args:
        overrides: roles that the rules get wrong or cannot know.

    Raises:
        ValueError: an unknown role or name in ``overrides``; a parameter of two or more axes in a module of unknown
            kind.
    """
    given = dict(overrides or {})
    names = [name for name, _ in model.named_parameters()]
    for name, role in given.items():
        if name not in names:
            raise ValueError(unknown("parameter", name, names))
        if role not in ROLES:
            raise ValueError(unknown("role", role, ROLES))
    kinds = [module for module in model.modules() if isinstance(module, (nn.Linear, *_CONVOLUTIONS, *_EMBEDDINGS))]
    linear = [module for module in kinds if isinstance(module, nn.Linear)]
    owners = {
        f"{prefix}.{name}" if prefix else name: (module, name)
        for prefix, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }
    found: dict[str, Role] = {}
    for name, parameter in model.named_parameters():
        module, own = owners[name]
        if name in given:
            found[name] = given[name]
        elif isinstance(module, _NORMS):
            found[name] = "norm"
        elif parameter.ndim < 2:
            found[name] = "bias"
        elif isinstance(module, _EMBEDDINGS):
            found[name] = "embedding"
        elif isinstance(module, _CONVOLUTIONS):
            found[name] = "conv"
        elif isinstance(module, nn.Linear):
            found[name] = "output" if module is linear[-1] else "input" if module is kinds[0] else "hidden"
        elif isinstance(module, nn.MultiheadAttention):
            found[name] = "hidden"
        else:
            raise ValueError(
                f"the role of {name!r} (shape {tuple(parameter.shape)}, {own!r} of a {type(module).__name__}) is not "
                f"known; give overrides={{{name!r}: ...}}, one of {', '.join(ROLES)}"
            )
    return found


def growing(narrow: nn.Module, wide: nn.Module) -> dict[str, tuple[bool, ...]]:
    """For each parameter, which of its axes are longer in ``wide`` than in ``narrow``: those that grow with the width.

    Raises:
        ValueError: the models' parameters have other names or numbers of axes.
    """
    small, large = dict(narrow.named_parameters()), dict(wide.named_parameters())
    if small.keys() != large.keys():
        odd = sorted(small.keys() ^ large.keys())
        raise ValueError(f"the two models are not of one family: {odd[0]!r} is in one of them only")
    result = {}
    for name, parameter in small.items():
        if parameter.ndim != large[name].ndim:
            raise ValueError(f"{name!r} has {parameter.ndim} axes in one model and {large[name].ndim} in the other")
        result[name] = tuple(a != b for a, b in zip(parameter.shape, large[name].shape, strict=True))
    return result
