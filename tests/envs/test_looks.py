"""Colours keep their names, tables come in many kinds, and all of it by a seed."""

from __future__ import annotations

from typing import Any, get_args

import cv2
import mujoco
import numpy as np
import pytest

from aid_robot.envs.tabletop import looks
from aid_robot.envs.tabletop.render import make_renderer
from aid_robot.errors import SimulationError

NAMES = list(looks.NAMED_COLORS)


def scene() -> tuple[Any, Any]:
    """Ten balls and cubes on a table, one of each named colour."""
    things = "".join(
        f'<geom name="{name}" type="{"box" if i % 2 else "sphere"}" size=".03 .03 .03" '
        f'pos="{(i % 5 - 2) * 0.1} {i // 5 * 0.12} .03"/>'
        for i, name in enumerate(NAMES)
    )
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><statistic extent="1"/><asset><texture name="t" type="2d" builtin="flat" '
        'width="64" height="64"/><material name="t" texture="t"/></asset><worldbody>'
        '<light name="sun" type="directional"/><camera name="c" pos="0 -.45 .4" '
        'xyaxes="1 0 0 0 .62 .78"/><geom type="box" size=".5 .5 .01" pos="0 0 -.01" material="t"/>'
        f"{things}</worldbody></mujoco>"
    )
    return model, mujoco.MjData(model)


def test_colors_keep_their_names_under_every_light() -> None:
    model, data = scene()
    renderer = make_renderer(model, 64, 64, "rays")

    def seen(light: looks.Light, colors: dict[str, looks.RGB]) -> Any:
        """What each thing looks like on the whole, (10, 3) in CIELAB."""
        looks.set_light(model, "sun", light)
        for name, rgb in colors.items():
            model.geom(name).rgba[:3] = rgb
        mujoco.mj_forward(model, data)
        frame = renderer.render(data, "c").astype(np.float32) / 255
        lab = cv2.cvtColor(frame, cv2.COLOR_RGB2LAB)
        return np.array([lab[mask].mean(axis=0) for mask in masks])

    masks = []
    mujoco.mj_forward(model, data)
    for name in NAMES:
        model.geom(name).rgba[:] = 1, 1, 1, 1
        white = renderer.render(data, "c").astype(int)
        model.geom(name).rgba[:] = 0, 0, 0, 1
        masks.append((white - renderer.render(data, "c")).sum(axis=-1) > 100)
    plain = seen(looks.DEFAULT_LIGHT, looks.NAMED_COLORS)
    for seed in range(25):
        rng = np.random.default_rng(seed)
        varied = {name: looks.vary_color(rgb, rng) for name, rgb in looks.NAMED_COLORS.items()}
        distance = np.linalg.norm(
            seen(looks.random_light(rng), varied)[:, None] - plain[None], axis=-1
        )
        assert [NAMES[i] for i in distance.argmin(axis=1)] == NAMES


@pytest.mark.parametrize("kind", [*get_args(looks.Table), None])
def test_a_table_is_painted_by_its_seed(kind: Any) -> None:
    one, again, other = (
        looks.table_texture(np.random.default_rng(seed), 96, kind) for seed in (1, 1, 2)
    )
    assert one.shape == (96, 96, 3)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, again)
    assert np.abs(one.astype(int) - other).mean() > 2


def test_no_table_hides_what_lies_on_it() -> None:
    """Every named colour but those of wood stays clear of every table's mean tone."""
    for seed in range(60):
        table = looks.table_texture(np.random.default_rng(seed), 32).reshape(-1, 3).mean(axis=0)
        for name in set(NAMES) - {"brown", "white"}:
            gap = np.abs(table / 255 - looks.NAMED_COLORS[name]).max()
            assert gap > 0.15, (seed, name)


def test_lights_come_from_above_and_differ() -> None:
    lights = [looks.random_light(np.random.default_rng(seed)) for seed in range(50)]
    directions = np.array([light.direction for light in lights])
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    assert directions[:, 2].max() < -0.7
    assert directions[:, 1].min() < -0.3
    assert directions[:, 1].max() > 0.3
    assert len({light.diffuse for light in lights}) == 50


def test_what_does_not_fit_a_model_is_told() -> None:
    model, _ = scene()
    pixels = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(SimulationError, match="no texture named 'cloth'"):
        looks.set_texture(model, "cloth", pixels)
    with pytest.raises(SimulationError, match=r"takes uint8 of shape \(64, 64, 3\), got uint8 of"):
        looks.set_texture(model, "t", pixels[:32])
    with pytest.raises(SimulationError, match="got float64"):
        looks.set_texture(model, "t", pixels.astype(np.float64))
    with pytest.raises(SimulationError, match="no light named 'moon'"):
        looks.set_light(model, "moon", looks.DEFAULT_LIGHT)
    with pytest.raises(SimulationError, match="no table looks like 'glass'; expected one of wood"):
        looks.table_texture(np.random.default_rng(0), 32, "glass")  # type: ignore[arg-type]
