"""What the robot might do: a plan is one instruction, or several one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from aid_robot.errors import PlanError

# Between the instructions of a plan that is written as one text, as `Foresight.chain` joins them.
ARROW = "->"


@dataclass(frozen=True)
class Plan:
    """Instructions to carry out one after the other: `Plan(("open the drawer", ...))`."""

    steps: tuple[str, ...]

    def __post_init__(self) -> None:
        """Keep each step as one clean line."""
        given: Any = self.steps
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise PlanError(
                f"a plan has the steps {given!r}; expected one instruction or more, such as "
                "('open the drawer', 'put the can in the drawer')"
            )
        for step in given:
            if not isinstance(step, str) or not step.strip():
                raise PlanError(
                    f"a plan has the step {step!r}; expected text such as 'put the carrot on the "
                    "plate'"
                )
        object.__setattr__(self, "steps", tuple(" ".join(step.split()) for step in given))

    @classmethod
    def of(cls, plan: PlanLike) -> Plan:
        """Read a plan: as it is, one text with its steps joined by "->", or a list of steps."""
        if isinstance(plan, Plan):
            return plan
        if isinstance(plan, str):
            return cls(tuple(plan.split(ARROW)))
        return cls(tuple(plan) if isinstance(plan, Sequence) else plan)

    def then(self, following: Plan) -> Plan:
        """Go on with another plan."""
        return Plan(self.steps + following.steps)

    def __str__(self) -> str:
        return f" {ARROW} ".join(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


PlanLike: TypeAlias = Plan | str | Sequence[str]


def check_plans(plans: Sequence[PlanLike]) -> tuple[Plan, ...]:
    """Read candidates; PlanError where there are none, a step is blank, or two are the same.

    Case and spaces make no difference between two plans.
    """
    given: Any = plans
    if isinstance(given, str | Plan):
        raise PlanError(f"the candidates are {str(given)!r}; expected a list of plans")
    read = tuple(Plan.of(plan) for plan in plans)
    if not read:
        raise PlanError("there are no candidate plans; expected at least one instruction")
    seen: dict[str, int] = {}
    for index, plan in enumerate(read):
        first = seen.setdefault(str(plan).casefold(), index)
        if first != index:
            raise PlanError(
                f"candidate {index} is the same as candidate {first}, '{plan}': leave one out"
            )
    return read
