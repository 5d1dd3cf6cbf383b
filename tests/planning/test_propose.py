"""Candidates come from a list, a template over things, or a server's model."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from aid_robot.errors import ConfigError, PlanError
from aid_robot.planning.goals import Goal
from aid_robot.planning.plans import Plan
from aid_robot.planning.propose import Endpoint, Listed, Situation, Template, make_proposer

FRAME = np.zeros((24, 32, 3), np.uint8)


def situation(text: str | None = None, limit: int = 8, seed: int = 0, **goal: Any) -> Situation:
    return Situation(FRAME, Goal(text, **goal), limit, np.random.default_rng(seed))


def texts(plans: Any) -> list[str]:
    return [str(plan) for plan in plans]


def test_template_says_what_is_done_with_such_things() -> None:
    plans = texts(Template(["carrot", "green plate", "drawer"])(situation(limit=20)))
    assert "put the carrot on the green plate" in plans
    assert "put the carrot in the drawer" in plans
    assert {"open the drawer", "close the drawer", "lift the carrot"} <= set(plans)
    assert not {"lift the drawer", "put the green plate on the carrot"} & set(plans)
    assert len(set(plans)) == len(plans)


def test_template_keeps_what_has_to_do_with_the_goal() -> None:
    template = Template(["carrot", "red cube", "green plate", "blue bowl"])
    for seed in range(5):
        kept = texts(template(situation("the carrot is on the green plate", 4, seed)))
        assert len(kept) == 4
        assert "put the carrot on the green plate" in kept
    assert texts(template(situation(None, 4, 1))) == texts(template(situation(None, 4, 1)))


def test_template_takes_a_detector() -> None:
    template = Template(lambda frame: ["can"] if frame.shape == FRAME.shape else [])
    assert "lift the can" in texts(template(situation()))
    with pytest.raises(PlanError, match="nothing can be proposed"):
        Template(lambda frame: [])(situation())
    with pytest.raises(PlanError, match="expected a list"):
        Template("carrot")


def test_proposers_are_made_of_what_is_given() -> None:
    assert make_proposer(["stay", "go"])(situation()) == (Plan(("stay",)), Plan(("go",)))
    listed = Listed(["stay"])
    assert make_proposer(listed) is listed
    made = make_proposer("endpoint:http://localhost:1#some/model")
    assert isinstance(made, Endpoint)
    assert made.identity == "endpoint:http://localhost:1/v1#some/model"
    for wrong in ("template", "endpoint:", "endpoint:http://localhost:1"):
        with pytest.raises(ConfigError):
            make_proposer(wrong)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    answer = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(json.loads(body))
        reply = json.dumps({"choices": [{"message": {"content": self.server.answer}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("answer", "plans"),
    [
        ("1. lift the can\n2. Open the drawer -> put the can in the drawer.\n3. lift the can",
         ["lift the can", "Open the drawer -> put the can in the drawer"]),
        ('```json\n["lift the can", "open the drawer"]\n```', ["lift the can", "open the drawer"]),
        ("Sure!\n- lift the can\n- open the drawer → lift the can",
         ["lift the can", "open the drawer -> lift the can"]),
    ],
)  # fmt: skip
def test_endpoint_lists_plans(server: Server, answer: str, plans: list[str]) -> None:
    server.answer = answer
    goal = situation("the can is up", 3, image=FRAME)
    assert texts(make_proposer(f"endpoint:{server.url}#m")(goal)) == plans
    content = server.asked[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "image_url", "text"]
    assert "the can is up" in content[-1]["text"]
    assert "at most 3" in content[-1]["text"]


def test_endpoint_that_lists_nothing_is_an_error(server: Server) -> None:
    server.answer = "I see a robot."
    proposer = make_proposer(f"endpoint:{server.url}#m")
    with pytest.raises(PlanError, match="listed no plans: 'I see a robot"):
        proposer(situation())
    silent = Endpoint("http://127.0.0.1:9", "m", max_retries=0, timeout=2.0)
    with pytest.raises(PlanError, match="no plans from endpoint:"):
        silent(situation())
