"""Meshes and films of fields whose shape is known."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from tensorbench.radiance_fields.cameras import Camera, orbit
from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.meshing import density_grid, export_mesh, extract_mesh, half_opaque
from tensorbench.radiance_fields.paths import render_path, save_film
from tensorbench.radiance_fields.scenes import render, scene
from tensorbench.radiance_fields.views import SceneData

BOX = torch.tensor([[-1.0, -1.2, -1.0], [1.0, 1.2, 1.4]])


class Ball(Field):
    """Density 100 · (radius - distance to the centre), red on the upper half and blue on the lower."""

    def __init__(self, radius: float = 0.6, centre: tuple[float, float, float] = (0.2, -0.3, 0.1)) -> None:
        super().__init__(BOX)
        self.radius, self.centre = radius, torch.tensor(centre)

    def density(self, points):
        return 100 * (self.radius - (points - self.centre).norm(dim=-1)).clamp(min=0)

    def color(self, points, directions):
        up = (points[:, 2:] > self.centre[2]).float()
        return torch.cat([up, torch.zeros_like(up), 1 - up], dim=-1)


def test_the_mesh_of_a_ball_is_a_sphere():
    import trimesh

    mesh = extract_mesh(Ball(), resolution=40, level=10.0)
    distances = np.linalg.norm(mesh.vertices - np.array([0.2, -0.3, 0.1]), axis=1)
    assert np.abs(distances - 0.5).max() < 0.02
    whole = trimesh.Trimesh(mesh.vertices, mesh.faces)
    assert whole.is_watertight and whole.euler_number == 2
    assert whole.volume == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.02)  # positive: faces look outwards
    assert mesh.colours is not None
    above = mesh.vertices[:, 2] > 0.15
    assert np.allclose(mesh.colours[above], [1, 0, 0]) and np.allclose(
        mesh.colours[mesh.vertices[:, 2] < 0.05], [0, 0, 1]
    )


def test_a_field_that_is_cut_by_its_box_still_gives_a_closed_mesh():
    import trimesh

    mesh = extract_mesh(Ball(radius=0.9, centre=(0.8, 0.0, 0.0)), resolution=32, level=5.0, colours=False)
    assert trimesh.Trimesh(mesh.vertices, mesh.faces).is_watertight
    assert mesh.vertices[:, 0].max() <= 1.0 + 2 / 31 + 1e-6 and mesh.colours is None


@pytest.mark.parametrize("suffix", ["ply", "obj", "glb", "stl", "off"])
def test_files_are_read_back_by_others(tmp_path, suffix):
    import trimesh

    mesh = export_mesh(Ball(), tmp_path / "sub" / f"ball.{suffix}", resolution=16)
    read = trimesh.load(tmp_path / "sub" / f"ball.{suffix}", force="mesh")
    assert len(read.faces) == len(mesh.faces)
    assert np.allclose(read.bounds, [mesh.vertices.min(0), mesh.vertices.max(0)], atol=1e-5)


def test_density_grid_has_its_axes_in_order_and_its_ends_on_the_box():
    grid = density_grid(lambda p: p[:, 0] + 10 * p[:, 1] + 100 * p[:, 2] + 500, BOX, 5)
    assert float(grid[0, 0, 0]) == pytest.approx(500 - 1 - 12 - 100) and float(grid[-1, -1, -1]) == pytest.approx(653)
    assert float(grid[1, 0, 0] - grid[0, 0, 0]) == pytest.approx(0.5, abs=1e-4)
    cell = 2.4 / 127
    assert np.exp(-half_opaque(BOX, 128) * cell * 25.0) == pytest.approx(0.5)


def test_nothing_to_mesh_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"never exceeds level 1e\+04"):
        extract_mesh(Ball(), resolution=16, level=1e4)
    with pytest.raises(ValueError, match="level 0 must be positive"):
        extract_mesh(Ball(), resolution=16, level=0)
    with pytest.raises(ValueError, match="did you mean 'ply'"):
        export_mesh(Ball(), tmp_path / "ball.plyy", resolution=16)
    with pytest.raises(ValueError, match="at least 2"):
        extract_mesh(Ball(), resolution=1)


@pytest.fixture(scope="module")
def data() -> SceneData:
    views = render(scene("spheres"), Camera.from_angle(12, 12), orbit(1).numpy(), supersample=1)
    return SceneData(views, views, views, BOX.numpy().astype(np.float64), 2.0, 6.0)


def test_a_path_shows_the_ball_where_it_is(tmp_path, data):
    poses = orbit(3, elevation=10.0)
    pictures = render_path(Ball(), data, poses, path=tmp_path / "turn.gif", samples=64, fps=10)
    assert pictures.shape == (3, 12, 12, 3) and pictures.min() >= 0 and pictures.max() <= 1
    assert np.allclose(pictures[:, 0, 0], 1.0)  # white around
    assert (pictures[..., 1].min(axis=(1, 2)) < 0.05).all()  # and no green where the ball is
    film = iio.imread(tmp_path / "turn.gif")
    assert film.shape == (3, 12, 12, 3)
    assert np.abs(film / 255 - pictures).mean() < 0.02  # a palette of 256 colours


def test_films_as_pictures_and_bad_input(tmp_path, data):
    save_film(tmp_path / "p.png", np.zeros((2, 4, 4, 3)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p_000.png", "p_001.png"]
    with pytest.raises(ValueError, match="film format"):
        render_path(Ball(), data, orbit(1), path=tmp_path / "film.mp4")
    with pytest.raises(ValueError, match="fps"):
        save_film(tmp_path / "f.gif", np.zeros((1, 4, 4, 3)), fps=0)
    broken = orbit(1)
    broken[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        render_path(Ball(), data, broken)
