"""What a layer or network costs: weights, multiplications, memory of activations, bytes of its checkpoint.

Everything is counted, nothing is timed: multiply-accumulates (MACs) by torch's counter of floating point operations,
memory by the storages that are alive while the work is done. For a convolution of k × k with ``in`` and ``out``
channels, MACs per output pixel are ``out · in · k²`` (dense), ``out · R · (in + 2k)`` (one-way, stages at stride 1)
and ``in · (k² + out)`` (depthwise separable).
"""

from __future__ import annotations

import io
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Cost:
    """Costs of one call on one input.

    Attributes:
        parameters: real numbers that are trained (a complex weight is two).
        macs: multiply-accumulates of one forward pass (a complex one is four); Fourier transforms are not counted.
        forward_bytes: highest memory alive during inference beyond weights and input.
        saved_bytes: memory that the forward pass keeps for the backward pass, beyond weights and input.
        training_bytes: highest memory alive during forward and backward pass beyond weights and input, the gradients
            of the weights included.
        checkpoint_bytes: size of the file that ``torch.save`` makes of the state.
    """

    parameters: int
    macs: int
    forward_bytes: int
    saved_bytes: int
    training_bytes: int
    checkpoint_bytes: int


def cost(model: nn.Module, x: Float[Tensor, "batch channels *grid"]) -> Cost:
    """Count everything; the model, its statistics of batches and its gradients are left as they were."""
    before = [p.grad for p in model.parameters()]
    buffers = [buffer.clone() for buffer in model.buffers()]
    try:
        return Cost(
            parameters=count_parameters(model),
            macs=count_macs(model, x),
            forward_bytes=_forward_bytes(model, x),
            saved_bytes=saved_bytes(model, x),
            training_bytes=_training_bytes(model, x),
            checkpoint_bytes=checkpoint_bytes(model),
        )
    finally:
        for parameter, gradient in zip(model.parameters(), before, strict=True):
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(value)


def count_parameters(model: nn.Module) -> int:
    """Real numbers that are trained."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters() if p.requires_grad)


def count_macs(model: nn.Module, *inputs: Tensor) -> int:
    """Multiply-accumulates of one forward pass: convolutions and matrix products, complex ones fourfold."""
    from torch.utils.flop_counter import FlopCounterMode

    aten = torch.ops.aten

    def bmm(a: Any, b: Any, *_: Any, out_val: Any = None, **__: Any) -> int:
        flops = 2 * a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2]
        return 4 * flops if a.is_complex() else flops

    def mm(a: Any, b: Any, *_: Any, out_val: Any = None, **__: Any) -> int:
        flops = 2 * a.shape[0] * a.shape[1] * b.shape[1]
        return 4 * flops if a.is_complex() else flops

    bmm._get_raw = mm._get_raw = True  # type: ignore[attr-defined]
    counter = FlopCounterMode(display=False, custom_mapping={aten.bmm: bmm, aten.mm: mm})
    with torch.no_grad(), counter:
        model(*inputs)
    return counter.get_total_flops() // 2


def checkpoint_bytes(model: nn.Module) -> int:
    """What ``torch.save(model.state_dict(), …)`` writes."""
    stream = io.BytesIO()
    torch.save(model.state_dict(), stream)
    return stream.getbuffer().nbytes


def saved_bytes(model: nn.Module, *inputs: Tensor) -> int:
    """Bytes of the distinct tensors that the forward pass keeps for the backward pass, weights and inputs aside."""
    return kept_bytes(lambda: model(*inputs), [*model.parameters(), *model.buffers(), *inputs])


def kept_bytes(call: Callable[[], Tensor], known: Iterable[Tensor] = ()) -> int:
    """Bytes of what ``call`` keeps for the backward pass, each storage once, those of ``known`` tensors aside."""
    aside = {t.untyped_storage().data_ptr() for t in known}
    kept: dict[int, int] = {}
    alive = []  # until the count is done, so that no address is given twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in aside:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(kept.values())


def _forward_bytes(model: nn.Module, x: Tensor) -> int:
    with torch.no_grad():
        return peak_bytes(lambda: model(x))


def _training_bytes(model: nn.Module, x: Tensor) -> int:
    def step() -> None:
        for parameter in model.parameters():
            parameter.grad = None
        with torch.enable_grad():
            model(x).square().sum().backward()

    return peak_bytes(step)


def peak_bytes(work: Callable[[], object]) -> int:
    """Highest number of bytes that tensors made during ``work`` occupy at one time (what torch's kernels use inside
    themselves is not seen)."""
    with _Live() as live:
        work()
    return live.highest


class _Live(TorchDispatchMode):
    """Counts the storages that operations make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.highest = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            name = storage._cdata
            if name in given or name in self._alive:
                continue
            self._alive[name] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._freed, name)
        self.highest = max(self.highest, self.now)
        return result

    def _freed(self, name: int) -> None:
        self.now -= self._alive.pop(name, 0)
