"""Look ahead while a robot moves, in the world or simulated, or while a recording plays.

    python launch/control_loop.py bridge_dataset/1.0.0#3 --every 5 --out loop
    python launch/control_loop.py --env aid_robot/Tabletop-v0 --instruction "open the drawer"
    python launch/control_loop.py --source my_robot:connect --hz 5 \
        --instruction "put the carrot on the plate"

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
from aid_robot.commands.inputs import find_episode, split_episode
from aid_robot.data import open_recording
from aid_robot.envs.tabletop.tasks import Task
from aid_robot.errors import ConfigError, FrameRateError, InstructionError
from aid_robot.loop import BackgroundPredictor, Prediction, run_loop


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
    parser.add_argument("--seed", type=int, help="of every prediction (default: new ones)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's own)")
    return parser.parse_args()


def main() -> int:
    """Build, run, report and save."""
    args = parse()
    leave_a_core()
    quiet_libraries()
    observations, frame_rate = open_source(args)
    model = VideoForesight.from_pretrained(args.model, device=args.device, dtype=args.dtype)
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
    log.collect()
    print(log.summary())
    paths = log.save(args.out)
    print(f"wrote {len(paths)} files to {args.out}" if paths else "no prediction to save")
    return 0


def observe(step: int, prediction: Prediction) -> None:
    """Use a prediction that has just arrived; here it is only announced."""
    print(f"step {step}: foresight of step {prediction.step}, {prediction.age:.2f} s old")


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
    if not (args.instruction or obs["instruction"]):
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
    try:
        env = gymnasium.make(name, end_on_success=False)
    except (gymnasium.error.Error, TypeError) as error:
        raise ConfigError(
            f"--env {name} can't be made ({error}): expected aid_robot/Tabletop-v0"
        ) from error
    options = {} if instruction is None else {"instruction": instruction}
    obs, info = env.reset(seed=scene, options=options)
    print(f"scene {scene} with {', '.join(thing['name'] for thing in info['scene']['things'])}: "
          f"{obs['instruction']}")  # fmt: skip
    return do(env, obs, Task.from_json(info["task"])), info["fps"]


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
