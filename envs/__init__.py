"""Gymnasium environments, registered by string: `import aid_robot.envs` and then
`gymnasium.make("aid_robot/RecordedEpisode-v0", ...)`. Nothing heavy loads before an environment is
made.
"""

from __future__ import annotations

import gymnasium

gymnasium.register(
    id="aid_robot/RecordedEpisode-v0",
    entry_point="aid_robot.envs.recorded:RecordedEpisodeEnv",
    disable_env_checker=False,
)
