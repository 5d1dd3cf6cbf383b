"""Both ways to draw a scene show the same thing, and say so when one of them can't."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from aid_robot.envs.tabletop import looks, render
from aid_robot.envs.tabletop.render import Renderer, UInt8Array, make_renderer, probe
from aid_robot.errors import MissingDependencyError, SimulationError

ROOT = Path(__file__).resolve().parents[2]
OBJECTS = ("cube", "ball", "can", "banana", "egg", "prism")
SCENE = """
<mujoco>
  <statistic extent="1" center=".3 0 .1"/>
  <visual><map znear="0.02" zfar="10"/></visual>
  <asset>
    <texture name="table" type="2d" builtin="flat" width="64" height="64"/>
    <texture name="wall" type="2d" builtin="flat" width="64" height="64"/>
    <texture name="sky" type="skybox" builtin="gradient" rgb1=".7 .8 .9" rgb2=".3 .3 .4"
      width="64" height="64"/>
    <material name="table" texture="table"/>
    <material name="wall" texture="wall"/>
    <mesh name="prism" vertex="-.03 -.03 0  .03 -.03 0  0 .04 0  0 0 .08"/>
  </asset>
  <worldbody>
    <light name="sun" type="directional"/>
    <camera name="shoulder" pos="0 -.25 .4" xyaxes=".55 -.83 0 .5 .33 .8" fovy="55"/>
    <camera name="above" pos=".35 0 .9" xyaxes="0 -1 0 1 0 0" fovy="50"/>
    <geom name="wall" type="plane" size="3 3 .1" pos="0 0 -.5" material="wall"/>
    <geom name="table" type="box" size=".3 .4 .02" pos=".35 0 -.02" material="table"/>
    <geom name="cube" type="box" size=".025 .025 .025" pos=".32 .05 .025" rgba=".8 .1 .1 1"/>
    <geom name="ball" type="sphere" size=".03" pos=".25 -.08 .03" rgba=".1 .2 .8 1"/>
    <geom name="can" type="cylinder" size=".03 .05" pos=".42 -.07 .05" rgba=".1 .5 .2 1"/>
    <geom name="banana" type="capsule" size=".02 .05" pos=".42 .15 .02" euler="90 30 0"
      rgba=".9 .8 .1 1"/>
    <geom name="egg" type="ellipsoid" size=".05 .03 .025" pos=".25 .16 .02" rgba=".9 .4 .1 1"/>
    <geom name="prism" type="mesh" mesh="prism" pos=".52 0.03 0" rgba=".5 .2 .6 1"/>
    <geom name="ghost" type="box" size=".1 .1 .1" pos=".35 0 .1" group="3" rgba="1 0 1 1"/>
    <geom name="glass" type="box" size=".1 .1 .1" pos=".35 0 .1" rgba="1 0 1 0"/>
    <site name="mark" pos=".3 0 .15" size=".05"/>
  </worldbody>
</mujoco>
"""


def load(xml: str = SCENE) -> tuple[Any, Any]:
    model = mujoco.MjModel.from_xml_string(xml)
    return model, mujoco.MjData(model)


def dressed(light: looks.Light = looks.DEFAULT_LIGHT) -> tuple[Any, Any]:
    """The scene with a wooden table and light, ready to draw."""
    model, data = load()
    looks.set_texture(model, "table", looks.table_texture(np.random.default_rng(1), 64, "wood"))
    looks.set_texture(model, "wall", looks.backdrop_texture(np.random.default_rng(2), 64))
    looks.set_light(model, "sun", light)
    mujoco.mj_forward(model, data)
    return model, data


@pytest.fixture(scope="module")
def gl() -> Any:
    """The kind of OpenGL that this machine has."""
    for kind in ("egl", "osmesa"):
        if os.environ.get("PYOPENGL_PLATFORM", kind) == kind and not probe(kind):
            return kind
    pytest.skip("no OpenGL on this machine: apt install libegl1 libgl1-mesa-dri")


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


def differ(one: UInt8Array, other: UInt8Array) -> float:
    return float(np.abs(one.astype(int) - other).mean())


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


def test_dropped_renderers_are_freed_without_harm_to_others(gl: Any) -> None:
    from aid_robot.envs.tabletop import render_gl

    model, data = dressed()
    with make_renderer(model, 64, 64, gl) as renderer:
        first = renderer.render(data, "shoulder")
        for _ in range(3):
            dropped: Any = make_renderer(model, 32, 32, gl)
            dropped.myself = dropped  # only the collector frees it
        del dropped
        gc.collect()
        assert len(render_gl._orphans) >= 1
        np.testing.assert_array_equal(renderer.render(data, "shoulder"), first)
        assert not render_gl._orphans


@pytest.mark.skipif(
    Path("/dev/nvidiactl").exists(), reason="a graphics card's driver does not outlive a fork"
)
def test_a_forked_process_makes_a_renderer_of_its_own(gl: Any) -> None:
    code = f"""
import os, signal, sys
kept = make_renderer(model, 64, 64, '{gl}')
first = kept.render(data, 'above')
child = os.fork()
if child == 0:
    signal.alarm(20)
    try:
        kept.render(data, 'above')
    except Exception as error:
        print(error, flush=True)
    same = (make_renderer(model, 64, 64, '{gl}').render(data, 'above') == first).all()
    os._exit(0 if same else 1)
print(os.waitpid(child, 0)[1], flush=True)
"""
    shown = run_python(code)
    refused, status = shown.stdout.splitlines()
    assert "forked from it: make one in each process" in refused
    assert status == "0"


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("PYOPENGL_PLATFORM", "MUJOCO_GL")}
    start = f"""
import logging, mujoco
logging.getLogger("aid_robot").setLevel("INFO")
logging.getLogger("aid_robot").addHandler(logging.StreamHandler())
from aid_robot.envs.tabletop.render import make_renderer
model = mujoco.MjModel.from_xml_string('''{SCENE}''')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
"""
    return subprocess.run(
        [sys.executable, "-c", start + code],
        env=kept | {"PYTHONPATH": str(ROOT)} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


# With these, a machine that has EGL is as one that hasn't.
BROKEN = {"__EGL_VENDOR_LIBRARY_FILENAMES": "/nowhere.json"}


def test_without_opengl_auto_draws_with_rays_and_says_so() -> None:
    code = "r = make_renderer(model, 64, 64); print(r.name, r.render(data, 'above').mean() > 20)"
    shown = run_python(code, **BROKEN, MUJOCO_GL="egl")
    assert shown.stdout.split() == ["rays", "True"]
    assert "drawing with rays, without OpenGL (egl: " in shown.stderr
    assert "libegl1" in shown.stderr


def test_opengl_switched_off_is_respected() -> None:
    shown = run_python("print(make_renderer(model, 64, 64).name)", MUJOCO_GL="disable")
    assert shown.stdout.split() == ["rays"]


def test_missing_opengl_asked_for_by_name_is_an_error_with_its_remedy() -> None:
    shown = run_python("make_renderer(model, 64, 64, 'egl')", **BROKEN)
    assert shown.returncode == 1
    last = shown.stderr.strip().splitlines()[-1]
    assert last.startswith("aid_robot.errors.MissingDependencyError: the renderer 'egl' doesn't")
    assert "apt install libegl1 libgl1-mesa-dri" in last
    assert "kind='rays' needs none" in last


def test_a_wish_for_one_opengl_is_kept_to_and_another_refused(gl: Any) -> None:
    other = "osmesa" if gl == "egl" else "egl"
    code = f"print(make_renderer(model, 64, 64).name); make_renderer(model, 64, 64, '{other}')"
    shown = run_python(code, MUJOCO_GL=gl)
    assert shown.stdout.split() == [gl]
    assert f"drawing with {gl}" in shown.stderr
    assert f"'{other}' can't be used in a process that draws with '{gl}'" in shown.stderr


def test_nothing_is_said_at_exit_however_renderers_were_left(gl: Any) -> None:
    code = f"""
import threading
class Holder: pass
kept = make_renderer(model, 64, 64, '{gl}'); kept.render(data, 'above')
holder = Holder(); holder.me = holder; holder.it = make_renderer(model, 64, 64, '{gl}')
make_renderer(model, 64, 64, '{gl}').render(data, 'above')
def other():
    global left; left = make_renderer(model, 64, 64, '{gl}'); left.render(data, 'above')
thread = threading.Thread(target=other); thread.start(); thread.join()
"""
    shown = run_python(code)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", "")


@pytest.fixture
def fresh_answers() -> Iterator[None]:
    render._probe.cache_clear()
    yield
    render._probe.cache_clear()


@pytest.mark.usefixtures("fresh_answers")
def test_a_driver_that_crashes_or_hangs_takes_nothing_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYOPENGL_PLATFORM", raising=False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(render, "_PROBE", "import os; os.abort()")
    model, data = dressed()
    with pytest.raises(MissingDependencyError, match="crashed by signal 6"):
        make_renderer(model, 64, 64, "egl")
    with make_renderer(model, 64, 64) as renderer:
        assert renderer.name == "rays"
        assert renderer.render(data, "above").shape == (64, 64, 3)
    render._probe.cache_clear()
    monkeypatch.setattr(render, "_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(render, "_PROBE_SECONDS", 0.2)
    with pytest.raises(MissingDependencyError, match="did not answer"):
        make_renderer(model, 64, 64, "egl")
