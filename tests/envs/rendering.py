"""A small scene to draw, and what there is to draw it with."""

from __future__ import annotations

import os
from typing import Any

import mujoco
import numpy as np
import pytest

from aid_robot.envs.tabletop import looks
from aid_robot.envs.tabletop.render import GLKind, UInt8Array, probe

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


def opengl_here() -> GLKind:
    """Name a kind of OpenGL that this machine has, or skip the test."""
    kinds: tuple[GLKind, ...] = ("egl", "osmesa")
    for kind in kinds:
        if os.environ.get("PYOPENGL_PLATFORM", kind) == kind and not probe(kind):
            return kind
    pytest.skip("no OpenGL on this machine: apt install libegl1 libgl1-mesa-dri")


def differ(one: UInt8Array, other: UInt8Array) -> float:
    return float(np.abs(one.astype(int) - other).mean())
