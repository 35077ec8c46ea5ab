"""Training a neural operator on fields, whole or in patches: what the experiments on (tensorised) FNOs share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tensorbench.core.run import Run
from tensorbench.core.training import History, fit
from tensorbench.pde_operators.datasets.operators import OperatorData
from tensorbench.pde_operators.losses import H1Loss, LpLoss, relative_l2
from tensorbench.pde_operators.normalizers import UnitGaussianNormalizer
from tensorbench.pde_operators.patching import MultigridPatching2D

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l2": LpLoss(), "h1": H1Loss()}


@dataclass(frozen=True)
class Fields:
    """A dataset as tensors: inputs of mean 0 and deviation 1, targets as they are, and their scale."""

    train: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor]
    test: dict[str, tuple[Tensor, Tensor]]
    target_scale: UnitGaussianNormalizer


def prepare(data: OperatorData, device: torch.device, samples: int | None = None) -> Fields:
    """Statistics come from the training samples in use (the first ``samples``)."""

    def tensor(values: object) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=device)

    x, y = tensor(data.train_x)[:samples], tensor(data.train_y)[:samples]
    if samples is not None and len(x) < samples:
        raise ValueError(f"{samples} training samples are asked for, but the dataset has {len(x)}")
    scale = UnitGaussianNormalizer.fit(x)
    test = {str(name): (scale.encode(tensor(a)), tensor(b)) for name, (a, b) in data.test.items()}
    valid = (scale.encode(tensor(data.valid_x)), tensor(data.valid_y))
    return Fields((scale.encode(x), y), valid, test, UnitGaussianNormalizer.fit(y))


class Operator(nn.Module):
    """A model of patches as a map between whole fields, in the units of the targets."""

    def __init__(self, model: nn.Module, patching: MultigridPatching2D, scale: UnitGaussianNormalizer) -> None:
        super().__init__()
        self.model, self.patching, self.scale = model, patching, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale.decode(self.patching.unpatch(self.model(self.patching.patch(x)[0]), x.shape[2:]))


def train(
    operator: nn.Module,
    pair: tuple[Tensor, Tensor],
    run: Run,
    *,
    steps: int,
    batch: int,
    rate: float,
    loss: str = "l2",
    log: bool = True,
) -> History:
    """Adam, learning rate falling to 0 as a cosine; batches drawn from the run's seed."""
    x, y = pair
    generator = torch.Generator().manual_seed(run.seed + 1)

    def one_pass() -> Iterable[Tensor]:
        return torch.randperm(len(x), generator=generator).split(batch)

    optimizer = torch.optim.Adam(operator.parameters(), lr=rate)
    return fit(
        operator,
        one_pass,
        lambda model, rows: LOSSES[loss](model(x[rows]), y[rows]),
        optimizer,
        steps=steps,
        schedule="cosine",
        log=run.log if log else None,
        log_every=max(steps // 20, 1),
    )


@torch.no_grad()
def error(operator: nn.Module, pair: tuple[Tensor, Tensor], batch: int = 50) -> float:
    """Mean relative L² error."""
    operator.eval()
    x, y = pair
    values = [relative_l2(operator(a), b) * len(a) for a, b in zip(x.split(batch), y.split(batch), strict=True)]
    return float(sum(values)) / len(x)
