"""Other weights, the same function: invariance, composition, normal form, flatness, and what breaks it."""

import pytest
import torch
from torch.nn import functional as F

from tensorbench.pde_operators.pde_resnet import PDEResNet, fuse
from tensorbench.pde_operators.symmetry import (
    apply_symmetry,
    canonicalize,
    flat_directions,
    group,
    interpolate,
    random_direction,
    random_symmetry,
    symmetry_report,
    weight_distance,
)


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shaken(**options) -> PDEResNet:
    """A network in float64 whose batch norms are anything but the start's."""
    model, noise = PDEResNet(**({"layers": (2, 2), "width": 4} | options)).double(), generator(100)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                for values in (part.weight, part.bias, part.running_mean):
                    values.copy_(torch.randn(values.shape, generator=noise, dtype=values.dtype))
                part.running_var.uniform_(0.5, 2, generator=noise)
    return model.eval()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


KINDS = ["orthogonal", "gl", "diagonal"]
NETWORKS = {
    "hard": {},
    "soft": {"radius": "soft"},
    "free": {"radius": None},
    "inside": {"radius": None, "activation": "inside"},
    "mixed": {"radius": None, "coord_mix": True},
    "circular": {"padding": "circular"},
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_stay(network, stage, kind):
    model = shaken(**NETWORKS[network])
    if kind != "orthogonal" and group(model, stage) == "orthogonal":
        pytest.skip("a ball allows orthogonal matrices only")
    Q = random_symmetry(kind, model.widths[stage], generator(), 100.0)
    report = symmetry_report(model, images(9, 1, 8, 8), Q, stage)
    assert report.relative < 1e-10
    assert report.agreement == 1
    assert report.distance > 0.1


@pytest.mark.parametrize("activation", ["stage", "relu"])
def test_relu_on_the_features_breaks_it(activation):
    model = shaken(activation=activation)
    Q = random_symmetry("orthogonal", 8, generator())
    assert symmetry_report(model, images(9, 1, 8, 8), Q, 1, check=False).relative > 0.1
    with pytest.raises(ValueError, match="applies ReLU"):
        apply_symmetry(model, 1, Q)


def test_without_orthogonality_the_ball_breaks_it():
    model = shaken()
    Q = random_symmetry("gl", 8, generator(), 10.0)
    assert symmetry_report(model, images(9, 1, 8, 8), Q, 1, check=False).relative > 1e-3


def test_features_are_multiplied_by_Q():
    model, x = shaken(), images(5, 1, 8, 8)
    Q = random_symmetry("orthogonal", 8, generator())
    before, after = fuse(model).features(x)[1], apply_symmetry(model, 1, Q).features(x)[1]
    torch.testing.assert_close(after, torch.einsum("ij,njhw->nihw", Q, before))


def test_moves_compose_and_invert():
    model = shaken(radius=None)
    A, B = (random_symmetry("gl", 8, generator(seed), 20.0) for seed in (1, 2))
    twice = apply_symmetry(apply_symmetry(model, 1, A), 1, B)
    assert weight_distance(twice, apply_symmetry(model, 1, B @ A)) < 1e-12
    back = apply_symmetry(apply_symmetry(model, 1, A), 1, A, inverse=True)
    for one, other in zip(back.parameters(), fuse(model).parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_moves_leave_the_model_alone():
    model = shaken()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    apply_symmetry(model, 0, random_symmetry("gl", 4, generator()))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_path_is_the_same_function():
    model, x = shaken(), images(5, 1, 8, 8)
    A = random_direction("orthogonal", 8, generator())
    torch.testing.assert_close(A, -A.mT)
    y = model(x)
    for t in (0.0, 0.5, 1.0, 2.0):
        torch.testing.assert_close(interpolate(model, 1, A, t)(x), y)
    assert weight_distance(interpolate(model, 1, A, 0.0), fuse(model)) < 1e-12
    assert weight_distance(interpolate(model, 1, A, 1.0), fuse(model)) > 0.1


@pytest.mark.parametrize("kind", ["orthogonal", "gl", "diagonal"])
def test_one_channel_can_only_change_its_sign(kind):
    assert random_symmetry(kind, 1, generator(), condition=100.0).abs().item() == pytest.approx(1)


def test_condition_of_random_matrices():
    for kind in ("gl", "diagonal"):
        Q = random_symmetry(kind, 12, generator(), 300.0)
        assert float(torch.linalg.cond(Q)) == pytest.approx(300, rel=1e-8)
        assert float(torch.linalg.det(Q).abs()) == pytest.approx(1, rel=1e-6)
    Q = random_symmetry("orthogonal", 12, generator())
    torch.testing.assert_close(Q @ Q.mT, torch.eye(12).double())


@pytest.mark.parametrize("radius", [None, "hard"])
@pytest.mark.parametrize("stage", [0, 1])
def test_normal_form_does_not_depend_on_the_move(radius, stage):
    model, x = shaken(radius=radius), images(60, 1, 8, 8)
    kind = group(model, stage)
    moved = apply_symmetry(model, stage, random_symmetry(kind, model.widths[stage], generator(3), 5.0))
    assert weight_distance(fuse(model), moved) > 0.1
    (one, Q), (other, _) = canonicalize(model, stage, x), canonicalize(moved, stage, x)
    assert weight_distance(one, other) < 1e-6
    torch.testing.assert_close(one(x), model(x))
    z = one.features(x)[stage].movedim(1, 0).flatten(1)
    M = z @ z.mT / z.shape[1]
    if kind == "gl":
        torch.testing.assert_close(M, torch.eye(len(M)).double())
    else:
        torch.testing.assert_close(M, torch.diag(M.diagonal().sort(descending=True).values))
        torch.testing.assert_close(Q @ Q.mT, torch.eye(len(Q)).double())
    assert (z.mean(1) > 0).all()


def critical_point() -> tuple[PDEResNet, object]:
    """A tiny network that fits three images, by Gauss-Newton steps of least norm, to a gradient below 1e-9."""
    model = fuse(shaken(layers=(1, 1), width=2, radius=None, num_classes=3))
    x, y = images(3, 1, 4, 4), images(3, 3, seed=1)
    weights = list(model.parameters())
    for _ in range(25):
        residual = (model(x) - y).flatten()
        rows = [torch.autograd.grad(value, weights, retain_graph=True) for value in residual]
        J = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
        change = torch.linalg.lstsq(J, residual.detach()[:, None], driver="gelsd").solution[:, 0]
        with torch.no_grad():
            for weight, part in zip(weights, change.split([w.numel() for w in weights]), strict=True):
                weight.sub_(part.view_as(weight))
    return model, lambda network: F.mse_loss(network(x), y)


@pytest.mark.parametrize("kind", ["gl", "orthogonal"])
def test_loss_is_flat_along_the_algebra(kind):
    x, labels = images(20, 1, 8, 8), torch.arange(20) % 10
    model = shaken(radius=None if kind == "gl" else "hard")
    found = flat_directions(model, 1, lambda m: F.cross_entropy(m(x), labels), generator(), kind=kind)
    assert found.slope < 1e-10  # anywhere
    assert found.identity < 1e-10
    assert found.random_slope > 1e-4
    assert found.random_hessian > 1e-4


def test_hessian_vanishes_along_the_algebra_at_a_critical_point():
    model, loss = critical_point()
    gradient = torch.autograd.grad(loss(model), list(model.parameters()))
    assert max(float(part.abs().max()) for part in gradient) < 1e-9
    found = flat_directions(model, 1, loss, generator(), kind="gl")
    assert found.hessian < 1e-6
    assert found.random_hessian > 1e-3


@pytest.mark.parametrize(
    ("stage", "Q", "text"),
    [
        (0, torch.eye(5), "needs (4, 4)"),
        (0, torch.ones(4, 3), "needs (4, 4)"),
        (0, torch.zeros(4, 4), "singular"),
        (0, torch.diag(torch.tensor([1.0, 1, 1, 1e-9])), "singular"),
        (1, 2 * torch.eye(8), "orthogonal"),
        (2, torch.eye(8), "stages 0 to 1"),
        (-1, torch.eye(8), "stages 0 to 1"),
    ],
)
def test_bad_input(stage, Q, text):
    with pytest.raises(ValueError) as raised:
        apply_symmetry(shaken(), stage, Q)
    assert text in str(raised.value)


def test_more_bad_input():
    with pytest.raises(RuntimeError, match="eval"):
        apply_symmetry(PDEResNet(), 0, torch.eye(16))
    with pytest.raises(ValueError, match="max pool"):
        apply_symmetry(PDEResNet(stem="imagenet").eval(), 0, torch.eye(16))
    with pytest.raises(ValueError, match="unknown kind"):
        random_symmetry("unitary", 3, generator())
    with pytest.raises(ValueError, match="no rotation"):
        random_direction("orthogonal", 1, generator())
    with pytest.raises(ValueError, match="at least 1"):
        random_symmetry("gl", 3, generator(), 0.5)
    with pytest.raises(ValueError, match="use more images"):
        canonicalize(PDEResNet(width=16).eval(), 0, torch.zeros(1, 1, 4, 4))
