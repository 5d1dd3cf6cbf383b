"""Where candidate plans come from: a list, a template over things, or a model behind an endpoint.

proposer = Template(["carrot", "green plate", "drawer"])
plans = proposer(Situation(frame, Goal("the carrot is on the plate")))
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from aid_robot.errors import ConfigError, PlanError, StatePredictionError
from aid_robot.model.states.prompt import read_lists
from aid_robot.model.states.verbs import word_set
from aid_robot.model.states.vision import VisionChat
from aid_robot.planning.goals import Goal
from aid_robot.planning.plans import Plan, PlanLike, check_plans

Frame = NDArray[np.uint8]
Names = Sequence[str] | Callable[[Frame], Sequence[str]]

# Things are put in the first, on the second, and the third open and close.
_VESSELS = word_set("bowl pot pan cup mug drawer basket box bin sink jar crate")
_SURFACES = word_set("plate cloth towel tray board mat burner stove table shelf")
_OPENING = word_set("drawer door cabinet fridge microwave oven")
_FIXED = _OPENING | word_set("sink stove burner table shelf")
# Words that say nothing of what a text is about.
_EMPTY = word_set("the a an is are in on of to and it at up")
_MAX_ANSWER = 64


@dataclass(frozen=True, eq=False)
class Situation:
    """What a proposer may look at."""

    # (H, W, 3) RGB: what is seen now.
    frame: Frame
    goal: Goal
    # Plans that are wanted, at most.
    limit: int = 8
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    # The environment, for proposers that know its kind.
    env: Any = None


@runtime_checkable
class Proposer(Protocol):
    """Say what the robot might do."""

    def __call__(self, situation: Situation) -> Sequence[PlanLike]:
        """Return candidates, the same for the same situation."""


class Listed:
    """The same candidates always, in their order."""

    def __init__(self, plans: Sequence[PlanLike]) -> None:
        self.plans = check_plans(plans)

    def __call__(self, situation: Situation) -> tuple[Plan, ...]:
        """Return the list."""
        return self.plans


class Template:
    """Everything that is usually done with things of such names.

    A thing is put into vessels and onto surfaces, lifted or pushed; what has a door is opened and
    closed. Names that are not known are those of things to be grasped.

    Args:
        names: The things there are, or a detector: frame (H, W, 3) -> their names.
    """

    def __init__(self, names: Names) -> None:
        if isinstance(names, str) or (not callable(names) and not names):
            raise PlanError(f"names are {names!r}; expected a list such as ['carrot', 'plate']")
        self.names = names

    def __call__(self, situation: Situation) -> tuple[Plan, ...]:
        """Return those that have most to do with the goal's text, if it has one."""
        names = self.names(situation.frame) if callable(self.names) else self.names
        found = list(dict.fromkeys(" ".join(name.split()) for name in names))
        plans = [Plan((text,)) for text in _instructions(found)]
        if not plans:
            raise PlanError(
                f"nothing can be proposed for the things {found}: name at least one that is "
                "grasped, opened or closed"
            )
        return shortlist(plans, situation)


class Endpoint:
    """Ask a vision-language model behind any OpenAI-compatible server.

    The key, where the server needs one, is read from `$AID_ROBOT_ENDPOINT_KEY` at each call.
    """

    def __init__(self, base_url: str, model: str, **options: Any) -> None:
        """Check the address; nothing is sent before the first call.

        Args:
            base_url: "http://localhost:8000", with or without "/v1".
            model: The model's name on that server.
            options: Of the call, see `VisionChat`.
        """
        self._chat = VisionChat(base_url, model, **options)

    @property
    def identity(self) -> str:
        """Name the server and the model on it."""
        return self._chat.identity

    def __call__(self, situation: Situation) -> tuple[Plan, ...]:
        """Return what the model lists; PlanError where it lists nothing, or doesn't answer."""
        images = [situation.frame]
        if situation.goal.image is not None:
            images.append(situation.goal.image)
        try:
            answer = self._chat.ask(_prompt(situation), images)
        except StatePredictionError as error:
            raise PlanError(f"no plans from {self.identity}: {error}") from error
        return _read_plans(answer, situation.limit, self.identity)


def make_proposer(spec: str | Sequence[PlanLike] | Proposer) -> Proposer:
    """Build the proposer of a list, or of "endpoint:<base url>#<model>"; one is left as it is."""
    if isinstance(spec, str):
        kind, _, name = spec.partition(":")
        if kind != "endpoint" or not name:
            raise ConfigError(
                f"unknown proposer '{spec}'; expected 'endpoint:<base url>#<model>', or a list of "
                "plans"
            )
        base_url, _, model = name.partition("#")
        return Endpoint(base_url, model)
    if callable(spec):
        return spec
    return Listed(spec)


def shortlist(plans: Sequence[Plan], situation: Situation) -> tuple[Plan, ...]:
    """Keep as many as are wanted: those that share most words with the goal, others by chance.

    The order is kept.
    """
    if len(plans) <= situation.limit:
        return tuple(plans)
    wanted = _words(situation.goal.text or "")
    shared = np.array([len(wanted & _words(str(plan))) for plan in plans])
    chance = situation.rng.permutation(len(plans))
    kept = np.lexsort((chance, -shared))[: situation.limit]
    return tuple(plans[index] for index in sorted(kept))


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower())) - _EMPTY


def _instructions(names: Sequence[str]) -> Iterator[str]:
    kinds = {name: name.lower().rpartition(" ")[2] for name in names}
    for name, kind in kinds.items():
        if kind in _OPENING:
            yield f"open the {name}"
            yield f"close the {name}"
        if kind in _FIXED:
            continue
        yield f"lift the {name}"
        if kind in _VESSELS | _SURFACES:
            continue
        for target, target_kind in kinds.items():
            if target_kind in _VESSELS:
                yield f"put the {name} in the {target}"
            elif target_kind in _SURFACES:
                yield f"put the {name} on the {target}"
        yield f"push the {name} to the left"
        yield f"push the {name} to the right"


def _prompt(situation: Situation) -> str:
    goal = situation.goal
    said = f' The goal: "{goal.text}".' if goal.text else ""
    shown = " The second image shows the goal." if goal.image is not None else ""
    return (
        "The image shows what a robot arm's camera sees." + shown + said + " List at most "
        f"{situation.limit} different plans that the arm could carry out from here, the likeliest "
        "to reach the goal first. A plan is one short imperative instruction, or several joined by "
        '" -> ", such as "open the drawer -> put the can in the drawer". Name things by colour and '
        "kind as seen in the image.\nAnswer with numbered lines, one plan each, and nothing else."
    )


def _read_plans(answer: str, limit: int, identity: str) -> tuple[Plan, ...]:
    for items in read_lists(answer[:20_000]):
        plans: dict[str, Plan] = {}
        for item in items[:_MAX_ANSWER]:
            steps = [part.strip(" .") for part in re.split(r"\s*(?:->|→)\s*", item)]
            if all(steps):
                plan = Plan(tuple(steps))
                plans.setdefault(str(plan).casefold(), plan)
        if plans:
            return tuple(plans.values())[:limit]
    raise PlanError(
        f"{identity} listed no plans: {' '.join(answer[:200].split())!r}; use a model that takes "
        "images and follows instructions"
    )
