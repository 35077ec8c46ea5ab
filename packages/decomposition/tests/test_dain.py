"""DAIN: importance against autograd, entities, sampling, labels, models, and the whole."""

from __future__ import annotations

import logging
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from tensorbench.core import data
from tensorbench.core.training import fit
from tensorbench.decomposition.completion import augment, neural
from tensorbench.decomposition.completion.augment import DAIN, Source, label_cells, sample_cells
from tensorbench.decomposition.completion.dain import augment_fit, base_fit, dain_fit, paired_test
from tensorbench.decomposition.completion.influence import (
    OnlineImportance,
    cell_importance,
    curvature_influence,
    entity_importance,
    entity_mass,
    leave_one_out,
)
from tensorbench.decomposition.completion.neural import CPSGD, CoSTCo, EmbeddingMLP, NeuralCP, predict, train_model
from tensorbench.decomposition.completion.sparse import SparseTensorData, Split, rmse

SMALL = partial(EmbeddingMLP, layers=[12, 16, 8])
MODELS = {
    "mlp": SMALL,
    "costco": partial(CoSTCo, rank=4, channels=6),
    "neural_cp": partial(NeuralCP, rank=6, hidden=(8, 5)),
    "cp_sgd": partial(CPSGD, rank=6),
}


def problem(seed=0, cells=300, dims=(9, 8, 7)):
    """216 training cells (72 %) of a small low-rank tensor."""
    return data.load("low_rank_cells", seed=seed, dims=dims, cells=cells // 2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------ importance


def by_hand(model, split, epochs, batch, order):
    """A plain training loop; importance after each epoch from autograd gradients of (ŷ - y)² by the output weights."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    idx, val = torch.as_tensor(split.train.idx), torch.as_tensor(split.train.val, dtype=torch.float32)

    def gradient(cell, value):
        return torch.autograd.grad((model(cell)[0] - value).square().sum(), model.output.weight)[0].flatten()

    total, sums, curve = np.zeros(len(idx)), [], []
    for _ in range(epochs):
        toward = gradient(torch.as_tensor(split.valid.idx), torch.as_tensor(split.valid.val, dtype=torch.float32))
        for rows in torch.randperm(len(idx), generator=order).split(batch):
            for i in rows.tolist():
                total[i] += float(gradient(idx[i : i + 1], val[i : i + 1]) @ toward) / 4
            optimiser.zero_grad()
            (model(idx[rows])[0] - val[rows]).square().mean().backward()
            optimiser.step()
        sums.append(total.copy())
        curve.append(rmse(predict(model, split.valid.idx), split.valid.val))
    return sums, curve


def test_online_importance_is_the_sum_of_autograd_products_over_epochs():
    split = data.load("low_rank_cells", seed=0, cells=278)
    assert len(split.train) == 200
    options = {"epochs": 6, "batch": 32}
    trained = base_fit(split, SMALL, seed=3, **options)
    order = generator(3)
    sums, curve = by_hand(SMALL(split.train.dims, generator=order), split, 6, 32, order)
    np.testing.assert_allclose(trained.valid_rmse, curve, rtol=1e-5)
    want = sums[trained.best_epoch - 1]
    np.testing.assert_allclose(trained.importance, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_importance_stops_at_the_best_epoch():
    split = problem()
    long = base_fit(split, SMALL, seed=0, batch=16, lr=0.03, epochs=60, patience=5)
    assert long.best_epoch == len(long.valid_rmse) - 5 and long.best_epoch == int(np.argmin(long.valid_rmse)) + 1
    short = base_fit(split, SMALL, seed=0, batch=16, lr=0.03, epochs=long.best_epoch)
    np.testing.assert_array_equal(long.importance, short.importance)
    assert rmse(long.predict(split.valid.idx), split.valid.val) == pytest.approx(min(long.valid_rmse), rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_fast_variant_equals_differentiating_each_cell(name):
    split = problem()
    trained = base_fit(split, MODELS[name], batch=32, epochs=3, keep_checkpoints=True)
    trained.model.double()
    states = [{k: v.double() if v.is_floating_point() else v for k, v in s.items()} for s in trained.checkpoints]
    assert len(states) == trained.best_epoch
    fast, slow = (cell_importance(trained.model, states, split.train, split.valid, v) for v in ("fast", "per_sample"))
    np.testing.assert_allclose(fast, slow, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_the_full_variant_is_the_product_of_full_gradients(name):
    split = problem(cells=60)
    model = MODELS[name](split.train.dims, generator=generator()).double()
    trained = [p for p in model.parameters() if p.requires_grad]

    def gradient(idx, val):
        loss = 0.5 * (model(torch.as_tensor(idx))[0] - torch.as_tensor(val)).square().sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)])

    toward = gradient(split.valid.idx, split.valid.val)
    want = [float(gradient(i[None], v[None]) @ toward) for i, v in zip(split.train.idx, split.train.val, strict=True)]
    got = cell_importance(model, [model.state_dict()], split.train, split.valid, "full", batch=7)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_memory_is_sixteen_bytes_a_cell():
    tracker = OnlineImportance(1000)
    tracker.start_epoch(torch.ones(3), torch.ones(3, 4))
    tracker.visit(torch.arange(10), torch.ones(10), torch.ones(10, 4))
    per_cell = sum(t.numel() * t.element_size() for t in vars(tracker).values() if t.numel() >= 1000) / 1000
    assert per_cell <= 16
    np.testing.assert_array_equal(tracker.total[:11], [12.0] * 10 + [0.0])


def test_permuting_the_entities_permutes_the_importance():
    split, mode = problem(), 1
    label = np.random.default_rng(1).permutation(split.train.dims[mode])

    def renamed(part):
        idx = part.idx.copy()
        idx[:, mode] = label[idx[:, mode]]
        return SparseTensorData(idx, part.val, part.dims)

    def permuted(dims, generator):
        model = SMALL(dims, generator=generator)
        start = dims[0]
        model.table.data[start + torch.as_tensor(label)] = model.table.data[start : start + dims[1]].clone()
        return model

    other = Split(renamed(split.train), renamed(split.valid), renamed(split.test))
    one, two = base_fit(split, SMALL, epochs=4), base_fit(other, permuted, epochs=4)
    np.testing.assert_allclose(two.importance, one.importance, rtol=1e-4, atol=1e-5 * np.abs(one.importance).max())
    ours = entity_importance(one.importance, split.train.idx, split.train.dims)
    theirs = entity_importance(two.importance, other.train.idx, other.train.dims)
    np.testing.assert_allclose(theirs[mode][label], ours[mode], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(theirs[0], ours[0], rtol=1e-3, atol=1e-6)


def test_entities_share_the_mass_of_their_cells():
    split = problem()
    importance = np.random.default_rng(0).standard_normal(len(split.train))
    mass = entity_mass(importance, split.train.idx, split.train.dims)
    assert sum(part.sum() for part in mass) == pytest.approx(3 * np.abs(importance).sum())
    shares = entity_importance(importance, split.train.idx, split.train.dims)
    for share, count in zip(shares, split.train.counts(), strict=True):
        assert share.sum() == pytest.approx(1)
        np.testing.assert_array_equal(share[count == 0], 0.0)
    cells = np.flatnonzero(split.train.idx[:, 2] == 0)
    assert mass[2][0] == pytest.approx(np.abs(importance[cells]).sum())


def test_without_any_importance_the_observed_entities_are_uniform(caplog):
    shares = entity_importance(np.zeros(2), np.array([[0, 1], [2, 1]]), (4, 2))
    np.testing.assert_allclose(shares[0], [0.5, 0, 0.5, 0])
    np.testing.assert_allclose(shares[1], [0, 1])
    assert "importance zero" in caplog.text


def test_leaving_out_a_cell_matches_least_squares():
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((40, 3)), rng.standard_normal(40)
    v, w = rng.standard_normal((30, 3)), rng.standard_normal(30)
    cells = np.array([0, 7, 39])
    got = leave_one_out(*map(torch.as_tensor, (z, y, v, w)), cells, steps=3000)

    def loss(keep):
        add = lambda a: np.column_stack([a, np.ones(len(a))])  # noqa: E731
        return np.mean((add(v) @ np.linalg.lstsq(add(z[keep]), y[keep])[0] - w) ** 2)

    everything = np.arange(40)
    want = [loss(np.delete(everything, i)) - loss(everything) for i in cells]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7)


def test_curvature_gives_the_effect_of_leaving_out_to_first_order():
    rng = np.random.default_rng(1)
    z, v = rng.standard_normal((400, 3)), rng.standard_normal((60, 3))
    y, w = z.sum(1) + rng.standard_normal(400), v.sum(1) + rng.standard_normal(60)
    dead = lambda a: torch.as_tensor(np.column_stack([a, np.zeros(len(a))]))  # noqa: E731
    problem = (dead(z), torch.as_tensor(y), dead(v), torch.as_tensor(w))
    effect = leave_one_out(*problem, np.arange(40), steps=2000)
    got = curvature_influence(*problem)[:40]
    assert np.linalg.norm(got - effect) < 0.1 * np.linalg.norm(effect)


# ------------------------------------------------------------------ models


def test_parameter_counts_by_hand():
    dims = (5, 6, 7)
    assert EmbeddingMLP(dims, [12, 10, 4]).parameters_count == 18 * 4 + 13 * 10 + 11 * 4 + 5
    # K = 3, rank 4, 8 channels: (3, 1) kernels, (1, 4) kernels, a dense layer, the output.
    want = 18 * 4 + (3 * 8 + 8) + (8 * 8 * 4 + 8) + (8 * 8 + 8) + (8 + 1)
    assert CoSTCo(dims, rank=4, channels=8).parameters_count == want
    assert NeuralCP(dims, rank=4, hidden=(3,)).parameters_count == 18 * 4 + 5 * 3 + 4
    assert CPSGD(dims, rank=4).parameters_count == 18 * 4 + 1


@pytest.mark.parametrize("name", MODELS)
def test_every_model_predicts_linearly_in_its_hidden_vector_and_learns(name):
    split = problem(cells=800, dims=(12, 11, 10))
    trained = base_fit(split, MODELS[name], lr=0.02, batch=32, epochs=40)
    predicted, hidden = trained.model(torch.as_tensor(split.test.idx))
    assert predicted.shape == (len(split.test),) and hidden.shape[0] == len(split.test)
    torch.testing.assert_close(predicted, trained.model.output(hidden)[:, 0])
    assert min(trained.train_rmse) < 0.7  # of a standard deviation


def test_cp_sgd_is_the_cp_model():
    model = CPSGD((4, 3), rank=2, generator=generator())
    a, b = model.table[:4], model.table[4:]
    idx = torch.tensor([[0, 2], [3, 1]])
    torch.testing.assert_close(model(idx)[0], (a @ b.T)[idx[:, 0], idx[:, 1]])


def test_training_that_diverges_after_the_first_epoch_warns(caplog, monkeypatch):
    split = problem()

    def diverging(*args, **options):
        history = fit(*args, **options)
        history.stopped = "diverged"
        return history

    monkeypatch.setattr(neural, "fit", diverging)
    with caplog.at_level(logging.WARNING):
        train_model(SMALL(split.train.dims), split.train, split.valid, epochs=2)
    assert "diverged" in caplog.text


def test_a_seed_decides_everything_and_the_global_generator_is_left_alone():
    split = problem()
    before = torch.random.get_rng_state()
    one, same, other = (base_fit(split, SMALL, seed=s, epochs=3) for s in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(one.predict(split.test.idx), same.predict(split.test.idx))
    assert not np.array_equal(one.predict(split.test.idx), other.predict(split.test.idx))


# ------------------------------------------------------------------ augmentation


def test_samples_follow_the_probabilities():
    rng = np.random.default_rng(0)
    p = [rng.dirichlet(np.ones(n)) for n in (12, 5)]
    p[0][3] = 0
    p[0] /= p[0].sum()
    drawn = sample_cells(p, 100_000, np.random.default_rng(1))
    for column, probability in zip(drawn.T, p, strict=True):
        count, some = np.bincount(column, minlength=len(probability)), probability > 0
        assert count[~some].sum() == 0
        assert stats.chisquare(count[some], 100_000 * probability[some]).pvalue > 0.01
    table = np.histogram2d(*drawn.T, bins=(12, 5))[0]
    assert stats.chi2_contingency(table[table.sum(1) > 0]).pvalue > 0.01  # modes are independent


def test_rejecting_observed_or_repeated_cells():
    p = [np.full(4, 0.25), np.full(3, 1 / 3)]
    existing = np.array([[0, 0], [1, 2], [3, 1]])
    new = sample_cells(p, 9, np.random.default_rng(0), replace=False, existing=existing)
    assert len(np.unique(np.concatenate([new, existing]), axis=0)) == 12
    many = sample_cells(p, 500, np.random.default_rng(0), existing=existing)
    assert not (many[:, None] == existing[None]).all(-1).any() and len(np.unique(many, axis=0)) == 9
    with pytest.raises(ValueError, match="only 9 of 10"):
        sample_cells(p, 10, np.random.default_rng(0), replace=False, existing=existing)


def source(importance=None):
    split = problem()
    trained = base_fit(split, SMALL, epochs=3)
    return split, Source(split.train, trained.model, trained.importance if importance is None else importance)


@pytest.mark.parametrize("name", augment.LABELS)
def test_labels_are_those_of_the_predictor(name):
    split, given = source()
    idx = split.test.idx
    got = label_cells(idx, name, split.train, given.model)
    if name == "model":
        want = predict(given.model, idx)
    elif name == "mean":
        overall = split.train.val.mean()
        same = [[split.train.val[split.train.idx[:, k] == i[k]] for k in range(3)] for i in idx]
        want = [np.mean([v.mean() if len(v) else overall for v in cell]) for cell in same]
    else:
        table = given.model.table.detach().double().numpy()
        first = given.model.first.numpy()
        seen, new = (table[cells + first].reshape(len(cells), -1) for cells in (split.train.idx, idx))
        near = np.argsort(((new[:, None] - seen[None]) ** 2).sum(-1), axis=1)[:, :5]
        want = split.train.val[near].mean(1)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


AUGMENTERS = {
    "dain": DAIN(),
    "frequency": augment.FrequencyDAIN(),
    "uniform": augment.UniformEntityDAIN(),
    "random": augment.RandomAug(reject_existing=True),
    "duplication": augment.Duplication(),
    "replacement": augment.EntityReplacement(),
    "oracle": augment.TrueLabel(truth=lambda idx: idx.sum(1) * 1.0),
}


@pytest.mark.parametrize("name", AUGMENTERS)
def test_every_augmenter_adds_the_number_asked_for_and_repeats_with_the_seed(name):
    split, given = source()
    one, same = (AUGMENTERS[name](given, 40, np.random.default_rng(5)) for _ in range(2))
    assert len(one) == 40 and one.dims == split.train.dims
    np.testing.assert_array_equal(one.idx, same.idx)
    np.testing.assert_array_equal(one.val, same.val)
    assert len(AUGMENTERS[name](given, 0, np.random.default_rng(5))) == 0


def test_augmenters_add_the_cells_that_they_say():
    split, _ = source()
    importance = np.zeros(len(split.train))
    importance[4] = -2.0  # all the importance in one cell: DAIN can only draw that one
    _, given = source(importance)
    np.testing.assert_array_equal(DAIN()(given, 5, np.random.default_rng(0)).idx, split.train.idx[[4] * 5])
    seen = {tuple(cell): value for cell, value in zip(split.train.idx.tolist(), split.train.val, strict=True)}
    again = augment.Duplication()(given, 30, np.random.default_rng(0))
    assert all(seen[tuple(cell)] == value for cell, value in zip(again.idx.tolist(), again.val, strict=True))
    kept = augment.EntityReplacement("keep")(given, 30, np.random.default_rng(0))
    np.testing.assert_array_equal(kept.val, again.val)  # the same draws of cells
    assert ((kept.idx != again.idx).sum(1) == 1).all()
    few = SparseTensorData([[0, 2, 1], [0, 4, 1]], [1.0, 2.0], (9, 8, 7))  # another entity in mode 1 alone
    moved = augment.EntityReplacement("keep")(Source(few, given.model), 20, np.random.default_rng(0))
    assert ((moved.val == 1.0) == (moved.idx[:, 1] == 4)).all() and (moved.idx[:, [0, 2]] == [0, 1]).all()
    true = AUGMENTERS["oracle"](given, 5, np.random.default_rng(0))
    np.testing.assert_array_equal(true.val, true.idx.sum(1))


# ------------------------------------------------------------------ the whole


def test_fraction_zero_is_the_baseline_bit_for_bit():
    split = problem()
    result = dain_fit(split, SMALL, fraction=0.0, seed=4, epochs=5, batch=32)
    assert len(result.cells) == 0
    np.testing.assert_array_equal(result.predict(split.test.idx), result.base.predict(split.test.idx))
    plain = base_fit(split, SMALL, seed=4, epochs=5, batch=32, track_influence=False)  # tracking changes nothing
    np.testing.assert_array_equal(result.predict(split.test.idx), plain.predict(split.test.idx))


def test_a_fraction_adds_that_many_cells_and_true_values_help():
    split = data.load("low_rank_cells", seed=0, dims=(12, 11, 10), cells=400)
    options = {"epochs": 40, "batch": 32, "lr": 5e-3}
    base = base_fit(split, SMALL, **options)
    oracle = augment_fit(base, split, SMALL, fraction=2.0, augmenter=augment.TrueLabel(truth=split.truth), **options)
    assert len(oracle.cells) == 2 * len(split.train)
    assert set(oracle.seconds) == {"train", "augment", "retrain"} and min(oracle.seconds.values()) > 0
    error = rmse(oracle.predict(split.test.idx), split.test.val)
    assert error < rmse(base.predict(split.test.idx), split.test.val)


def test_paired_tests_agree_with_counting():
    first, second = [1.0, 2.0, 3.0, 4.0, 5.0], [1.1, 2.2, 3.3, 4.4, 5.5]
    assert paired_test(first, second)["wilcoxon"] == pytest.approx(0.0625)
    assert paired_test(first, first) == {"wilcoxon": 1.0, "t": 1.0}
    with pytest.raises(ValueError, match="two or more seeds"):
        paired_test([1.0], [2.0])


# ------------------------------------------------------------------ bad input

EMPTY = SparseTensorData(np.zeros((0, 3), int), [], (9, 8, 7))


@pytest.mark.parametrize(
    ("call", "message"),
    (
        (lambda s, m: EmbeddingMLP((3, 3, 3), [10, 4]), "10 is not divisible by the 3 modes; use 9"),
        (lambda s, m: EmbeddingMLP((3, 3, 3), [12]), "hidden width"),
        (lambda s, m: CPSGD((3,)), "two modes"),
        (lambda s, m: m(torch.tensor([[0, 0, 7]])), "index 7 of mode 2 is not in 0..6"),
        (lambda s, m: m(torch.tensor([[0, -1, 0]])), "index -1 of mode 1"),
        (lambda s, m: m(torch.tensor([[0, 1]])), "3 modes"),
        (lambda s, m: train_model(m, EMPTY, s.valid), "no training cells"),
        (lambda s, m: train_model(m, s.train, EMPTY), "no validation cells"),
        (lambda s, m: train_model(SMALL((5, 5, 5)), s.train, s.valid), "model is for"),
        (lambda s, m: train_model(m, s.train, s.valid, epochs=0), "epochs 0"),
        (lambda s, m: dain_fit(s, SMALL, fraction=-0.5, epochs=1), "fraction -0.5"),
        (lambda s, m: cell_importance(m, [], s.train, s.valid), "checkpoints"),
        (lambda s, m: cell_importance(m, [{}], s.train, s.valid, "fats"), "did you mean 'fast'"),
        (lambda s, m: entity_importance(np.array([np.nan]), np.zeros((1, 2), int), (1, 1)), "NaN"),
        (lambda s, m: entity_mass(np.zeros(3), np.zeros((1, 2), int), (1, 1)), "3 cells"),
        (lambda s, m: sample_cells([np.array([0.5, 0.6])], 1, np.random.default_rng(0)), "no distribution"),
        (lambda s, m: sample_cells([np.array([1.0])], -1, np.random.default_rng(0)), "n -1"),
        (lambda s, m: label_cells(s.test.idx, "modle", s.train, m), "did you mean 'model'"),
        (lambda s, m: label_cells(s.test.idx, "model", s.train), "need a model"),
        (lambda s, m: DAIN()(Source(s.train, m), 3, np.random.default_rng(0)), "track_influence"),
        (lambda s, m: augment.EntityReplacement()(Source(s.train.take([0]), m), 1, np.random.default_rng(0)), "single"),
        (lambda s, m: augment.TrueLabel()(Source(s.train, m, s.train.val), 3, np.random.default_rng(0)), "truth"),
    ),
)
def test_bad_input_is_refused_with_the_reason(call, message):
    split = problem()
    with pytest.raises(ValueError, match=message):
        call(split, SMALL(split.train.dims))
