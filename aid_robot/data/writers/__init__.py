"""Export episodes to formats that others read.

write_lerobot(store, "my-data-set")
write_videos(store, "my-videos")
"""

from aid_robot.data.writers.lerobot import write_lerobot
from aid_robot.data.writers.video_csv import write_videos

__all__ = ["write_lerobot", "write_videos"]
