"""Foresight out: what a model predicts, and how it is saved, shown and joined.

foresight = model.predict(frame, "put the carrot on the plate")
foresight.save("foresight.mp4")
foresight.save("strip.png", truth=recorded)
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
import os
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aid_robot.clip_drawing import (
    PREDICTED,
    RECORDED,
    Panel,
    draw_panels,
    draw_strip,
    encode_gif,
    enlarge,
    shown_scale,
)
from aid_robot.errors import (
    ConfigError,
    DataFormatError,
    FrameCountError,
    FrameRateError,
    SamplingError,
)
from aid_robot.observation import resize_frames

SUFFIXES = (".mp4", ".gif", ".png", ".npz")

# What zipfile, numpy and json raise on a damaged or foreign file.
_DAMAGE = (
    *(zipfile.BadZipFile, OSError, EOFError, RuntimeError),
    *(ValueError, KeyError, TypeError, OverflowError),
)


@dataclass(frozen=True, eq=False)
class Foresight:
    """B predicted clips of N frames; the first K frames of each are the observation."""

    # (B, N, H, W, 3) RGB.
    frames: NDArray[np.uint8]
    # Frames a second of the recorded world, not of playback.
    fps: float
    instruction: str
    # K
    num_conditioning_frames: int
    # State descriptions the model was given, first to last.
    states: tuple[str, ...] = ()
    seed: int = 0
    # Seconds a stage.
    timings: Mapping[str, float] = field(default_factory=dict)
    model_id: str = ""
    # Steps, sampler, guidance; of a joined plan also its "plan", see `chain`.
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what every method relies on."""
        shape = self.frames.shape
        if self.frames.dtype != np.uint8 or len(shape) != 5 or shape[-1] != 3 or 0 in shape:
            raise DataFormatError(
                f"foresight frames have dtype {self.frames.dtype} and shape {shape}, expected "
                "uint8 and (B, N, H, W, 3), none of them 0"
            )
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise FrameRateError(f"fps is {self.fps}, expected a positive number")
        if not 1 <= self.num_conditioning_frames < shape[1]:
            raise FrameCountError(
                f"num_conditioning_frames is {self.num_conditioning_frames} of {shape[1]} frames, "
                "expected at least 1 and fewer than all"
            )

    def __len__(self) -> int:
        """Return N, the frames of a clip, given ones included."""
        return int(self.frames.shape[1])

    def __repr__(self) -> str:
        """Summarise in a line; the frames are not printed."""
        height, width = self.frames.shape[2:4]
        return (
            f"Foresight({self.instruction!r}, {self.num_samples} x {len(self)} frames of "
            f"{height}x{width} at {self.fps:g} fps, {self.num_conditioning_frames} given, "
            f"seed={self.seed}, model_id={self.model_id!r})"
        )

    @property
    def num_samples(self) -> int:
        """B, the candidate futures."""
        return int(self.frames.shape[0])

    @property
    def predicted(self) -> NDArray[np.uint8]:
        """The (B, N - K, H, W, 3) frames that the model made."""
        return self.frames[:, self.num_conditioning_frames :]

    @property
    def duration(self) -> float:
        """Seconds that the N frames cover."""
        return len(self) / self.fps

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        truth: NDArray[np.uint8] | None = None,
        sample: int | None = None,
        scale: int | None = None,
    ) -> Path:
        """Save as .mp4, .gif, .png (a strip of frames) or .npz (everything, see `load`).

        Several samples, or a sample and the truth, stand side by side with labels and borders; one
        sample alone is saved as bare frames. `truth` is (N, H, W, 3) uint8 of what really happened;
        it is resized, cut, or marked where it ends. `sample` picks one of B. `scale` enlarges by a
        whole factor; by default small frames grow to 96 pixels. The file appears whole or not at
        all.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise ConfigError(
                f"cannot save foresight as {path.name!r}: expected a name ending in "
                + ", ".join(SUFFIXES)
            )
        if suffix == ".npz" and (truth is not None or sample is not None or scale is not None):
            raise ConfigError(
                ".npz keeps all samples as they are: leave out truth, sample and scale, or save as "
                ".png, .gif or .mp4"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".npz":
            _write_whole(path, self._to_npz())
        elif suffix == ".png":
            data = io.BytesIO()
            self.strip(truth=truth, sample=sample, scale=scale).save(data, format="PNG")
            _write_whole(path, data.getvalue())
        elif suffix == ".gif":
            _write_whole(path, encode_gif(self._shown(truth, sample, scale), self.fps))
        else:
            from aid_robot.data.video import write_video

            write_video(path, self._shown(truth, sample, scale), self.fps)
        return path

    def strip(
        self,
        columns: int = 8,
        *,
        truth: NDArray[np.uint8] | None = None,
        sample: int | None = None,
        scale: int | None = None,
    ) -> Image.Image:
        """Draw frames in a row, truth above samples; at most `columns`, first and last included."""
        if columns < 2:
            raise ConfigError(f"columns is {columns}, expected at least 2 (first and last frame)")
        return draw_strip(
            self._panels(truth, sample),
            title=self.instruction,
            fps=self.fps,
            num_frames=len(self),
            columns=columns,
            scale=self._scale(scale),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote as .npz."""
        try:
            with zipfile.ZipFile(path) as archive:
                frames = _read_array(archive, "frames.npy")
                meta = json.loads(_read_array(archive, "meta.npy").tobytes())
            names = {item.name for item in fields(cls)} - {"frames"}
            if not isinstance(meta, dict) or set(meta) != names:
                raise ValueError(f"its meta data are not the fields {sorted(names)}")
            return cls(frames=frames, **{**meta, "states": tuple(meta["states"])})
        except FileNotFoundError:
            raise
        except _DAMAGE as error:
            raise DataFormatError(
                f"{Path(path)} is not a foresight file ({error}): expected a .npz that "
                "Foresight.save wrote"
            ) from error

    def concat(self, following: Foresight) -> Foresight:
        """Join with the clip that starts where this one ends, see `chain`."""
        return Foresight.chain([self, following])

    @staticmethod
    def chain(clips: Sequence[Foresight]) -> Foresight:
        """Join the clips of a plan's steps into one, each repeated observation dropped.

        Every clip must start with the last K frames of the one before. Instructions are joined by
        " -> "; `settings["plan"]` has one entry a step: its instruction, seed, and the frames
        [start, stop) that it added.
        """
        if not clips:
            raise ConfigError("there are no clips to join, expected at least one")
        first = clips[0]
        given = first.num_conditioning_frames
        parts, plan = [first.frames], _plan(first, 0)
        for number, (before, clip) in enumerate(pairwise(clips), start=1):
            for name in ("fps", "num_conditioning_frames", "model_id"):
                if getattr(clip, name) != getattr(first, name):
                    raise ConfigError(
                        f"clip {number} has {name} {getattr(clip, name)!r}, the first "
                        f"{getattr(first, name)!r}: join clips of one rollout"
                    )
            if not np.array_equal(before.frames[:, -given:], clip.frames[:, :given]):
                raise ConfigError(
                    f"clip {number} ({clip.instruction!r}) does not start with the last {given} "
                    "frames of the clip before it: predict each step from where the one before ends"
                )
            plan += _plan(clip, sum(part.shape[1] for part in parts) - given)
            parts.append(clip.predicted)
        stages = [stage for clip in clips for stage in clip.timings]
        return Foresight(
            frames=np.concatenate(parts, axis=1),
            fps=first.fps,
            instruction=" -> ".join(clip.instruction for clip in clips),
            num_conditioning_frames=given,
            states=tuple(state for clip in clips for state in clip.states),
            seed=first.seed,
            timings={s: sum(clip.timings.get(s, 0.0) for clip in clips) for s in stages},
            model_id=first.model_id,
            settings={**first.settings, "plan": plan},
        )

    def _repr_html_(self) -> str:
        """Show a looping GIF in a notebook."""
        gif = base64.b64encode(encode_gif(self._shown(None, None, None), self.fps)).decode()
        caption = html.escape(self.instruction)
        return (
            f'<figure style="margin:0"><img alt="{caption}" src="data:image/gif;base64,{gif}"/>'
            f"<figcaption>{caption}</figcaption></figure>"
        )

    def _shown(
        self, truth: NDArray[np.uint8] | None, sample: int | None, scale: int | None
    ) -> NDArray[np.uint8]:
        """Return the (N, height, width, 3) frames of a video of this clip."""
        panels, factor = self._panels(truth, sample), self._scale(scale)
        if len(panels) == 1:
            return enlarge(panels[0].frames, factor)
        return draw_panels(
            panels, title=self.instruction, fps=self.fps, num_frames=len(self), scale=factor
        )

    def _panels(self, truth: NDArray[np.uint8] | None, sample: int | None) -> list[Panel]:
        if sample is not None and not 0 <= sample < self.num_samples:
            raise SamplingError(
                f"sample is {sample}, expected 0 to {self.num_samples - 1}: this foresight has "
                f"{self.num_samples} samples"
            )
        given, panels = self.num_conditioning_frames, []
        if truth is not None:
            truth = np.asarray(truth)
            if truth.dtype != np.uint8 or truth.ndim != 4 or truth.shape[-1] != 3 or not truth.size:
                raise DataFormatError(
                    f"truth has dtype {truth.dtype} and shape {truth.shape}, expected uint8 and "
                    "(N, H, W, 3), the recorded frames from the first given one on"
                )
            height, width = self.frames.shape[2:4]
            panels.append(
                Panel("truth", resize_frames(truth[: len(self)], (height, width)), given, RECORDED)
            )
        for index in range(self.num_samples) if sample is None else [sample]:
            label = "foresight" if self.num_samples == 1 else f"sample {index}"
            panels.append(Panel(label, self.frames[index], given, PREDICTED))
        return panels

    def _scale(self, scale: int | None) -> int:
        if scale is None:
            return shown_scale(*self.frames.shape[2:4])
        if scale < 1:
            raise ConfigError(f"scale is {scale}, expected a whole factor of at least 1")
        return scale

    def _to_npz(self) -> bytes:
        meta = {item.name: getattr(self, item.name) for item in fields(self)}
        del meta["frames"]
        text = json.dumps(meta, default=_plain)
        data = io.BytesIO()
        np.savez(
            data,
            frames=np.ascontiguousarray(self.frames),
            meta=np.frombuffer(text.encode(), np.uint8),
        )
        return data.getvalue()


def _plan(clip: Foresight, offset: int) -> list[dict[str, Any]]:
    """Return one entry a step that `clip` holds, its frames counted from `offset`."""
    if "plan" in clip.settings:
        shifted = [dict(step) for step in clip.settings["plan"]]
        for number, step in enumerate(shifted):
            step["stop"] += offset
            # Only the first step of a whole plan counts the observation as its own.
            step["start"] += offset + (clip.num_conditioning_frames if offset and not number else 0)
        return shifted
    start = offset + clip.num_conditioning_frames if offset else 0
    step = {"instruction": clip.instruction, "seed": clip.seed}
    return [{**step, "start": start, "stop": offset + len(clip)}]


def _write_whole(path: Path, data: bytes) -> None:
    """Write under a temporary name beside `path`, then rename, so that no half file is left."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[np.uint8]:
    """Read a uint8 array that was stored uncompressed; its header is checked against its bytes."""
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
        raise ValueError(f"{name} is compressed")
    data = archive.read(member)
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"{name} has an unknown .npy version")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype != np.uint8 or fortran_order or math.prod(shape) != len(data) - stream.tell():
        raise ValueError(
            f"{name} of dtype {dtype} and shape {shape} does not fit {len(data)} bytes"
        )
    return np.frombuffer(data, np.uint8, offset=stream.tell()).reshape(shape).copy()


def _plain(value: object) -> object:
    """Turn what JSON does not know into numbers, lists and text."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
