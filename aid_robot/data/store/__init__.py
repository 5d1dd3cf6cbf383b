"""A store of recorded episodes: fast for random clips, safe against crashes, readable by others."""

from aid_robot.data.store.reader import ClipAt
from aid_robot.data.store.recorder import EpisodeWriter
from aid_robot.data.store.records import EpisodeRecord
from aid_robot.data.store.report import Problem, StoreInfo
from aid_robot.data.store.store import EpisodeStore

__all__ = ["ClipAt", "EpisodeRecord", "EpisodeStore", "EpisodeWriter", "Problem", "StoreInfo"]
