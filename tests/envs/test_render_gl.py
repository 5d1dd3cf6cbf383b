"""OpenGL that is missing, breaks, or is left behind does no harm and is spoken of plainly."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aid_robot.envs.tabletop import render
from aid_robot.envs.tabletop.render import GLKind, make_renderer
from aid_robot.errors import MissingDependencyError
from tests.envs.rendering import SCENE, dressed, opengl_here

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def gl() -> GLKind:
    return opengl_here()


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
