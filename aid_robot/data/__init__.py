"""Recorded robot data: episodes, their frames, and the formats they are read from."""

from aid_robot.data.episode import Episode, FrameSequence, Outcome
from aid_robot.data.frames import ArrayFrames, EncodedFrames, FrameWindow, VideoFrames
from aid_robot.data.ingest import FORMATS, Recording, detect_format, open_recording
from aid_robot.data.video import write_video

__all__ = [
    "FORMATS",
    "ArrayFrames",
    "EncodedFrames",
    "Episode",
    "FrameSequence",
    "FrameWindow",
    "Outcome",
    "Recording",
    "VideoFrames",
    "detect_format",
    "open_recording",
    "write_video",
]
