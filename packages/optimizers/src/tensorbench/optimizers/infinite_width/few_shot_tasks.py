"""Few-shot classification tasks drawn from a pool of images with classes: so many ways, shots and queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class TaskBatch:
    """Tasks side by side. Inputs are images (task, sample, pixel), or for pool learners their numbers (task, sample).

    Raises:
        ValueError: numbers of tasks or samples that do not fit, or a label outside 0 ... ways - 1.
    """

    support: Tensor
    support_labels: Int[Tensor, "task support"]
    query: Tensor
    query_labels: Int[Tensor, "task query"]
    ways: int

    def __post_init__(self) -> None:
        for inputs, labels in ((self.support, self.support_labels), (self.query, self.query_labels)):
            if inputs.shape[:2] != labels.shape or len(labels) != len(self.support):
                raise ValueError(f"inputs {tuple(inputs.shape)} and labels {tuple(labels.shape)} must fit by task")
            low, high = labels.aminmax()
            if low < 0 or high >= self.ways:
                raise ValueError(f"labels must be in 0 ... {self.ways - 1} for {self.ways} ways, got {low} ... {high}")

    def __len__(self) -> int:
        return len(self.support)


class FewShotTasks:
    """Draws tasks of ``ways`` classes with ``shots`` labelled images and ``queries`` more to classify, of each.

    Raises:
        ValueError: more ways than classes, more shots and queries than images of a class, or a number below 1.
    """

    def __init__(
        self, images: Float[Tensor, "classes samples pixels"], ways: int = 5, shots: int = 1, queries: int = 1
    ) -> None:
        classes, samples, pixels = images.shape
        if min(ways, shots, queries) < 1:
            raise ValueError(f"ways {ways}, shots {shots} and queries {queries} must be at least 1")
        if ways > classes:
            raise ValueError(f"ways {ways} exceeds the {classes} classes that there are")
        if shots + queries > samples:
            raise ValueError(f"shots {shots} + queries {queries} exceed the {samples} images of a class")
        self.ways, self.shots, self.queries = ways, shots, queries
        self.classes, self.samples = classes, samples
        self.pool = images.reshape(-1, pixels)

    def sample_numbers(self, tasks: int, generator: torch.Generator) -> TaskBatch:
        """A batch whose inputs are rows of ``pool``."""
        chosen = torch.rand(tasks, self.classes, generator=generator).topk(self.ways, largest=False).indices
        draws = torch.rand(tasks, self.ways, self.samples, generator=generator)
        images = draws.topk(self.shots + self.queries, largest=False).indices
        numbers = chosen[:, :, None] * self.samples + images
        support, query = numbers.split([self.shots, self.queries], dim=2)
        label = torch.arange(self.ways)[None, :, None]
        return TaskBatch(
            support.reshape(tasks, -1),
            label.expand_as(support).reshape(tasks, -1),
            query.reshape(tasks, -1),
            label.expand_as(query).reshape(tasks, -1),
            self.ways,
        )

    def sample(self, tasks: int, generator: torch.Generator) -> TaskBatch:
        """A batch of images."""
        return self.with_images(self.sample_numbers(tasks, generator))

    def with_images(self, batch: TaskBatch) -> TaskBatch:
        """The same tasks with images for numbers."""
        return TaskBatch(
            self.pool[batch.support], batch.support_labels, self.pool[batch.query], batch.query_labels, batch.ways
        )
