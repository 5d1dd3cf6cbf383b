"""Questions about images to any server that speaks OpenAI's chat protocol: vLLM, Ollama, more."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

import cv2
import numpy as np

from aid_robot.errors import ConfigError, StatePredictionError
from aid_robot.model.states.chat import ChatServer
from aid_robot.model.states.predictor import Frame


class VisionChat:
    """Ask one model of a chat server, with frames as PNGs in the request.

    The key, where the server needs one, is read from `$AID_ROBOT_ENDPOINT_KEY` at each call.
    Threads may share one object.

    Args:
        base_url: "http://localhost:8000", with or without "/v1".
        model: the model's name on that server.
        timeout: seconds for a whole call, retries and waits included; a reply that stalls in its
            midst may take twice as long.
        max_retries: how often to ask again after HTTP 429 or 5xx or a lost connection.
        max_short_side: pixels; a larger frame is scaled down before it is sent.
        max_tokens: the longest answer.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        timeout: float = 60.0,
        max_retries: int = 3,
        max_short_side: int = 512,
        max_tokens: int = 512,
    ) -> None:
        self._server = ChatServer(base_url, timeout=timeout, max_retries=max_retries)
        if not model:
            raise ConfigError(
                f"no model is named for '{base_url}': write 'endpoint:{base_url}#<model>', with a "
                f"name that {base_url} serves"
            )
        if timeout <= 0 or max_retries < 0 or max_short_side < 1 or max_tokens < 1:
            raise ConfigError(
                f"timeout={timeout}, max_retries={max_retries}, max_short_side={max_short_side}, "
                f"max_tokens={max_tokens}: max_retries may be 0, all others must be positive"
            )
        self.model = model
        self.max_short_side = max_short_side
        self.max_tokens = max_tokens

    @property
    def identity(self) -> str:
        """Name the server and the model on it."""
        return f"endpoint:{self._server.url.removesuffix('/chat/completions')}#{self.model}"

    def ask(self, prompt: str, images: Sequence[Frame], *, temperature: float = 0.0) -> str:
        """Return the answer to a question about (H, W, 3) images, which stand before it.

        Raises StatePredictionError where the server gives none.
        """
        content: list[dict[str, object]] = []
        for image in images:
            data = base64.b64encode(_png(image, self.max_short_side)).decode()
            url = {"url": f"data:image/png;base64,{data}"}
            content.append({"type": "image_url", "image_url": url})
        content.append({"type": "text", "text": prompt})
        question = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": temperature,
            "max_tokens": self.max_tokens,
        }
        return _answer(self._server.post(json.dumps(question).encode()), self._server.url)


def _png(frame: Frame, max_short_side: int) -> bytes:
    """Encode an RGB frame, scaled down where its short side is longer than asked."""
    height, width = frame.shape[:2]
    scale = max_short_side / min(height, width)
    image = np.ascontiguousarray(frame)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()


def _answer(reply: bytes, url: str) -> str:
    """Return the text of a chat completion."""
    try:
        content = json.loads(reply)["choices"][0]["message"]["content"]
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise StatePredictionError(
            f"'{url}' answered {reply[:200]!r}, expected a chat completion with "
            "choices[0].message.content: check that the address is a chat server's"
        ) from error
    if isinstance(content, list):  # the content may come in parts
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(content, str):
        raise StatePredictionError(
            f"'{url}' answered with content {content!r}, expected text: use a model that chats"
        )
    return content
