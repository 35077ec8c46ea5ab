"""Exponents, regimes, entrywise rules, networks in abcd-parametrisation."""

import math

import pytest
import torch
from torch import nn

from tensorbench.optimizers import widths
from tensorbench.optimizers.tensor_programs import abcd as ab
from tensorbench.optimizers.tensor_programs import updates
from tensorbench.optimizers.tensor_programs.limits import Arch, Problem, finite_run
from tensorbench.optimizers.tensor_programs.models import (
    AbcdMLP,
    AbcdTransformer,
    abcd_param_groups,
    mup_param_groups,
)

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randn(12, 3, generator=torch.Generator().manual_seed(2))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def squared(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()


def train(model, optimizer, steps=4):
    batch = [value.to(next(model.parameters()).dtype) for value in (X, Y)]
    for _ in range(steps):
        optimizer.zero_grad()
        squared(model, batch).backward()
        optimizer.step()
    return model(batch[0]).detach()


@pytest.mark.parametrize(
    ("abcd", "name", "features"),
    [
        (ab.mup_adam(3), "feature learning", (0, 0, 0)),
        (ab.mup_adam(2), "feature learning", (0, 0)),
        (ab.ntp_adam(4), "operator", (-0.5, -0.5, -0.5, 0)),
        (ab.standard_adam(3, c=1.0), "unstable", (-1, 0, 0.5)),
        (ab.standard_adam(3, c=1.5), "operator", (-1.5, -0.5, 0)),
        (ab.standard_adam(3, c=2.0), "trivial", (-2, -1, -0.5)),
        (ab.standard_adam(3, c=0.0), "unstable", (0, 1, 1.5)),
    ],
)
def test_regimes_of_the_presets(abcd, name, features):
    found = ab.classify(abcd)
    assert (found.name, found.features) == (name, features)
    assert found.stable == (name != "unstable") and found.feature_learning == (name == "feature learning")
    assert bool(found.reasons) == (name in ("unstable", "trivial"))


def test_regimes_of_sgd():
    # Tensor Programs IV: maximal update, tangent kernel, and the framework's own at two learning rates.
    mup = ab.ABCD((-0.5, 0, 0.5), (0.5, 0.5, 0.5), (0, 0, 0), (0, 0, 0))
    ntk = ab.ABCD((0, 0.5, 0.5), (0, 0, 0), (0, 0, 0), (0, 0, 0))
    framework = [ab.ABCD((0, 0, 0), (0, 0.5, 0.5), (c, c, c), (0, 0, 0)) for c in (0, 1)]
    names = [ab.classify(one, "sgd").name for one in (mup, ntk, *framework)]
    assert names == ["feature learning", "operator", "unstable", "operator"]


def test_regimes_and_d_do_not_change_under_the_symmetry():
    for abcd in (ab.mup_adam(), ab.ntp_adam(), ab.standard_adam(c=1.5)):
        moved = abcd.shift([0.3, -0.7, 1.1])
        assert ab.equivalent(abcd, moved) and ab.equivalent(moved, abcd.with_d(0), scale_invariant=True)
        one, other = ab.classify(abcd), ab.classify(moved)
        assert one.name == other.name and all(map(math.isclose, one.r, other.r))
        assert all(math.isclose(u, v, abs_tol=1e-12) for u, v in zip(ab.faithful_d(moved), moved.d, strict=True))
    assert not ab.equivalent(ab.mup_adam(), ab.ntp_adam())
    assert not ab.equivalent(ab.mup_adam(), ab.mup_adam(4))


@pytest.mark.parametrize("rule", [updates.Sign(), updates.Adam(eps=0), updates.Lion(), updates.ClippedSGD(0.1)])
def test_the_symmetry_leaves_runs_as_they_are(rule):
    problem = Problem(X.double(), Y.double(), X[:0].double())
    arch = Arch(6, 2, 3)
    runs = [
        finite_run(arch, problem, rule, abcd, width=32, lr=0.01, steps=10, generator=seeded(), dtype=torch.float64)
        for abcd in (ab.mup_adam(), ab.mup_adam().shift([0.5, -0.25, 0.75]))
    ]
    assert (runs[0][-1] - runs[0][0]).abs().max() > 1e-2
    assert torch.allclose(*runs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "peer"),
    [
        (updates.Identity(), lambda p: torch.optim.SGD(p, lr=0.01)),
        (updates.Adam(), lambda p: torch.optim.Adam(p, lr=0.01)),
        (updates.Adam(0.5, 0.9, 1e-3), lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.5, 0.9), eps=1e-3)),
        (updates.RMSProp(), lambda p: torch.optim.RMSprop(p, lr=0.01)),
        (updates.Adagrad(), lambda p: torch.optim.Adagrad(p, lr=0.01)),
    ],
)
def test_rules_are_those_of_torch(rule, peer):
    models = [AbcdMLP(6, 16, 3, ab.mup_adam(), seeded()).double() for _ in range(2)]
    ours = train(models[0], updates.Entrywise(models[0].parameters(), rule, lr=0.01), 6)
    theirs = train(models[1], peer(models[1].parameters()), 6)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", updates.UPDATES)
def test_rules_know_whether_scale_matters_and_are_0_at_0(name):
    options = {"eps": 0.0} if name in ("adam", "rmsprop", "adagrad") else {}
    rule = updates.update(name, **options)
    moves = {1.0: [], 100.0: []}
    for scale, seen in moves.items():
        memory = ()
        for k in range(3):
            move, memory = rule.apply(scale * torch.randn(50, generator=seeded(k)), memory)
            seen.append(move)
    same = torch.allclose(torch.stack(moves[1.0]), torch.stack(moves[100.0]), atol=1e-5)
    assert same == rule.is_scale_invariant
    if options:
        assert not updates.update(name, eps=0.1).is_scale_invariant
    memory = ()
    for _ in range(2):
        move, memory = rule.apply(torch.zeros(4), memory)
        assert torch.equal(move, torch.zeros(4))


def test_the_optimizer_resumes_from_its_state():
    model, twin = (AbcdMLP(6, 16, 3, ab.mup_adam(), seeded()) for _ in range(2))
    one = updates.Entrywise(abcd_param_groups(model, 0.01, weight_decay=0.1), updates.Adam())
    other = updates.Entrywise(abcd_param_groups(twin, 0.01, weight_decay=0.1), updates.Adam())
    train(model, one)
    twin.load_state_dict(model.state_dict()), other.load_state_dict(one.state_dict())
    assert torch.equal(train(model, one), train(twin, other))


def test_groups_make_torchs_adam_the_scaled_one_and_keep_decay_free_of_the_width():
    for width in (16, 64):
        models = [AbcdMLP(6, width, 3, ab.ntp_adam(), seeded(), base=16) for _ in range(2)]
        groups = [abcd_param_groups(m, 0.01, weight_decay=0.2, eps=1e-3) for m in models]
        assert all(math.isclose(g["lr"] * g["weight_decay"], 0.002) for g in groups[0])
        ours = train(models[0], updates.Entrywise(groups[0], updates.Adam(eps=1e-3)))
        assert torch.allclose(ours, train(models[1], torch.optim.AdamW(groups[1])), atol=1e-6)


def test_at_the_base_width_everything_is_as_usual():
    for make in (ab.mup_adam, ab.ntp_adam, ab.standard_adam):
        model = AbcdMLP(6, 32, 3, make(), seeded(), base=32)
        assert all(g["lr"] == 0.01 and g["gradient_scale"] == 1 for g in abcd_param_groups(model, 0.01))
        plain = AbcdMLP(6, 32, 3, ab.standard_adam(), seeded(), base=32)
        adam = torch.optim.Adam(plain.parameters(), lr=0.01)
        assert torch.equal(train(model, torch.optim.Adam(abcd_param_groups(model, 0.01))), train(plain, adam))


@pytest.mark.parametrize("make", [ab.mup_adam, ab.ntp_adam])
def test_changes_grow_as_predicted(make):
    found = widths.fit_exponents(exponents(make(), updates.Sign()))
    expected = dict(zip(["layers.0", "layers.1", "layers.2"], ab.classify(make()).features, strict=True))
    assert all(abs(row.exponent - expected[row.layer]) < 0.1 for row in found[found.step > 0].itertuples())


def exponents(abcd, rule):
    return widths.coordinate_check(
        lambda width, generator: AbcdMLP(6, width, 3, abcd, generator, base=64),
        [64, 128, 256, 512],
        widths.steps_of(lambda m: updates.Entrywise(abcd_param_groups(m, 0.002), rule), squared, (X, Y)),
        widths.layer_outputs(X),
        steps=2,
        seeds=3,
    )


def test_an_epsilon_that_does_not_scale_breaks_the_exponents():
    # Gradients fall as 1/n; beside a fixed epsilon, so do the updates.
    kept = widths.fit_exponents(exponents(ab.mup_adam(), updates.Adam(eps=0.01)))
    broken = widths.fit_exponents(exponents(ab.mup_adam().with_d(0), updates.Adam(eps=0.01)))
    after = kept.step == 2
    assert (kept[after].exponent.abs() < 0.1).all()
    assert (broken[after].exponent < -0.3).any()


def test_the_closed_form_of_the_first_sign_step():
    x, lr = torch.tensor([[1.0, -2.0, 0.5, 0.3]]), 0.01
    problem = Problem(x, torch.tensor([[-9.0]]), x[:0])
    arch = Arch(4, 1, 1, "linear", (1.0, 1.0))
    expected = -lr * math.sqrt(2 / math.pi) * float(x.abs().sum() + x.norm())
    for make in (ab.mup_adam, ab.ntp_adam):
        runs = [
            finite_run(arch, problem, updates.Sign(), make(2), width=8192, lr=lr, steps=1, generator=seeded(k))
            for k in range(5)
        ]
        change = torch.stack([f[1] - f[0] for f in runs]).mean()
        assert abs(float(change) / expected - 1) < 0.02


def test_a_transformer_learns_and_starts_alike_at_every_width():
    tokens = torch.randint(11, (4, 9), generator=seeded())
    sizes = []
    for width in (32, 128):
        model = AbcdTransformer(11, width, ab.mup_adam(), seeded(), heads=2, context=16, base=32)
        optimizer = torch.optim.Adam(abcd_param_groups(model, 0.01))
        losses = []
        for _ in range(8):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0] - 0.5
        sizes.append(losses[-1])
    with torch.no_grad():
        base = AbcdTransformer(11, 32, ab.mup_adam(), seeded(), heads=2, base=32)
        usual = AbcdTransformer(11, 32, ab.standard_adam(), seeded(), heads=2, base=32, attention="1/sqrt(d)")
        assert torch.equal(base(tokens), usual(tokens))
        later = tokens.clone()
        later[:, 5:] = 0
        assert torch.allclose(base(tokens)[:, :5], base(later)[:, :5], atol=1e-6)


class Plain(nn.Module):
    """With every kind of parameter: a table, biases, a norm, a matrix and a readout."""

    def __init__(self, width, readout=nn.Linear):
        super().__init__()
        self.table = nn.Embedding(7, width)
        self.hidden = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(2 * width)
        self.head = readout(2 * width, 5)

    def forward(self, tokens):
        return self.head(self.norm(torch.relu(self.hidden(self.table(tokens)))))


def test_roles_and_groups_from_shapes():
    found = ab.from_mup(Plain(24), Plain(8))
    assert {name: one.role for name, one in found.items()} == {
        "table.weight": "input",
        "hidden.weight": "hidden",
        "hidden.bias": "input",
        "norm.weight": "input",
        "norm.bias": "input",
        "head.weight": "output",
        "head.bias": "fixed",
    }
    assert found["hidden.weight"].width_mult == 3 and found["head.weight"].a == 1
    rates = {g["name"]: g["lr"] for g in mup_param_groups(Plain(24), 0.3, Plain(8))}
    assert math.isclose(rates["hidden.weight"], 0.1) and rates["head.weight"] == rates["table.weight"] == 0.3


def test_the_mup_library_agrees():
    mup = pytest.importorskip("mup")
    torch.manual_seed(0)
    model = Plain(24, mup.MuReadout)
    mup.set_base_shapes(model, Plain(8, mup.MuReadout), delta=Plain(16, mup.MuReadout))
    assert model.head.width_mult() == ab.from_mup(model)["head.weight"].width_mult == 3
    theirs = {p: g["lr"] for g in mup.MuAdam(model.parameters(), lr=0.3).param_groups for p in g["params"]}
    ours = {p: g["lr"] for g in mup_param_groups(model, 0.3) for p in g["params"]}
    assert all(math.isclose(theirs[p], ours[p]) for p in model.parameters())
    with pytest.raises(ValueError, match="no base shape"):
        ab.from_mup(Plain(24))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ab.ABCD((0, 0), (0, 0), (0,), (0, 0)), "one exponent a layer"),
        (lambda: ab.ABCD((0,), (0,), (0,), (0,)), "input and an output"),
        (lambda: ab.ABCD((0, math.nan), (0, 0), (0, 0), (0, 0)), "finite"),
        (lambda: ab.mup_adam(1), "at least 2"),
        (lambda: ab.preset("mup"), "did you mean 'mup_adam'"),
        (lambda: ab.classify(ab.mup_adam(), "adam"), "kind"),
        (lambda: ab.mup_adam(2).of_role("hidden"), "no hidden"),
        (lambda: ab.mup_adam().shift([1, 2]), "shifts"),
        (lambda: ab.from_mup(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3))), "no parameter"),
        (lambda: ab.from_mup(nn.Conv1d(4, 6, 5), nn.Conv1d(2, 3, 3)), "at most 2"),
        (lambda: updates.update("adan"), "did you mean 'adam'"),
        (lambda: updates.Adam(beta2=1.0), "beta2"),
        (lambda: updates.ClippedSGD(0), "limit"),
        (lambda: updates.Entrywise([torch.nn.Parameter(torch.ones(1))], updates.Sign(), lr=-1), "lr"),
        (lambda: AbcdMLP(3, 0, 1, ab.mup_adam(), seeded()), "width 0"),
        (lambda: AbcdMLP(3, 4, 1, ab.mup_adam(), seeded(), activation="tan"), "tanh"),
        (lambda: AbcdMLP(3, 4, 1, ab.mup_adam(), seeded(), stds=[1.0]), "stds"),
        (lambda: AbcdTransformer(5, 30, ab.mup_adam(), seeded()), "heads"),
        (lambda: AbcdTransformer(5, 32, ab.mup_adam(), seeded(), attention="d"), "attention"),
        (lambda: abcd_param_groups(nn.Linear(2, 2), 0.1), "no scaled weight"),
    ],
)
def test_bad_input_is_told(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("other", [updates.Lion(), updates.RMSProp(), updates.Sign()])
def test_the_state_of_another_rule_is_refused(other):
    def used(rule, lr):
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = updates.Entrywise([p], rule, lr)
        for _ in range(2):
            p.grad = torch.tensor([1.0, -2.0, 3.0])
            optimizer.step()
        return optimizer

    optimizer = used(updates.Adam(), 0.1)
    with pytest.raises(ValueError, match=f"of the rule {type(other).__name__}"):
        optimizer.load_state_dict(used(other, 0.2).state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.1
    optimizer.load_state_dict(used(updates.Adam(beta1=0.5), 0.2).state_dict())
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.2
