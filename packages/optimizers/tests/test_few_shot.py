"""MAML: fast path against copies, pools against stored samples, second order, tasks; word vectors; the datasets."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tensorbench.core.data import available, load
from tensorbench.optimizers.datasets.omniglot import glyphs
from tensorbench.optimizers.infinite_width.cbow import CBOW, corpus
from tensorbench.optimizers.infinite_width.few_shot_tasks import FewShotTasks, TaskBatch
from tensorbench.optimizers.infinite_width.kernel_learners import InfGP1LP, InfNTK1LP, PoolLearner, kernel_matrix
from tensorbench.optimizers.infinite_width.linear_limit import FinLinear1LP, InfLinear1LP
from tensorbench.optimizers.infinite_width.maml import MAML, adapt_linear, fast_gradient, naive_gradient


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tasks(ways=3, shots=2, queries=2):
    images = torch.rand(8, 5, 12, generator=seeded(1), dtype=torch.float64)
    return FewShotTasks(images, ways, shots, queries)


def limit(bias_alpha=0.7):
    net = InfLinear1LP(12, 3, 1.0, 0.5, alpha=1.3, bias_alpha=bias_alpha, dtype=torch.float64)
    with torch.no_grad():  # a state that training might have reached
        for p in net.parameters():
            p += 0.1 * torch.randn(p.shape, generator=seeded(2), dtype=torch.float64)
    return net


NETS = {
    "inf": limit,
    "inf_without_bias": lambda: limit(0.0),
    "width_4": lambda: limit().sample(4, 1),
    "independent": lambda: FinLinear1LP(12, 3, 6, 1.0, 1.0, bias_alpha=2.0, seed=1, dtype=torch.float64),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("steps", [1, 3])
def test_the_fast_path_is_the_copy_for_each_task(name, steps):
    net, batch = NETS[name](), tasks().sample(6, seeded(3))
    fast, fast_logits = fast_gradient(net, batch, 0.4, steps)
    naive, naive_logits = naive_gradient(net, batch, 0.4, steps)
    torch.testing.assert_close(fast_logits, naive_logits, rtol=1e-9, atol=1e-9)
    assert fast.keys() == naive.keys()
    for key, g in fast.items():
        torch.testing.assert_close(g, naive[key], rtol=1e-8, atol=1e-10)
    unadapted = F.softmax(net(batch.query), -1)
    assert float((F.softmax(fast_logits, -1) - unadapted).detach().abs().max()) > 0.05


def test_first_order_is_autograd_with_the_inner_gradient_detached_and_second_order_is_without():
    net, batch = NETS["width_4"](), tasks().sample(1, seeded(3))
    for first_order in (True, False):
        U, V, b = (p.detach().clone().requires_grad_() for p in (net.U, net.V, net.b))
        x, y = batch.support[0], batch.support_labels[0]

        def outputs(x, U, V, b):
            return 1.3 * (x @ U.T + 0.7 * b) @ V.T

        inner = torch.autograd.grad(F.cross_entropy(outputs(x, U, V, b), y), [U, V, b], create_graph=True)
        if first_order:
            inner = [g.detach() for g in inner]
        moved = [p - 0.4 * g for p, g in zip((U, V, b), inner, strict=True)]
        loss = F.cross_entropy(outputs(batch.query[0], *moved), batch.query_labels[0])
        expected = dict(zip(("U", "V", "b"), torch.autograd.grad(loss, [U, V, b]), strict=True))
        found, _ = naive_gradient(net, batch, 0.4, 1, first_order)
        for key, g in expected.items():
            torch.testing.assert_close(found[key], g, rtol=1e-9, atol=1e-11)
    first, _ = naive_gradient(net, batch, 0.4, 1, True)
    assert float((first["U"] - found["U"]).abs().max()) > 1e-3


def test_second_order_gradient_is_the_derivative_of_the_adapted_loss():
    net, batch = NETS["inf"](), tasks().sample(4, seeded(3))
    found, _ = naive_gradient(net, batch, 0.4, 2, first_order=False)

    def loss():
        logits = adapt_linear(net, batch, 0.4, 2).logits(net.alpha)
        return F.cross_entropy(logits.flatten(0, 1), batch.query_labels.flatten(), reduction="sum") / logits.shape[1]

    direction = {k: torch.randn(p.shape, generator=seeded(5), dtype=p.dtype) for k, p in net.named_parameters()}
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for key, p in net.named_parameters():
                p += sign * 1e-5 * direction[key]
        values.append(float(loss()))
        with torch.no_grad():
            for key, p in net.named_parameters():
                p -= sign * 1e-5 * direction[key]
    expected = sum(float((found[key] * direction[key]).sum()) for key in found)
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(expected, rel=1e-6)


def test_a_step_is_clipped_and_lowers_the_loss_over_time():
    net, source = FinLinear1LP(12, 3, 16, seed=1, bias_alpha=1.0), tasks()
    source = FewShotTasks(source.pool.float().reshape(8, 5, 12), 3, 2, 2)
    learner = MAML(net, clip=0.5)
    before = [p.detach().clone() for p in net.parameters()]
    learner.step(source.sample(8, seeded(1)), 0.2)
    moved = sum(float((p.detach() - q).square().sum()) for p, q in zip(net.parameters(), before, strict=True)) ** 0.5
    assert moved <= 0.2 * 0.5 * 1.0001 and moved > 0
    fixed = source.sample(64, seeded(2))
    start = learner.evaluate(fixed).loss
    for k in range(150):
        learner.step(source.sample(8, seeded(10 + k)), 0.2)
    assert learner.evaluate(fixed).loss < start - 0.02


@pytest.mark.parametrize(("kernel", "kind"), [("relu_gp", InfGP1LP), ("relu_ntk", InfNTK1LP)])
@pytest.mark.parametrize("clip", [0.5, None])
def test_pool_and_stored_samples_learn_the_same(kernel, kind, clip):
    source = tasks()
    stored = MAML(kind(12, 3, 1.0, 0.5, dtype=torch.float64), clip=clip)
    pool = MAML(PoolLearner(kernel_matrix(source.pool, source.pool, kernel, 1.0, 0.5), 3), clip=clip)
    for k in range(4):
        numbers = source.sample_numbers(5, seeded(k))
        one, other = stored.step(source.with_images(numbers), 0.3), pool.step(numbers, 0.3)
        assert one.loss == pytest.approx(other.loss, rel=1e-9)
    numbers = source.sample_numbers(20, seeded(9))
    one, other = stored.evaluate(source.with_images(numbers), 20), pool.evaluate(numbers, 20)
    assert one.loss == pytest.approx(other.loss, rel=1e-8) and one.accuracy == other.accuracy
    assert len(stored.model) == 4 * 5 * 6


def test_a_linear_kernel_is_a_linear_network_with_a_frozen_hidden_layer():
    """With V = 0 at the start and U frozen the network is linear in V: the GP limit of the linear network."""
    source = tasks()
    learner = MAML(PoolLearner(kernel_matrix(source.pool, source.pool, "linear", 1.0, 0.0, 0.0), 3), clip=None)
    W = torch.zeros(3, 12, dtype=torch.float64)
    numbers = source.sample_numbers(5, seeded(1))
    batch = source.with_images(numbers)
    learner.step(numbers, 0.3)
    total = torch.zeros_like(W)
    for t in range(5):
        fast = W.clone().requires_grad_()
        inner = torch.autograd.grad(F.cross_entropy(batch.support[t] @ fast.T, batch.support_labels[t]), fast)[0]
        fast = (W - 0.4 * inner).requires_grad_()
        total += torch.autograd.grad(F.cross_entropy(batch.query[t] @ fast.T, batch.query_labels[t]), fast)[0]
    torch.testing.assert_close(learner.model.outputs, source.pool @ (W - 0.3 * total).T)


def test_tasks_have_distinct_classes_and_images_and_right_labels():
    source = tasks(ways=4, shots=2, queries=3)
    batch = source.sample_numbers(50, seeded(1))
    for t in range(50):
        numbers = torch.cat([batch.support[t], batch.query[t]])
        labels = torch.cat([batch.support_labels[t], batch.query_labels[t]])
        assert len(set(numbers.tolist())) == 20
        classes = {label: set((numbers[labels == label] // 5).tolist()) for label in range(4)}
        assert all(len(one) == 1 for one in classes.values()) and len(set.union(*classes.values())) == 4
    assert not torch.equal(batch.support, source.sample_numbers(50, seeded(2)).support)


def test_bad_tasks_and_learners_are_refused():
    one = torch.zeros(1, 2, 3)
    for make, message in [
        (lambda: tasks(ways=9), "8 classes"),
        (lambda: tasks(shots=4, queries=2), "5 images"),
        (lambda: tasks(queries=0), "at least 1"),
        (lambda: TaskBatch(one, torch.tensor([[0, 5]]), one, torch.tensor([[0, 1]]), 5), "labels must be in 0 ... 4"),
        (lambda: TaskBatch(one, torch.tensor([[0]]), one, torch.tensor([[0, 1]]), 5), "fit"),
        (lambda: MAML(limit(), inner_lr=0.0), "positive"),
        (lambda: MAML(InfGP1LP(3, 2), first_order=False), "second-order"),
        (lambda: MAML(limit()).step(tasks().sample(2, seeded()), 0.0), "positive"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


# --- word vectors ---------------------------------------------------------------------------------------------------


def text(words=40, length=6000):
    """Words of even number are followed by the next one."""
    rng = np.random.default_rng(0)
    pairs = rng.integers(words // 2, size=length // 2)
    return [f"w{2 * p + k}" for p in pairs for k in (0, 1)]


def test_a_corpus_drops_rare_words_and_counts():
    found = corpus(["b", "a", "a", "c", "b", "a"], min_count=2)
    assert found.words == ("a", "b") and found.counts.tolist() == [3, 2] and found.tokens.tolist() == [1, 0, 0, 1, 0]
    assert corpus(["b", "a", "a", "c", "b", "c"], 1, largest=2).words == ("a", "b")
    with pytest.raises(ValueError, match="min_count"):
        corpus(["a", "b"], min_count=2)


def test_finite_networks_approach_the_infinite_one():
    found = corpus(text())
    options = {"window": 2, "negative": 5, "subsample": 0.0, "wd": 0.0, "seed": 1}
    losses = {dim: CBOW(found, dim, **options).train(2) for dim in (4, 4096, "inf")}
    assert losses["inf"][1] < losses["inf"][0] < 6 * math.log(2)
    assert losses[4096] == pytest.approx(losses["inf"], rel=0.01)
    assert abs(losses[4][1] - losses["inf"][1]) > 10 * abs(losses[4096][1] - losses["inf"][1])


def test_one_position_by_hand():
    """Two words, each the other's context; the one negative is either of them."""
    found = corpus(["a", "b"], min_count=1)
    net = CBOW(found, "inf", window=1, negative=1, subsample=0.0, lr=0.1, wd=0.5, seed=3)
    loss = net.train(1)[0]
    # Every position has its word, and one negative unless that is the word itself.
    assert any(loss == pytest.approx(k * math.log(2), rel=0.02) for k in (1, 1.5, 2))
    # Position 0 (word a, context b) adds lr/2 e_b to output row a; position 1 (word b, context a) lr/2 e_a to row b.
    assert net.output[0, 1] == pytest.approx(0.05, rel=0.06) and net.output[1, 0] == pytest.approx(0.05, rel=0.06)


def test_training_is_reproducible_and_words_of_one_pair_become_neighbours():
    found = corpus(text())
    first, second = (CBOW(found, "inf", window=1, negative=5, subsample=0.0, seed=2) for _ in range(2))
    assert first.train(3) == second.train(3)
    # The output vector of a word is closest to the input of its partner.
    partner = np.array([found.words.index(f"w{int(word[1:]) ^ 1}") for word in found.words])
    score = first.input @ first.output.T
    np.fill_diagonal(score, -np.inf)
    assert float((score.argmax(1) == partner).mean()) > 0.9


def test_analogies_and_neighbours():
    net = CBOW(corpus(["king", "queen", "man", "woman", "tree"] * 5), 3, seed=0)
    number = {word: k for k, word in enumerate(net.corpus.words)}
    vectors = {"king": [1, 0, 1], "queen": [1, 1, 1], "man": [1, 0, 0], "woman": [1, 1, 0], "tree": [-1, 0, 0]}
    for word, vector in vectors.items():
        net.input[number[word]] = vector
    questions = [("man", "king", "woman", "queen"), ("king", "man", "queen", "tree"), ("man", "king", "woman", "xylem")]
    assert net.analogy_accuracy(questions) == (0.5, 2)
    assert math.isnan(net.analogy_accuracy([("a", "b", "c", "d")])[0])
    near = net.neighbours(np.array([number["king"]]), 2)[0]
    assert net.corpus.words[near[0]] == "queen" and number["king"] not in near


def test_bad_word_vectors_are_refused():
    found = corpus(text())
    huge = type(found)(np.zeros(3, np.int32), ("a",) * 30_000, np.ones(30_000, np.int64))
    with pytest.raises(ValueError, match=r"6\.7 GiB"):
        CBOW(huge, "inf")
    for options in (
        {"dim": 0},
        {"dim": "info"},
        {"dim": 4, "window": 0},
        {"dim": 4, "lr": 0.0},
        {"dim": 4, "wd": 30.0},
    ):
        with pytest.raises(ValueError, match=r"dim|window|lr"):
            CBOW(found, **options)


# --- data -----------------------------------------------------------------------------------------------------------


def test_glyphs_are_images_whose_classes_can_be_told_apart():
    data = glyphs(seed=1, classes=48, size=12)
    assert data.train.shape == (30, 20, 144) and data.valid.shape[0] == 9 and data.test.shape[0] == 9
    assert data.train.min() >= 0 and data.train.max() <= 1 and data.train.dtype == np.float32
    centres = data.test[:, :10].mean(1)
    rest = data.test[:, 10:].reshape(-1, 144)
    nearest = ((rest[:, None] - centres) ** 2).sum(2).argmin(1)
    accuracy = (nearest == np.repeat(np.arange(9), 10)).mean()
    assert 0.4 < accuracy < 1
    with pytest.raises(ValueError, match="classes"):
        glyphs(seed=0, classes=5)


@pytest.mark.skipif(not available("omniglot")[0], reason="the Omniglot files are neither mirrored nor reachable")
def test_omniglot_parts_share_no_image():
    data = load("omniglot", seed=0)
    assert data.train.shape == (136, 20, 400) and data.valid.shape == (17, 20, 400) and data.test.shape == (89, 20, 400)
    assert 0.03 < data.train.mean() < 0.2  # ink is 1 on 0
    seen = {image.tobytes() for image in data.train.reshape(-1, 400)}
    assert not any(image.tobytes() in seen for part in (data.valid, data.test) for image in part.reshape(-1, 400))
    turned = load("omniglot", seed=0, rotations=True)
    assert turned.train.shape[0] == 544 and np.array_equal(turned.test, data.test)
    once = turned.train[136, 0].reshape(20, 20)
    assert np.array_equal(np.rot90(data.train[0, 0].reshape(20, 20)), once)
