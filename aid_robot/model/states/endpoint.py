"""States from any server that speaks OpenAI's chat protocol with images: vLLM, Ollama, and more."""

from __future__ import annotations

from typing import Any

from aid_robot.model.states.predictor import Frame, check_inputs, check_num_states
from aid_robot.model.states.prompt import build_prompt, parse_answer
from aid_robot.model.states.vision import VisionChat


class EndpointStatePredictor:
    """Ask a chat server for the states; threads may share one object."""

    def __init__(self, base_url: str, model: str, *, num_states: int = 4, **options: Any) -> None:
        """Check the address; nothing is sent before the first call.

        Args:
            base_url: "http://localhost:8000", with or without "/v1".
            model: the model's name on that server.
            num_states: S, from 2 to 8.
            options: of the call, see `VisionChat`.
        """
        self._chat = VisionChat(base_url, model, **options)
        self.num_states = check_num_states(num_states)

    @property
    def identity(self) -> str:
        """Name the server and the model on it."""
        return self._chat.identity

    def __call__(self, frame: Frame, instruction: str) -> list[str]:
        check_inputs(frame, instruction)
        answer = self._chat.ask(build_prompt(instruction, self.num_states), [frame])
        return parse_answer(answer, self.num_states)
