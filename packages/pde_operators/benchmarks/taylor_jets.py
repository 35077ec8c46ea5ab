"""Jets against nested autograd, and against JAX where it is installed.

    OMP_NUM_THREADS=1 python packages/pde_operators/benchmarks/taylor_jets.py

Prints milliseconds of a loss and its gradient: sampled Laplacians of the paper's network by dimension, the mixed
partial derivatives of three equations, and derivatives along a line by order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from tensorbench.core.timing import compare
from tensorbench.pde_operators import stde, taylor
from tensorbench.pde_operators.stde import baselines, low_order


def show(title: str, jobs: Mapping[str, Callable[[], object]]) -> None:
    seconds = compare(jobs, repeats=3, min_seconds=0)
    print(f"{title:24s}" + "   ".join(f"{name} {1000 * value:8.2f} ms" for name, value in seconds.items()))


def step(f: torch.nn.Module, value: Callable[[], torch.Tensor]) -> Callable[[], None]:
    def call() -> None:
        f.zero_grad()
        value().square().mean().backward()

    return call


def laplacians() -> None:
    generator = torch.Generator().manual_seed(0)
    for d in (100, 1000, 10_000):
        f = stde.OnBall(stde.TanhNet(d, generator=generator))
        x, index = stde.ball(100, d, generator), stde.coordinates(d, 16, generator)
        jobs: dict[str, Callable[[], object]] = {
            "jet": step(f, lambda f=f, x=x, index=index: stde.Local(f, x, index).laplacian()),
            "loop": step(f, lambda f=f, x=x, index=index: baselines.sdgd(f, x, index)),
        }
        try:
            run = baselines.jax_laplacian(baselines.jax_mlp(), "jet")
        except ImportError:
            run = None
        if run is not None:
            weights = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in f.net.layers]
            given = (weights, x.numpy(), index.numpy())
            jobs["jax jet"] = lambda run=run, given=given: run(*given)[1].block_until_ready()
        show(f"Laplacian, d = {d}", jobs)


def mixed() -> None:
    generator = torch.Generator().manual_seed(0)
    for name, (pde, *_) in low_order.EQUATIONS.items():
        d = len(pde.coordinates)
        f, x = stde.TanhNet(d, generator=generator), torch.randn(1000, d, generator=generator)
        jobs = {
            m: step(f, lambda m=m, f=f, x=x, name=name: low_order.residuals(name, f, x, m)[0])
            for m in low_order.METHODS
        }
        show(name, jobs)


def orders() -> None:
    generator = torch.Generator().manual_seed(0)
    f, x = stde.TanhNet(3, generator=generator), torch.randn(1000, 3, generator=generator)
    v = torch.randn(1000, 3, generator=generator)

    def nested(order: int) -> torch.Tensor:
        t = torch.zeros(1000, requires_grad=True)
        value = f(x + t[:, None] * v)
        for _ in range(order):
            (value,) = torch.autograd.grad(value.sum(), t, create_graph=True)
        return value

    for order in (1, 2, 4, 6):
        jobs = {
            "jet": step(f, lambda order=order: taylor.directional(f, x, v, order)[1][-1]),
            "nested": step(f, lambda order=order: nested(order)),
        }
        show(f"along a line, order {order}", jobs)


if __name__ == "__main__":
    laplacians()
    mixed()
    orders()
