"""What a figure was measured under: the protocol, and the block that is printed beside the figure.

    protocol = get_protocol("bridge").replace(size=(64, 64))
    print(block)

Figures compare only under the same protocol: FVD of one model on one dataset is reported from 113
to about 500 where the split, the clips, the codec or the resizing differ. So a `Figure` can't be
made without its `Block`.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aid_robot.errors import ConfigError

# How frames come to the protocol's size, `aid_robot.observation.resize_frames`.
RESIZE = "squashed, area average where it shrinks, cubic where it grows (OpenCV), RGB uint8"


@dataclass(frozen=True)
class EvaluationProtocol:
    """What is predicted, from which clips, and what of it is judged."""

    name: str
    # K frames are given, and frames K to N - 1 are predicted and judged.
    num_given: int = 1
    num_frames: int = 16
    # Of the clips; a recording's own rate must be a whole multiple, which is the stride.
    fps: float = 5.0
    # Height and width at which frames are judged.
    size: tuple[int, int] = (256, 256)
    camera: str = "default"
    # "held-out" (what the model's folder says it was not trained on, else a tenth by the hash of
    # the scene), "train", "all", or a file that names episodes, one a line or as a JSON list.
    split: str = "held-out"
    # Episodes of these outcomes, "" for unlabelled ones; what failed shows another instruction.
    outcomes: tuple[str, ...] = ("demo", "success", "")
    # Clips of an episode, evenly spaced from its start; whole ones only.
    clips_per_episode: int = 1
    # At most so many clips, drawn by the hash of their scenes; None for all.
    clips: int | None = None
    # Futures predicted of each clip; their values are averaged.
    samples: int = 1
    # Of the noise, together with where the clip starts.
    seed: int = 0
    # "Moving" are clips whose mean change a frame, as of `frame_motion`, is at least this.
    moving_from: float = 10.0

    def __post_init__(self) -> None:
        if not 1 <= self.num_given < self.num_frames:
            raise ConfigError(
                f"num_given={self.num_given} of num_frames={self.num_frames}; expected at least 1 "
                "given frame, and one to predict"
            )
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ConfigError(f"fps={self.fps}; expected a positive number")
        if len(self.size) != 2 or min(self.size) < 8:
            raise ConfigError(f"size={self.size}; expected (height, width) of at least 8")
        for name in ("clips_per_episode", "samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}; expected at least 1")
        if self.clips is not None and self.clips < 1:
            raise ConfigError(f"clips={self.clips}; expected at least 1, or leave it out for all")
        unknown = set(self.outcomes) - {"demo", "success", "failure", ""}
        if unknown or not self.outcomes:
            raise ConfigError(
                f"outcomes={self.outcomes}; expected some of 'demo', 'success', 'failure' and ''"
            )
        if self.seed < 0 or not self.moving_from >= 0:
            raise ConfigError(
                f"seed={self.seed} and moving_from={self.moving_from}; expected 0 or more"
            )

    def replace(self, **changes: Any) -> EvaluationProtocol:
        """Return a copy with some fields changed."""
        known = [f.name for f in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise ConfigError(
                    f"a protocol has no '{name}'{_did_you_mean(name, known)}; it has "
                    f"{', '.join(known)}"
                )
        return dataclasses.replace(self, **changes)


_PROTOCOLS = (
    # As published for Bridge: 16 frames of 256x256 from one, at the robot's 5 Hz. Of the validation
    # set behind the published figures give the list as `split`.
    EvaluationProtocol("bridge"),
    # K and N as published. The rate is not: the highest below 5 that divides 12, which SSv2 has.
    EvaluationProtocol("ssv2", num_given=2, num_frames=12, fps=4.0),
    EvaluationProtocol("epic", num_frames=12),
    EvaluationProtocol("ucf", num_given=5),
    # The bundled model's: one clip from each start, where all alternatives begin alike.
    EvaluationProtocol("tabletop", size=(64, 64)),
)
PROTOCOLS: Mapping[str, EvaluationProtocol] = {p.name: p for p in _PROTOCOLS}


def get_protocol(name: str) -> EvaluationProtocol:
    """Return a protocol by its name; an unknown one answers "did you mean"."""
    if name not in PROTOCOLS:
        raise ConfigError(
            f"there is no protocol '{name}'{_did_you_mean(name, list(PROTOCOLS))}; expected one of "
            f"{', '.join(PROTOCOLS)}"
        )
    return PROTOCOLS[name]


@dataclass(frozen=True)
class ClipSet:
    """Which clips a figure is of."""

    # Names of the recordings, without their folders.
    sources: tuple[str, ...]
    # How their frames are stored, and their sizes, as "640x480".
    codecs: tuple[str, ...]
    recorded: tuple[str, ...]
    strides: tuple[int, ...]
    # How the split was made, and the hash of the ids of the episodes on this side of it.
    split: str
    split_hash: str
    episodes: int
    # Scenes, or episodes where scenes are unknown: what intervals are drawn over.
    clusters: int
    clips: int
    # Hash of the clips' episodes, cameras and starts.
    clips_hash: str
    # Reason -> episodes that no clip was cut from.
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PredictorFacts:
    """Who predicted."""

    # As tables call it.
    name: str
    # Hash of its weights and config; its name for a predictor without any.
    model_hash: str
    # Height and width of its frames.
    size: tuple[int, int]
    # Sampler, steps, guidance, number format: what its foresights say.
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """All that a figure depends on."""

    protocol: EvaluationProtocol
    clips: ClipSet
    predictor: PredictorFacts
    # Package -> version.
    versions: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Short hash of everything in the block."""
        return digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Block:
        """Read what `to_json` wrote."""
        try:
            return cls(
                protocol=EvaluationProtocol(**_tuples(values["protocol"])),
                clips=ClipSet(**_tuples(values["clips"])),
                predictor=PredictorFacts(**_tuples(values["predictor"])),
                versions=dict(values["versions"]),
            )
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"this is no block of a protocol ({error}); expected what Block.to_json wrote"
            ) from error

    def rows(self) -> list[tuple[str, str]]:
        """Say everything as names and texts."""
        protocol, clips, predictor = self.protocol, self.clips, self.predictor
        given, frames = protocol.num_given, protocol.num_frames
        left_out = "; ".join(f"{count} {why}" for why, count in clips.left_out.items())
        settings = ", ".join(f"{k} {_shown(v)}" for k, v in predictor.settings.items())
        recorded = f"{', '.join(clips.codecs)}, {', '.join(clips.recorded)}"
        return [
            ("protocol", protocol.name),
            (
                "frames",
                f"K={given} given, N={frames}; judged are frames {given} to {frames - 1}, the "
                "given ones are not, by any metric",
            ),
            ("rate", f"{protocol.fps:g} fps, stride {', '.join(map(str, clips.strides))}"),
            ("judged at", _by(protocol.size)),
            ("resize", RESIZE),
            ("recordings", f"{', '.join(clips.sources)} ({recorded})"),
            ("split", f"{clips.split}, hash {clips.split_hash}"),
            (
                "clips",
                f"{clips.clips} clips of {clips.episodes} episodes in {clips.clusters} scenes, "
                f"{protocol.clips_per_episode} an episode, whole ones only, camera "
                f"{protocol.camera}, hash {clips.clips_hash}",
            ),
            ("left out", left_out or "nothing"),
            ("outcomes", ", ".join(outcome or "unlabelled" for outcome in protocol.outcomes)),
            ("samples", f"{protocol.samples} a clip, seed {protocol.seed} and the clip's start"),
            ("moving", f"mean change of {protocol.moving_from:g} grey levels a frame or more"),
            (
                "predictor",
                f"{predictor.name}, predicts {_by(predictor.size)}, hash {predictor.model_hash}",
            ),
            ("sampling", settings or "none"),
            ("versions", ", ".join(f"{k} {v}" for k, v in self.versions.items())),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name:<11} {text}" for name, text in self.rows())


@dataclass(frozen=True)
class Figure:
    """A number with its interval and the block it was measured under."""

    block: Block
    # "psnr", "retrieval", ...
    metric: str
    value: float
    # Ends of the 95 % interval; NaN where there is none, as with a single scene.
    low: float
    high: float
    clips: int
    clusters: int
    unit: str = ""
    # "higher", "lower", or "" where neither is.
    better: str = ""
    # Under which instruction, or with what scale: see `faithfulness`.
    condition: str = "true"
    # "all", or "moving".
    subset: str = "all"
    # Of a difference, what was subtracted: another predictor or another condition.
    minus: str = ""
    # The one frame that it is of; None for all that were predicted.
    frame: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.block, Block):
            raise ConfigError(
                f"a figure of {self.metric} was made with {self.block!r}; expected the Block of "
                "the protocol that it was measured under"
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain values; the block is named by its hash, None stands for NaN."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["block"] = self.block.digest
        values["predictor"] = self.block.predictor.name
        return {k: _finite(v) if isinstance(v, float) else v for k, v in values.items()}

    def __str__(self) -> str:
        sign = "+" if self.minus else ""
        unit = f" {self.unit}" if self.unit else ""
        if math.isnan(self.low):
            return f"{self.value:{sign}.3f}{unit}"
        return f"{self.value:{sign}.3f}{unit} [{self.low:{sign}.3f}, {self.high:{sign}.3f}]"


def digest(values: object) -> str:
    """Hash JSON-able values, whatever the order of their names."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


# What two figures must have in common to be compared.
_SAME_CLIPS = ("clips_hash", "codecs", "recorded", "strides")


def differing(first: Block, second: Block) -> list[str]:
    """Name what keeps two figures from being compared; who predicted is no such thing."""
    found = []
    fields = [f.name for f in dataclasses.fields(EvaluationProtocol) if f.name != "name"]
    for part, names in (("protocol", fields), ("clips", _SAME_CLIPS)):
        for name in names:
            ours, theirs = (getattr(getattr(block, part), name) for block in (first, second))
            if ours != theirs:
                found.append(f"{name} ({ours} and {theirs})")
    return found


def versions() -> dict[str, str]:
    """Name the packages that decide a figure."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("aid-robot", "torch", "diffusers", "numpy", "opencv-python"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if "aid-robot" not in found:
        from aid_robot import __version__

        found = {"aid-robot": __version__, **found}
    return found


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _by(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"({', '.join(map(_shown, value))})"
    return str(value)


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
