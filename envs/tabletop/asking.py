"""Questions about simulated episodes, answered from their states: food for the success classifier.

Far more than an episode's own captions: whatever can be said of its scene, true or clearly false,
and every task that could have been asked for, done or not.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from aid_robot.data.episode import Episode
from aid_robot.envs.tabletop.captions import goal_paraphrases, statements
from aid_robot.envs.tabletop.feasible import feasible
from aid_robot.envs.tabletop.goals import Goal, holds, is_refuted, succeeded
from aid_robot.envs.tabletop.language import paraphrases
from aid_robot.envs.tabletop.names import nouns
from aid_robot.envs.tabletop.state import SceneState
from aid_robot.envs.tabletop.tasks import Task
from aid_robot.envs.tabletop.view import see
from aid_robot.errors import DataFormatError
from aid_robot.planning.success.examples import Order, Pair, Place, Question

# Of a pair of moments: statements that were so before, that are false, and tasks not done.
_UNCHANGED, _FALSE, _UNDONE = 8, 24, 12


class TabletopAsker:
    """Ask about episodes that `aid-robot simulate` made."""

    @staticmethod
    def knows(episode: Episode) -> bool:
        """Say whether an episode carries the states that the answers need."""
        return {"states", "task"} <= set(episode.info)

    def pairs(self, episode: Episode) -> Sequence[Pair]:
        rng = np.random.default_rng(zlib.crc32(episode.id.encode()))
        start, end, task = _facts(episode)
        moments: tuple[tuple[Order, SceneState, SceneState], ...] = (
            ("done", start, end), ("still", start, start), ("reversed", end, start),
        )  # fmt: skip
        found = []
        for order, before, after in moments:
            asked = [*_statements(before, after, rng), *_tasks(before, after, task, rng)]
            found.append(Pair(order, tuple(asked), tuple(_places(before, after))))
        return found

    def reached(self, episode: Episode, wanted: Episode) -> bool | None:
        if episode.id == wanted.id:
            return True
        start, end, _ = _facts(episode)
        _, wanted_end, task = _facts(wanted)
        if task.skill == "idle" or not succeeded(task, start, wanted_end):
            return None
        return succeeded(task, start, end)


def _facts(episode: Episode) -> tuple[SceneState, SceneState, Task]:
    try:
        states = episode.info["states"]
        return (
            SceneState.from_json(states["start"]),
            SceneState.from_json(states["end"]),
            Task.from_json(episode.info["task"]),
        )
    except KeyError as error:
        raise DataFormatError(
            f"episode '{episode.id}' has no {error} in its info; expected what 'aid-robot "
            "simulate' writes"
        ) from error


def _places(before: SceneState, after: SceneState) -> Iterator[Place]:
    """Yield where the main camera sees the middle of each thing."""
    for name in before.names:
        first, last = (
            tuple(((1 + see(state[name].position)) / 2).tolist()) for state in (before, after)
        )
        yield Place(nouns(name, before.names), first, last)


def _statements(
    before: SceneState, after: SceneState, rng: np.random.Generator
) -> Iterator[Question]:
    """Yield every true statement that has become so, and some others."""
    changed: list[Question] = []
    unchanged: list[Question] = []
    false: list[Question] = []
    for goal in statements(after, before):
        true = holds(goal, after, before)
        if not true and not is_refuted(goal, after, before):
            continue  # nobody could say
        differs = true != holds(goal, before, before)
        question = _question(goal, after, true, differs)
        (changed if differs else unchanged if true else false).append(question)
    yield from changed
    for questions, count in ((unchanged, _UNCHANGED), (false, _FALSE)):
        yield from (questions[i] for i in rng.permutation(len(questions))[:count])


def _question(goal: Goal, scene: SceneState, true: bool, changed: bool) -> Question:
    wordings = partial(goal_paraphrases, goal, scene.names)
    return Question(wordings, true, changed, goal.predicate)


def _tasks(
    before: SceneState, after: SceneState, own: Task, rng: np.random.Generator
) -> Iterator[Question]:
    """Yield the tasks that could be asked for, the episode's own among them."""
    tasks = [task for task in feasible(before) if task.skill != "idle"]
    done = {task: succeeded(task, before, after) for task in tasks}
    undone = [task for task in tasks if not done[task] and task != own]
    picked = [undone[i] for i in rng.permutation(len(undone))[:_UNDONE]]
    for task in (*(task for task in tasks if done[task] or task == own), *picked):
        wordings = partial(paraphrases, task, before.names)
        yield Question(wordings, done[task], done[task] or task == own, f"to {task.skill}")
