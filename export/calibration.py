"""Record what the UNet is really called with, for `aid-robot export quantize` to choose scales by.

    aid-robot export calibrate demos.zarr --onnx-dir onnx --clips 32 -o onnx/calibration.npz

Torch predicts in float32 from observations of a recording. Of every prediction a few rows are kept,
dealt out so that all noise levels and all branches of the guidance are in the file alike: ranges of
one level are wrong at another.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from aid_robot.data.episode import Episode
from aid_robot.data.ingest import Recording, open_recording
from aid_robot.errors import ConfigError, DataFormatError, ExportError, SamplingError
from aid_robot.export.calls import Call, Recorder
from aid_robot.export.observations import Observation
from aid_robot.export.quantize import ROLE, quantisable
from aid_robot.export.script import run_script
from aid_robot.foresight import VideoForesight
from aid_robot.hub import BUNDLED
from aid_robot.model.aid import AIDModel
from aid_robot.model.diffusion import make_sigmas
from aid_robot.options import choose_sampling
from aid_robot.predictor import PredictOptions
from aid_robot.runtime.denoiser import NetworkDenoiser, choose_device
from aid_robot.runtime.manifest import Graph, Manifest
from aid_robot.runtime.unet_graph import (
    SAMPLE,
    TIME_IDS,
    TIMESTEP,
    check_size,
    flatten_context,
    split_weights,
)

Arrays: TypeAlias = dict[str, NDArray[np.generic]]

CLIPS = 32
# Rows of a file take about this much; of a model at full size that is one or two a clip.
_FILE_BYTES = 4 * 2**30


def calibrate(
    model: AIDModel,
    manifest: Manifest,
    recording: Recording,
    *,
    clips: int = CLIPS,
    steps: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Arrays:
    """Predict from a recording's observations and keep rows of the UNet's calls.

    Args:
        model: What was exported, in float32.
        manifest: Of the folder of its graphs.
        recording: Where observations and instructions come from.
        clips: How many predictions.
        steps: Denoising steps; None takes the model's own.
        seed: Of the choice of observations, and of the noise.
        progress: Show a bar.

    Returns:
        By the names of the graph's inputs, in its order: (rows, ...) each, in the graph's dtype.

    Raises:
        ConfigError: The denoiser can't be quantised.
        EngineError: It is of another model.
        DataFormatError: The recording has too little.
    """
    if clips < 1:
        raise ConfigError(f"clips={clips} must be at least 1; {CLIPS} is usual")
    graph = quantisable(manifest)
    check_size(graph, model)
    manifest.check_weights(ROLE, split_weights(model.unet, manifest.adapters)[0])
    options: PredictOptions = {} if steps is None else {"steps": steps}
    sigmas = make_sigmas(choose_sampling(options, model.config)[0])[:-1]
    levels = _levels(graph, clips, len(sigmas))
    rows: dict[str, list[Tensor]] = {spec.name: [] for spec in graph.inputs}
    views = choose_observations(
        recording, clips, model.config.num_conditioning_frames, model.config.fps, seed
    )
    for number, view in enumerate(tqdm(views, "calibrate", unit="clip", disable=not progress)):
        wanted = _strata(len(sigmas), levels, number)
        calls = _predict(model, view, sigmas, wanted, options, seed + number)
        for place, call in enumerate(calls):
            # Lest each level meet one branch alone, should there be a multiple of as many.
            turn = number + number // len(sigmas) + place
            for name, tensor in _row(call, turn).items():
                rows[name].append(tensor)
    arrays: Arrays = {}
    for spec in graph.inputs:
        joined = torch.stack(rows.pop(spec.name)).to("cpu", spec.torch_dtype)
        if not torch.isfinite(joined).all():
            raise SamplingError(
                f"'{spec.name}' is not finite in {spec.dtype} during a prediction: export the "
                "graph in fp32, and see that torch predicts well with this model"
            )
        arrays[spec.name] = joined.numpy()
    return arrays


def choose_observations(
    recording: Recording, clips: int, frames: int, fps: float, seed: int
) -> list[Observation]:
    """Choose observations with an instruction, of as many episodes as there are.

    Args:
        recording: Where from.
        clips: How many.
        frames: That the model must be given.
        fps: At which it wants them.
        seed: Of the choice.

    Raises:
        DataFormatError: There are too few, or none has an instruction.
    """
    rng = np.random.default_rng(seed)
    usable: list[tuple[Episode, list[int]]] = []
    for index in rng.permutation(len(recording)):
        episode = recording[int(index)]
        count = len(episode) - _places(episode, frames, fps)[-1]
        if episode.instruction and count > 0:
            usable.append((episode, list(map(int, rng.permutation(count)))))
        if len(usable) == clips:
            break
    if not usable:
        raise DataFormatError(
            f"{recording.path} has {len(recording)} episodes, none with an instruction and "
            f"{frames} frames; expected at least one: annotate them, or give another recording"
        )
    there = sum(len(starts) for _, starts in usable)
    if there < clips:
        raise DataFormatError(
            f"{recording.path} has {there} observations with an instruction in {len(usable)} "
            f"episodes, and {clips} were asked for: record more, or ask for fewer by --clips"
        )
    chosen: list[Observation] = []
    while len(chosen) < clips:  # a second of an episode only when each has given one
        for episode, starts in usable:
            if starts and len(chosen) < clips:
                places = [starts[0] + place for place in _places(episode, frames, fps)]
                del starts[0]
                chosen.append(Observation(episode.frames[places], str(episode.instruction)))
    return chosen


def save_calibration(arrays: Arrays, path: Path) -> None:
    """Write the rows, whole or not at all.

    Raises:
        ExportError: The disk is full, or the folder can't be written to.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        partial.replace(path)
    except OSError as error:
        size = sum(array.nbytes for array in arrays.values()) / 1e6
        raise ExportError(
            f"{path} can't be written ({error}): it takes {size:.0f} MB; free some disk space, "
            "choose another folder, or ask for fewer --clips"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _levels(graph: Graph, clips: int, steps: int) -> int:
    """Return how many rows a clip gives, each of another noise level."""
    width = {"float32": 4, "float16": 2, "int64": 8}
    size = sum(
        width[spec.dtype] * math.prod(n for n in spec.shape[1:] if isinstance(n, int))
        for spec in graph.inputs
    )
    return max(1, min(steps, _FILE_BYTES // (size * clips)))


def _strata(steps: int, levels: int, clip: int) -> list[int]:
    """Deal the steps to a clip: one of each stratum, another than the clip before had."""
    return sorted({(clip + stratum * steps // levels) % steps for stratum in range(levels)})


def _places(episode: Episode, frames: int, fps: float) -> list[int]:
    """Return where the frames of an observation lie, from its first on, at the model's rate."""
    stride = (episode.fps or fps) / fps
    return [round(place * stride) for place in range(frames)]


def _predict(
    model: AIDModel,
    view: Observation,
    sigmas: list[float],
    wanted: list[int],
    options: PredictOptions,
    seed: int,
) -> Iterator[Call]:
    """Predict, and give the first call of every noise level that is wanted."""
    levels = [math.log(sigma) / 4 for sigma in sigmas]

    def level(noise: float) -> int:
        return min(range(len(levels)), key=lambda step: abs(levels[step] - noise))

    recorder = Recorder(model.unet, keep=lambda noise: level(noise) in wanted)
    by_torch = NetworkDenoiser(recorder, model.dtype, model.config.prediction_type)
    foresight = VideoForesight(model, denoiser=by_torch)
    foresight.predict(view.frames, view.instruction, seed=seed, **options)
    seen: set[int] = set()
    for call in recorder.calls:  # Heun's method calls twice at a level
        step = level(float(call.timestep[0]))
        if step not in seen:
            seen.add(step)
            yield call


def _row(call: Call, number: int) -> Mapping[str, Tensor]:
    """Return one row of a call by the graph's names; the branch goes round with the number."""
    row = number % len(call.sample)
    inputs = {SAMPLE: call.sample, TIMESTEP: call.timestep, TIME_IDS: call.added_time_ids}
    return {
        name: tensor[row].clone()
        for name, tensor in {**inputs, **flatten_context(call.context)}.items()
    }


# -- the command -----------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("recording", help="an episode store, or a recording of any layout")
    parser.add_argument(
        "--onnx-dir", type=Path, default=Path("onnx"), help="folder of the graphs (default: onnx)"
    )
    parser.add_argument(
        "--model", default=BUNDLED, help="'bundled', a folder, or a hub id: what was exported"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--clips", type=int, default=CLIPS, help=f"predictions (default: {CLIPS}, a good number)"
    )
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's own)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "-o", "--output", type=Path, help="file (default: calibration.npz beside the graphs)"
    )


def run(args: argparse.Namespace) -> int:
    """Predict, keep and write."""
    from aid_robot.model.checkpoint import load_model

    manifest = Manifest.load(args.onnx_dir)
    quantisable(manifest)  # before a model is loaded
    recording = open_recording(args.recording)
    model = load_model(args.model, dtype=torch.float32)
    model = model.to(choose_device(args.device), torch.float32)
    arrays = calibrate(
        model,
        manifest,
        recording,
        clips=args.clips,
        steps=args.steps,
        seed=args.seed,
        progress=True,
    )
    path = args.output or args.onnx_dir / "calibration.npz"
    save_calibration(arrays, path)
    rows = len(next(iter(arrays.values())))
    print(f"{path}: {rows} rows of {args.clips} clips, {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(__doc__, add_arguments, run))
