"""Patches of one batch spread over processes: no communication in the forward pass, the gradients of one process.

Kossaifi et al., TMLR 2024, arXiv 2310.00120. Every process cuts its own share of the patches and runs the model on it.
Without stitching the loss is taken on the process's own patches, and no output is sent. With stitching the outputs are
gathered once, the loss is taken on the whole fields, and each process differentiates it with respect to its own
outputs. The sum of the processes' gradients is the gradient of the whole. Processes talk through torch.distributed
(gloo on CPUs, nccl where there are GPUs).

Distributed are the patches of the input, the model's activations and its backward pass, which is where the memory goes.
Not distributed: every process holds the whole batch of inputs and targets, all weights and their gradients, and with
stitching the outputs of all patches.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from tensorbench.pde_operators.patching import MultigridPatching2D

Loss = Callable[[Tensor, Tensor], Tensor]


def share(patches: int, rank: int, world: int) -> slice:
    """The patches of a process: equal runs.

    Raises:
        ValueError: patches that do not divide among the processes.
    """
    if patches % world:
        raise ValueError(f"{patches} patches do not divide among {world} processes; use another batch size or levels")
    each = patches // world
    return slice(rank * each, (rank + 1) * each)


def local_loss(
    model: nn.Module, x: Tensor, y: Tensor, patching: MultigridPatching2D, loss: Loss, rank: int = 0, world: int = 1
) -> Tensor:
    """The loss of the whole batch, differentiable with respect to this process's patches alone.

    Inside a process group where ``world`` > 1. ``loss`` takes the mean over samples, or over patches if not stitched.
    ``x`` and ``y`` are the whole batch; no other process's patches are cut.

    Raises:
        ValueError: patches that do not divide among the processes, and what ``patching.patch`` refuses.
    """
    own = share(len(x) * patching.patches**2, rank, world)
    patches, target = patching.patch(x, y, own=own)
    assert target is not None
    outputs = patching.crop(model(patches), x.shape[2:])
    if not patching.stitching:
        return loss(outputs, target) / world
    if world > 1:
        gathered = [torch.empty_like(outputs) for _ in range(world)]
        dist.all_gather(gathered, outputs.detach().contiguous())
        gathered[rank] = outputs
        outputs = torch.cat(gathered)
    return loss(MultigridPatching2D(patching.levels, stitching=True).unpatch(outputs, y.shape[2:]), y)


def add_up_gradients(model: nn.Module) -> None:
    """Replace every gradient by its sum over the processes, in one message."""
    with_gradient = [p for p in model.parameters() if p.grad is not None]
    if not with_gradient:
        return
    flat = torch.cat([p.grad.flatten() for p in with_gradient if p.grad is not None])
    dist.all_reduce(flat)
    for p, part in zip(with_gradient, flat.split([p.numel() for p in with_gradient]), strict=True):
        p.grad = part.reshape(p.shape)


def _worker(
    rank: int,
    world: int,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    patching: MultigridPatching2D,
    loss: Loss,
    folder: str,
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    try:
        value = local_loss(model, x, y, patching, loss, rank, world)
        value.backward()
        add_up_gradients(model)
        total = value.detach().clone()
        if not patching.stitching:
            dist.all_reduce(total)
        if rank == 0:
            gradients = {name: p.grad for name, p in model.named_parameters()}
            torch.save({"loss": total, "gradients": gradients}, Path(folder) / "result.pt")
    finally:
        dist.destroy_process_group()


def parallel_gradients(
    model: nn.Module, x: Tensor, y: Tensor, patching: MultigridPatching2D, loss: Loss, *, processes: int = 2
) -> tuple[float, dict[str, Tensor]]:
    """Loss of a batch and its gradients by name, from ``processes`` new processes on this machine.

    ``model`` and ``loss`` travel to the processes by pickle; the model here is left as it was.

    Raises:
        ValueError: patches that do not divide among the processes.
    """
    share(x.shape[0] * patching.patches**2, 0, processes)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, args=(processes, model, x, y, patching, loss, folder), nprocs=processes, join=True)
        result = torch.load(Path(folder) / "result.pt", weights_only=True)
    return float(result["loss"]), result["gradients"]
