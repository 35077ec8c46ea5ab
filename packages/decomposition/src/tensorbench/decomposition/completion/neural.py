"""Neural completion of sparse tensors: an embedding per entity, a small network on top, one way to train them all.

Every model maps index tuples to ``(prediction, last hidden vector)``; the prediction is linear in the hidden vector
(``output``), which is what influence along training needs (see :mod:`.influence`).

- :class:`EmbeddingMLP`: embeddings side by side, then dense ReLU layers (the model of the code of Oh and others 2021).
- :class:`CoSTCo`: convolutions over stacked embeddings (Liu, Li, Tsang and Liu 2019).
- :class:`NeuralCP`: dense ReLU layers on the product of the embeddings.
- :class:`CPSGD`: the CP model itself, the sum of that product, by stochastic gradients.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tensorbench.core.training import fit
from tensorbench.decomposition.completion.influence import OnlineImportance
from tensorbench.decomposition.completion.sparse import SparseTensorData

logger = logging.getLogger(__name__)


class EmbeddedModel(nn.Module):
    """What the models share: one table with the embeddings of all modes, an output layer, ``forward``.

    Weights are drawn from ``generator`` with PyTorch's default distributions (embeddings: normal with ``std``).
    """

    def __init__(self, dims: Sequence[int], size: int, std: float, generator: torch.Generator | None):
        super().__init__()
        self.dims = tuple(int(n) for n in dims)
        if len(self.dims) < 2 or min(self.dims) < 1 or size < 1:
            raise ValueError(f"dims {self.dims} and embedding size {size}: two modes or more, all sizes at least 1")
        self.generator = generator
        self.size = size
        self.table = nn.Parameter(std * torch.randn(sum(self.dims), size, generator=generator))
        first = np.cumsum([0, *self.dims[:-1]])
        self.register_buffer("first", torch.as_tensor(first, dtype=torch.int64))
        self.register_buffer("bounds", torch.tensor(self.dims, dtype=torch.int64))

    def initialise(self) -> None:
        """Draw the weights of the layers; the last line of every model's constructor."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                bound = 1 / math.sqrt(layer.weight[0].numel())
                for weight in (layer.weight, layer.bias):
                    nn.init.uniform_(weight, -bound, bound, generator=self.generator)
        self.generator = None  # a generator cannot be copied with the model

    def embed(self, idx: Int[Tensor, "n k"]) -> Float[Tensor, "n k e"]:
        """The embeddings of the entities of each cell."""
        return self.table.index_select(0, (idx + self.first).reshape(-1)).reshape(len(idx), -1, self.size)

    def features(self, idx: Int[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        """The last hidden vectors."""
        raise NotImplementedError

    def forward(self, idx: Int[Tensor, "n k"], check: bool = True) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d"]]:
        """Predictions and last hidden vectors. ValueError for an index out of range, unless ``check`` is false."""
        if check:
            if idx.ndim != 2 or idx.shape[1] != len(self.dims):
                raise ValueError(f"idx has shape {tuple(idx.shape)}; the model has {len(self.dims)} modes")
            bad = (idx < 0) | (idx >= self.bounds)
            if bad.any():
                row, mode = bad.nonzero()[0].tolist()
                raise ValueError(f"index {idx[row, mode]} of mode {mode} is not in 0..{self.dims[mode] - 1}")
        hidden = self.features(idx)
        return self.output(hidden)[:, 0], hidden

    @property
    def parameters_count(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def _dense(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n, m in itertools.pairwise(sizes):
        layers += [nn.utils.skip_init(nn.Linear, n, m), nn.ReLU()]
    return nn.Sequential(*layers)


class EmbeddingMLP(EmbeddedModel):
    """``layers[0]`` is the length of the K embeddings side by side, the others are the widths of the hidden layers.

    sum(dims) · layers[0] / K + Σ (in + 1) · out parameters. Raises ValueError where K does not divide ``layers[0]``.
    """

    def __init__(
        self,
        dims: Sequence[int],
        layers: Sequence[int] = (150, 1024, 1024, 128),
        generator: torch.Generator | None = None,
    ):
        if len(layers) < 2 or min(layers) < 1:
            raise ValueError(f"layers {list(layers)}: the embeddings' length and at least one hidden width are needed")
        if layers[0] % len(dims):
            near = max(1, round(layers[0] / len(dims))) * len(dims)
            raise ValueError(f"layers[0] = {layers[0]} is not divisible by the {len(dims)} modes; use {near}")
        super().__init__(dims, layers[0] // len(dims), 1.0, generator)
        self.hidden = _dense(layers)
        self.output = nn.utils.skip_init(nn.Linear, layers[-1], 1)
        self.initialise()

    def features(self, idx: Int[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        return self.hidden(self.embed(idx).flatten(1))


class CoSTCo(EmbeddedModel):
    """Convolutions with kernels (K, 1) and (1, rank) over the K × rank matrix of embeddings, then a dense layer."""

    def __init__(
        self, dims: Sequence[int], rank: int = 20, channels: int = 32, generator: torch.Generator | None = None
    ):
        super().__init__(dims, rank, 1.0, generator)
        self.over_modes = nn.utils.skip_init(nn.Conv2d, 1, channels, (len(dims), 1))
        self.over_rank = nn.utils.skip_init(nn.Conv2d, channels, channels, (1, rank))
        self.hidden = _dense([channels, channels])
        self.output = nn.utils.skip_init(nn.Linear, channels, 1)
        self.initialise()

    def features(self, idx: Int[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        maps = torch.relu(self.over_modes(self.embed(idx)[:, None]))
        return self.hidden(torch.relu(self.over_rank(maps)).flatten(1))


class NeuralCP(EmbeddedModel):
    """Dense ReLU layers of widths ``hidden`` on the elementwise product of the embeddings."""

    def __init__(
        self,
        dims: Sequence[int],
        rank: int = 20,
        hidden: Sequence[int] = (64, 32),
        generator: torch.Generator | None = None,
    ):
        super().__init__(dims, rank, 1.0, generator)
        self.hidden = _dense([rank, *hidden])
        self.output = nn.utils.skip_init(nn.Linear, [rank, *hidden][-1], 1)
        self.initialise()

    def features(self, idx: Int[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        return self.hidden(self.embed(idx).prod(dim=1))


class CPSGD(EmbeddedModel):
    """The CP model Σ_r Π_k a_k[i_k, r] plus an offset; the weights of its output layer are all one and stay so."""

    def __init__(self, dims: Sequence[int], rank: int = 20, generator: torch.Generator | None = None):
        # So that predictions start with a variance of about one.
        super().__init__(dims, rank, rank ** (-0.5 / len(dims)), generator)
        self.output = nn.utils.skip_init(nn.Linear, rank, 1)
        self.initialise()
        nn.init.ones_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.output.weight.requires_grad_(False)

    def features(self, idx: Int[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        return self.embed(idx).prod(dim=1)


@dataclass
class Training:
    """A trained model with the weights of its best epoch (lowest validation error; epochs count from 1).

    ``importance`` is the signed importance of each training cell up to the best epoch, ``checkpoints`` the weights
    before each of these epochs; both only where they were asked for.
    """

    model: EmbeddedModel
    best_epoch: int
    train_rmse: list[float]
    valid_rmse: list[float]
    seconds: float
    importance: np.ndarray | None = None
    checkpoints: list[dict[str, Tensor]] = field(default_factory=list)

    def predict(self, idx: Int[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
        return predict(self.model, idx)


def train_model(
    model: EmbeddedModel,
    train: SparseTensorData,
    valid: SparseTensorData,
    *,
    epochs: int = 50,
    batch: int = 1024,
    lr: float = 1e-3,
    patience: int = 10,
    track_influence: bool = False,
    keep_checkpoints: bool = False,
    generator: torch.Generator | None = None,
) -> Training:
    """Adam on the mean squared error, in place, until no validation error was better for ``patience`` epochs.

    The validation pass after an epoch both judges it and gives the direction that the next one's importance needs.
    ``generator`` decides the order of the cells.

    Raises:
        ValueError: no cells, cells of another shape than the model's, settings below 1, or an error that diverges
            before the first epoch has ended.
    """
    if min(epochs, batch, patience) < 1 or not lr > 0:
        raise ValueError(f"epochs {epochs}, batch {batch}, patience {patience} must be at least 1 and lr {lr} positive")
    for name, part in (("training", train), ("validation", valid)):
        if not len(part):
            raise ValueError(f"there are no {name} cells")
        if part.dims != model.dims:
            raise ValueError(f"the {name} cells are of a {part.dims} tensor; the model is for {model.dims}")
    began = time.perf_counter()
    like = model.table
    idx, valid_idx = (torch.as_tensor(part.idx, device=like.device) for part in (train, valid))
    val, valid_val = (torch.as_tensor(part.val, dtype=like.dtype).to(like.device) for part in (train, valid))
    tracker = OnlineImportance(len(train), like.device) if track_influence else None
    result = Training(model, 0, [], [], 0.0)
    squares: list[Tensor] = []
    best: dict[str, Tensor] = {}
    per_epoch = -(-len(train) // batch)

    def validate() -> float:
        with torch.no_grad():
            predicted, hidden = model(valid_idx, check=False)
            error = predicted - valid_val
            if tracker is not None:
                tracker.start_epoch(error, hidden)
            return float(error.square().mean().sqrt())

    def batches() -> Iterator[Tensor]:
        if keep_checkpoints:
            result.checkpoints.append({name: value.clone() for name, value in model.state_dict().items()})
        yield from torch.randperm(len(train), generator=generator).to(like.device).split(batch)

    def loss(model: nn.Module, rows: Tensor) -> Tensor:
        predicted, hidden = model(idx[rows], check=False)
        error = predicted - val[rows]
        if tracker is not None:
            tracker.visit(rows, error.detach(), hidden.detach())
        square = error.square()
        squares.append(square.detach().sum())
        return square.mean()

    def epoch_ended(step: int, _: float) -> bool:
        if step % per_epoch:
            return False
        result.train_rmse.append(math.sqrt(float(torch.stack(squares).sum()) / len(train)))
        squares.clear()
        result.valid_rmse.append(validate())
        if result.valid_rmse[-1] < min(result.valid_rmse[:-1], default=math.inf):
            result.best_epoch = len(result.valid_rmse)
            best.update({name: value.clone() for name, value in model.state_dict().items()})
            if tracker is not None:
                tracker.keep()
        return len(result.valid_rmse) - result.best_epoch >= patience

    if tracker is not None:
        validate()  # the direction of the first epoch
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=lr, fused=True)
    history = fit(model, batches, loss, optimiser, steps=epochs * per_epoch, callback=epoch_ended)
    if not best:
        raise ValueError(f"training diverged in the first epoch; use a smaller lr than {lr} or standardise the values")
    if history.diverged:
        logger.warning("training diverged after %d steps; epoch %d is kept", history.steps, result.best_epoch)
    model.load_state_dict(best)
    result.checkpoints = result.checkpoints[: result.best_epoch]
    result.importance = tracker.best.cpu().numpy() if tracker is not None else None
    result.seconds = time.perf_counter() - began
    return result


@torch.no_grad()
def predict(model: EmbeddedModel, idx: Int[np.ndarray, "n k"], batch: int = 8192) -> Float[np.ndarray, " n"]:
    """Predictions as float64, ``batch`` cells at a time. ValueError for an index out of range."""
    parts = torch.as_tensor(idx, device=model.table.device).split(batch)
    return torch.cat([model(part)[0] for part in parts]).double().cpu().numpy() if len(idx) else np.zeros(0)
