"""Tasks: sizes, reproducibility, and that each can be learned."""

import pytest
import torch

from tensorbench.core.data import load
from tensorbench.core.training import fit
from tensorbench.optimizers.tasks import characters, images


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits():
    return images.prepare(load("digits", seed=0))


def test_images_are_standardised_by_the_training_part(digits):
    x, y = digits.train
    assert x.shape[1:] == (1, 8, 8) and y.dtype == torch.int64
    assert x.mean().item() == pytest.approx(0, abs=1e-5) and x.std().item() == pytest.approx(1, abs=1e-3)
    few = images.prepare(load("digits", seed=0), train=100, dtype=torch.float64)
    assert few.train[0].shape[0] == 100 and few.train[0].dtype == torch.float64
    assert torch.allclose(few.train[0].float(), x[:100], atol=1e-5)
    with pytest.raises(ValueError, match="between 1 and"):
        images.prepare(load("digits", seed=0), train=10**6)


@pytest.mark.parametrize(("activation", "gain"), [("relu", 2.0), ("tanh", 1.0)])
def test_the_perceptron_starts_with_the_variance_that_it_says(activation, gain):
    model = images.perceptron(generator(), (64, 2000, 10), activation)
    assert model[1].weight.var().item() == pytest.approx(gain / 64, rel=0.03)
    assert not model[1].bias.any() and model[3].weight.var().item() == pytest.approx(1 / 2000, rel=0.05)
    same = images.perceptron(generator(), (64, 2000, 10), activation)
    assert torch.equal(model[1].weight, same[1].weight)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_the_residual_network_starts_near_the_uniform_answer(norm, digits):
    model = images.resnet8(generator(), norm=norm)
    nats, share = images.measure(model, digits.valid)
    assert 1.5 < nats < 6.0 and 0.5 < share <= 1
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(19_700, rel=0.05)
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert bool(names) == (norm == "batch")


def test_batches_go_through_every_sample_once_in_a_pass(digits):
    part = (digits.train[0][:40], torch.arange(40))
    stream = images.batches(part, generator(), 10)
    seen = torch.cat([next(stream)[1] for _ in range(4)])
    assert sorted(seen.tolist()) == list(range(40)) and seen.tolist() != list(range(40))
    with pytest.raises(ValueError, match="between 1 and"):
        next(images.batches(part, generator(), 41))


def test_digits_are_learned_in_two_passes(digits):
    model = images.perceptron(generator())
    task = images.task(model, digits, generator(1), 32)
    fit(model, task.batches, task.loss, torch.optim.Adam(model.parameters(), 2e-3), steps=70)
    found = task.evaluate(model)
    assert found["test_error"] < 0.12 and found["train_loss"] < 0.35 and model.training


def test_characters_of_a_chain_are_learned_somewhat():
    text = load("markov_text", seed=0, characters=20_000)
    task = characters.task(text, generator(), width=32, windows=32)
    before = task.evaluate(task.model)["valid_loss"]
    fit(task.model, task.batches, task.loss, torch.optim.Adam(task.model.parameters(), 1e-2), steps=60)
    assert task.evaluate(task.model)["valid_loss"] < before - 0.5


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="activation"):
        images.perceptron(generator(), activation="rellu")
    with pytest.raises(ValueError, match="widths"):
        images.perceptron(generator(), (64,))
    with pytest.raises(ValueError, match="norm"):
        images.resnet8(generator(), norm="layer")
