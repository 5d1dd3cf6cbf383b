"""Recordings of any readable layout into one episode store."""

from aid_robot.data.convert.prepare import (
    Failure,
    PreparedEpisode,
    Settings,
    read_source_episode,
)
from aid_robot.data.convert.quarantine import Quarantined
from aid_robot.data.convert.report import Report
from aid_robot.data.convert.run import ingest
from aid_robot.data.convert.sources import Source

__all__ = [
    "Failure",
    "PreparedEpisode",
    "Quarantined",
    "Report",
    "Settings",
    "Source",
    "ingest",
    "read_source_episode",
]
