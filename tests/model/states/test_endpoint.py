"""The endpoint predictor against a real HTTP server on this machine."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from aid_robot.errors import ConfigError, StatePredictionError
from aid_robot.model.states import StateFallbackWarning, make_state_predictor
from aid_robot.model.states.endpoint import EndpointStatePredictor
from aid_robot.model.states.template import template_states

FRAME = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
TEXT = "put the carrot on the plate"
STATES = ["the carrot on the table", "the gripper at it", "the carrot in the air", "done"]
ANSWER = "Here you are:\n" + "\n".join(f"{i}. {state}" for i, state in enumerate(STATES, 1))
KEY = "sk-0123456789"


class Reply:
    """What the server says to one request."""

    def __init__(
        self,
        status: int = 200,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        delay: float = 0.0,
        hang_up: bool = False,
    ) -> None:
        self.status, self.headers, self.delay, self.hang_up = status, headers or {}, delay, hang_up
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


def answer(content: Any) -> Reply:
    return Reply(body={"choices": [{"message": {"role": "assistant", "content": content}}]})


class ChatServerForTests(ThreadingHTTPServer):
    """Gives `replies` in order, the last one again and again, and records what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: list[Reply] = [answer(ANSWER)]
        self.asked: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServerForTests

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        server.times.append(time.monotonic())
        server.asked.append(
            {"path": self.path, "headers": dict(self.headers), "body": json.loads(body)}
        )
        reply = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
        server.released.wait(reply.delay)
        if reply.hang_up:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServerForTests]:
    monkeypatch.delenv("AID_ROBOT_ENDPOINT_KEY", raising=False)
    # An address on this machine must not go through a proxy.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    server = ChatServerForTests()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def _image(request: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Decode the RGB image that a request carries."""
    (image,) = [
        part for part in request["body"]["messages"][0]["content"] if part["type"] == "image_url"
    ]
    head, _, data = image["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_request_carries_frame_instruction_and_model(
    server: ChatServerForTests, suffix: str
) -> None:
    predictor = EndpointStatePredictor(server.url + suffix, "qwen:7b")
    assert predictor(FRAME, TEXT) == STATES
    (request,) = server.asked
    assert request["path"] == "/v1/chat/completions"
    assert request["body"]["model"] == "qwen:7b"
    assert request["body"]["temperature"] == 0
    assert np.array_equal(_image(request), FRAME)
    (text,) = [p["text"] for p in request["body"]["messages"][0]["content"] if "text" in p]
    assert TEXT in text
    assert "exactly 4" in text
    assert "Authorization" not in request["headers"]
    assert predictor.identity == f"endpoint:{server.url}/v1#qwen:7b"


def test_large_frames_are_scaled_down_in_shape(server: ChatServerForTests) -> None:
    EndpointStatePredictor(server.url, "m", max_short_side=12)(FRAME, TEXT)
    assert _image(server.asked[0]).shape == (12, 16, 3)
    # A view that isn't contiguous is sent as what it shows.
    EndpointStatePredictor(server.url, "m")(FRAME[:, ::-1], TEXT)
    assert np.array_equal(_image(server.asked[1]), FRAME[:, ::-1])


def test_answer_in_parts_is_read(server: ChatServerForTests) -> None:
    server.replies = [answer([{"type": "text", "text": ANSWER}])]
    assert EndpointStatePredictor(server.url, "m")(FRAME, TEXT) == STATES


def test_asks_again_after_a_server_error(server: ChatServerForTests) -> None:
    server.replies = [Reply(500, {"error": "loading"}), Reply(hang_up=True), answer(ANSWER)]
    assert EndpointStatePredictor(server.url, "m")(FRAME, TEXT) == STATES
    assert len(server.asked) == 3
    first, second = np.diff(server.times)
    assert first >= 0.5  # and each wait is twice the one before
    assert second >= 1.0


@pytest.mark.parametrize("as_date", [False, True])
def test_waits_as_long_as_the_server_asks(server: ChatServerForTests, as_date: bool) -> None:
    wait = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
    server.replies = [Reply(429, headers={"Retry-After": wait}), answer(ANSWER)]
    assert EndpointStatePredictor(server.url, "m")(FRAME, TEXT) == STATES
    assert server.times[1] - server.times[0] >= 0.9  # a date has whole seconds only


def test_gives_up_at_once_where_the_server_asks_for_too_long(server: ChatServerForTests) -> None:
    server.replies = [Reply(429, headers={"Retry-After": "3600"})]
    start = time.monotonic()
    with pytest.raises(StatePredictionError, match="429"):
        EndpointStatePredictor(server.url, "m", timeout=5)(FRAME, TEXT)
    assert time.monotonic() - start < 2
    assert len(server.asked) == 1


def test_timeout_holds_for_the_whole_call(server: ChatServerForTests) -> None:
    server.replies = [Reply(delay=30)]
    start = time.monotonic()
    with pytest.raises(StatePredictionError, match=r"within 0\.4 s"):
        EndpointStatePredictor(server.url, "m", timeout=0.4)(FRAME, TEXT)
    assert time.monotonic() - start < 2
    assert len(server.asked) == 1


def test_refused_key_is_not_tried_again_and_not_shown(
    server: ChatServerForTests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AID_ROBOT_ENDPOINT_KEY", f" {KEY}\n")
    server.replies = [Reply(401, {"error": f"Incorrect API key provided: {KEY}"})]
    with pytest.raises(StatePredictionError, match="Incorrect API key") as raised:
        EndpointStatePredictor(server.url, "m")(FRAME, TEXT)
    assert "AID_ROBOT_ENDPOINT_KEY" in str(raised.value)
    assert KEY not in str(raised.value)
    assert len(server.asked) == 1
    assert server.asked[0]["headers"]["Authorization"] == f"Bearer {KEY}"


def test_key_that_no_header_can_carry_is_not_shown(
    server: ChatServerForTests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AID_ROBOT_ENDPOINT_KEY", f"{KEY}\nX-Other: 1")
    with pytest.raises(StatePredictionError, match="AID_ROBOT_ENDPOINT_KEY") as raised:
        EndpointStatePredictor(server.url, "m")(FRAME, TEXT)
    assert KEY not in str(raised.value)
    assert not server.asked


def test_key_does_not_follow_a_redirect(
    server: ChatServerForTests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AID_ROBOT_ENDPOINT_KEY", KEY)
    server.replies = [Reply(302, headers={"Location": f"{server.url}/elsewhere"}), answer(ANSWER)]
    with pytest.raises(StatePredictionError, match="/elsewhere"):
        EndpointStatePredictor(server.url, "m")(FRAME, TEXT)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (answer("I can't see an image."), "no list"),
        (answer(None), "content None"),
        (Reply(body=b"<html>hello</html>"), "hello"),
        (Reply(body={"choices": []}), "choices"),
        (Reply(body=b"[" * 100_000), "choices"),
        (Reply(body=b"x" * (5 * 2**20)), "more than"),
        (Reply(404, {"error": "model 'm' not found"}), "model 'm' not found"),
    ],
)
def test_other_replies_are_refused(server: ChatServerForTests, reply: Reply, reason: str) -> None:
    server.replies = [reply]
    predictor = make_state_predictor(f"endpoint:{server.url}#m", cache=False, fallback=False)
    with pytest.raises(StatePredictionError, match=reason) as raised:
        predictor(FRAME, TEXT)
    assert len(str(raised.value)) < 1000
    assert len(server.asked) == 1


def test_falls_back_warns_once_a_cause_and_keeps_nothing(
    server: ChatServerForTests, tmp_path: Path
) -> None:
    predictor = make_state_predictor(f"endpoint:{server.url}#m", cache_dir=tmp_path, max_retries=0)
    server.replies = [answer("garbage"), answer("more"), Reply(401), Reply(503), answer(ANSWER)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(4):
            assert predictor(FRAME, TEXT) == template_states(TEXT)
    told = [str(warning.message) for warning in caught]
    assert [warning.category for warning in caught] == [StateFallbackWarning] * 3
    assert "garbage" in told[0]
    assert "401" in told[1]
    assert "503" in told[2]
    assert all("'template'" in text and server.url in text for text in told)
    assert not list(tmp_path.rglob("*.json"))
    # It is the model's own answer that counts from then on, and that is kept.
    assert predictor(FRAME, TEXT) == STATES
    assert predictor(FRAME, TEXT) == STATES
    assert len(server.asked) == 5


def test_server_that_is_gone(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound and not listening: nothing answers there
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        predictor = make_state_predictor(f"endpoint:{address}#m", cache_dir=tmp_path, max_retries=1)
        with pytest.warns(StateFallbackWarning, match="check that the server runs"):
            assert predictor(FRAME, TEXT) == template_states(TEXT)
        strict = EndpointStatePredictor(address, "m", max_retries=0)
        with pytest.raises(StatePredictionError, match="no answer"):
            strict(FRAME, TEXT)


def test_threads_share_one_predictor(server: ChatServerForTests) -> None:
    predictor = EndpointStatePredictor(server.url, "m")
    frames = [np.full((8, 8, 3), value, np.uint8) for value in range(8)]
    answers: dict[int, list[str]] = {}

    def ask(index: int) -> None:
        answers[index] = predictor(frames[index], TEXT)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == dict.fromkeys(range(8), STATES)
    assert {int(_image(request)[0, 0, 0]) for request in server.asked} == set(range(8))


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="timeout=0"):
        make_state_predictor("endpoint:http://localhost:1#m", timeout=0)
