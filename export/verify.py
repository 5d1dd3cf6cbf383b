"""The accuracy gate: exported graphs and engines against torch, on real observations.

    python export/verify.py onnx --model bundled --observation frame.png "open the drawer"

Torch predicts in float32 and every call of its UNet is kept. The engine then answers the same calls
(so that the error of each noise level is seen apart), larger and smaller batches than that, and at
last predicts by itself: PSNR, and LPIPS where its weights are at hand. The same code ends every
export, and is `aid-robot export verify`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aid_robot.errors import ConfigError, SamplingError, WeightsNotFoundError
from aid_robot.evaluation.metrics.lpips import LPIPS, SMALLEST
from aid_robot.evaluation.psnr import psnr
from aid_robot.export.calls import Recorder
from aid_robot.export.graphs import make_source
from aid_robot.export.script import run_script
from aid_robot.foresight import VideoForesight
from aid_robot.hub import BUNDLED
from aid_robot.model.aid import AIDModel
from aid_robot.runtime import RUNTIMES, make_denoiser
from aid_robot.runtime.denoiser import NetworkDenoiser
from aid_robot.runtime.manifest import Manifest

Frames: TypeAlias = NDArray[np.uint8]

# Batches off the one that an engine is tuned for: that is where some give NaN.
BATCHES = (1, 2, 3, 24)
_SEED = 0
_INSTRUCTION = "put the carrot on the plate"


@dataclass(frozen=True)
class Thresholds:
    """What the numbers that a graph computes in must reach."""

    relative_l2: float  # largest, of the network's output
    cosine: float  # smallest, of the same
    psnr: float  # smallest, of predicted frames against torch's, dB
    lpips: float  # largest, of the same


THRESHOLDS: Mapping[str, Thresholds] = {
    "fp32": Thresholds(1e-5, 0.999999, 60.0, 1e-3),
    "fp16": Thresholds(1e-2, 0.9999, 45.0, 1e-2),
    "bf16": Thresholds(5e-2, 0.998, 35.0, 5e-2),
    "fp8": Thresholds(0.15, 0.99, 28.0, 0.1),
    "int8": Thresholds(0.2, 0.98, 25.0, 0.15),
}


@dataclass(frozen=True)
class Check:
    """One figure and its limit."""

    what: str
    figure: str
    value: float
    limit: float
    at_most: bool

    @property
    def passed(self) -> bool:
        """Tell whether the figure keeps its limit; NaN never does."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit


@dataclass(frozen=True)
class Report:
    """All checks of one folder."""

    engines: str
    runtime: str
    precision: str
    versions: Mapping[str, str]
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Tell whether every check passed, and there was one."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def table(self) -> str:
        """Return the checks as lines."""
        wide = max((len(check.what) for check in self.checks), default=0)
        lines = [
            f"{check.what:<{wide}}  {check.figure:<11} {check.value:>11.4g}  "
            f"{'<=' if check.at_most else '>='} {check.limit:<9.6g} "
            f"{'ok' if check.passed else 'FAILED'}"
            for check in self.checks
        ]
        verdict = "passed" if self.passed else "FAILED"
        return "\n".join([*lines, f"{self.engines} by {self.runtime}, {self.precision}: {verdict}"])

    def to_json(self) -> str:
        """Return the report as JSON; infinity and NaN as text."""
        checks = [{**asdict(check), "passed": check.passed} for check in self.checks]
        for check in checks:
            if not math.isfinite(check["value"]):
                check["value"] = str(check["value"])
        return json.dumps({**asdict(self), "checks": checks, "passed": self.passed}, indent=2)


@dataclass(frozen=True, eq=False)
class Observation:
    """What a prediction starts from."""

    frames: NDArray[np.uint8]  # (H, W, 3), or (K, H, W, 3)
    instruction: str


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
        steps: Denoising steps of the rollout; None takes the model's own.
        on_check: Told of every check as it is done.
    """
    manifest = Manifest.load(engines)
    runtime = settle(runtime, manifest)
    report = []
    for check in _checks(engines, manifest, model, observations, runtime, batches, steps):
        report.append(check)
        if on_check is not None:
            on_check(check)
    return Report(str(engines), runtime, manifest.arithmetic, manifest.versions, tuple(report))


def settle(runtime: str, manifest: Manifest) -> str:
    """Say who "auto" is: engines where there are some and a GPU, else the graphs."""
    if runtime != "auto":
        return runtime
    return "trt" if manifest.engines and torch.cuda.is_available() else "ort"


def _checks(
    engines: Path,
    manifest: Manifest,
    model: AIDModel,
    observations: Sequence[Observation],
    runtime: str,
    batches: Sequence[int],
    steps: int | None,
) -> Iterator[Check]:
    if runtime.startswith("ort"):
        yield from _check_graphs(engines, manifest, model)
    if "denoiser" not in manifest.graphs:
        return
    limits = THRESHOLDS[manifest.graph("denoiser").arithmetic]
    denoiser: Any = make_denoiser(model, runtime, engines)
    recorder = Recorder(model.unet)
    by_torch = NetworkDenoiser(recorder, model.dtype, model.config.prediction_type)
    torch_way = VideoForesight(model, denoiser=by_torch)
    own_way = VideoForesight(model, denoiser=denoiser)
    rows = manifest.graph("denoiser").inputs[0].shape[0]
    fixed = rows if isinstance(rows, int) else None
    options: Any = {} if steps is None else {"steps": steps}
    given, lpips = model.config.num_conditioning_frames, _find_lpips(model)
    for number, observation in enumerate(observations or [bundled_observation()], start=1):
        recorder.calls.clear()
        frames = observation.frames
        if frames.ndim == 3:
            frames = np.repeat(frames[None], given, axis=0)
        truth = torch_way.predict(frames, observation.instruction, seed=_SEED, **options).frames
        calls = list(recorder.calls)
        for call in calls:
            sigma = math.exp(4 * float(call.timestep[0]))
            where = f"observation {number}, sigma {sigma:.4g}"
            count = fixed or len(call.sample)
            yield from _compare(where, *call.run(denoiser.network, count), limits)
        middle = calls[len(calls) // 2]
        for batch in batches if number == 1 and fixed is None else ():
            answers = middle.run(denoiser.network, batch)
            yield from _compare(f"batch of {batch}", *answers, limits)
        if fixed is not None and any(len(call.sample) != fixed for call in calls):
            continue  # such a graph can't predict by itself
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
    lpips: LPIPS | None,
) -> Iterator[Check]:
    """Compare predicted frames (samples, N, H, W, 3) with torch's; None fails."""
    found = math.nan if shown is None else psnr(shown[:, given:], truth[:, given:])
    yield Check(where, "PSNR dB", found, limits.psnr, at_most=False)
    if lpips is not None:
        found = math.nan
        if shown is not None:
            pair = (np.concatenate(clips[:, given:]) for clips in (shown, truth))
            found = float(lpips.distance(*pair).mean())
        yield Check(where, "LPIPS", found, limits.lpips, at_most=True)


def _find_lpips(model: AIDModel) -> LPIPS | None:
    """Load LPIPS where its weights are at hand and the frames are large enough for it."""
    if min(model.config.height, model.config.width) < SMALLEST:
        return None
    try:
        return LPIPS.load(device=str(model.device))
    except WeightsNotFoundError:
        return None


def _check_graphs(engines: Path, manifest: Manifest, model: AIDModel) -> Iterator[Check]:
    """Compare the graphs around the denoiser with their torch modules, on random inputs."""
    from aid_robot.runtime.ort import OrtGraph

    device = model.device
    for role, graph in manifest.graphs.items():
        if role == "denoiser":
            continue
        fixed = graph.inputs[0].shape[0]
        rows = fixed if isinstance(fixed, int) else None
        source = make_source(role, model, rows=rows)
        ort = OrtGraph(engines, manifest, role, device, device.type)
        example = [tensor.to(device) for tensor in source.example(_SEED)]
        with torch.inference_mode():
            expected = source.module(*example)
            names = [spec.name for spec in source.inputs]
            found = ort(dict(zip(names, example, strict=True)))
        expected = expected if isinstance(expected, tuple) else (expected,)
        joined = torch.cat([found[spec.name].float().flatten() for spec in graph.outputs])
        truth = torch.cat([tensor.flatten() for tensor in expected])
        yield from _compare(role, joined, truth, THRESHOLDS[graph.arithmetic])


def _compare(where: str, found: Tensor, truth: Tensor, limits: Thresholds) -> Iterator[Check]:
    """Yield relative L2 and cosine; anything that isn't finite gives NaN, which fails."""
    found, truth = found.flatten().double(), truth.flatten().double()
    error = float((found - truth).norm() / truth.norm())
    cosine = float(found @ truth / (found.norm() * truth.norm()))
    yield Check(where, "relative L2", error, limits.relative_l2, at_most=True)
    yield Check(where, "cosine", cosine, limits.cosine, at_most=False)


# -- observations ----------------------------------------------------------------------------------


def bundled_observation() -> Observation:
    """Return the picture that comes with the package."""
    import aid_robot

    folder = Path(aid_robot.__file__).parent / "assets" / "observations"
    return Observation(_read_picture(sorted(folder.glob("*.png"))[0]), _INSTRUCTION)


def read_observation(path: str, instruction: str, count: int) -> Observation:
    """Read a picture, or the first `count` frames of a recording's first episode."""
    if Path(path).suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"):
        return Observation(_read_picture(Path(path)), instruction)
    from aid_robot.data.ingest import open_recording

    episode = open_recording(path)[0]
    frames = episode.videos[episode.camera]
    return Observation(frames[0:count], instruction)


def _read_picture(path: Path) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("JPEG", "PNG", "WEBP")) as image:
            return np.array(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise ConfigError(f"{path} is no picture that can be read ({error})") from error


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
        numbers, runtime = manifest.arithmetic, settle(runtime, manifest)
        if runtime.startswith("ort") and numbers in ("bf16", "fp8") and model.device.type == "cpu":
            # Of fp8 it has the types, and moves a Transpose among them that it has no kernel for.
            print(
                f"not verified: a CPU's ONNX Runtime can't run {numbers}; verify the engine built "
                "from it"
            )
            return 0
        count = model.config.num_conditioning_frames
        observations = [read_observation(*given, count) for given in self.observations]
        result = verify(
            engines, model, observations, runtime=runtime, batches=self.batches, steps=self.steps
        )
        print(result.table())
        if self.report is not None:
            self.report.write_text(result.to_json() + "\n")
        return 0 if result.passed else 1


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
    group.add_argument("--steps", type=int, help="denoising steps (default: the model's own)")
    group.add_argument("--report", type=Path, metavar="FILE", help="write the figures as JSON")


def gate_from(args: argparse.Namespace) -> Gate | None:
    """Read the gate's arguments; None where it is left out."""
    if getattr(args, "no_verify", False):
        return None
    if min(args.batches) < 1:
        raise ConfigError(f"--batches {min(args.batches)} must be at least 1")
    observations = tuple((path, text) for path, text in args.observation)
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
