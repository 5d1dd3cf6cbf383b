"""Tell success from failure in recorded rollouts, no task seen twice.

    python benchmarks/rollouts.py ROLLOUTS --classifier FOLDER

ROLLOUTS is a folder of videos with an index.csv that has the columns file, task and outcome. Every
score of a task comes from a fit on the other tasks alone (leave one task out). The success
classifier, trained on simulated episodes, is asked as it is ("zero shot"), and its features of the
first and last frame are fitted (their few principal directions are of all rollouts, without their
outcomes); beside it stand the length of a rollout, and how much moves in it.
With two dozen rollouts, of which few failed, the intervals are wide: they are drawn over tasks and
over rollouts both, and say what can't be said.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from aid_robot.data import VideoFrames
from aid_robot.observation import resize_frames
from aid_robot.planning.calibration import auroc, auroc_interval, ranks
from aid_robot.planning.success.model import SuccessModel

# How the tasks of the public rollouts are said; others are asked for by their names.
TEXTS = {
    "beans": "pour the beans into the bowl",
    "carrot": "put the carrot on the plate",
    "drawer": "open the drawer",
    "flip_pot": "flip the pot upright",
    "spoon_on_cloth": "put the spoon on the cloth",
    "unseen_cloth": "put the object on the cloth",
    "wipe_cloth": "wipe the table with the cloth",
}
_RIDGE = 1.0


@dataclass(frozen=True, eq=False)
class Rollout:
    """What is looked at of a video."""

    task: str
    success: bool
    length: int
    # Mean difference of neighbouring frames [grey levels], and of last and first.
    motion: float
    change: float
    first: NDArray[np.uint8]
    last: NDArray[np.uint8]


def read(folder: Path) -> list[Rollout]:
    """Read all labelled videos of a folder."""
    with (folder / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["outcome"] in ("success", "fail")]
    rollouts = []
    for row in tqdm(rows, desc="read", unit="video"):
        video = VideoFrames(folder / row["file"])
        at = np.unique(np.linspace(0, len(video) - 1, 24).round().astype(int))
        frames = resize_frames(video[at], (64, 64))
        steps = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean((1, 2, 3))
        ends = np.abs(frames[-1].astype(np.float32) - frames[0]).mean()
        rollouts.append(
            Rollout(row["task"], row["outcome"] == "success", len(video), float(steps.mean()),
                    float(ends), frames[0], frames[-1])
        )  # fmt: skip
    return rollouts


def leave_one_task_out(
    features: NDArray[np.float64], success: NDArray[np.bool_], tasks: NDArray[Any]
) -> NDArray[np.float64]:
    """Return probabilities (n,) by ridge logistic regression on the other tasks."""
    scores = np.empty(len(features))
    for task in np.unique(tasks):
        held = tasks == task
        mean, spread = features[~held].mean(0), features[~held].std(0) + 1e-6
        design = np.c_[(features - mean) / spread, np.ones(len(features))]
        labels = success[~held].astype(float)
        # Both outcomes weigh the same.
        weight = np.where(success[~held], 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))
        ridge = _RIDGE * np.diag([*np.ones(features.shape[1]), 1e-3])
        beta = np.zeros(design.shape[1])
        for _ in range(30):
            rates = 1 / (1 + np.exp(-np.clip(design[~held] @ beta, -30, 30)))
            pull = design[~held].T @ (weight * (labels - rates)) - ridge @ beta
            curve = (design[~held] * (weight * rates * (1 - rates))[:, None]).T @ design[~held]
            beta += np.linalg.solve(curve + ridge, pull)
        scores[held] = 1 / (1 + np.exp(-np.clip(design[held] @ beta, -30, 30)))
    return scores


def classifier_features(model: SuccessModel, rollouts: list[Rollout]) -> NDArray[np.float64]:
    """Return a few principal features of the first and last frame as the classifier sees them."""
    size = model.net.config.size
    pairs = [np.stack([getattr(r, which) for r in rollouts]) for which in ("first", "last")]
    with torch.inference_mode():
        first, last = (
            torch.from_numpy(resize_frames(x, (size, size))).movedim(-1, 1) / 127.5 - 1
            for x in pairs
        )
        seen = model.net.look(first.to(model.device), last.to(model.device))
        pooled = torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], 1).double().cpu().numpy()
    pooled = (pooled - pooled.mean(0)) / (pooled.std(0) + 1e-6)
    left, size_of, _ = np.linalg.svd(pooled, full_matrices=False)
    return np.asarray(left[:, :4] * size_of[:4])


def main() -> None:
    """Score, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rollouts", type=Path)
    parser.add_argument("--classifier", help="a folder (default: the bundled one)")
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    rollouts = read(args.rollouts)
    success = np.array([r.success for r in rollouts])
    tasks = np.array([r.task for r in rollouts])
    model = SuccessModel.load(args.classifier)

    def column(name: str) -> NDArray[np.float64]:
        return np.array([[getattr(r, name)] for r in rollouts], np.float64)

    def squashed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return ranks(values) / len(values)

    zero_shot = []
    for rollout in rollouts:
        text = TEXTS.get(rollout.task, rollout.task.replace("_", " "))
        found = model.judge_texts(rollout.first[None], rollout.last[None], [text])
        zero_shot.append(float(found[0, 0]))
    fits = {
        "classifier's features": classifier_features(model, rollouts),
        "length": column("length"),
        "motion": column("motion"),
        "change from first to last": column("change"),
    }
    scores = {"classifier, zero shot": np.array(zero_shot)}
    scores["shorter is better, no fit"] = squashed(-column("length")[:, 0])
    for name, features in fits.items():
        scores[f"{name}, fitted"] = leave_one_task_out(features, success, tasks)
    counts = f"{success.sum()} of {len(success)} rollouts of {len(set(tasks))} tasks succeeded"
    print(f"{platform.machine()}: {counts}")
    record: dict[str, Any] = {"rollouts": counts, "auroc": {}}
    for name, found in scores.items():
        low, high = auroc_interval(found, success, list(tasks))
        near, far = auroc_interval(found, success)
        value = auroc(found, success)
        record["auroc"][name] = {"value": value, "over tasks": [low, high],
                                 "over rollouts": [near, far]}  # fmt: skip
        print(f"{name:<36} AUROC {value:.3f}   over tasks [{low:.2f}, {high:.2f}]   over rollouts "
              f"[{near:.2f}, {far:.2f}]")  # fmt: skip
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
