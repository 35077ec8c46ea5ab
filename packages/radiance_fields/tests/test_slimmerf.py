"""Slimmable fields: masks, cuts, rank incrementation, orders of components."""

import math

import pytest
import torch

from tensorbench.radiance_fields.slimmerf import (
    AllAtOnce,
    FixedRanks,
    SlimVM,
    TRaIn,
    load_slim,
    save_slim,
    slim,
    vm_weights,
)
from tensorbench.radiance_fields.slimmerf.evaluation import Point, curve_area, pareto
from tensorbench.radiance_fields.slimmerf.ranks import even_ranks
from tensorbench.radiance_fields.slimmerf.truncation import (
    cut_randomly,
    quantise,
    quantised_bytes,
    sort_components,
    svd_components,
)
from tensorbench.radiance_fields.slimmerf.volumes import fit_volume, volume_psnr
from tensorbench.radiance_fields.tensorf.vm import TensorVM

BOX = torch.tensor([[-1.0, -0.5, -2.0], [1.0, 1.5, 0.5]])
SIZES = (5, 7, 4)
WIDE = {"width": 16, "features": 6, "density_shift": 0.0}
RANK = 4


def make(scale: float = 0.5, seed: int = 0, **options) -> SlimVM:
    generator = torch.Generator().manual_seed(seed)
    return SlimVM(BOX, SIZES, RANK, scale=scale, generator=generator, **{**WIDE, **options})


def ask(field, n: int = 200):
    generator = torch.Generator().manual_seed(1)
    points = BOX[0] + (BOX[1] - BOX[0]) * torch.rand(n, 3, generator=generator)
    along = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
    with torch.no_grad():
        return field(points, along)


def close(one, two, **tolerance) -> bool:
    return all(torch.allclose(a, b, **tolerance) for a, b in zip(one, two, strict=True))


# --- masks and cuts ------------------------------------------------------------------------------------------------


def test_full_rank_is_the_unmasked_field():
    masked, plain = make(), TensorVM(BOX, SIZES, RANK, 3 * RANK, **WIDE)
    weights = {name: value for name, value in masked.state_dict().items() if name != "_extra_state"}
    plain.load_state_dict(weights)
    assert close(ask(masked), ask(plain), atol=1e-6)
    assert vm_weights(SIZES, RANK, 3 * RANK, 6, 16) == sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_cut_field_is_the_masked_one(rank):
    field = make()
    field.set_rank(rank)
    small = slim(field, rank)
    assert small.ranks("sigma") == (rank,) * 3 and small.ranks("color") == (3 * rank,) * 3
    assert close(ask(field), ask(small), rtol=1e-4, atol=1e-6)


def test_cut_is_by_prefix_and_cuts_compose():
    field = make()
    for kind, scale in (("sigma", 1), ("color", 3)):
        for (plane, line), (small_plane, small_line) in zip(
            field.factors(kind), slim(field, 2).factors(kind), strict=True
        ):
            assert torch.equal(small_plane, plane[:, : 2 * scale]) and torch.equal(small_line, line[:, : 2 * scale])
    assert close(ask(slim(slim(field, 3), 2)), ask(slim(field, 2)))


def test_bytes_fall_as_the_closed_form_says(tmp_path):
    field = SlimVM(BOX, SIZES, RANK, width=16)
    for rank in (1, 2, 4):
        written = save_slim(field, tmp_path / "field.pt", rank)
        assert written == 2 * vm_weights(SIZES, rank, 3 * rank, width=16)
        assert (tmp_path / "field.pt").stat().st_size < written + 12_000  # the container's own
    assert vm_weights((300,) * 3, 16, 48) == 17_377_715


def test_half_floats_keep_what_is_seen(tmp_path):
    field = make()
    save_slim(field, tmp_path / "field.pt", 3)
    back = load_slim(tmp_path / "field.pt", density_shift=0.0)
    (_, rgb), (_, rgb_back) = ask(slim(field, 3)), ask(back)
    noise = (rgb - rgb_back).square().mean()
    assert -10 * math.log10(noise) > 60  # at 35 dB of error this moves the PSNR by less than 0.02 dB


def test_gradients_of_masked_components_are_scaled():
    """The mask stands once in the product: planes and lines beyond the rank get ε times the unmasked gradient."""
    coords = 2 * torch.rand(100, 3, generator=torch.Generator().manual_seed(2)) - 1
    grads = []
    for rank in (RANK, 1):
        field = make(epsilon=1e-3)
        field.set_rank(rank)
        field.density_features(coords).sum().backward()
        grads.append([p.grad for p in (*field.planes["sigma"], *field.lines["sigma"])])
    for full, masked in zip(*grads, strict=True):
        assert torch.allclose(masked[:, :1], full[:, :1], rtol=1e-5)
        assert torch.allclose(masked[:, 1:], 1e-3 * full[:, 1:], rtol=1e-4, atol=1e-9)


def test_frozen_components_do_not_learn():
    field = make()
    field.set_rank(3, frozen=2)
    field.density(torch.zeros(1, 3)).sum().backward()
    for grad in (p.grad for p in (*field.planes["sigma"], *field.lines["sigma"])):
        assert grad[:, :2].abs().max() == 0 and grad[:, 2].abs().max() > 0


def test_state_dict_keeps_the_rank():
    one, two = make(), make(seed=1)
    one.set_rank(2)
    two.load_state_dict(one.state_dict())
    assert two.rank == 2 and close(ask(one), ask(two))
    with pytest.raises(ValueError, match="rank 4, this field 5"):
        SlimVM(BOX, SIZES, 5, **WIDE).load_state_dict(one.state_dict(), strict=False)


@pytest.mark.parametrize("rank", [0, 5, 1.5, True])
def test_ranks_out_of_range_are_refused(rank):
    with pytest.raises(ValueError, match="rank"):
        slim(make(), rank)
    with pytest.raises(ValueError, match="rank"):
        make().set_rank(rank)


def test_colour_ranks_must_be_three_times_the_densitys():
    with pytest.raises(ValueError, match="3 x rank"):
        SlimVM(BOX, SIZES, 4, 11)
    with pytest.raises(ValueError, match="3 times"):
        slim(TensorVM(BOX, SIZES, 4, 11, **WIDE), 2)


# --- rank incrementation -------------------------------------------------------------------------------------------


def follow(rule, losses) -> list[int]:
    """The rank after each step."""
    return [rule.rank for loss in losses if rule.update(loss) or True]


def test_increments_on_a_given_trace():
    """|ΔL| / L above 0.4: 2 → 1 (1.0) fires, 1 → 0.8 (0.25) does not, 0.8 → 0.5 (0.6) does, 0.5 → 1 (0.5) does."""
    assert follow(TRaIn(8, 0.4), [2.0, 1.0, 0.8, 0.5, 1.0, 1.1]) == [1, 2, 2, 3, 4, 4]


def test_first_step_is_compared_with_nothing():
    assert follow(TRaIn(8, 1e-6), [5.0]) == [1]
    assert follow(TRaIn(8, 1e-6), [5.0, 4.0]) == [1, 2]


def test_cooldown_counts_steps_since_the_last_increment():
    halving = [2.0**-k for k in range(9)]
    assert follow(TRaIn(8, 0.4, eta=0), halving) == [1, 2, 3, 4, 5, 6, 7, 8, 8]
    assert follow(TRaIn(8, 0.4, eta=2), halving) == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_rank_never_exceeds_the_maximum():
    rule = TRaIn(5, 0.1, rank=2, increment=2)
    assert follow(rule, [2.0**-k for k in range(6)])[-1] == 5 and rule.increments == [(1, 4), (2, 5)]


def test_smoothing_ignores_the_noise_of_batches():
    noisy = [1.0, 2.0] * 20
    assert follow(TRaIn(8, 0.4), noisy)[-1] == 8
    assert follow(TRaIn(8, 0.4, smoothing=0.95), noisy)[-1] == 1


def test_resuming_goes_on_as_if_nothing_had_happened():
    losses = [2.0, 1.0, 0.9, 0.5, 0.2, 0.19, 0.1]
    whole, first, second = TRaIn(8, 0.4, eta=1), TRaIn(8, 0.4, eta=1), TRaIn(8, 0.4, eta=1)
    expected = follow(whole, losses)
    head = follow(first, losses[:3])
    second.load_state_dict(first.state_dict())
    assert head + follow(second, losses[3:]) == expected and second.increments == whole.increments
    with pytest.raises(ValueError, match="rank 8"):
        TRaIn(4).load_state_dict(first.state_dict())


def test_schedules_do_not_look_at_the_loss():
    assert follow(FixedRanks(3, [1, 3, 5]), [1.0] * 6) == [1, 2, 2, 3, 3, 3]
    assert follow(AllAtOnce(4, 2), [1.0] * 4) == [1, 1, 4, 4]
    assert follow(AllAtOnce(4), [1.0] * 2) == [4, 4]
    ranks = follow(even_ranks(5, 8), [1.0] * 10)
    assert ranks[0] == 1 and ranks[-1] == 5 and ranks == sorted(ranks)


@pytest.mark.parametrize(
    "options",
    [{"upsilon": 0.0}, {"upsilon": -1.0}, {"eta": -1}, {"eta": 0.5}, {"rank": 9}, {"rank": 0}, {"smoothing": 1}],
)
def test_bad_rules_are_refused(options):
    with pytest.raises(ValueError, match=r"upsilon|eta|rank|smoothing"):
        TRaIn(8, **options)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 0.0])
def test_losses_without_meaning_stop(loss):
    rule = TRaIn(8)
    rule.update(1.0)
    with pytest.raises(ValueError, match="diverged"):
        rule.update(loss)


# --- orders of components ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [sort_components, svd_components])
def test_another_order_is_the_same_field(order):
    field = make()
    assert close(ask(order(field)), ask(field), rtol=1e-3, atol=1e-4)


def matrices(field) -> list[torch.Tensor]:
    """For each axis, plane vertices × line vertices."""
    return [plane[0].flatten(1).T @ line[0, :, :, 0] for plane, line in field.factors("sigma")]


def test_singular_components_are_the_best_cut():
    """Cut at r, the error is that of Eckart and Young, and no other order of the components does better."""
    field = make()
    singular = svd_components(field)
    for rank in (1, 2, 3):
        cuts = [matrices(slim(order, rank)) for order in (singular, field, sort_components(field))]
        for axis, whole in enumerate(matrices(field)):
            errors = [(whole - cut[axis]).norm().item() for cut in cuts]
            least = torch.linalg.svdvals(whole)[rank:].norm().item()
            assert errors[0] == pytest.approx(least, rel=1e-3, abs=1e-4)
            assert errors[0] <= min(errors[1:]) + 1e-4


def test_sorted_components_fall_in_energy():
    from tensorbench.radiance_fields.slimmerf.truncation import energies

    for kind in ("sigma", "color"):
        for energy in energies(sort_components(make()), kind):
            assert bool((energy.diff() <= 1e-6).all())


def test_random_cuts_are_components_of_the_field():
    field = make()
    small = cut_randomly(field, 2, torch.Generator().manual_seed(0))
    for (plane, _), (kept, _) in zip(field.factors("sigma"), small.factors("sigma"), strict=True):
        matches = (plane[0, :, None] == kept[0, None]).flatten(2).all(-1)
        assert matches.sum() == 2 and matches.any(1).sum() == 2


def test_rounding_is_bounded_by_half_a_step():
    field = make()
    for bits in (2, 8):
        for grid, rounded in zip(field.grids(), quantise(field, bits).grids(), strict=True):
            step = (grid.max() - grid.min()) / (2**bits - 1)
            assert (grid - rounded).abs().max().item() <= 0.5001 * step.item()
            assert len(rounded.unique()) <= 2**bits
    assert quantised_bytes(field, 4) < quantised_bytes(field, 8) < 4 * sum(p.numel() for p in field.parameters())
    with pytest.raises(ValueError, match="bits"):
        quantise(field, 0)


# --- curves and volumes --------------------------------------------------------------------------------------------


def test_area_is_the_mean_over_ranks():
    assert curve_area([1, 2, 4], [10.0, 20.0, 20.0]) == pytest.approx((15 + 2 * 20) / 3)
    with pytest.raises(ValueError, match="ascend"):
        curve_area([2, 1], [1.0, 1.0])


def test_pareto_front_drops_what_is_beaten():
    points = [Point(1, 20.0, 0.0, 100), Point(2, 19.0, 0.0, 200), Point(3, 25.0, 0.0, 300), Point(4, 24.0, 0.0, 300)]
    assert [p.rank for p in pareto(points)] == [1, 3]


def test_a_separable_volume_needs_one_rank():
    axis = torch.linspace(-1, 1, 10)
    target = torch.exp(-(axis[:, None, None] ** 2) - 2 * axis[None, :, None] ** 2 - 3 * axis[None, None] ** 2)
    field, losses = fit_volume(
        target, AllAtOnce(2, 10**6), generator=torch.Generator().manual_seed(0), steps=400, loss="exact"
    )
    one, two = volume_psnr(field, target, [1, 2])
    assert field.rank == 1 and one > 40 and losses[-1] < 1e-4
    assert two < one  # the second component was never unlocked: what it holds is where it began
