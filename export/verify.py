"""The accuracy gate: exported graphs and engines against torch, on real observations.

    python export/verify.py onnx --model bundled --observation frame.png "open the drawer"

Torch predicts in float32, with all three branches of the guidance, and every call of its UNet is
kept. The engine then answers the same calls (so that the error of each noise level is seen apart),
larger and smaller batches of rows out of all of them, and at last predicts by itself as the model
does: PSNR, and LPIPS where its weights are at hand. What is left out is said. The same code ends
every export, and is `aid-robot export verify`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aid_robot.errors import ConfigError, SamplingError, WeightsNotFoundError
from aid_robot.evaluation.metrics.lpips import LPIPS, SMALLEST
from aid_robot.evaluation.psnr import psnr
from aid_robot.export.calls import Recorder, mixed
from aid_robot.export.graphs import make_source
from aid_robot.export.observations import Observation, bundled_observation, read_observation
from aid_robot.export.report import THRESHOLDS, Check, LeftOut, Report, Thresholds
from aid_robot.export.script import run_script
from aid_robot.foresight import VideoForesight
from aid_robot.hub import BUNDLED
from aid_robot.model.aid import AIDModel
from aid_robot.runtime import RUNTIMES, make_denoiser
from aid_robot.runtime.denoiser import NetworkDenoiser
from aid_robot.runtime.manifest import Graph, Manifest
from aid_robot.runtime.trt import TensorRTNetwork

Frames: TypeAlias = NDArray[np.uint8]

# Batches off the one that an engine is tuned for: that is where some give NaN.
BATCHES = (1, 2, 3, 24)
# Noise levels that are compared at least, and the guidance that they are seen under: all branches.
_LEVELS = 8
_GUIDANCE = {"image_guidance_scale": 1.5, "text_guidance_scale": 3.0}
_SEED = 0


def verify(
    engines: Path,
    model: AIDModel,
    observations: Sequence[Observation] = (),
    *,
    runtime: str = "auto",
    batches: Sequence[int] = BATCHES,
    steps: int | None = None,
    on_check: Callable[[Check], None] | None = None,
) -> Report:
    """Compare a folder's graphs or engines with torch.

    Args:
        engines: Folder with an `export.json`.
        model: The exported model, in float32.
        observations: Real ones; none takes the picture that comes with the package.
        runtime: Who runs the denoiser, one of `aid_robot.runtime.RUNTIMES`; "auto" takes engines
            where there are some and a GPU, else the graphs.
        batches: Rows of the calls that are checked for NaN and agreement.
        steps: Denoising steps; None takes the model's own for the rollout, and 8 at least for the
            calls, one a noise level.
        on_check: Told of every check as it is done.
    """
    manifest = Manifest.load(engines)
    runtime = settle(runtime, manifest, model.device)
    checks: list[Check] = []
    left_out: list[LeftOut] = []
    with _exact_products():
        for one in _compared(engines, manifest, model, observations, runtime, batches, steps):
            if isinstance(one, LeftOut):
                left_out.append(one)
                continue
            checks.append(one)
            if on_check is not None:
                on_check(one)
    facts = (str(engines), runtime, manifest.arithmetic, manifest.versions)
    return Report(*facts, tuple(checks), tuple(left_out))


def settle(runtime: str, manifest: Manifest, device: torch.device) -> str:
    """Say who "auto" is: engines where there are some and a GPU, else the graphs."""
    if runtime != "auto":
        return runtime
    return "trt" if manifest.engines and device.type == "cuda" else "ort"


@contextmanager
def _exact_products() -> Iterator[None]:
    """Keep a GPU from rounding the reference's float32 to TF32's 10 bits."""
    parts: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    kept = [part.allow_tf32 for part in parts]
    try:
        for part in parts:
            part.allow_tf32 = False
        yield
    finally:
        for part, value in zip(parts, kept, strict=True):
            part.allow_tf32 = value


def _compared(
    engines: Path,
    manifest: Manifest,
    model: AIDModel,
    observations: Sequence[Observation],
    runtime: str,
    batches: Sequence[int],
    steps: int | None,
) -> Iterator[Check | LeftOut]:
    others = sorted(set(manifest.graphs) - {"denoiser"})
    if runtime.startswith("ort"):
        yield from _check_graphs(engines, manifest, model, runtime)
    elif others:
        yield LeftOut(", ".join(others), "torch computes these parts; check them by --runtime ort")
    if "denoiser" not in manifest.graphs:
        return
    limits = THRESHOLDS[manifest.graph("denoiser").arithmetic]
    denoiser: Any = make_denoiser(model, runtime, engines)
    recorder = Recorder(model.unet)
    by_torch = NetworkDenoiser(recorder, model.dtype, model.config.prediction_type)
    torch_way = VideoForesight(model, denoiser=by_torch)
    own_way = VideoForesight(model, denoiser=denoiser)
    low, best, high = row_range(manifest.graph("denoiser"), denoiser.network)
    # Decoded whole: places that keep the given pixels would be equal by themselves.
    options: Any = {"still_threshold": 0, **({} if steps is None else {"steps": steps})}
    levels: Any = {"steps": steps or max(_LEVELS, model.config.sampling.steps), **_GUIDANCE}
    given, lpips = model.config.num_conditioning_frames, _find_lpips(model)
    if isinstance(lpips, LeftOut):
        yield lpips
    for number, observation in enumerate(observations or [bundled_observation()], start=1):
        recorder.calls.clear()
        frames = observation.frames
        if frames.ndim == 3:
            frames = np.repeat(frames[None], given, axis=0)
        torch_way.predict(frames, observation.instruction, seed=_SEED, **levels)
        calls = list(recorder.calls)
        for call in calls:
            sigma = math.exp(4 * float(call.timestep[0]))
            where = f"observation {number}, sigma {sigma:.4g}"
            count = min(max(len(call.sample), low), high)
            yield from _compare(where, *call.run(denoiser.network, count), limits)
        near = {low, best - 1, best, best + 1, high} if best else set()
        for batch in sorted({*batches, *near}) if number == 1 else ():
            if low <= batch <= high:
                answers = mixed(calls, batch).run(denoiser.network, batch)
                yield from _compare(f"batch of {batch}", *answers, limits)
            elif batch in batches:
                yield LeftOut(f"batch of {batch}", f"it was built for {low} to {high} rows")
        recorder.calls.clear()
        truth = torch_way.predict(frames, observation.instruction, seed=_SEED, **options).frames
        wrong = [n for n in (len(call.sample) for call in recorder.calls) if not low <= n <= high]
        if wrong:
            yield LeftOut(
                f"observation {number}, rollout",
                f"a prediction takes {wrong[0]} rows, and it was built for {low} to {high}",
            )
            continue
        try:
            shown = own_way.predict(frames, observation.instruction, seed=_SEED, **options).frames
        except SamplingError:  # what was predicted is not finite
            shown = None
        where = f"observation {number}, rollout"
        yield from _check_rollout(where, shown, truth, given, limits, lpips)


def _check_rollout(
    where: str,
    shown: Frames | None,
    truth: Frames,
    given: int,
    limits: Thresholds,
    lpips: LPIPS | LeftOut,
) -> Iterator[Check]:
    """Compare predicted frames (samples, N, H, W, 3) with torch's; None fails."""
    found = math.nan if shown is None else psnr(shown[:, given:], truth[:, given:])
    yield Check(where, "PSNR dB", found, limits.psnr, at_most=False)
    if not isinstance(lpips, LeftOut):
        found = math.nan
        if shown is not None:
            pair = (np.concatenate(clips[:, given:]) for clips in (shown, truth))
            found = float(lpips.distance(*pair).mean())
        yield Check(where, "LPIPS", found, limits.lpips, at_most=True)


def row_range(graph: Graph, network: Any) -> tuple[int, int | None, int]:
    """Return the smallest, best and largest batch that a denoiser takes; None is no best one."""
    if isinstance(network, TensorRTNetwork):
        return network.rows
    fixed = graph.inputs[0].shape[0]
    return (fixed, fixed, fixed) if isinstance(fixed, int) else (1, None, 2**16)


def _find_lpips(model: AIDModel) -> LPIPS | LeftOut:
    """Load LPIPS where its weights are at hand and the frames are large enough for it."""
    if min(model.config.height, model.config.width) < SMALLEST:
        return LeftOut("LPIPS", f"it takes frames of {SMALLEST} pixels at least")
    try:
        return LPIPS.load(device=str(model.device))
    except WeightsNotFoundError as error:
        return LeftOut("LPIPS", str(error))


def _check_graphs(
    engines: Path, manifest: Manifest, model: AIDModel, runtime: str
) -> Iterator[Check]:
    """Compare the graphs around the denoiser with their torch modules, on random inputs.

    Of several outputs the worst counts.
    """
    from aid_robot.runtime.ort import OrtGraph

    device = model.device
    provider = runtime.partition(":")[2] or device.type
    for role, graph in manifest.graphs.items():
        if role == "denoiser":
            continue
        fixed = graph.inputs[0].shape[0]
        rows = fixed if isinstance(fixed, int) else None
        source = make_source(role, model, rows=rows)
        ort = OrtGraph(engines, manifest, role, device, provider)
        example = [tensor.to(device) for tensor in source.example(_SEED)]
        with torch.inference_mode():
            expected = source.module(*example)
            names = [spec.name for spec in source.inputs]
            found = ort(dict(zip(names, example, strict=True)))
        expected = expected if isinstance(expected, tuple) else (expected,)
        limits = THRESHOLDS[graph.arithmetic]
        pairs = [
            list(_compare(role, found[spec.name], truth, limits))
            for spec, truth in zip(graph.outputs, expected, strict=True)
        ]
        errors, cosines = zip(*pairs, strict=True)
        # NaN is the worst of all.
        yield max(errors, key=lambda c: math.inf if math.isnan(c.value) else c.value)
        yield min(cosines, key=lambda c: -math.inf if math.isnan(c.value) else c.value)


def _compare(where: str, found: Tensor, truth: Tensor, limits: Thresholds) -> Iterator[Check]:
    """Yield relative L2 and cosine; anything that isn't finite gives NaN, which fails."""
    found, truth = found.flatten().double(), truth.flatten().double()
    error = float((found - truth).norm() / truth.norm())
    cosine = float(found @ truth / (found.norm() * truth.norm()))
    yield Check(where, "relative L2", error, limits.relative_l2, at_most=True)
    yield Check(where, "cosine", cosine, limits.cosine, at_most=False)


# -- the command -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gate:
    """How the gate was asked for."""

    observations: tuple[tuple[str, str], ...] = ()
    batches: tuple[int, ...] = BATCHES
    steps: int | None = None
    report: Path | None = None

    def run(self, engines: Path, model: AIDModel, *, runtime: str) -> int:
        """Verify, print the table and write the JSON; returns 1 where a check fails."""
        manifest = Manifest.load(engines)
        numbers, runtime = manifest.arithmetic, settle(runtime, manifest, model.device)
        if runtime.startswith("ort") and numbers in ("bf16", "fp8") and model.device.type == "cpu":
            # Of fp8 it has the types, and moves a Transpose among them that it has no kernel for.
            why = f"a CPU's ONNX Runtime can't run {numbers}: verify the engine built from it"
            return self.leave_out(engines, manifest, runtime, why)
        count = model.config.num_conditioning_frames
        observations = [read_observation(*given, count) for given in self.observations]
        result = verify(
            engines, model, observations, runtime=runtime, batches=self.batches, steps=self.steps
        )
        self._tell(result)
        return 0 if result.passed else 1

    def leave_out(self, engines: Path, manifest: Manifest, runtime: str, why: str) -> int:
        """Say, and report, that nothing was compared; returns 0."""
        missing = (LeftOut("all", why),)
        facts = (str(engines), runtime, manifest.arithmetic, manifest.versions)
        self._tell(Report(*facts, (), missing))
        return 0

    def _tell(self, result: Report) -> None:
        print(result.table())
        if self.report is not None:
            self.report.parent.mkdir(parents=True, exist_ok=True)
            self.report.write_text(result.to_json() + "\n")


def add_gate_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the gate, for the programs that end with it."""
    group = parser.add_argument_group("accuracy gate")
    group.add_argument("--no-verify", action="store_true", help="leave the gate out")
    _add_observation_arguments(group)


def _add_observation_arguments(group: Any) -> None:
    group.add_argument(
        "--observation",
        nargs=2,
        action="append",
        default=[],
        metavar=("INPUT", "INSTRUCTION"),
        help="a picture or recording and what the robot is told; may be given several times "
        "(default: the picture that comes with the package)",
    )
    group.add_argument(
        "--batches", type=int, nargs="+", default=list(BATCHES), help="rows to check for NaN"
    )
    group.add_argument(
        "--steps",
        type=int,
        help="denoising steps of what is compared (default: the model's own for frames, and at "
        f"least {_LEVELS} noise levels for calls)",
    )
    group.add_argument("--report", type=Path, metavar="FILE", help="write the figures as JSON")


def gate_from(args: argparse.Namespace) -> Gate | None:
    """Read the gate's arguments; None where it is left out."""
    if getattr(args, "no_verify", False):
        return None
    if min(args.batches) < 1:
        raise ConfigError(f"--batches {min(args.batches)} must be at least 1")
    if args.steps is not None and args.steps < 1:
        raise ConfigError(f"--steps {args.steps} must be at least 1")
    observations = tuple((path, text) for path, text in args.observation)
    for path, _ in observations:  # before the hours of an export
        if "://" not in path and not Path(path).expanduser().exists():
            raise ConfigError(f"--observation {path}: there is no such file or folder")
    return Gate(observations, tuple(args.batches), args.steps, args.report)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("engines", type=Path, help="folder with an export.json")
    parser.add_argument(
        "--model", default=BUNDLED, help="'bundled', a folder, or a hub id: what was exported"
    )
    parser.add_argument("--runtime", choices=RUNTIMES, default="auto")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    _add_observation_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Verify a folder; returns 1 where a check fails."""
    from aid_robot.model.checkpoint import load_model
    from aid_robot.runtime.denoiser import choose_device

    gate = gate_from(args)
    assert gate is not None
    model = load_model(args.model, dtype=torch.float32)
    model = model.to(choose_device(args.device), torch.float32)
    return gate.run(args.engines, model, runtime=args.runtime)


if __name__ == "__main__":
    raise SystemExit(run_script(__doc__, add_arguments, run))
