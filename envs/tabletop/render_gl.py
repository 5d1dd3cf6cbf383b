"""Pictures by OpenGL, through MuJoCo's own classic renderer."""

from __future__ import annotations

import atexit
import functools
import importlib
import os
import threading
import weakref
from collections import deque
from typing import Any

import mujoco
import numpy as np

from aid_robot.envs.tabletop.render import GLKind, Renderer, UInt8Array
from aid_robot.errors import SimulationError

# Pixels are averaged over so many samples.
_SAMPLES = 4
# Texels along a side of the shadow map.
_SHADOW_MAP = 1024
# As many as MuJoCo's own renderer has room for.
_MAX_GEOMS = 10_000
_EVERYTHING = mujoco.mjtCatBit.mjCAT_ALL.value

# MuJoCo reads sizes from the model while it makes a context, and one GL library is loaded once.
_making = threading.Lock()
_alive: weakref.WeakSet[GLRenderer] = weakref.WeakSet()
# Contexts whose renderer was closed or collected, freed when their thread is next between two
# frames: the collector may run in any thread, and in the midst of another renderer's frame.
_orphans: deque[_Contexts] = deque()


class _Contexts:
    """MuJoCo's buffers on the graphics side, and the GL context that they live in."""

    def __init__(self, model: Any, height: int, width: int, kind: GLKind, shadow_map: int) -> None:
        self.owner = _here()
        self.gl = importlib.import_module(f"mujoco.{kind}").GLContext(width, height)
        self.gl.make_current()
        quality, screen = model.vis.quality, model.vis.global_
        kept = (quality.offsamples, quality.shadowsize, screen.offwidth, screen.offheight)
        quality.offsamples, quality.shadowsize = _SAMPLES, shadow_map
        screen.offwidth, screen.offheight = width, height
        try:
            self.buffers = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        finally:
            quality.offsamples, quality.shadowsize, screen.offwidth, screen.offheight = kept
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.buffers)

    def free(self) -> None:
        """Free both: where they were made, or once that thread has ended."""
        self.gl.make_current()
        self.buffers.free()
        self.gl.free()


class GLRenderer(Renderer):
    """Draws in the thread that made it; any number of them in any number of threads."""

    def __init__(
        self, model: Any, height: int, width: int, kind: GLKind, shadows: bool = True
    ) -> None:
        super().__init__(model, height, width)
        self.name = kind
        # Mesa's software driver starts a thread a core, which slows down processes side by side,
        # and makes the ones forked from this wait for threads that they don't have.
        os.environ.setdefault("LP_NUM_THREADS", "0")
        _free_orphans()
        with _making:
            try:
                contexts = _Contexts(model, height, width, kind, _SHADOW_MAP if shadows else 0)
            except Exception as error:
                raise SimulationError(
                    f"no {kind} picture of {width}x{height} pixels can be made "
                    f"({type(error).__name__}: {error}); try kind='rays'"
                ) from error
            self._contexts = contexts
            _alive.add(self)
        _free_at_exit()
        # Not at exit: `_free_all` does that, while GL still can.
        self._orphaned = weakref.finalize(self, _orphans.append, contexts)
        self._orphaned.atexit = False
        self._scene = mujoco.MjvScene(model, _MAX_GEOMS)
        flags = mujoco.mjtRndFlag
        self._scene.flags[flags.mjRND_SHADOW] = shadows
        # What rays don't draw either.
        for effect in (flags.mjRND_REFLECTION, flags.mjRND_HAZE, flags.mjRND_FOG):
            self._scene.flags[effect] = False
        self._option = mujoco.MjvOption()
        self._option.sitegroup[:] = 0
        self._option.tendongroup[:] = 0
        self._option.actuatorgroup[:] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._rect = mujoco.MjrRect(0, 0, width, height)

    def _load_textures(self) -> None:
        self._make_current()
        for index in range(self.model.ntex):
            mujoco.mjr_uploadTexture(self.model, self._contexts.buffers, index)

    def close(self) -> None:
        """Free the contexts, in another thread as soon as their own draws again."""
        if self.closed:
            return
        super().close()
        _alive.discard(self)
        self._orphaned.detach()
        _orphans.append(self._contexts)
        _free_orphans()

    def _draw(self, data: Any, camera: int) -> UInt8Array:
        self._make_current()
        self._camera.fixedcamid = camera
        mujoco.mjv_updateScene(
            self.model, data, self._option, None, self._camera, _EVERYTHING, self._scene
        )
        mujoco.mjr_render(self._rect, self._scene, self._contexts.buffers)
        pixels: UInt8Array = np.empty((self.height, self.width, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, self._rect, self._contexts.buffers)
        return np.ascontiguousarray(pixels[::-1])  # GL counts rows from the bottom

    def _make_current(self) -> None:
        if self._contexts.owner != _here():
            raise SimulationError(
                f"this {self.name} renderer belongs to the thread and process that made it, and "
                f"thread '{threading.current_thread().name}' of process {os.getpid()} is another: "
                "make one in each"
            )
        _free_orphans()
        self._contexts.gl.make_current()


def _here() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def _free_orphans() -> None:
    """Free what closed and collected renderers left, of this thread and of those that ended."""
    process, thread = _here()
    running = {one.ident for one in threading.enumerate()}
    for _ in range(len(_orphans)):
        contexts = _orphans.popleft()
        if contexts.owner[0] == process and contexts.owner[1] not in running - {thread}:
            contexts.free()
        else:
            _orphans.append(contexts)


@functools.cache
def _free_at_exit() -> None:
    """Free what is left before the driver shuts down, whose own hook was registered earlier."""
    atexit.register(_free_all)


def _free_all() -> None:
    for renderer in list(_alive):
        renderer.close()
    _free_orphans()
