"""Model-agnostic meta-learning: one outer step of SGD on how well the model adapts to a batch of tasks.

Finn, Abbeel, Levine (2017), arXiv 1703.03400, in the first-order form that Yang, Hu (2021), arXiv 2011.14522,
train: adapt to the support samples of a task by SGD on the mean cross-entropy, take the gradient of the query samples'
cross-entropy at the adapted parameters, add over the tasks, clip the global norm, step.

Networks with one linear hidden layer need no copy of U for a task (fast path). With d the gradient at the outputs,
gh = d V and k(x, x') = <x, x'> + bias_alpha^2, a step of adaptation moves the hidden vectors of any x by
-lr k(x, S) gh and V by -lr d^T h_S, so that all tasks share the products with U. Kernel learners work likewise on
outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from .few_shot_tasks import TaskBatch
from .kernel_learners import Gradient, InfGP1LP, PoolLearner
from .linear_limit import Linear1LP

Model = nn.Module | InfGP1LP | PoolLearner


@dataclass(frozen=True)
class Outcome:
    """Mean cross-entropy (nats) and accuracy of the query samples after adaptation, before the outer step."""

    loss: float
    accuracy: float


def _delta(logits: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the task's mean cross-entropy at its outputs: (softmax - one-hot) / samples."""
    delta = torch.softmax(logits, -1)
    delta.scatter_add_(-1, labels[..., None], torch.full_like(delta[..., :1], -1.0))
    return delta / labels.shape[-1]


def _outcome(logits: Tensor, labels: Tensor) -> Outcome:
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    return Outcome(float(loss), float((logits.argmax(-1) == labels).double().mean()))


@dataclass(frozen=True)
class Adapted:
    """Hidden vectors of the query samples and last layers of the tasks after adaptation."""

    hidden: Float[Tensor, "task query hidden"]
    V: Float[Tensor, "task d_out hidden"]

    def logits(self, alpha: float) -> Float[Tensor, "task query d_out"]:
        return alpha * (self.hidden @ self.V.mT)


@torch.no_grad()
def adapt_linear(net: Linear1LP, batch: TaskBatch, lr: float, steps: int) -> Adapted:
    """All tasks at once, without copies of U; float operations per task grow with steps times hidden width only."""
    bias = 0.0 if net.b is None else net.bias_alpha**2
    S, Q = batch.support, batch.query
    within, across = S @ S.mT + bias, Q @ S.mT + bias
    both = net.hidden(torch.cat([S, Q], 1))
    at_support, at_query = both.split([S.shape[1], Q.shape[1]], 1)
    V = net.V.expand(len(batch), -1, -1)
    for step in range(steps):
        d = net.alpha * _delta(net.alpha * (at_support @ V.mT), batch.support_labels)
        moved = lr * (d @ V)
        V = V - lr * (d.mT @ at_support)
        at_query = at_query - across @ moved
        if step + 1 < steps:
            at_support = at_support - within @ moved
    return Adapted(at_query, V)


@torch.no_grad()
def fast_gradient(net: Linear1LP, batch: TaskBatch, lr: float, steps: int = 1) -> tuple[dict[str, Tensor], Tensor]:
    """First-order outer gradient, added over the tasks, by parameter name; and the query outputs."""
    adapted = adapt_linear(net, batch, lr, steps)
    logits = adapted.logits(net.alpha)
    d = net.alpha * _delta(logits, batch.query_labels)
    at_hidden = (d @ adapted.V).flatten(0, 1)
    found = {
        "U": at_hidden.T @ batch.query.flatten(0, 1),
        "V": d.flatten(0, 1).T @ adapted.hidden.flatten(0, 1),
    }
    if net.b is not None:
        found["b"] = net.bias_alpha * at_hidden.sum(0)
    return found, logits


def naive_gradient(
    model: nn.Module, batch: TaskBatch, lr: float, steps: int = 1, first_order: bool = True
) -> tuple[dict[str, Tensor], Tensor]:
    """The same for any module: a copy of the parameters for each task, gradients by autograd; second order if asked."""
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    outputs = []
    for t in range(len(batch)):
        fast = _adapt_copy(model, parameters, batch.support[t], batch.support_labels[t], lr, steps, not first_order)
        if first_order:
            fast = {name: p.detach().requires_grad_() for name, p in fast.items()}
        logits = functional_call(model, fast, (batch.query[t],))
        loss = F.cross_entropy(logits, batch.query_labels[t])
        wanted = list((fast if first_order else parameters).values())
        for name, g in zip(total, torch.autograd.grad(loss, wanted, allow_unused=True), strict=True):
            if g is not None:
                total[name] += g
        outputs.append(logits.detach())
    return total, torch.stack(outputs)


def _adapt_copy(
    model: nn.Module, parameters: dict[str, Tensor], x: Tensor, labels: Tensor, lr: float, steps: int, graph: bool
) -> dict[str, Tensor]:
    """Parameters after SGD on the support samples, part of the graph of ``parameters`` where ``graph`` says so."""
    fast: dict[str, Tensor] = dict(parameters)
    for _ in range(steps):
        loss = F.cross_entropy(functional_call(model, fast, (x,)), labels)
        grads = torch.autograd.grad(loss, list(fast.values()), create_graph=graph, allow_unused=True)
        fast = {n: p if g is None else p - lr * g for (n, p), g in zip(fast.items(), grads, strict=True)}
        if not graph:
            fast = {name: p.detach().requires_grad_() for name, p in fast.items()}
    return fast


@torch.no_grad()
def adapt_pool(learner: PoolLearner, batch: TaskBatch, lr: float, steps: int) -> Float[Tensor, "task query d_out"]:
    """Query outputs after adaptation of a kernel learner on a pool; the batch holds numbers of samples."""
    S, Q = batch.support, batch.query
    within, across = learner.K[S[:, :, None], S[:, None, :]], learner.K[Q[:, :, None], S[:, None, :]]
    at_support, at_query = learner.forward(S), learner.forward(Q)
    for _ in range(steps):
        d = lr * _delta(at_support, batch.support_labels)
        at_support, at_query = at_support - within @ d, at_query - across @ d
    return at_query


class MAML:
    """Meta-learner for one model: ``step`` makes an outer step, ``evaluate`` only adapts and scores.

    The model is a torch module (:class:`Linear1LP` takes the fast path where ``first_order``), a kernel learner that
    stores samples (:class:`InfGP1LP`, :class:`InfNTK1LP`) or a :class:`PoolLearner`, whose batches hold sample numbers.
    ``clip`` (or None) bounds the norm of the outer gradient, which is the sum over the tasks, as in the authors' code.

    Raises:
        ValueError: a learning rate or ``clip`` that is not positive, no inner steps, second order with kernel learners.
    """

    def __init__(
        self,
        model: Model,
        inner_lr: float = 0.4,
        inner_steps: int = 1,
        first_order: bool = True,
        clip: float | None = 0.5,
    ) -> None:
        if not inner_lr > 0 or inner_steps < 1 or not (clip is None or clip > 0):
            raise ValueError(f"inner_lr {inner_lr} and clip {clip} must be positive, inner_steps {inner_steps} >= 1")
        if not first_order and not isinstance(model, nn.Module):
            raise ValueError("kernel learners have no second-order MAML; use first_order=True")
        self.model, self.inner_lr, self.inner_steps = model, inner_lr, inner_steps
        self.first_order, self.clip = first_order, clip

    def step(self, batch: TaskBatch, lr: float) -> Outcome:
        """Adapt to every task, then one step of SGD on the outer loss."""
        if not lr > 0:
            raise ValueError(f"lr {lr} must be positive")
        if isinstance(self.model, PoolLearner):
            return self._pool_step(self.model, batch, lr)
        if isinstance(self.model, InfGP1LP):
            return self._learner_step(self.model, batch, lr)
        if isinstance(self.model, Linear1LP) and self.first_order:
            gradient, logits = fast_gradient(self.model, batch, self.inner_lr, self.inner_steps)
        else:
            gradient, logits = naive_gradient(self.model, batch, self.inner_lr, self.inner_steps, self.first_order)
        scale = self._scale(float(torch.stack([g.square().sum() for g in gradient.values()]).sum()) ** 0.5)
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.add_(gradient[name], alpha=-lr * scale)
        return _outcome(logits, batch.query_labels)

    def evaluate(self, batch: TaskBatch, steps: int | None = None) -> Outcome:
        """Accuracy after ``steps`` of adaptation (default: as in training); the model stays as it is."""
        steps = self.inner_steps if steps is None else steps
        if isinstance(self.model, PoolLearner):
            logits = adapt_pool(self.model, batch, self.inner_lr, steps)
        elif isinstance(self.model, InfGP1LP):
            logits = torch.stack([self._adapt_learner(self.model, batch, t, steps, None) for t in range(len(batch))])
        elif isinstance(self.model, Linear1LP):
            logits = adapt_linear(self.model, batch, self.inner_lr, steps).logits(self.model.alpha)
        else:
            logits = naive_gradient(self.model, batch, self.inner_lr, steps)[1]
        return _outcome(logits, batch.query_labels)

    def _scale(self, norm: float) -> float:
        return 1.0 if self.clip is None or norm <= self.clip else self.clip / norm

    def _pool_step(self, learner: PoolLearner, batch: TaskBatch, lr: float) -> Outcome:
        logits = adapt_pool(learner, batch, self.inner_lr, self.inner_steps)
        delta, index = _delta(logits, batch.query_labels).flatten(0, 1), batch.query.flatten()
        square = (delta * (learner.K[index[:, None], index[None, :]] @ delta)).sum()
        learner.step(index, delta, lr * self._scale(max(0.0, float(square)) ** 0.5))
        return _outcome(logits, batch.query_labels)

    def _learner_step(self, learner: InfGP1LP, batch: TaskBatch, lr: float) -> Outcome:
        gradients: list[Gradient] = []
        logits = [self._adapt_learner(learner, batch, t, self.inner_steps, gradients) for t in range(len(batch))]
        whole: Gradient = tuple(torch.cat(parts) for parts in zip(*gradients, strict=True))  # type: ignore[assignment]
        learner.step(whole if self.clip is None else learner.clip(whole, self.clip), lr)
        return _outcome(torch.stack(logits), batch.query_labels)

    def _adapt_learner(
        self, learner: InfGP1LP, batch: TaskBatch, t: int, steps: int, gradients: list[Gradient] | None
    ) -> Tensor:
        """Query outputs of one task; the learner forgets the task, the query gradient is appended to ``gradients``."""
        x, labels = batch.support[t], batch.support_labels[t]
        learner.checkpoint()
        for _ in range(steps):
            learner.step(learner.backward(x, _delta(learner(x), labels)), self.inner_lr)
        logits = learner(batch.query[t])
        if gradients is not None:
            gradients.append(learner.backward(batch.query[t], _delta(logits, batch.query_labels[t])))
        learner.restore()
        return logits
