"""The loss of a rank decomposition: its minimiser, its scaling and what it refuses."""

import numpy as np
import pytest
import torch

from tensorbench.optimizers.landscapes.tensor import compose, random_rank_decomposition, relative_error


def test_the_stored_minimiser_has_the_stored_minimum_and_a_zero_gradient():
    problem = random_rank_decomposition((4, 3, 5), 2, torch.Generator().manual_seed(0))
    factors = [x.clone().requires_grad_() for x in problem.minimiser]
    loss = problem(factors)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(problem.minimum, abs=1e-20)
    assert all(float(x.grad.abs().max()) < 1e-12 for x in factors)
    assert float(problem(problem.start)) > 1
    # Rescaling components against each other stays on the set of minimisers.
    x, y, z = problem.minimiser
    assert float(problem((x * 2, y / 2, z))) == pytest.approx(0, abs=1e-20)


def test_compose_is_the_sum_of_outer_products():
    factors = [torch.randn(2, n, dtype=torch.float64) for n in (3, 4, 2)]
    expected = sum(np.multiply.outer(np.multiply.outer(x, y), z) for x, y, z in zip(*factors, strict=True))
    np.testing.assert_allclose(compose(factors), expected)


def test_the_relative_error_is_that_of_the_norms():
    problem = random_rank_decomposition((3, 3), 1, torch.Generator().manual_seed(1))
    loss = float(problem([torch.zeros_like(x) for x in problem.start]))
    assert relative_error(problem, loss) == pytest.approx(1)


def test_bad_sizes_are_refused():
    for shape, rank, word in (((3,), 1, "modes"), ((3, 0), 1, "modes"), ((3, 3), 0, "rank")):
        with pytest.raises(ValueError, match=word):
            random_rank_decomposition(shape, rank, torch.Generator())
