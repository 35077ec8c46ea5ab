"""Integer matrices to multiply: what a small network multiplies in int8, and normal numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tensorbench.core.data import dataset, get
from tensorbench.core.data.shared import LabelledImages, digits, mnist10k

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tensorbench.quantization.ent.network import Int8Layer


@dataclass(frozen=True)
class Int8Work:
    """One product ``A · B``; and, of a network, the products of ``images`` inferences and its accuracy on the
    first 300 test images."""

    A: np.ndarray
    B: np.ndarray
    layers: list[Int8Layer]
    images: int = 0
    float_accuracy: float = float("nan")
    int8_accuracy: float = float("nan")


def _trained(data: LabelledImages, seed: int, steps: int, images: int, rows: int) -> Int8Work:
    """A CNN after ``steps`` batches of 64; A and B are those of its second convolution, the first ``rows`` of A."""
    import torch
    from torch.nn import functional

    from tensorbench.core.training import fit
    from tensorbench.quantization.ent.network import small_cnn

    x, test = (torch.tensor(part, dtype=torch.float32)[:, None] for part in (data.train_images, data.test_images))
    y, truth = torch.tensor(data.train_labels), torch.tensor(data.test_labels)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = small_cnn(x.shape[-1])

    def batches():
        while True:
            pick = torch.randint(len(x), (64,), generator=generator)
            yield x[pick], y[pick]

    fit(
        model,
        batches(),
        lambda net, batch: functional.cross_entropy(net(batch[0]), batch[1]),
        torch.optim.Adam(model.parameters(), lr=2e-3),
        steps=steps,
        schedule="cosine",
    )
    return _work(model, x, test, truth, images, rows)


def _work(model: nn.Module, x: Tensor, test: Tensor, truth: Tensor, images: int, rows: int) -> Int8Work:
    """Calibrated with the first 200 of ``x``; A and B are those of the second product."""
    import torch

    from tensorbench.quantization.ent.network import int8_inference

    model.eval()
    with torch.no_grad():
        right = (model(test[:300]).argmax(1) == truth[:300]).double().mean()
    logits, _ = int8_inference(model, test[:300], x[:200])
    _, layers = int8_inference(model, test[:images], x[:200])
    return Int8Work(
        layers[1].A[:rows],
        layers[1].B,
        layers,
        images,
        float(right),
        float((logits.argmax(1) == truth[:300]).double().mean()),
    )


@dataset(
    title="An int8 network of digits",
    source="UCI optical digits, as in scikit-learn; network trained here",
    licence="CC BY 4.0",
    library="sklearn",
)
def int8_digits_cnn(*, seed: int, steps: int = 150, images: int = 4, rows: int = 64) -> Int8Work:
    """Network and batches follow the seed; activations are non-negative."""
    return _trained(digits(seed=0), seed, steps, images, rows)


@dataset(
    title="An int8 network of MNIST digits",
    source="MNIST test file; network trained here",
    licence="CC BY-SA 3.0 as usually stated",
    files=get("mnist10k").files,
)
def int8_mnist_cnn(files: list[Path], *, seed: int, steps: int = 150, images: int = 4, rows: int = 64) -> Int8Work:
    """Network and batches follow the seed; activations are non-negative."""
    return _trained(mnist10k(files, seed=0), seed, steps, images, rows)


@dataset(
    title="A residual network of MNIST digits in int8",
    source="MNIST test file; network trained here",
    licence="CC BY-SA 3.0 as usually stated",
    files=get("mnist10k").files,
)
def int8_mnist_resnet8(
    files: list[Path], *, seed: int, steps: int | None = None, images: int = 1, rows: int = 64
) -> Int8Work:
    """The ResNet-8 of the bit searches (14 × 14), batch norms folded; A and B are those of its second convolution
    (with ``rows`` of 0, A has none)."""
    from tensorbench.quantization.ptq.folding import fold_batch_norm
    from tensorbench.quantization.tasks.classifiers import task

    work = task("mnist_resnet8", seed, steps=steps)
    model, (x, _), (test, truth) = fold_batch_norm(work.model), work.train, work.test
    return _work(model, x, test, truth, images, rows)


@dataset(title="Normal integers", source="generated here", licence="Apache-2.0", generated=True)
def normal_int8(*, seed: int, m: int = 64, k: int = 144, n: int = 64, sd: float = 30.0) -> Int8Work:
    """Two matrices of rounded normal numbers of standard deviation ``sd``, clipped to int8."""
    rng = np.random.default_rng(seed)
    A, B = (np.clip(np.round(rng.normal(0, sd, shape)), -128, 127).astype(np.int64) for shape in ((m, k), (k, n)))
    return Int8Work(A, B, [])
