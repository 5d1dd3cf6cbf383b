"""Gymnasium environments, registered by string: `import aid_robot.envs` and then
`gymnasium.make("aid_robot/Tabletop-v0")`, a simulated table, or
`gymnasium.make("aid_robot/RecordedEpisode-v0", path=...)`, a recording. Nothing heavy loads before
an environment is made.
"""

from __future__ import annotations

import gymnasium

gymnasium.register(
    id="aid_robot/RecordedEpisode-v0",
    entry_point="aid_robot.envs.recorded:RecordedEpisodeEnv",
    disable_env_checker=False,
)
gymnasium.register(
    id="aid_robot/Tabletop-v0",
    entry_point="aid_robot.envs.tabletop.env:TabletopEnv",
    # 20 s; a skill takes 2 to 5.
    max_episode_steps=100,
    disable_env_checker=False,
)
