"""Compression of trained operators: exact on planted ranks, tensorly as oracle, same function after reconstruction."""

from __future__ import annotations

import pytest
import torch

from tensorbench.pde_operators.factored import FORMATS, SpectralWeights
from tensorbench.pde_operators.fno import FNO, count_weights
from tensorbench.pde_operators.posthoc import (
    canonical,
    compression_ratio,
    decompose,
    factorize,
    reconstruct,
    relative_error,
    tensor_train,
    tucker,
)


def noise(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


RANKS = {"cp": 4, "tucker": (3, 2, 4, 3), "tt": (1, 3, 4, 2, 1)}


@pytest.mark.parametrize("form", FORMATS)
def test_planted_ranks_are_recovered(form):
    generator = torch.Generator().manual_seed(0)
    planted = SpectralWeights((6, 5, 8, 4), form, RANKS[form], generator=generator).double().full().detach()
    assert relative_error(decompose(planted, form, RANKS[form]), planted) < (1e-4 if form == "cp" else 1e-12)


@pytest.mark.parametrize("form", ["tucker", "tt"])
def test_full_ranks_lose_nothing_and_larger_ones_are_filled_with_zeros(form):
    tensor = noise(3, 4, 5, dtype=torch.complex128)
    rank = (3, 4, 7) if form == "tucker" else (1, 3, 9, 1)
    assert relative_error(decompose(tensor, form, rank), tensor) < 1e-12
    assert relative_error(canonical(tensor, 30), tensor) < 1e-2


def test_as_good_as_tensorly():
    import tensorly
    from tensorly.decomposition import parafac
    from tensorly.decomposition import tensor_train as peer_train
    from tensorly.decomposition import tucker as peer_tucker

    tensor = noise(6, 5, 8, 4)
    with tensorly.backend_context("numpy"):
        array = tensor.numpy()

        def error(approximation):
            return float(((approximation - array) ** 2).sum() ** 0.5 / (array**2).sum() ** 0.5)

        theirs = {
            "tucker": error(peer_tucker(array, (3, 2, 4, 3), n_iter_max=5).to_tensor()),
            "tt": error(peer_train(array, (1, 3, 4, 2, 1)).to_tensor()),
            "cp": error(parafac(array, 6, n_iter_max=30, init="svd", random_state=0).to_tensor()),
        }
    wide = tensor.to(torch.complex128)
    assert relative_error(tucker(wide, (3, 2, 4, 3)), wide) <= theirs["tucker"] + 1e-3
    assert relative_error(tensor_train(wide, (1, 3, 4, 2, 1)), wide) == pytest.approx(theirs["tt"], abs=1e-9)
    assert relative_error(canonical(wide, 6), wide) <= 1.02 * theirs["cp"]


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_factorized_models_and_their_reconstruction(form, joint):
    model = FNO(1, 1, (4, 4), 6, 2, joint=joint, factorization=None, generator=0)
    x = noise(2, 1, 8, 8, dtype=torch.float32)
    before = model(x)
    compact = factorize(model, form, 0.3)
    trained_so = FNO(1, 1, (4, 4), 6, 2, joint=joint, factorization=form, rank=0.3, generator=0)
    assert count_weights(compact) == count_weights(trained_so) < count_weights(model)
    assert compression_ratio(compact) == compression_ratio(trained_so) > 2
    assert compression_ratio(model) == 1
    again = reconstruct(compact)
    assert count_weights(again) == count_weights(model)
    torch.testing.assert_close(again(x), compact(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(compact(x), before)
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)  # it was copied
    whole = factorize(model, "tucker", model_shape(model))
    torch.testing.assert_close(whole(x), before, rtol=1e-4, atol=1e-5)
    compact(x).sum().backward()
    assert all(p.grad is not None for p in compact.parameters())


def test_the_type_of_the_weights_stays():
    model = FNO(1, 1, (4, 4), 4, 1, generator=0).double()
    compact = factorize(model, "tucker", 0.5)
    x = noise(2, 1, 8, 8)
    torch.testing.assert_close(compact(x), reconstruct(compact)(x))


def model_shape(model):
    return model.joint.weights.shape if model.joint is not None else model.blocks[0].conv.weights.shape


@pytest.mark.parametrize("joint", [False, True])
def test_the_global_generator_is_left_alone(joint):
    model = FNO(1, 1, (4, 4), 4, 2, joint=joint, factorization=None, generator=0)
    before = torch.random.get_rng_state()
    reconstruct(factorize(model, "tucker", 0.3))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_factored_model_is_not_factorized_again():
    model = factorize(FNO(1, 1, (4, 4), 4, 2, generator=0), "tt", 0.3)
    with pytest.raises(ValueError, match="factored already"):
        factorize(model, "cp", 0.3)
