"""Who carries out an instruction: a policy, a scripted skill, or whatever a user brings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import gymnasium

from aid_robot.errors import ConfigError

# (observation, instruction) -> an action, or None where it is done.
Policy = Callable[[Any, str], Any]


class Executor(ABC):
    """Carry out one instruction at a time, an action a step."""

    @abstractmethod
    def start(self, env: gymnasium.Env[Any, Any] | None, instruction: str) -> None:
        """Begin with an instruction; an error of this package says why it can't be done.

        `env` is None where it lives in another process.
        """

    @abstractmethod
    def act(self, obs: Any) -> Any | None:
        """Return the next action, None once the instruction is done."""

    def obstacle(self, env: gymnasium.Env[Any, Any] | None, instruction: str) -> str | None:
        """Return why an instruction can't be begun now, in words; None where it can."""
        return None


class PolicyExecutor(Executor):
    """Let a policy act, until it returns None, or for so many steps an instruction.

    Args:
        policy: (observation, instruction) -> action or None.
        max_steps: None waits for the policy's own end.
    """

    def __init__(self, policy: Policy, *, max_steps: int | None = None) -> None:
        if not callable(policy):
            raise ConfigError(
                f"the policy is {policy!r}; expected a function (observation, instruction) -> "
                "action, or None once it is done"
            )
        if max_steps is not None and max_steps < 1:
            raise ConfigError(f"max_steps={max_steps} must be at least 1")
        self.policy, self.max_steps = policy, max_steps
        self._instruction, self._steps = "", 0

    def start(self, env: gymnasium.Env[Any, Any] | None, instruction: str) -> None:
        """Begin with an instruction."""
        self._instruction, self._steps = instruction, 0

    def act(self, obs: Any) -> Any | None:
        """Ask the policy."""
        if self._steps == self.max_steps:
            return None
        self._steps += 1
        return self.policy(obs, self._instruction)
