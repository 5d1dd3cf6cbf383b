"""An episode to look at: a strip, a video, or in Rerun."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from aid_robot.clip_drawing import RECORDED, Panel, draw_strip, shown_scale
from aid_robot.data.episode import Episode, FrameSequence
from aid_robot.data.ingest.recording import BRIDGE_FPS, did_you_mean
from aid_robot.data.video import write_video
from aid_robot.errors import ConfigError, ObservationError
from aid_robot.extras import require

# Frames in a strip.
_COLUMNS = 8
_SUFFIXES = (".png", ".mp4", ".rrd")
# Columns of actions and states.
_MOTION = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


def save(episode: Episode, path: Path, camera: str | None = None) -> None:
    """Write an episode as .png (a strip of its cameras), .mp4 (one camera) or .rrd (for Rerun)."""
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ConfigError(
            f"cannot save an episode as '{path}': expected a name ending in {', '.join(_SUFFIXES)}"
        )
    videos = _cameras(episode, camera)
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".png":
        _save_strip(episode, videos, path)
    elif suffix == ".mp4":
        frames = next(iter(videos.values()))
        write_video(path, iter(frames), episode.fps or BRIDGE_FPS)
    else:
        stream = _rerun_stream(episode)
        stream.save(str(path))
        _log(stream, episode, videos)


def open_in_rerun(episode: Episode, camera: str | None = None) -> None:
    """Show an episode in Rerun's viewer, which stays open."""
    stream = _rerun_stream(episode)
    stream.spawn()
    _log(stream, episode, _cameras(episode, camera))


def _cameras(episode: Episode, camera: str | None) -> Mapping[str, FrameSequence]:
    if camera is None:
        return episode.videos
    if camera not in episode.videos:
        cameras = list(episode.videos)
        raise ObservationError(
            f"episode '{episode.id}' has no camera '{camera}'{did_you_mean(camera, cameras)}; "
            f"expected one of {', '.join(cameras)}"
        )
    return {camera: episode.videos[camera]}


def _save_strip(episode: Episode, videos: Mapping[str, FrameSequence], path: Path) -> None:
    # A FrameSequence stands for an array, and decodes only the frames that are drawn.
    panels = [Panel(name, cast(Any, frames), 0, RECORDED) for name, frames in videos.items()]
    height, width = panels[0].frames.shape[1:3]
    strip = draw_strip(
        panels,
        title=f"{episode.id}: {episode.instruction or '(no instruction)'}",
        fps=episode.fps or BRIDGE_FPS,
        num_frames=len(episode),
        columns=_COLUMNS,
        scale=shown_scale(height, width),
    )
    strip.save(path)


def _rerun_stream(episode: Episode) -> Any:
    rerun = require("rerun", "rerun")
    return rerun.RecordingStream("aid_robot", recording_id=episode.id)


def _log(stream: Any, episode: Episode, videos: Mapping[str, FrameSequence]) -> None:
    rerun = require("rerun", "rerun")
    facts = [*episode.instructions, *episode.notes]
    if episode.outcome is not None:
        facts.append(f"outcome: {episode.outcome}")
    stream.log("episode", rerun.TextDocument("\n".join(facts)), static=True)
    rows = {"actions": episode.actions, "state": episode.state}
    for index in range(len(episode)):
        stream.set_time("frame", sequence=index)
        if episode.fps is not None:
            stream.set_time("time", duration=index / episode.fps)
        for camera, frames in videos.items():
            jpeg = frames.encoded(index)
            if jpeg is None:
                image = rerun.Image(frames[index])
            else:
                image = rerun.EncodedImage(contents=jpeg, media_type="image/jpeg")
            stream.log(f"cameras/{camera}", image)
        for name, values in rows.items():
            if values is not None:
                for column, value in zip(_MOTION, values[index], strict=True):
                    stream.log(f"{name}/{column}", rerun.Scalars(float(value)))
    stream.flush()
