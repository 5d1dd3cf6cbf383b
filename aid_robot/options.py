"""The checks that a request passes before anything is computed."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aid_robot.errors import FrameCountError, FrameRateError, InstructionError, SamplingError
from aid_robot.model.config import AIDConfig, SamplingConfig
from aid_robot.model.guidance import DualGuidance
from aid_robot.observation import resize_frames, to_frames
from aid_robot.predictor import PredictOptions, Request


@dataclass(frozen=True, eq=False)
class Job:
    """A checked request: K frames of the model's size, a text, and the noise of its samples."""

    frames: NDArray[np.uint8]  # (K, H, W, 3), of the model's size
    first_frame: NDArray[np.uint8]  # as observed, for the state predictor
    instruction: str
    seed: int
    states: tuple[str, ...] | None
    samples: range


def check_options(options: PredictOptions, config: AIDConfig) -> None:
    """Refuse options that don't exist, and expectations that the model does not meet."""
    known = PredictOptions.__annotations__
    unknown = set(options) - set(known)
    if unknown:
        raise TypeError(
            f"predict has no option {', '.join(sorted(unknown))}; it has {', '.join(known)}"
        )
    for name in ("steps", "batch_size", "decode_chunk_size", "decode_tile_size"):
        if name in options:
            check_count(name, options.get(name))
    if options.get("decode_tile_size", 4) < 4:
        raise SamplingError(
            f"decode_tile_size={options.get('decode_tile_size')} must be at least 4 latent pixels"
        )
    fps: Any = options.get("fps")
    if fps is not None and not _is_number(fps):
        raise FrameRateError(f"fps={fps!r} must be a number of frames a second")
    if fps is not None and abs(fps - config.fps) > 1e-3:
        raise FrameRateError(
            f"the observation comes at {fps} frames a second, the model was trained at "
            f"{config.fps}: resample the recording, or use a model of its rate"
        )
    num_frames = options.get("num_frames")
    if num_frames is not None and num_frames != config.num_frames:
        raise FrameCountError(
            f"{num_frames} frames were asked for, the model predicts {config.num_frames}: "
            "chain several predictions with rollout, or cut the result"
        )


def check_request(
    request: Request, samples: range, options: PredictOptions, config: AIDConfig
) -> Job:
    """Turn a request into K frames of the model's size, a clean text and a seed."""
    observation = to_frames(
        request.obs, num_frames=config.num_conditioning_frames, camera=options.get("camera")
    )
    instruction: Any = request.instruction
    if instruction is None:
        instruction = observation.instruction or ""
    instruction = check_instruction(instruction, options, config)
    states = request.states
    if states is not None and (isinstance(states, str) or len(states) != config.num_states):
        raise InstructionError(
            f"states={states!r} was given, the model takes a list of {config.num_states} texts"
        )
    return Job(
        frames=resize_frames(observation.frames, (config.height, config.width)),
        first_frame=observation.frames[0],
        instruction=instruction,
        seed=draw_seed(request.seed),
        states=None if states is None else tuple(states),
        samples=samples,
    )


def check_instruction(instruction: Any, options: PredictOptions, config: AIDConfig) -> str:
    """Return an instruction as one clean line; a blank one needs a prediction without text."""
    if not isinstance(instruction, str):
        raise InstructionError(
            f"the instruction is {instruction!r}, expected text such as "
            "'put the carrot on the plate'"
        )
    cleaned = " ".join(instruction.split())
    scale = options.get("text_guidance_scale", config.sampling.text_guidance_scale)
    if not cleaned and scale != 0:
        raise InstructionError(
            "the instruction is blank: say what the robot is to do, or predict without text by "
            "text_guidance_scale=0"
        )
    return cleaned


def choose_sampling(
    options: PredictOptions, config: AIDConfig
) -> tuple[SamplingConfig, DualGuidance]:
    """Merge the caller's wishes into the model's own way of sampling."""
    changes: dict[str, Any] = {
        name: options.get(name) for name in ("steps", "sampler", "schedule") if name in options
    }
    if "still_threshold" in options:
        changes["still_threshold"] = _number("still_threshold", options, 0.0)
    sampling = replace(config.sampling, **changes)
    interval: Any = options.get("guidance_interval", sampling.guidance_interval)
    try:
        low, high = (float(end) for end in interval)
    except (TypeError, ValueError):
        raise SamplingError(
            f"guidance_interval={interval!r} must be two noise levels, (low, high)"
        ) from None
    guidance = DualGuidance(
        image_scale=_image_scale(options, sampling),
        text_scale=_number("text_guidance_scale", options, sampling.text_guidance_scale),
        interval=(low, high),
    )
    return sampling, guidance


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _number(name: str, options: PredictOptions, default: float) -> float:
    value: Any = options.get(name, default)
    if not _is_number(value):
        raise SamplingError(f"{name}={value!r} must be a number")
    return float(value)


def _image_scale(options: PredictOptions, sampling: SamplingConfig) -> float | tuple[float, float]:
    value: Any = options.get("image_guidance_scale", sampling.image_guidance_scale)
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        return float(value[0]), float(value[1])
    if not _is_number(value):
        raise SamplingError(
            f"image_guidance_scale={value!r} must be a number, or two for first and last frame"
        )
    return float(value)


def describe_sampling(sampling: SamplingConfig, guidance: DualGuidance) -> dict[str, Any]:
    """Name what a prediction was sampled with, in plain values."""
    return {
        "steps": sampling.steps,
        "sampler": sampling.sampler,
        "schedule": sampling.schedule,
        "image_guidance_scale": guidance.image_scale,
        "text_guidance_scale": guidance.text_scale,
        "guidance_interval": list(guidance.interval),
        "still_threshold": sampling.still_threshold,
    }


def check_count(name: str, value: object) -> None:
    """Refuse anything but a whole number of at least 1."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise SamplingError(f"{name}={value!r} must be a whole number of at least 1")


def draw_seed(seed: int | None) -> int:
    """Check a seed, or draw one where there is none."""
    if seed is None:
        return secrets.randbits(31)
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise SamplingError(f"seed={seed!r} must be a whole number of at least 0")
    return int(seed)
