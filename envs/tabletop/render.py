"""Pictures of a MuJoCo scene, drawn by OpenGL or, where there is none, by casting rays.

Both read the same model: its colours, textures, lights and cameras. They agree on what is where and
nearly on tone, yet not on every pixel, so a recording names the renderer that drew it.
"""

from __future__ import annotations

import difflib
import functools
import logging
import os
import platform
import subprocess
import sys
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from aid_robot.errors import MissingDependencyError, SimulationError
from aid_robot.extras import require

UInt8Array: TypeAlias = npt.NDArray[np.uint8]
GLKind: TypeAlias = Literal["egl", "osmesa", "glfw"]
Kind: TypeAlias = Literal["auto", "egl", "osmesa", "glfw", "rays"]

_log = logging.getLogger(__name__)

# Larger pictures are a mistake: a frame of 4096 x 4096 takes 50 MB.
_MAX_SIDE = 4096
_PROBE_SECONDS = 60.0
_NEEDS: dict[GLKind, str] = {
    "egl": "apt install libegl1 libgl1-mesa-dri",
    "osmesa": "apt install libosmesa6",
    "glfw": "apt install libglfw3 libgl1-mesa-dri, and a display",
}
# Draws one white plane in a process of its own, since a broken driver can take the process with it.
_PROBE = """
import importlib, sys, mujoco, numpy
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom type="plane" size="9 9 1" rgba="1 1 1 1"/>'
    '<camera pos="0 0 2"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
gl = importlib.import_module("mujoco." + sys.argv[1]).GLContext(32, 32)
gl.make_current()
context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
scene, camera = mujoco.MjvScene(model, 10), mujoco.MjvCamera()
camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
mujoco.mjv_updateScene(
    model, data, mujoco.MjvOption(), None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene)
pixels, box = numpy.zeros((32, 32, 3), numpy.uint8), mujoco.MjrRect(0, 0, 32, 32)
mujoco.mjr_render(box, scene, context)
mujoco.mjr_readPixels(pixels, None, box, context)
sys.exit(None if pixels.mean() > 50 else "the picture came out black")
"""


class Renderer(ABC):
    """Draws one model, from any of its cameras, at one size.

    Colours, materials, lights and poses are read at every frame; after a change of a texture's
    bitmap call `refresh()`. Geoms of groups 3 to 5 aren't drawn, nor are sites, as in MuJoCo's
    own viewer. Use it as a context manager, or `close()` it.
    """

    # What drew the picture: "egl", "osmesa", "glfw" or "rays".
    name: str

    def __init__(self, model: Any, height: int, width: int) -> None:
        self.model = model
        self.height = height
        self.width = width
        self.closed = False

    def render(self, data: Any, camera: str) -> UInt8Array:
        """Draw the state in `data`, whose kinematics are up to date, as (H, W, 3) RGB."""
        self._check_open()
        if (data.qpos.shape, len(data.geom_xpos)) != ((self.model.nq,), self.model.ngeom):
            raise SimulationError(
                f"the data has {data.qpos.size} positions and {len(data.geom_xpos)} geoms, the "
                f"renderer's model {self.model.nq} and {self.model.ngeom}: give data of that model"
            )
        return self._draw(data, _camera_id(self.model, camera))

    def refresh(self) -> None:
        """Read the model's texture bitmaps again."""
        self._check_open()
        self._load_textures()

    def close(self) -> None:
        """Free what the renderer holds; closing twice does nothing."""
        self.closed = True

    @abstractmethod
    def _draw(self, data: Any, camera: int) -> UInt8Array: ...

    @abstractmethod
    def _load_textures(self) -> None: ...

    def _check_open(self) -> None:
        if self.closed:
            raise SimulationError(f"this {self.name} renderer is closed: make another")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def make_renderer(
    model: Any, height: int, width: int, kind: Kind = "auto", shadows: bool = True
) -> Renderer:
    """Make a renderer, of the best kind that works here or of one kind by its name.

    "auto" takes the first kind of OpenGL that works here, EGL before OSMesa, else rays; where
    $MUJOCO_GL names a kind, only that one or rays. A process can use one kind of OpenGL.

    Args:
        model: A `mujoco.MjModel`.
        height: In pixels.
        width: In pixels.
        kind: "auto", or one by its name.
        shadows: Whether lights cast shadows; without, a frame takes half the time.

    Raises:
        MissingDependencyError: The kind of OpenGL named doesn't work here.
    """
    require("mujoco", "sim")
    if kind not in get_args(Kind):
        close = difflib.get_close_matches(str(kind), get_args(Kind), n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise SimulationError(
            f"no renderer is called {kind!r}; {hint}expected one of {', '.join(get_args(Kind))}"
        )
    for word, side in (("height", height), ("width", width)):
        if not 1 <= side <= _MAX_SIDE:
            raise SimulationError(f"{word} is {side} pixels, expected 1 to {_MAX_SIDE}")
    chosen = choose() if kind == "auto" else kind
    if chosen == "rays":
        from aid_robot.envs.tabletop.render_rays import RayRenderer

        return RayRenderer(model, height, width, shadows)
    if kind != "auto":
        _check_gl(chosen)
    from aid_robot.envs.tabletop.render_gl import GLRenderer

    return GLRenderer(model, height, width, chosen, shadows)


def choose() -> Literal["egl", "osmesa", "glfw", "rays"]:
    """Find what "auto" stands for in this process, and log it once."""
    candidates: tuple[GLKind, ...] = ("egl", "osmesa")
    if platform.system() != "Linux":
        candidates = ("glfw",)
    wish = os.environ.get("MUJOCO_GL", "").lower().strip()
    if wish in get_args(GLKind):
        candidates = tuple(name for name in get_args(GLKind) if name == wish)
    elif wish in ("disable", "disabled", "off", "false", "0"):
        candidates = ()
    problems = []
    for name in candidates:
        taken = _taken(name)
        problem = f"this process draws with {taken!r} already" if taken else probe(name)
        if not problem:
            _say(logging.INFO, f"drawing with {name}")
            return name
        problems.append(f"{name}: {problem}; {_NEEDS[name]}")
    reason = " | ".join(problems) or f"MUJOCO_GL is {wish!r}"
    _say(logging.WARNING, f"drawing with rays, without OpenGL ({reason})")
    return "rays"


def probe(kind: GLKind) -> str:
    """Try a kind of OpenGL out in a process of its own; "" where it works, else why not.

    A second try answers from memory, unless what the drivers read from the environment changed.
    """
    names = ("MUJOCO_EGL_DEVICE_ID", "__EGL_VENDOR_LIBRARY_FILENAMES", "DISPLAY")
    return _probe(kind, *(os.environ.get(name) for name in names))


def _check_gl(kind: GLKind) -> None:
    taken = _taken(kind)
    if taken:
        raise SimulationError(
            f"the renderer {kind!r} can't be used in a process that draws with {taken!r}: "
            f"kind={taken!r} can, and so can {kind!r} in another process"
        )
    problem = probe(kind)
    if problem:
        raise MissingDependencyError(
            f"the renderer {kind!r} doesn't work here ({problem}); it needs system libraries: "
            f"{_NEEDS[kind]}; kind='rays' needs none"
        )


def _taken(kind: GLKind) -> str:
    """Name another kind of OpenGL that this process has loaded, if it has; PyOpenGL notes it."""
    loaded = os.environ.get("PYOPENGL_PLATFORM", "").lower()
    return loaded if kind != "glfw" and loaded != kind else ""


@functools.cache
def _say(level: int, message: str) -> None:
    _log.log(level, message)


@functools.cache
def _probe(kind: GLKind, *environment: str | None) -> str:
    # The other process finds the same packages, and another kind than this process's own.
    inherited = {k: v for k, v in os.environ.items() if k != "PYOPENGL_PLATFORM"}
    given = inherited | {"MUJOCO_GL": kind, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, kind],
            env=given,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not answer within {_PROBE_SECONDS:.0f} s"
    if done.returncode == 0:
        return ""
    said = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode < 0:
        return f"it crashed by signal {-done.returncode}"
    return said[-1].strip()[:200] if said else f"it ended with code {done.returncode}"


def _camera_id(model: Any, camera: str) -> int:
    names = [model.camera(index).name for index in range(model.ncam)]
    if camera in names:
        return names.index(camera)
    close = difflib.get_close_matches(str(camera), names, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    raise SimulationError(
        f"the scene has no camera {camera!r}; {hint}it has {', '.join(map(repr, names)) or 'none'}"
    )
