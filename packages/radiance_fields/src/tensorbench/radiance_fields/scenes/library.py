"""The scenes by name, of rising difficulty; z is up, and all fit in [-1.5, 1.5]³.

``spheres``: a checkered and a striped ball over a plate. ``table``: thin legs, hollow cups. ``blocks``: rods and slabs
turned off the axes, the hard case for a low rank. ``vase``: a glossy body of noise with a ring and handles. ``cloud``:
soft density around a ball.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.scenes import solids as s
from tensorbench.radiance_fields.scenes.materials import (
    Material,
    Texture,
    checker,
    in_frame,
    noisy,
    plain,
    stripes,
    value_noise,
)  # fmt: skip
from tensorbench.radiance_fields.scenes.smoke import Blobs
from tensorbench.radiance_fields.scenes.trace import Scene, Solid

WHITE, RED, BLUE = (0.92, 0.9, 0.86), (0.8, 0.2, 0.16), (0.16, 0.3, 0.72)
YELLOW, GREEN, GREY, BROWN = (0.92, 0.74, 0.2), (0.2, 0.56, 0.3), (0.55, 0.55, 0.58), (0.5, 0.32, 0.18)


def scene(name: str) -> Scene:
    """A scene by name. ValueError for an unknown one."""
    if name not in SCENES:
        raise ValueError(unknown("scene", name, SCENES))
    return SCENES[name]()


def spheres() -> Scene:
    """Two balls over a plate."""
    plate = s.placed(s.box((1.15, 1.15, 0.06), rounded=0.02), (0, 0, -0.75))
    return Scene(
        (
            Solid(s.sphere((-0.45, -0.2, -0.12), 0.56), Material(checker(WHITE, RED, 0.28), 0.25, 40)),
            Solid(s.sphere((0.6, 0.4, -0.27), 0.42), Material(stripes(BLUE, YELLOW, 0.14, (0.3, 0.2, 1.0)), 0.15, 20)),
            Solid(plate, Material(noisy(GREY, WHITE, 0.35, seed=1))),
        )
    )


def table() -> Scene:
    """A table with thin legs, two cups and a ball."""
    top = s.placed(s.box((1.0, 0.75, 0.05), rounded=0.02), (0, 0, 0))
    legs = s.union(*[s.placed(s.cylinder(0.05, 0.5), (x, y, -0.5)) for x in (-0.88, 0.88) for y in (-0.63, 0.63)])
    rails = s.union(*[s.capsule((-0.88, y, -0.75), (0.88, y, -0.75), 0.03) for y in (-0.63, 0.63)])
    cup = s.difference(s.cylinder(0.22, 0.24), s.placed(s.cylinder(0.18, 0.24), (0, 0, 0.06)))
    handle = s.placed(s.torus(0.13, 0.035), (0.26, 0, 0.0), s.rotation((1, 0, 0), 90))
    return Scene(
        (
            Solid(top, Material(stripes(BROWN, (0.66, 0.45, 0.27), 0.16, (0, 1, 0)), 0.1)),
            Solid(s.union(legs, rails), Material(plain(BROWN))),
            Solid(s.placed(s.union(cup, handle), (-0.45, 0.1, 0.3)), Material(plain(BLUE), 0.4, 60)),
            Solid(s.placed(cup, (0.35, -0.3, 0.3)), Material(checker(WHITE, RED, 0.12), 0.3, 40)),
            Solid(s.sphere((0.45, 0.35, 0.25), 0.19), Material(noisy(YELLOW, GREEN, 0.15, seed=2), 0.2)),
        )
    )


def blocks() -> Scene:
    """Seven rods and slabs at random angles, each with a texture of its own."""
    textures: tuple[tuple[Texture, float], ...] = (
        (checker(WHITE, BLUE, 0.2), 0.1),
        (stripes(RED, WHITE, 0.16, (1, 0, 0)), 0.1),
        (plain(YELLOW), 0.3),
        (noisy(GREEN, WHITE, 0.2, seed=3), 0.0),
        (stripes(GREY, BLUE, 0.12, (0, 1, 0)), 0.2),
        (plain(RED), 0.2),
        (checker(YELLOW, BROWN, 0.16), 0.0),
    )
    halves = ((0.8, 0.12, 0.12), (0.1, 0.75, 0.14), (0.09, 0.09, 0.85), (0.5, 0.4, 0.06), (0.07, 0.6, 0.3),
              (0.7, 0.07, 0.07), (0.22, 0.22, 0.22))  # fmt: skip
    centres = ((-0.2, -0.5, 0.1), (0.55, 0.1, -0.2), (-0.6, 0.35, 0.1), (0.15, 0.1, -0.6), (0.1, 0.55, 0.4),
               (0.2, -0.15, 0.65), (-0.35, -0.05, -0.25))  # fmt: skip
    rng = np.random.default_rng(7)
    found = []
    for half, centre, (texture, shine) in zip(halves, centres, textures, strict=True):
        turn = s.rotation(rng.standard_normal(3).tolist(), float(rng.uniform(25, 65)))
        shape = s.placed(s.box(half, rounded=0.02), centre, turn)
        found.append(Solid(shape, Material(in_frame(texture, centre, turn), shine)))
    return Scene(tuple(found))


def vase() -> Scene:
    """A hollow body of smooth unions with a bumpy surface, a ring and two handles; glossy."""
    outer = s.smooth_union(s.sphere((0, 0, -0.3), 0.62), s.placed(s.cylinder(0.24, 0.5), (0, 0, 0.4)), 0.3)
    inner = s.union(s.sphere((0, 0, -0.3), 0.5), s.placed(s.cylinder(0.17, 0.7), (0, 0, 0.5)))
    # Noise of height 0.05 in cells of 0.25 has a slope of at most √3 · 1.875 · 0.05 / 0.25.
    body = s.displaced(outer, lambda p: 0.05 * value_noise(p / 0.25, seed=5), slope=0.65)
    ring = s.placed(s.torus(0.27, 0.06), (0, 0, 0.9))
    handle = s.torus(0.24, 0.05)
    upright = s.rotation((1, 0, 0), 90)
    handles = s.union(*[s.placed(handle, (x, 0, 0.35), upright) for x in (-0.42, 0.42)])
    foot = s.placed(s.cylinder(0.45, 0.05), (0, 0, -0.93))
    return Scene(
        (
            Solid(s.difference(body, inner), Material(noisy(BLUE, WHITE, 0.22, seed=4), 0.6, 70)),
            Solid(s.union(ring, s.difference(handles, inner)), Material(plain(YELLOW), 0.6, 50)),
            Solid(foot, Material(stripes(GREY, WHITE, 0.12, (1, 1, 0)), 0.2)),
        )
    )


def cloud() -> Scene:
    """A striped ball on a plate in three glowing blobs of soft density."""
    plate = s.placed(s.box((0.9, 0.9, 0.05), rounded=0.02), (0, 0, -0.8))
    blobs = Blobs(
        centres=np.array([[0.3, -0.35, 0.1], [-0.5, 0.3, 0.35], [0.35, 0.45, -0.2]]),
        deviations=np.array([0.28, 0.22, 0.2]),
        peaks=np.array([3.0, 4.0, 6.0]),
        colours=np.array([[0.9, 0.55, 0.2], [0.3, 0.6, 0.9], [0.45, 0.8, 0.4]]),
    )
    return Scene(
        (
            Solid(s.sphere((-0.1, 0.0, -0.35), 0.4), Material(stripes(RED, WHITE, 0.13, (0.4, 0, 1.0)), 0.2)),
            Solid(plate, Material(noisy(GREY, WHITE, 0.35, seed=6))),
        ),
        blobs=blobs,
    )


SCENES: dict[str, Callable[[], Scene]] = {
    "spheres": spheres, "table": table, "blocks": blocks, "vase": vase, "cloud": cloud,
}  # fmt: skip
