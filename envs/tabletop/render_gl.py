"""Pictures by OpenGL, through MuJoCo's own classic renderer."""

from __future__ import annotations

import importlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mujoco
import numpy as np

from aid_robot.envs.tabletop.render import GLKind, Renderer, UInt8Array
from aid_robot.errors import SimulationError

# Pixels are averaged over so many samples.
_SAMPLES = 4
# Texels along a side of the shadow map.
_SHADOW_MAP = 512
# As many as MuJoCo's own renderer has room for.
_MAX_GEOMS = 10_000
_EVERYTHING = mujoco.mjtCatBit.mjCAT_ALL.value

# MuJoCo reads sizes from the model while it makes a context, and one GL library is loaded once.
_making = threading.Lock()
# Left by renderers that were collected, to be freed before the next frame: the collector may run in
# the midst of one.
_orphans: deque[_Contexts] = deque()


class _Contexts:
    """A GL context and MuJoCo's buffers in it, current in a thread only while they are used.

    Contexts that stay current in a thread could be used and freed by no other, even after it ends.
    """

    def __init__(self, model: Any, height: int, width: int, kind: GLKind, shadow_map: int) -> None:
        self.process = os.getpid()
        self._platform = importlib.import_module(f"mujoco.{kind}")
        self._gl = self._platform.GLContext(width, height)
        quality, screen = model.vis.quality, model.vis.global_
        kept = (quality.offsamples, quality.shadowsize, screen.offwidth, screen.offheight)
        with self.current():
            quality.offsamples, quality.shadowsize = _SAMPLES, shadow_map
            screen.offwidth, screen.offheight = width, height
            try:
                self.buffers = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
            finally:
                quality.offsamples, quality.shadowsize, screen.offwidth, screen.offheight = kept
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.buffers)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Direct this thread's GL calls here."""
        self._gl.make_current()
        try:
            yield
        finally:
            _release(self._platform)

    def free(self) -> None:
        """Free both."""
        self._gl.make_current()
        self.buffers.free()
        self._gl.free()


class GLRenderer(Renderer):
    """Draws in any thread of the process that made it, one frame at a time."""

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
                self._contexts = _Contexts(
                    model, height, width, kind, _SHADOW_MAP if shadows else 0
                )
            except Exception as error:
                raise SimulationError(
                    f"no {kind} picture of {width}x{height} pixels can be made "
                    f"({type(error).__name__}: {error}); try kind='rays'"
                ) from error
        self._lock = threading.Lock()
        self._collected = weakref.finalize(self, _orphans.append, self._contexts)
        self._collected.atexit = False
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

    def close(self) -> None:
        """Free the contexts; closing twice does nothing."""
        with self._lock:
            if self.closed:
                return
            super().close()
        self._collected.detach()
        _orphans.append(self._contexts)
        _free_orphans()

    def _load_textures(self) -> None:
        with self._drawing():
            for index in range(self.model.ntex):
                mujoco.mjr_uploadTexture(self.model, self._contexts.buffers, index)

    def _draw(self, data: Any, camera: int) -> UInt8Array:
        pixels: UInt8Array = np.empty((self.height, self.width, 3), np.uint8)
        with self._drawing():
            self._camera.fixedcamid = camera
            mujoco.mjv_updateScene(
                self.model, data, self._option, None, self._camera, _EVERYTHING, self._scene
            )
            mujoco.mjr_render(self._rect, self._scene, self._contexts.buffers)
            mujoco.mjr_readPixels(pixels, None, self._rect, self._contexts.buffers)
        return np.ascontiguousarray(pixels[::-1])  # GL counts rows from the bottom

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        if self._contexts.process != os.getpid():
            raise SimulationError(
                f"this {self.name} renderer belongs to process {self._contexts.process}, and this "
                f"is process {os.getpid()}, forked from it: make one in each process"
            )
        _free_orphans()
        with self._lock:
            self._check_open()
            with self._contexts.current():
                yield


def _release(platform: Any) -> None:
    """Leave this thread without a current context."""
    if platform.__name__ == "mujoco.egl":
        egl, display = platform.EGL, platform.EGL_DISPLAY
        egl.eglMakeCurrent(display, egl.EGL_NO_SURFACE, egl.EGL_NO_SURFACE, egl.EGL_NO_CONTEXT)
    elif platform.__name__ == "mujoco.osmesa":
        platform.osmesa.OSMesaMakeCurrent(None, None, platform.GL.GL_FLOAT, 0, 0)
    else:
        platform.glfw.make_context_current(None)


def _free_orphans() -> None:
    for _ in range(len(_orphans)):
        try:
            contexts = _orphans.popleft()
        except IndexError:  # another thread was faster
            return
        if contexts.process == os.getpid():
            contexts.free()
        else:
            _orphans.append(contexts)
