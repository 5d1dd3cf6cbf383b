"""The planning benchmark's closed loop: a planner acts in the environment itself."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.wrappers import TimeLimit
from planning_scenes import Scene, SceneMaker
from tqdm import tqdm

from aid_robot.envs.foresight import ForesightPlanner
from aid_robot.planning.calibration import wilson
from aid_robot.planning.choose import Beam
from aid_robot.planning.decision import Decision
from aid_robot.planning.goals import Goal
from aid_robot.planning.scorers import Scorer
from aid_robot.planning.scorers.scorer import name_of
from aid_robot.predictor import Predictor

# Steps of an episode in which a planner acts, of two skills at most.
_LIMIT = 150


@dataclass(frozen=True)
class Way:
    """How a planner is let act in the environment."""

    steps: int
    kind: str = "text"
    # Compose the plans of single instructions, in place of being handed them whole.
    composes: bool = False
    # Steps after which it decides anew, and how far a frame may depart before.
    replan_every: int | None = None
    surprise: float | None = None


WAYS = {
    "1 step, goal as text": Way(1),
    "1 step, goal as picture": Way(1, "image"),
    "1 step, goal as text, deciding anew": Way(1, replan_every=10, surprise=0.25),
    "2 steps, goal as text": Way(2),
    "2 steps, goal as text, composed": Way(2, composes=True),
}


def close_the_loop(
    maker: SceneMaker,
    predictor: Predictor,
    scorers: Mapping[str, Scorer],
    args: argparse.Namespace,
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Let a ForesightPlanner act in the environment itself, in every way that scenes allow.

    Args:
        maker: Of the scenes.
        predictor: Who imagines.
        scorers: Who judges, by the kind of goal: "text", "image".
        args: Of the program.
        keep: Told of what was found after each way.
    """
    found = {}
    for name, way in WAYS.items():
        if way.steps == 2 and not args.two_step:
            continue
        scorer = scorers[way.kind]
        reached, possible, tabled = [], [], []
        for number in tqdm(range(args.loop), desc=name, unit="scene"):
            scene = maker.scene(number, way.steps)
            facts = scene.facts
            if way.kind == "image" and not facts.direct:
                continue  # the picture shows another goal than the one that can be checked
            decision, came = _act(way, scene, maker, predictor, scorer, args)
            reached.append(came)
            possible.append(any(facts.reaches_text))
            chosen = decision is not None and decision.index is not None
            if chosen and not way.composes and way.replan_every is None:
                tabled.append(came == facts.reaches_text[decision.index])
        low, high = wilson(sum(reached), len(reached))
        found[name] = {
            "scenes": len(reached), "scorer": name_of(scorer), "success": float(np.mean(reached)),
            "interval": [low, high], "oracle": float(np.mean(possible)),
            "of the oracle": float(np.mean(reached) / max(np.mean(possible), 1e-9)),
        }  # fmt: skip
        if tabled:  # whether what happens is what the table of outcomes says
            found[name]["as tabled"] = float(np.mean(tabled))
        keep(found)
    return found


def _act(
    way: Way, scene: Scene, maker: SceneMaker, predictor: Predictor, scorer: Scorer,
    args: argparse.Namespace,
) -> tuple[Decision | None, bool]:  # fmt: skip
    """Let a planner carry out one plan; returns its last decision, and whether the goal holds."""
    facts, beam = scene.facts, None
    plans: list[tuple[str, ...]] = [tuple(plan) for plan in facts.plans]
    if way.composes:
        following: dict[str, list[str]] = {}
        for first, second in plans:
            following.setdefault(first, []).append(second)
        plans = [(first,) for first in following]
        beam = Beam(3, 2, following=lambda plan: following.get(plan.steps[0], []))
    options: Any = {"steps": args.steps} if args.steps else {}
    # Deciding anew can go on for ever.
    planner = ForesightPlanner(
        *(TimeLimit(maker.env, _LIMIT), predictor, scorer),
        num_samples=args.samples,
        clips_per_step=args.clips_per_step,
        threshold=0,
        beam=beam,
        replan_every=way.replan_every,
        surprise=way.surprise,
        max_plans=1,
        **options,
    )
    goal = Goal(text=facts.text) if way.kind == "text" else Goal(image=scene.goal)
    planner.reset(seed=facts.seed, options={"goal": goal, "plans": plans})
    before, done = maker.env.scene_state(), False
    while not done:
        *_, terminated, truncated, info = planner.step(0)
        done = terminated or truncated
    return info["foresight"]["decision"], maker.holds(facts, before)
