"""The vision-language judge against a real HTTP server on this machine."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np
import pytest

from aid_robot.errors import ConfigError, ScoreError
from aid_robot.planning.choose import Beam, decide
from aid_robot.planning.goals import Goal
from aid_robot.planning.scorers import make_scorer
from aid_robot.planning.scorers.judge import VLMJudge
from tests.planning.clips import moving, picture
from tests.planning.dots import DotPredictor, draw

FUTURES = [moving(8), moving(16), moving(26)]
RIGHT = Goal(text="the square is on the right")


def by_eye(strips: list[np.ndarray]) -> str:
    """Answer as one who sees: the strip whose square ends farthest to the right."""
    places = []
    for strip in strips:
        end = strip[:, -strip.shape[0] :]
        places.append(np.nonzero((end[..., 2] > 180) & (end[..., 0] < 90))[1].mean())
    return "ABC"[int(np.argmax(places))]


class Server(ThreadingHTTPServer):
    """Answers by a function of the pictures asked about, the first and the goal left out."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: Any = by_eye
        self.asked: list[dict[str, Any]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        pictures = []
        for part in body["messages"][0]["content"]:
            if part["type"] == "image_url":
                data = base64.b64decode(part["image_url"]["url"].split(",")[1])
                pictures.append(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
        strips = [p for p in pictures if p.shape[1] > p.shape[0]]
        said = {"choices": [{"message": {"content": self.server.answer(strips)}}]}
        reply = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("AID_ROBOT_ENDPOINT_KEY", raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def judge(server: Server, **settings: Any) -> VLMJudge:
    return VLMJudge(f"http://127.0.0.1:{server.server_address[1]}", "eye", **settings)


def test_one_who_sees_gives_all_votes_to_the_plan_that_gets_there(server: Server) -> None:
    scores = judge(server)(FUTURES, RIGHT)
    assert scores[:, 0].tolist() == [0, 0, 1]
    question = server.asked[0]["messages"][0]["content"][-1]["text"]
    assert RIGHT.text in question
    assert "picture 2 is strip A".lower() in question.lower()


def test_one_who_names_a_place_is_spread_over_the_plans(server: Server) -> None:
    server.answer = lambda strips: "The answer is A."
    scores = judge(server, votes=60)(FUTURES, RIGHT)[:, 0]
    assert scores.max() < 0.6
    assert scores.min() > 0.1
    assert scores.sum() == pytest.approx(1)


def test_none_may_be_right(server: Server) -> None:
    server.answer = lambda strips: "NONE"
    assert judge(server)(FUTURES, RIGHT).tolist() == [[0], [0], [0]]


def test_the_goals_picture_is_shown(server: Server) -> None:
    judge(server, votes=1)(FUTURES, Goal(image=picture(26)))
    content = server.asked[0]["messages"][0]["content"]
    assert sum(part["type"] == "image_url" for part in content) == 5
    assert "look like picture 5" in content[-1]["text"]


def test_answers_that_are_no_vote_are_refused(server: Server) -> None:
    server.answer = lambda strips: "A or B"
    with pytest.raises(ScoreError, match="A or B"):
        judge(server)(FUTURES, RIGHT)


def test_few_votes_may_be_lost(server: Server) -> None:
    answers = iter(["A or B", "NONE", "NONE"])
    server.answer = lambda strips: next(answers)
    assert judge(server, votes=3)(FUTURES, RIGHT).tolist() == [[0], [0], [0]]


def test_a_judge_of_one_level_is_none_of_a_beam(server: Server) -> None:
    plans = ["go left", "go right"]
    with pytest.raises(ConfigError, match="beam"):
        decide(DotPredictor(), draw(16, 16), plans, RIGHT, judge(server), beam=Beam(2, 2))


def test_a_judge_needs_a_goal_and_few_enough_plans(server: Server) -> None:
    with pytest.raises(ScoreError, match="goal"):
        judge(server)(FUTURES, Goal())
    with pytest.raises(ScoreError, match="26"):
        judge(server)([moving(8)] * 27, RIGHT)
    with pytest.raises(ConfigError, match="votes"):
        judge(server, votes=0)


def test_a_judge_has_a_name(server: Server) -> None:
    url = f"http://127.0.0.1:{server.server_address[1]}"
    assert make_scorer(f"judge:{url}#eye").name == "judge (eye)"
