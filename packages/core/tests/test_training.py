"""The training loop: what it converges to, when it stops, what it reports."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tensorbench.core import training
from tensorbench.core.training import fit, schedule_multiplier


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def least_squares(seed: int = 0, rows: int = 60, columns: int = 4):
    """A linear model, its one full batch, and the closed-form solution."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rows, columns, generator=generator)
    b = torch.randn(rows, 1, generator=generator)
    model = torch.nn.Linear(columns, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.randn(1, columns, generator=generator))
    return model, [(a, b)], torch.linalg.lstsq(a, b).solution


def squared_error(model, batch):
    a, b = batch
    return torch.mean((model(a) - b) ** 2)


@pytest.mark.parametrize("schedule", [None, "constant", "linear", "cosine"])
def test_gradient_descent_reaches_the_closed_form(schedule):
    model, batches, solution = least_squares()
    history = fit(
        model, batches, squared_error, torch.optim.SGD(model.parameters(), lr=0.3), steps=600, schedule=schedule
    )
    torch.testing.assert_close(model.weight.T, solution, rtol=1e-8, atol=1e-8)
    assert history.stopped == "steps" and history.steps == 600 and len(history.losses) == 600


def test_an_optimizer_with_a_closure_reaches_it_in_few_steps():
    model, batches, solution = least_squares()
    optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe", tolerance_change=1e-16)
    fit(model, batches, squared_error, optimizer, steps=5)
    torch.testing.assert_close(model.weight.T, solution, rtol=1e-7, atol=1e-7)


def test_same_seed_same_result():
    def trained(seed):
        model, _, _ = least_squares(seed)
        generator = torch.Generator().manual_seed(seed)

        def minibatches():
            while True:
                a = torch.randn(8, 4, generator=generator)
                yield a, a.sum(1, keepdim=True)

        history = fit(
            model, minibatches(), squared_error, torch.optim.Adam(model.parameters()), steps=50, schedule="cosine"
        )
        return history.losses, model.weight.detach().clone()

    (losses, weight), (again, weight_again), (other, _) = trained(1), trained(1), trained(2)
    assert losses == again and torch.equal(weight, weight_again)
    assert losses != other


def test_divergence_is_flagged_and_stops():
    model, batches, _ = least_squares()
    logged = []
    history = fit(
        model,
        batches,
        squared_error,
        torch.optim.SGD(model.parameters(), lr=50.0),
        steps=1000,
        log=lambda **entry: logged.append(entry),
        log_every=100,
        evaluate=lambda model: pytest.fail("a diverged model is not evaluated"),
    )
    assert history.diverged and history.steps < 20
    assert history.losses[-1] > 1e4 * max(1.0, history.losses[0])
    assert logged[-1] == {"step": history.steps, "train_loss": history.losses[-1]}  # the log shows why it ended
    assert torch.isfinite(model.weight).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("when", [1, 7])
def test_a_loss_that_is_not_finite_leaves_the_weights_alone(bad, when):
    model, batches, _ = least_squares()
    calls = itertools.count(1)
    before = []

    def loss(model, batch):
        value = squared_error(model, batch)
        if next(calls) == when:
            before.append(model.weight.detach().clone())
            return value * bad
        return value

    history = fit(model, batches, loss, torch.optim.Adam(model.parameters()), steps=20)
    assert history.diverged and history.steps == when and not math.isfinite(history.losses[-1])
    assert torch.equal(model.weight, before[0])


def test_the_budget_in_seconds_is_obeyed_and_evaluation_is_not_counted(monkeypatch):
    model, batches, _ = least_squares()
    clock = [100.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: clock[0])

    def slow(model):
        clock[0] += 7.0
        return {"valid": 1.0}

    def loss(model, batch):
        clock[0] += 0.25
        return squared_error(model, batch)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    history = fit(model, batches, loss, optimizer, seconds=3.0, evaluate=slow, evaluate_every=5)
    assert (history.stopped, history.steps, history.seconds) == ("seconds", 12, 3.0)
    assert [step for step, _ in history.evaluations] == [5, 10, 12]
    assert history.steps_per_second == 4.0


def test_the_first_budget_that_is_used_up_ends_training():
    model, batches, _ = least_squares()
    history = fit(model, batches, squared_error, torch.optim.SGD(model.parameters(), lr=0.01), steps=3, seconds=60.0)
    assert (history.steps, history.stopped) == (3, "steps")


def test_an_iterator_that_ends_ends_training_and_a_list_starts_again():
    model, batches, _ = least_squares()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    once = fit(model, iter(batches * 4), squared_error, optimizer, steps=10)
    assert (once.steps, once.stopped) == (4, "exhausted")
    passes = itertools.count()
    again = fit(model, lambda: [next(passes)] and batches * 4, squared_error, optimizer, steps=10)
    assert again.steps == 10 and next(passes) == 3


def test_metrics_are_logged_with_their_step_and_in_evaluation_mode():
    model, batches, _ = least_squares()
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), model)
    logged = []

    def evaluate(model):
        assert not model.training and not torch.is_grad_enabled()
        return {"valid_loss": torch.tensor(2.0)}

    history = fit(
        model,
        batches,
        squared_error,
        torch.optim.SGD(model.parameters(), lr=0.01),
        steps=7,
        evaluate=evaluate,
        evaluate_every=3,
        log=lambda **entry: logged.append(entry),
        log_every=2,
    )
    assert [entry["step"] for entry in logged if "train_loss" in entry] == [2, 4, 6]
    assert [entry["step"] for entry in logged if "valid_loss" in entry] == [3, 6, 7]
    assert history.curve("valid_loss") == [(3, 2.0), (6, 2.0), (7, 2.0)]
    assert model.training


def test_progress_wraps_the_steps_and_a_callback_can_stop():
    model, batches, _ = least_squares()
    seen = []

    def progress(iterable, total=None, desc=""):
        for item in iterable:
            seen.append((item, total))
            yield item

    history = fit(
        model,
        batches,
        squared_error,
        torch.optim.SGD(model.parameters(), lr=0.01),
        steps=9,
        progress=progress,
        callback=lambda step, loss: step == 4,
    )
    assert seen == [(1, 9), (2, 9), (3, 9), (4, 9)] and history.stopped == "callback"


def test_clipping_bounds_the_step():
    model, batches, _ = least_squares()
    before = model.weight.detach().clone()
    fit(
        model,
        batches,
        lambda m, b: 1e6 * squared_error(m, b),
        torch.optim.SGD(model.parameters(), lr=1.0),
        steps=1,
        clip=0.1,
    )
    torch.testing.assert_close((model.weight - before).norm(), torch.tensor(0.1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules_rise_then_fall(schedule):
    factor = schedule_multiplier(schedule, warmup=0.2, final=0.1)
    assert factor(0.0) == 0.0 and factor(0.1) == pytest.approx(0.5) and factor(0.2) == pytest.approx(1.0)
    end = 1.0 if schedule == "constant" else 0.1
    middle = 1.0 if schedule == "constant" else 0.55
    assert factor(1.0) == pytest.approx(end) and factor(0.6) == pytest.approx(middle)


def test_the_schedule_drives_the_optimizer_and_is_undone():
    model, batches, _ = least_squares()
    optimizer = torch.optim.SGD([{"params": model.parameters(), "lr": 0.4}], lr=0.1)
    rates = []
    fit(
        model,
        batches,
        squared_error,
        optimizer,
        steps=4,
        schedule="linear",
        callback=lambda step, loss: rates.append(optimizer.param_groups[0]["lr"]),
    )
    assert rates == pytest.approx([0.35, 0.25, 0.15, 0.05])
    assert optimizer.param_groups[0]["lr"] == 0.4


def test_a_torch_scheduler_is_stepped_once_a_step():
    model, batches, _ = least_squares()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    fit(
        model,
        batches,
        squared_error,
        optimizer,
        steps=3,
        schedule=torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1),
    )
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give a budget"),
        ({"steps": 0}, "steps 0 must be"),
        ({"steps": True}, "steps True must be"),
        ({"seconds": -1.0}, "seconds -1.0 must be"),
        ({"seconds": math.nan}, "must be positive and finite"),
        ({"steps": 1, "schedule": "cosin"}, "did you mean 'cosine'"),
        ({"steps": 1, "warmup": 1.5}, r"warmup 1.5 is a share"),
        ({"steps": 1, "evaluate_every": 0}, "evaluate_every 0"),
        ({"seconds": 1.0, "progress": iter}, "progress needs a budget in steps"),
        ({"steps": 1, "batches": []}, "no batches"),
        ({"steps": 1, "loss": lambda model, batch: model(batch[0])}, r"got shape \(60, 1\)"),
    ],
)
def test_bad_input_is_refused(options, message):
    model, batches, _ = least_squares()
    options = {"batches": batches, "loss": squared_error} | options
    with pytest.raises(ValueError, match=message):
        fit(model, options.pop("batches"), options.pop("loss"), torch.optim.SGD(model.parameters(), lr=0.1), **options)


class _Newton(torch.optim.Optimizer):
    """One number at a time, by its first and second derivative."""

    needs_graph = True

    def __init__(self, params):
        super().__init__(params, {"lr": 1.0})

    def step(self, closure):
        loss = closure()
        (parameter,) = self.param_groups[0]["params"]
        (first,) = torch.autograd.grad(loss, parameter, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), parameter)
        with torch.no_grad():
            parameter -= first / second
        return loss


def test_an_optimizer_that_needs_the_graph_gets_the_loss_before_backward():
    model = torch.nn.Linear(1, 1, bias=False)
    loss = lambda m, target: (m.weight.sum() - target) ** 2  # noqa: E731
    history = fit(model, [3.0], loss, _Newton(model.parameters()), steps=1)
    assert model.weight.item() == pytest.approx(3.0, abs=1e-6) and history.steps == 1
    assert model.weight.grad is None
    with pytest.raises(ValueError, match="clip"):
        fit(model, [3.0], loss, _Newton(model.parameters()), steps=1, clip=1.0)


def test_a_generator_of_batches_goes_on_where_training_stopped():
    model = torch.nn.Linear(1, 1)
    stream = (torch.tensor([[float(k)]]) for k in range(10))
    seen = []
    loss = lambda m, batch: seen.append(float(batch)) or (m(batch) ** 2).sum()  # noqa: E731
    for _ in range(2):
        history = fit(model, stream, loss, torch.optim.SGD(model.parameters(), 1e-3), steps=3)
        assert history.steps == 3
    assert seen == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("options", [{"schedule": "linear"}, {"schedule": lambda used: 1.0}, {"warmup": 0.1}])
def test_an_optimizer_without_learning_rate_trains_and_has_no_schedule(options):
    class Halving(torch.optim.Optimizer):
        needs_graph = True

        def __init__(self, params):
            super().__init__(params, {})

        def step(self, closure=None):
            loss = closure()
            self.param_groups[0]["params"][0].data.mul_(0.5)
            return loss

    model, batches, _ = least_squares()
    start = model.weight.detach().clone()
    optimizer = Halving(model.parameters())
    with pytest.raises(ValueError, match="Halving has no learning rate"):
        fit(model, batches, squared_error, optimizer, steps=2, **options)
    assert torch.equal(model.weight, start)
    fit(model, batches, squared_error, optimizer, steps=2)
    assert torch.equal(model.weight, start / 4)
