"""Both ways to draw a scene show the same thing."""

from __future__ import annotations

import threading
from typing import Any

import mujoco
import numpy as np
import pytest

from aid_robot.envs.tabletop import looks
from aid_robot.envs.tabletop.render import GLKind, Renderer, make_renderer
from aid_robot.errors import SimulationError
from tests.envs.rendering import SCENE, differ, dressed, load, opengl_here

OBJECTS = ("cube", "ball", "can", "banana", "egg", "prism")


@pytest.fixture(scope="module")
def gl() -> GLKind:
    return opengl_here()


@pytest.fixture(params=["gl", "rays"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("gl") if request.param == "gl" else "rays"


def picture(model: Any, data: Any, kind: Any, camera: str = "shoulder", **options: Any) -> Any:
    mujoco.mj_forward(model, data)
    with make_renderer(model, 96, 128, kind, **options) as renderer:
        return renderer.render(data, camera)


def outline(renderer: Renderer, data: Any, name: str, camera: str) -> Any:
    """Where a picture changes with a geom's colour."""
    geom = renderer.model.geom(name)
    kept = geom.rgba.copy()
    pictures = []
    for color in ((1, 0, 0, 1), (0, 1, 1, 1)):
        geom.rgba[:] = color
        pictures.append(renderer.render(data, camera).astype(int))
    geom.rgba[:] = kept
    return np.abs(pictures[0] - pictures[1]).sum(axis=-1) > 120


@pytest.mark.parametrize("camera", ["shoulder", "above"])
def test_both_draw_the_same_outlines(gl: Any, camera: str) -> None:
    model, data = dressed()
    with make_renderer(model, 128, 128, gl) as one, make_renderer(model, 128, 128, "rays") as other:
        for name in OBJECTS:
            first, second = (outline(r, data, name, camera) for r in (one, other))
            assert first.sum() > 50
            assert (first & second).sum() / (first | second).sum() > 0.9, name


@pytest.mark.parametrize("shadows", [True, False])
@pytest.mark.parametrize("camera", ["shoulder", "above"])
def test_both_draw_the_same_tones(gl: Any, camera: str, shadows: bool) -> None:
    model, data = dressed()
    one, other = (picture(model, data, k, camera, shadows=shadows) for k in (gl, "rays"))
    assert one.mean() > 60
    assert differ(one, other) < 2


@pytest.mark.parametrize(
    "geom",
    [
        'type="plane" size=".5 .3 1"',
        'type="plane" size="0 0 1"',
        'type="box" size=".3 .2 .2"',
        'type="sphere" size=".3"',
        'type="ellipsoid" size=".4 .2 .3"',
        'type="cylinder" size=".2 .3"',
        'type="capsule" size=".2 .2"',
    ],
)
@pytest.mark.parametrize("uniform", ["true", "false"])
def test_both_lay_a_texture_alike(gl: Any, geom: str, uniform: str) -> None:
    views = {"a": (1, 0, 0, 0, 0.5, 0.87), "b": (-0.6, 0.8, 0, -0.4, -0.3, 0.87)}
    cameras = ""
    for name, axes in views.items():
        away = 2 * np.cross(axes[:3], axes[3:])
        pos, xyaxes = (" ".join(map(str, numbers)) for numbers in (away, axes))
        cameras += f'<camera name="{name}" pos="{pos}" xyaxes="{xyaxes}" fovy="30"/>'
    model, data = load(f"""
      <mujoco><visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
      <asset><texture name="t" type="2d" builtin="flat" width="32" height="64"/>
      <material name="m" texture="t" texrepeat="1.5 .7" texuniform="{uniform}"/></asset>
      <worldbody>{cameras}<geom {geom} material="m"/></worldbody></mujoco>""")
    # Smooth, and the same upside down nowhere.
    down, across = np.mgrid[0:64, 0:32] * np.array([1 / 64, 1 / 32])[:, None, None] * 2 * np.pi
    waves = np.stack([np.sin(across), np.cos(across) * np.sin(down), np.cos(down)], axis=-1)
    looks.set_texture(model, "t", (127 + 120 * waves).astype(np.uint8))
    mujoco.mj_forward(model, data)
    with make_renderer(model, 96, 128, gl) as one, make_renderer(model, 96, 128, "rays") as other:
        for name in views:
            first, second = (renderer.render(data, name) for renderer in (one, other))
            assert first.std() > 20
            assert differ(first, second) < 3


def test_a_cube_texture_and_the_sky_look_alike_in_both(gl: Any) -> None:
    model, data = load("""
      <mujoco><asset><texture name="t" type="cube" builtin="gradient" mark="edge" width="64"
      height="64" rgb1=".9 .2 .1" rgb2=".1 .3 .9"/><texture name="s" type="skybox"
      builtin="gradient" rgb1=".2 .4 .9" rgb2=".9 .4 .2" width="64" height="64"/>
      <material name="m" texture="t"/></asset><worldbody><light dir="0 .5 -1"/>
      <camera name="c" pos="0 -1 .2" xyaxes="1 0 0 0 .2 1"/>
      <geom type="box" size=".1 .2 .15" euler="20 30 40" material="m"/></worldbody></mujoco>""")
    one, other = (picture(model, data, k, "c") for k in (gl, "rays"))
    assert differ(one, other) < 3


def test_a_camera_with_a_sensor_off_center_sees_alike_in_both(gl: Any) -> None:
    camera = 'resolution="96 64" sensorsize=".0096 .0064" focal=".01 .01" principal=".001 -.0005"'
    model, data = load(SCENE.replace('fovy="55"', camera))
    looks.set_light(model, "sun", looks.DEFAULT_LIGHT)
    one, other = (picture(model, data, k) for k in (gl, "rays"))
    assert differ(one, other) < 2


def test_pictures_are_upright_rgb_of_the_size_asked_for(kind: Any) -> None:
    model, data = dressed()
    with make_renderer(model, 60, 90, kind) as renderer:
        assert renderer.name == kind
        frame = renderer.render(data, "shoulder")
        assert frame.shape == (60, 90, 3)
        assert frame.dtype == np.uint8
        assert frame.flags.c_contiguous
        # From above, with what is forward of the robot up and what is to its left on the left.
        rows, columns = zip(
            *(np.argwhere(outline(renderer, data, n, "above")).mean(0) for n in ("can", "egg")),
            strict=True,
        )
        assert rows[0] < rows[1]
        assert columns[0] > columns[1]
        frame = renderer.render(data, "above")
        row, column = np.argwhere(outline(renderer, data, "ball", "above")).mean(0).astype(int)
        assert frame[row, column].argmax() == 2


def test_the_same_state_gives_the_same_bytes(kind: Any) -> None:
    model, data = dressed()
    with make_renderer(model, 64, 64, kind) as renderer:
        first = renderer.render(data, "shoulder")
        assert differ(renderer.render(data, "above"), first) > 1
        model.geom("cube").pos[:] += 0.05
        mujoco.mj_forward(model, data)
        assert differ(renderer.render(data, "shoulder"), first) > 0.1
        model.geom("cube").pos[:] -= 0.05
        mujoco.mj_forward(model, data)
        again = renderer.render(data, "shoulder")
    np.testing.assert_array_equal(first, again)
    with make_renderer(model, 64, 64, kind) as another:
        np.testing.assert_array_equal(first, another.render(data, "shoulder"))


def test_colors_change_at_once_and_textures_at_a_refresh(kind: Any) -> None:
    model, data = dressed()
    with make_renderer(model, 64, 64, kind) as renderer:
        before = renderer.render(data, "above")
        model.geom("cube").rgba[:3] = 0, 1, 1
        recolored = renderer.render(data, "above")
        assert differ(before, recolored) > 0.1
        looks.set_texture(model, "table", np.zeros((64, 64, 3), np.uint8))
        np.testing.assert_array_equal(renderer.render(data, "above"), recolored)
        renderer.refresh()
        assert renderer.render(data, "above").mean() < recolored.mean() - 20


def test_collision_geoms_invisible_ones_and_sites_are_not_drawn(kind: Any) -> None:
    model, data = dressed()
    full = picture(model, data, kind)
    model.geom_pos[[model.geom("ghost").id, model.geom("glass").id]] = 0, 0, -9
    model.site_pos[:] = 0, 0, -9
    np.testing.assert_array_equal(picture(model, data, kind), full)


def test_shadows_darken_the_table_only_where_asked_for(kind: Any) -> None:
    model, data = dressed()
    lit, shaded = (picture(model, data, kind, shadows=on).astype(int) for on in (False, True))
    darker = (lit - shaded).sum(axis=-1)
    assert 0.01 < (darker > 30).mean() < 0.3
    assert (darker < -30).mean() < 0.01


def test_the_models_own_settings_are_left_as_they_were(kind: Any) -> None:
    model, data = dressed()
    quality, screen = model.vis.quality, model.vis.global_
    before = (quality.offsamples, quality.shadowsize, screen.offwidth, screen.offheight)
    # Larger than the model's own limit of 640 x 480.
    with make_renderer(model, 700, 20, kind) as renderer:
        assert renderer.render(data, "above").shape == (700, 20, 3)
    assert (quality.offsamples, quality.shadowsize, screen.offwidth, screen.offheight) == before


def test_wrong_names_and_sizes_are_told(kind: Any) -> None:
    model, data = dressed()
    with pytest.raises(SimulationError, match=r"'ray'; did you mean 'rays'"):
        make_renderer(model, 64, 64, "ray")  # type: ignore[arg-type]
    with pytest.raises(SimulationError, match="width is 0 pixels"):
        make_renderer(model, 64, 0, kind)
    with pytest.raises(SimulationError, match="height is 100000 pixels"):
        make_renderer(model, 100_000, 64, kind)
    renderer = make_renderer(model, 64, 64, kind)
    with pytest.raises(SimulationError, match=r"'sholder'; did you mean 'shoulder'.*'above'"):
        renderer.render(data, "sholder")
    bare, empty = load("<mujoco/>")
    with pytest.raises(SimulationError, match=r"0 geoms.*give data of that model"):
        renderer.render(empty, "shoulder")
    renderer.close()
    renderer.close()
    with pytest.raises(SimulationError, match="closed: make another"):
        renderer.render(data, "shoulder")
    with pytest.raises(SimulationError, match="closed: make another"):
        renderer.refresh()
    with (
        make_renderer(bare, 8, 8, kind) as blind,
        pytest.raises(SimulationError, match="no camera 'x'; it has none"),
    ):
        blind.render(empty, "x")


def test_rays_refuse_an_orthographic_camera() -> None:
    attribute = "projection" if hasattr(mujoco.MjModel, "cam_projection") else "orthographic"
    value = "orthographic" if attribute == "projection" else "true"
    model, data = load(
        f'<mujoco><worldbody><camera name="c" {attribute}="{value}"/></worldbody></mujoco>'
    )
    with pytest.raises(SimulationError, match="camera 'c' is orthographic"):
        picture(model, data, "rays", "c")


def test_threads_draw_side_by_side_and_share_a_renderer(kind: Any) -> None:
    model, data = dressed()
    with make_renderer(model, 64, 64, kind) as renderer:
        first = renderer.render(data, "shoulder")
        seen: list[Any] = []

        def draw() -> None:
            own_data = mujoco.MjData(model)
            mujoco.mj_forward(model, own_data)
            own = make_renderer(model, 64, 64, kind)
            for one in (own, renderer) * 4:
                seen.append(one.render(own_data, "shoulder"))

        threads = [threading.Thread(target=draw) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        np.testing.assert_array_equal(renderer.render(data, "shoulder"), first)
    assert len(seen) == 24
    assert all((one == first).all() for one in seen)
