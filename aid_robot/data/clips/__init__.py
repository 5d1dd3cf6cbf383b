"""Clips, windows of N frames out of episodes, for training and validation.

dataset = ClipDataset(store, ClipConfig(num_frames=16, size=(64, 64), fps=5), side="train")
for batch in ClipLoader(dataset, batch_size=8, infinite=True, num_workers=2):
    batch.frames  # (8, 16, 64, 64, 3) uint8
"""

from aid_robot.data.clips.augmentation import Augmentation, Look, names_a_side
from aid_robot.data.clips.clip import Clip, ClipBatch, collate
from aid_robot.data.clips.config import ClipConfig
from aid_robot.data.clips.dataset import ClipDataset, FixedClips
from aid_robot.data.clips.memory import load_episodes
from aid_robot.data.clips.motion import cache_motion, frame_motion
from aid_robot.data.clips.reader import latents_key
from aid_robot.data.clips.sampler import ClipLoader, ClipSampler
from aid_robot.data.clips.split import Split
from aid_robot.data.clips.windows import Window

__all__ = [
    "Augmentation",
    "Clip",
    "ClipBatch",
    "ClipConfig",
    "ClipDataset",
    "ClipLoader",
    "ClipSampler",
    "FixedClips",
    "Look",
    "Split",
    "Window",
    "cache_motion",
    "collate",
    "frame_motion",
    "latents_key",
    "load_episodes",
    "names_a_side",
]
