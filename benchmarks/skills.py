"""Measure how often the tabletop's scripted skills succeed, alone and two in a row.

    python benchmarks/skills.py --seeds 200
    python benchmarks/skills.py --seeds 50 --rows put,push --preset hard

A trial is a fresh scene and a random task of the skill that is feasible in it; success is judged
from the state after the skill has ended and the arm has rested for a step. Nothing is drawn.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import mujoco
import numpy as np
from tqdm import tqdm

from aid_robot.envs.tabletop.config import PRESETS, TabletopConfig, preset
from aid_robot.envs.tabletop.feasible import feasible
from aid_robot.envs.tabletop.skills import make_actions, run_skill
from aid_robot.envs.tabletop.tasks import FAILURES_OF, SKILLS, Failure, Task
from aid_robot.envs.tabletop.world import World
from aid_robot.errors import SimulationError

# Scenes that are looked at for one trial.
_MAX_SCENES = 200


@dataclass
class Rate:
    """What came of the trials of a row."""

    successes: int = 0
    trials: int = 0
    steps: list[int] = field(default_factory=list)
    # Seed and tasks of those that failed, or of deliberate failures that succeeded.
    unexpected: list[str] = field(default_factory=list)

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the rate, by Wilson."""
        n, p, z = self.trials, self.successes / self.trials, 1.96
        middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
        return max(0.0, float(low)), min(1.0, float(high))


def main() -> None:
    """Run the trials, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=200, help="trials of each row")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--rows", help="some of the rows, as put,push,chain (default: all)")
    parser.add_argument("--failures", action="store_true", help="deliberate failures instead")
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    if args.failures:
        rows = [f"{skill}/{mode}" for skill in SKILLS for mode in FAILURES_OF[skill]]
    else:
        rows = [*SKILLS, "chain"]
    chosen = args.rows.split(",") if args.rows else rows
    world = World()
    print(f"{platform.machine()}, mujoco {mujoco.__version__}, preset {args.preset}")
    print(f"{'':<26}{'success':>12}{'95 % interval':>18}{'steps: median':>16}{'most':>6}")
    results = {}
    for row in chosen:
        rate = Rate()
        for seed in tqdm(range(args.first, args.first + args.seeds), desc=row, leave=False):
            trial(world, row, preset(args.preset), seed, rate)
        results[row] = rate
        low, high = rate.interval()
        print(
            f"{row:<26}{f'{rate.successes}/{rate.trials}':>12}"
            f"{f'[{low:.1%}, {high:.1%}]':>18}"
            f"{np.median(rate.steps):>16.0f}{max(rate.steps):>6}",
            flush=True,
        )
    for row, rate in results.items():
        for line in rate.unexpected:
            print(f"unexpected: {row}: {line}")
    if args.output is not None:
        record = {
            "hardware": platform.machine(),
            "mujoco": mujoco.__version__,
            "arguments": {name: str(value) for name, value in vars(args).items()},
            "rows": {row: asdict(rate) for row, rate in results.items()},
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(record, indent=2) + "\n")


def trial(world: World, row: str, config: TabletopConfig, seed: int, rate: Rate) -> None:
    """Try a skill, "chain", or "skill/failure" once; a deliberate failure is to fail."""
    skill, _, mode = row.partition("/")
    failure: Failure | None = mode or None  # type: ignore[assignment]
    if skill in ("open", "close"):
        config = replace(config, drawer=1.0)
    rng = np.random.default_rng((seed, 7))
    for _ in range(_MAX_SCENES):
        world.reset(config, rng)
        if choices := tasks(world, skill):
            try:
                make_actions(world, choices[0], failure, rng)
                break
            except SimulationError:
                continue  # nothing wrong to take
    else:
        raise SystemExit(f"no scene of {_MAX_SCENES} shows {row}; try another preset")
    done, steps, told = True, 0, []
    for _ in range(2 if skill == "chain" else 1):
        # A wrong thing was found for the first alone.
        choices = choices[:1] if failure else tasks(world, skill)
        task = choices[rng.integers(len(choices))]
        trajectory = run_skill(world, task, failure, rng)
        done = done and trajectory.success
        steps += len(trajectory.actions)
        told.append(str(task.to_json()))
    rate.trials += 1
    rate.successes += done
    rate.steps.append(steps)
    if done == bool(mode):
        names = ", ".join(trajectory.before.names)
        rate.unexpected.append(f"seed {seed}: {' then '.join(told)}; {names}")


def tasks(world: World, skill: str) -> list[Task]:
    """Return what can be tried here."""
    return [
        task
        for task in feasible(world.scene_state())
        if task.skill == skill or (skill == "chain" and task.skill != "idle")
    ]


if __name__ == "__main__":
    main()
