"""What a prediction has to beat, behind the same protocol."""

from aid_robot.baselines.copy_last_frame import CopyLastFrame

__all__ = ["CopyLastFrame"]
