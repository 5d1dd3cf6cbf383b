"""`aid-robot bench`: how long a prediction takes here, by runtime, precision, steps and candidates.

`benchmarks/runtime.py` is the same. Every figure comes after a warm-up, with the machine, its load
and the versions printed above it, next to diffusers' own Stable Video Diffusion in the same run.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aid_robot.errors import EngineError

if TYPE_CHECKING:
    import torch

    from aid_robot.model.aid import AIDModel
    from aid_robot.runtime.measure import Timing

HELP = "time predictions by runtime, precision, steps and number of candidates"
_STAGES = ("encode", "condition", "denoise", "decode")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--model",
        default="bundled",
        help="'bundled', a folder, a hub id, or 'random-full': the full size, weights drawn",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--runtimes", nargs="+", default=["torch"], metavar="NAME", help="torch, torch:compile, ..."
    )
    parser.add_argument(
        "--dtypes", nargs="+", default=["auto"], metavar="DTYPE", help="of what torch computes"
    )
    parser.add_argument("--engines", type=Path, help="folder for the runtimes 'ort' and 'trt'")
    parser.add_argument(
        "--candidates", nargs="+", type=_positive, default=[1, 4, 8, 24], metavar="N"
    )
    parser.add_argument("--steps", nargs="+", type=_positive, metavar="N")
    parser.add_argument("--warmup", type=int, default=2, help="runs before the timed ones")
    parser.add_argument("--runs", type=int, default=7, help="timed runs")
    parser.add_argument(
        "--no-diffusers", action="store_true", help="leave diffusers' own UNet and pipeline out"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write JSON")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    # "predict" (a whole request) or "step" (one denoising step of the UNet)
    kind: str
    runtime: str
    # Of torch's parts, and what an exported UNet computes in (precision or quantisation).
    dtype: str
    arithmetic: str | None
    candidates: int
    # Denoising steps of a prediction; branches x candidates of a step.
    steps: int | None
    rows: int | None
    timing: Timing

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        values = {k: v for k, v in self.__dict__.items() if k != "timing"}
        return {**values, **self.timing.to_dict()}


class Bench:
    """Times the cases one after the other and prints each as it is done."""

    def __init__(
        self, args: argparse.Namespace, device: torch.device, keep: Callable[[], None]
    ) -> None:
        self.args, self.device, self.keep = args, device, keep
        self.done: list[Row] = []
        # What could not be timed, and why.
        self.left_out: list[str] = []

    def run(self) -> None:
        """Time every runtime in every dtype, then diffusers."""
        from aid_robot.runtime import choose_model_dtype

        print(_HEAD)
        for name in self.args.dtypes:
            engines = self.args.engines if name == "auto" else None
            dtype = choose_model_dtype(name, self.device, engines)
            model = self._load(dtype)
            for runtime in self.args.runtimes:
                self._runtime(model, runtime)
                self._release()
            if not self.args.no_diffusers:
                self._diffusers(model)
            del model
            self._release()

    def _load(self, dtype: torch.dtype) -> AIDModel:
        from aid_robot.commands.bench_cases import load

        return load(self.args.model, self.device, dtype)

    def _runtime(self, model: AIDModel, runtime: str) -> None:
        from aid_robot.commands.bench_cases import Step, branch_count, predict_call
        from aid_robot.foresight import VideoForesight
        from aid_robot.runtime import make_denoiser
        from aid_robot.runtime.manifest import Manifest

        engines = None if runtime.startswith("torch") else self.args.engines
        denoiser = make_denoiser(model, runtime, engines)
        numbers = None if engines is None else Manifest.load(engines).arithmetic
        foresight = VideoForesight(model, denoiser=denoiser, model_id=self.args.model)
        for count in self.args.candidates:
            rows = count * branch_count(model)
            call = Step(model, rows).call(denoiser)
            self._time("step", runtime, model, count, call, rows=rows, arithmetic=numbers)
            for steps in self._steps(model):
                whole = predict_call(foresight, count, steps)
                self._time("predict", runtime, model, count, whole, steps=steps, arithmetic=numbers)

    def _diffusers(self, model: AIDModel) -> None:
        from aid_robot.commands.bench_cases import (
            Step,
            branch_count,
            diffusers_pipeline,
            diffusers_unet,
            pipeline_call,
        )

        unet = diffusers_unet(model)
        pipeline = diffusers_pipeline(model, unet)
        if pipeline is None:
            self._leave_out(
                "predict by diffusers: its pipeline knows no "
                f"latent_patch_size={model.unet.patch_size}"
            )
        for count in self.args.candidates:
            rows = count * branch_count(model)
            call = Step(model, rows).diffusers_call(unet)
            self._time("step", "diffusers", model, count, call, rows=rows)
            for steps in self._steps(model) if pipeline is not None else ():
                call = pipeline_call(pipeline, model, count, steps)
                self._time("predict", "diffusers", model, count, call, steps=steps)

    def _steps(self, model: AIDModel) -> list[int]:
        return self.args.steps or [model.config.sampling.steps]

    def _time(
        self,
        kind: str,
        runtime: str,
        model: AIDModel,
        candidates: int,
        call: Callable[[], Mapping[str, float] | None],
        *,
        steps: int | None = None,
        rows: int | None = None,
        arithmetic: str | None = None,
    ) -> None:
        from aid_robot.runtime.measure import measure

        try:
            timing = measure(call, self.device, warmup=self.args.warmup, runs=self.args.runs)
        except EngineError as error:  # such as an engine of fewer rows
            self._leave_out(f"{kind} of {candidates} candidates by {runtime}: {error}")
            return
        dtype = str(model.dtype).removeprefix("torch.")
        self.done.append(Row(kind, runtime, dtype, arithmetic, candidates, steps, rows, timing))
        print(_line(self.done[-1]), flush=True)
        self.keep()

    def _leave_out(self, what: str) -> None:
        self.left_out.append(what)
        print(f"left out: {what}", flush=True)

    def _release(self) -> None:
        import torch

        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def run(args: argparse.Namespace) -> int:
    """Print the table, and write JSON where that is asked for."""
    from aid_robot.runtime.measure import check_runs

    check_runs(args.warmup, args.runs)  # before anything is loaded
    from aid_robot.commands import quiet_libraries
    from aid_robot.commands.bench_cases import engine_seconds
    from aid_robot.runtime.denoiser import choose_device
    from aid_robot.runtime.measure import current_load, describe_machine

    if "debug" not in args:
        quiet_libraries()
    device = choose_device(args.device)
    machine = describe_machine(device)
    built = engine_seconds(args.engines)
    for name, value in machine.items():
        print(f"{name:<20} {_plain(value)}")
    for name, seconds in built.items():
        print(f"{'engine':<20} {name}, built in {seconds:.1f} s")
    print(
        f"{'model':<20} {args.model} on {device}; {args.runs} runs after {args.warmup} warm-ups, "
        "the median and what 95 % stay within\n"
    )

    def keep() -> None:
        if args.output is None:
            return
        record = {
            "machine": machine,
            "load at the end": current_load(),
            "arguments": {
                n: _jsonable(v)
                for n, v in vars(args).items()
                if not (callable(v) or isinstance(v, argparse.ArgumentParser))
            },
            "engine seconds": dict(built),
            "rows": [row.to_dict() for row in bench.done],
            "left out": bench.left_out,
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(record, indent=1) + "\n")

    bench = Bench(args, device, keep)
    bench.run()
    print(f"\nload at the end: {_plain(current_load())}")
    keep()
    return 0 if bench.done else 1


_HEAD = (
    f"{'what':<8} {'runtime':<17} {'dtype':<9} {'cand.':>5} {'size':>9} {'p50':>10} {'p95':>10} "
    f"{'a cand.':>10} {'first':>8} {'memory':>8}  stages"
)


def _line(row: Row) -> str:
    timing = row.timing
    size = f"{row.steps} steps" if row.steps is not None else f"{row.rows} rows"
    peak = "-" if timing.peak_bytes is None else f"{timing.peak_bytes / 2**30:.2f} G"
    parts = timing.to_dict()["stages"]
    stages = ", ".join(f"{name} {parts[name] * 1e3:.0f}" for name in _STAGES if name in parts)
    numbers = row.arithmetic or row.dtype
    return (
        f"{row.kind:<8} {row.runtime:<17} {numbers:<9} {row.candidates:>5} {size:>9} "
        f"{_ms(timing.p50):>10} {_ms(timing.p95):>10} {_ms(timing.p50 / row.candidates):>10} "
        f"{timing.first:>6.1f} s {peak:>8}  {stages}".rstrip()
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)


def _jsonable(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
