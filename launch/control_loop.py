"""Look ahead while a robot moves, in the world or simulated, or while a recording plays.

    python launch/control_loop.py bridge_dataset/1.0.0#3 --every 5 --out loop
    python launch/control_loop.py --env aid_robot/Tabletop-v0 --instruction "open the drawer"
    python launch/control_loop.py --source my_robot:connect --hz 5 \
        --instruction "put the carrot on the plate"

    python launch/control_loop.py --env aid_robot/Tabletop-v0 --plan --goal "the drawer is open"
    python launch/control_loop.py episode.mp4 --plan "lift the cup" "open the drawer" --goal "..."

With --plan, candidates are ranked by what would follow. On the simulated table the best is carried
out by scripted skills, and decided anew every few steps; candidates that are left out are what the
scene allows. For a recording or a robot the ranking is only told.

A recording plays in real time, or faster with --hz. The simulated arm does what the instruction
says by a scripted skill; without one, it does something that its scene allows. `my_robot:connect`
is a function in a module of yours that returns an object with `get_observation()`, such as a
WidowXClient; it may return None where there is no new frame. Nothing is sent to the robot: put your
policy into `observe`.

Ctrl-C ends the loop; what it saw is saved all the same. Where the machine has several cores, torch
leaves one to the loop.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

import aid_robot.envs  # noqa: F401  registers the recorded-episode environment
from aid_robot import VideoForesight
from aid_robot.cli import run_cleanly
from aid_robot.commands import quiet_libraries
from aid_robot.commands.inputs import find_episode, read_goal, split_episode
from aid_robot.data import open_recording, write_video
from aid_robot.data.convert.target import open_target
from aid_robot.data.store import EpisodeStore
from aid_robot.envs.decisions import DecisionRecorder
from aid_robot.envs.foresight import ForesightPlanner
from aid_robot.envs.tabletop.tasks import Task
from aid_robot.errors import ConfigError, FrameRateError, InstructionError, PlanError
from aid_robot.loop import BackgroundPredictor, Prediction, run_loop
from aid_robot.planning.best import BestPlan
from aid_robot.planning.drawing import draw_decision
from aid_robot.planning.goals import Goal
from aid_robot.planning.pace import Pace
from aid_robot.planning.scorers import default_scorer, make_scorer
from aid_robot.predictor import Predictor


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "recording", nargs="?", help="PATH, PATH#NUMBER or PATH#ID of any readable layout"
    )
    parser.add_argument("--source", metavar="MODULE:FUNCTION", help="live observations instead")
    parser.add_argument("--env", metavar="ID", help="a simulated scene: aid_robot/Tabletop-v0")
    parser.add_argument("--scene", type=int, default=0, help="seed of the simulated scene")
    parser.add_argument("--instruction", help="default: what the observations carry")
    parser.add_argument("--camera", help="of observations that have several")
    parser.add_argument("--hz", type=float, help="turns a second (default: the recording's fps)")
    parser.add_argument("--fps", type=float, help="of a recording that doesn't say it, or wrongly")
    parser.add_argument("--every", type=int, default=5, help="steps between two predictions")
    parser.add_argument("--max-steps", type=int, help="default: until the end, or Ctrl-C")
    parser.add_argument("--keep", type=int, default=300, help="newest steps that are saved")
    parser.add_argument("--out", type=Path, default=Path("loop"), help="folder for what is saved")
    parser.add_argument("--model", default="bundled", help="'bundled', a folder, or a hub id")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--samples", type=int, default=1, help="futures a prediction draws")
    parser.add_argument(
        "--seed",
        type=int,
        help="of every prediction (default: new ones; with --env and --plan, --scene)",
    )
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's own)")
    group = parser.add_argument_group("planning")
    group.add_argument("--plan", nargs="*", metavar="PLAN", help="rank these instead")
    group.add_argument("--goal", metavar="TEXT", help="default: the simulated scene's own task")
    group.add_argument("--goal-image", type=Path, metavar="FILE", help="how it shall look")
    group.add_argument("--goal-mask", type=Path, metavar="FILE", help="bright where that counts")
    group.add_argument("--scorer", metavar="NAMES", help="see aid-robot plan")
    group.add_argument(
        "--threshold",
        type=float,
        help="abstain where the best is below it; 0 never abstains (default: the scorer's own, if "
        "it is calibrated)",
    )
    group.add_argument("--budget", type=float, metavar="S", help="seconds a decision may take")
    group.add_argument("--penalty", type=float, default=0.5, help="weight of the samples' spread")
    group.add_argument("--clips-per-step", type=int, default=1, metavar="N",
                       help="clips of each instruction, where skills take longer")  # fmt: skip
    group.add_argument("--surprise", type=float, metavar="D", help="with --env: decide anew where "
                       "a frame departs this far from what was imagined, 0 to 1")  # fmt: skip
    group.add_argument("--calibration", type=Path, metavar="FILE", help="of 'aid-robot calibrate'")
    group.add_argument("--record", metavar="STORE", help="with --env: keep every plan that was "
                       "carried out and what came of it, for 'aid-robot calibrate'")  # fmt: skip
    return parser.parse_args()


def main() -> int:
    """Build, run, report and save."""
    args = parse()
    leave_a_core()
    quiet_libraries()
    if args.plan is not None and args.env is not None:
        if args.recording is not None or args.source is not None:
            raise ConfigError("give one of: a recording, --source MODULE:FUNCTION, --env ID")
        return plan_and_move(args)
    if args.record is not None or args.surprise is not None:
        raise ConfigError("--record and --surprise are for plans that are carried out: add --env "
                          "and --plan")  # fmt: skip
    observations, frame_rate = open_source(args)
    model = load_model(args)
    options = {"num_samples": args.samples, "seed": args.seed}
    if args.steps is not None:
        options["steps"] = args.steps
    background = BackgroundPredictor(model, **options)
    print(f"predicting every {args.every} steps of 1/{args.hz or frame_rate:g} s; Ctrl-C ends")
    log = run_loop(
        observations,
        background,
        hz=args.hz or frame_rate,
        every=args.every,
        frame_rate=frame_rate,
        instruction=args.instruction,
        camera=args.camera,
        max_steps=args.max_steps,
        keep=args.keep,
        on_prediction=observe,
    )
    if not background.close(timeout=60):
        print("the last prediction takes more than a minute: left unfinished")
    for late in log.collect():
        observe(log.steps, late)
    print(log.summary())
    paths = log.save(args.out)
    print(f"wrote {len(paths)} files to {args.out}" if paths else "no prediction to save")
    return 0


def load_model(args: argparse.Namespace) -> Predictor:
    """Load who predicts, or with --plan who ranks."""
    goal = read_goal(args.goal, args.goal_image, args.goal_mask)
    model = VideoForesight.from_pretrained(args.model, device=args.device, dtype=args.dtype)
    if args.plan is None:
        return model
    if goal is None:
        raise PlanError("--plan needs a goal: give --goal TEXT or --goal-image FILE")
    pace = None if args.budget is None else Pace(args.budget)
    name = args.scorer or default_scorer(goal)
    scorer = make_scorer(name, model=model, device=args.device, calibration=args.calibration)
    return BestPlan(
        *(model, args.plan, goal, scorer),
        threshold=args.threshold,
        penalty=args.penalty,
        clips_per_step=args.clips_per_step,
        pace=pace,
    )


def observe(step: int, prediction: Prediction) -> None:
    """Use a prediction that has just arrived; here it is only announced."""
    print(f"step {step}: foresight of step {prediction.step}, {prediction.age:.2f} s old")
    decision = prediction.foresight.settings.get("decision")
    if decision is not None:
        print(f"  {decision['reason']}")


def plan_and_move(args: argparse.Namespace) -> int:
    """Let the planner act on the simulated table; the world waits while it thinks."""
    if args.seed is not None:
        raise ConfigError(f"--seed {args.seed}: with --env and --plan all follows from --scene")
    model = VideoForesight.from_pretrained(args.model, device=args.device, dtype=args.dtype)
    goal = read_goal(args.goal, args.goal_image, args.goal_mask)
    if goal is not None and args.record is not None:
        raise ConfigError(
            "--record keeps what came of the scene's own task, and --goal asks for another: leave "
            "one of them out, or write a loop with ForesightPlanner(outcome=...)"
        )
    name = args.scorer or default_scorer(goal or Goal())
    scorer = make_scorer(name, model=model, device=args.device, calibration=args.calibration)
    store = None
    if args.record is not None:
        store = open_target(args.record) or EpisodeStore.create(args.record)
    env = ForesightPlanner(
        make_env(args.env, render_mode="rgb_array"),
        model,
        scorer,
        goal=goal,
        propose=args.plan or None,
        num_candidates=max(8, len(args.plan)),
        num_samples=args.samples,
        threshold=args.threshold,
        penalty=args.penalty,
        clips_per_step=args.clips_per_step,
        replan_every=args.every,
        surprise=args.surprise,
        recorder=None if store is None else DecisionRecorder(store),
        budget=args.budget,
        camera=args.camera,
        **({} if args.steps is None else {"steps": args.steps}),
    )
    options = {} if args.instruction is None else {"instruction": args.instruction}
    _, info = env.reset(seed=args.scene, options=options)
    args.out.mkdir(parents=True, exist_ok=True)
    frames, over, step = [env.render()], False, 0
    try:
        while not over and (args.max_steps is None or step < args.max_steps):
            _, _, terminated, truncated, info = env.step(0)
            over, step = terminated or truncated, step + 1
            told = info["foresight"]
            if told["is_new"]:
                print(f"step {step - 1}: {told['reason']}")
                if told["decision"] is not None:
                    draw_decision(told["decision"]).save(args.out / f"step_{step - 1:05d}.png")
            frames.append(env.render())
    except KeyboardInterrupt:
        print("interrupted")
    finally:
        env.close()
        if store is not None:
            store.close()
    write_video(args.out / "plan.mp4", frames, env.metadata["render_fps"])
    print(f"{step} steps; the scene's own task is {'done' if info.get('success') else 'not done'}")
    print(f"wrote {args.out}")
    return 0


def open_source(args: argparse.Namespace) -> tuple[Iterator[Any], float]:
    """Return the observations, and how many a second the world makes between them."""
    if sum(given is not None for given in (args.recording, args.source, args.env)) != 1:
        raise ConfigError("give one of: a recording, --source MODULE:FUNCTION, --env ID")
    if args.env is not None:
        return simulated(args.env, args.scene, args.instruction)
    if args.source is not None:
        if args.hz is None:
            raise ConfigError("--source needs --hz, the robot's turns a second")
        return live(args.source), args.hz
    path, key = split_episode(args.recording)
    episode = 0 if key is None else find_episode(open_recording(path), key)
    env = gymnasium.make("aid_robot/RecordedEpisode-v0", path=path, episode=episode, fps=args.fps)
    obs, info = env.reset()
    if args.plan is None and not (args.instruction or obs["instruction"]):
        raise InstructionError(f"{args.recording} carries no instruction: give --instruction")
    if info["fps"] is None:
        raise FrameRateError(f"the frames a second of {args.recording} are unknown: give --fps")
    return play(env), info["fps"]


def play(env: gymnasium.Env[Any, Any]) -> Iterator[Any]:
    """Step through a recorded episode."""
    obs, info = env.reset()
    yield obs
    at_end = False
    while not at_end:
        action = info.get("recorded_action", np.zeros(7, np.float32))
        obs, _, _, at_end, info = env.step(action)
        yield obs


def simulated(name: str, scene: int, instruction: str | None) -> tuple[Iterator[Any], float]:
    """Do what the instruction says in a simulated scene, and return what is seen, and its rate."""
    env = make_env(name, end_on_success=False)
    options = {} if instruction is None else {"instruction": instruction}
    obs, info = env.reset(seed=scene, options=options)
    print(f"scene {scene} with {', '.join(thing['name'] for thing in info['scene']['things'])}: "
          f"{obs['instruction']}")  # fmt: skip
    return do(env, obs, Task.from_json(info["task"])), info["fps"]


def make_env(name: str, **options: Any) -> gymnasium.Env[Any, Any]:
    """Make the simulated table."""
    try:
        return gymnasium.make(name, **options)
    except (gymnasium.error.Error, TypeError) as error:
        raise ConfigError(
            f"--env {name} can't be made ({error}): expected aid_robot/Tabletop-v0"
        ) from error


def do(env: gymnasium.Env[Any, Any], obs: Any, task: Task) -> Iterator[Any]:
    """Do a task by its scripted skill, then rest for a second."""
    from aid_robot.envs.tabletop.skills import make_actions

    yield obs
    action = np.array([0, 0, 0, 0, 0, 0, 1], np.float32)
    for action in make_actions(env.unwrapped, task):
        obs, *_ = env.step(action)
        yield obs
    for _ in range(5):
        obs, *_, info = env.step(action * (0, 0, 0, 0, 0, 0, 1))
        yield obs
    print(f"the task is {'done' if info['success'] else 'not done'}")


def live(name: str) -> Iterator[Any]:
    """Ask a robot's client for observations."""
    module, _, function = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        connect: Callable[[], Any] = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"--source {name} can't be imported ({error}): write MODULE:FUNCTION, the module in "
            "this folder or installed"
        ) from error
    robot = connect()
    return iter(robot.get_observation, object())


def leave_a_core() -> None:
    """Keep torch from taking the core that the loop runs on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(max(1, min(torch.get_num_threads(), (cores or 1) - 1)))


if __name__ == "__main__":
    sys.exit(run_cleanly("control_loop", main))
