"""Train the success classifier: a loop of its own, that goes on after a stop."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from aid_robot.errors import ConfigError, TrainingError
from aid_robot.interrupt import stop_requests
from aid_robot.model.latents import to_pixels
from aid_robot.planning.success.examples import ENDS, Examples, Order, Question
from aid_robot.planning.success.model import SuccessConfig, SuccessModel, SuccessNet
from aid_robot.planning.success.words import Words
from aid_robot.runtime.manifest import digest_weights
from aid_robot.training.state import read_state, write_state
from aid_robot.training.trainer import check_recipe

# How often a pair of moments is taken in which order.
_ORDERS: dict[Order, float] = {"done": 0.72, "still": 0.12, "reversed": 0.16}
_EMA = 0.998


@dataclass(frozen=True)
class SuccessTraining:
    """How the classifier is trained."""

    # Budget: what is reached first ends it, and the learning rate falls to zero towards it.
    minutes: float | None = 20.0
    steps: int | None = None
    # Pairs of pictures a step, and questions about each.
    batch_size: int = 32
    questions: int = 20
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup_steps: int = 100
    # Weight of goals given as pictures, beside those given as text.
    picture_weight: float = 0.5
    # Weight of where named things are, and things of a pair.
    place_weight: float = 0.1
    places: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.minutes is None and self.steps is None:
            raise ConfigError("neither minutes nor steps is set: say how long to train")
        for name in ("minutes", "steps", "batch_size", "questions", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name}={value} must be positive")


class Batch(NamedTuple):
    """What a step learns from."""

    before: Tensor  # (B, 3, size, size) in [-1, 1]
    after: Tensor
    words: Tensor  # (B, Q, L)
    true: Tensor  # (B, Q)
    goal: Tensor  # (B, 3, size, size): a picture of what was wanted
    reached: Tensor  # (B,): 1, 0, or -1 where unknown
    names: Tensor  # (B, P, L): what things are called, after a word of any kind
    places: Tensor  # (B, P, 2, 2): x, y before and after in [0, 1]; NaN where unknown


def train(
    examples: Examples,
    config: SuccessConfig,
    settings: SuccessTraining,
    folder: Path,
    start: SuccessModel | None = None,
) -> SuccessModel:
    """Train within the budget, going on with what an earlier run left in `folder`.

    Args:
        examples: What it learns from.
        config: Of the network; without words, those of the examples are taken.
        settings: How long, and how.
        folder: Of the run's state.
        start: A trained classifier to begin with; its shape counts, and it learns new words.

    Raises TrainingError where the loss is not finite, or there are no words. Ctrl-C and SIGTERM
    save the state first.
    """
    rng = np.random.default_rng(settings.seed)
    known = config.words
    if start is not None:
        config, known = start.net.config, ()
    if not known:
        found = Words.of(examples.texts(rng), config.max_words, least=2).words
        config = replace(config, words=tuple(dict.fromkeys((*config.words, *found))))
    if not config.words:
        raise TrainingError("no word occurs twice in what is asked of the episodes: read more")
    vocabulary = Words(config.words, config.max_words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        net = SuccessNet(config)
    if start is not None:
        with torch.no_grad():
            for name, tensor in start.net.state_dict().items():
                # New words stand behind the known ones.
                net.state_dict()[name][: len(tensor)].copy_(tensor)
    average = [parameter.detach().clone() for parameter in net.parameters()]
    optimizer = torch.optim.AdamW(
        net.parameters(), settings.learning_rate, (0.9, 0.99), weight_decay=settings.weight_decay
    )
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "config": asdict(config),
        "settings": asdict(settings),
        "examples": examples.digest(),
        "start": None if start is None else digest_weights(start.net.state_dict()),
    }
    # As JSON gives it back, to be compared with that of a saved run.
    recipe = json.loads(json.dumps(facts))
    step, elapsed = _resume(folder, net, average, optimizer, recipe)
    started, saved = time.monotonic() - elapsed, elapsed
    bar = tqdm(total=settings.steps, initial=step, desc="train", unit="step")
    losses: list[float] = []
    try:
        with stop_requests() as stop:
            while (progress := _progress(settings, step, elapsed)) < 1:
                batch = draw_batch(examples, vocabulary, settings, step)
                loss = _loss(net, batch, settings)
                if not torch.isfinite(loss):
                    raise TrainingError(
                        f"the loss of step {step} is {loss.item()}: lower "
                        f"learning_rate={settings.learning_rate:g} and train into another folder"
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                warmup = min(1.0, (step + 1) / max(1, settings.warmup_steps))
                falling = 0.5 * (1 + math.cos(math.pi * progress))
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * warmup * falling
                optimizer.step()
                step += 1
                decay = min(_EMA, (1 + step) / (10 + step))
                with torch.no_grad():
                    torch._foreach_lerp_(average, list(net.parameters()), 1 - decay)
                losses.append(loss.item())
                elapsed = time.monotonic() - started
                bar.update()
                if step % 20 == 0:
                    bar.set_postfix(loss=f"{np.mean(losses[-100:]):.3f}", refresh=False)
                if elapsed - saved > 120 or stop():
                    _save(folder, net, average, optimizer, recipe, step, elapsed)
                    saved = elapsed
                if stop():
                    raise KeyboardInterrupt
    finally:
        bar.close()
    _save(folder, net, average, optimizer, recipe, step, elapsed)
    with torch.no_grad():
        for parameter, mean in zip(net.parameters(), average, strict=True):
            parameter.copy_(mean)
    return SuccessModel(net)


def draw_batch(examples: Examples, words: Words, settings: SuccessTraining, step: int) -> Batch:
    """Draw what a step learns from; the same for the same step."""
    rng = np.random.default_rng((settings.seed, step))
    rows = rng.integers(len(examples), size=settings.batch_size)
    before, after, goals, texts, true, reached = [], [], [], [], [], []
    names: list[str] = []
    places = np.full((len(rows), settings.places, 2, 2), np.nan, np.float32)
    for row in rows:
        pairs = {pair.order: pair for pair in examples.pairs[row]}
        weights = np.array([_ORDERS[order] for order in pairs])
        order: Order = list(pairs)[rng.choice(len(pairs), p=weights / weights.sum())]
        ends = examples.ends(int(row), rng)
        first, last = examples.frames[row, 0], ends[rng.integers(ENDS)]
        if order == "still":
            last = first
        elif order == "reversed":
            first, last = examples.frames[row, 1 + rng.integers(ENDS)], first
        before.append(first)
        after.append(last)
        for question in draw_questions(pairs[order].questions, settings.questions, rng):
            wordings = question.wordings()
            texts.append(wordings[int(rng.integers(len(wordings)))])
            true.append(question.true)
        known = pairs[order].places
        picked = rng.permutation(len(known))[: settings.places]
        for place, index in enumerate(picked):
            places[len(before) - 1, place] = known[index].before, known[index].after
        told = [known[i].names[int(rng.integers(len(known[i].names)))] for i in picked]
        told += [""] * (settings.places - len(told))
        names += [f"{rng.choice(words.words)} {name}" for name in told]
        goal, answer = _draw_goal(examples, int(row), order, rng)
        goals.append(goal)
        reached.append(answer)
    shape = (len(rows), settings.questions)
    pixels = [to_pixels(torch.from_numpy(np.stack(x))) for x in (before, after, goals)]
    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
    first, last, goal_pixels, shifts = augment(pixels[0], pixels[1], pixels[2], noise)
    moved = shifts.flip(-1)[:, None, None] / first.shape[-1]
    return Batch(
        before=first,
        after=last,
        words=words.encode(texts).unflatten(0, shape),
        true=torch.tensor(true, dtype=torch.float32).reshape(shape),
        goal=goal_pixels,
        reached=torch.tensor(reached, dtype=torch.float32),
        names=words.encode(names).unflatten(0, (len(rows), settings.places)),
        places=torch.from_numpy(places) - moved,
    )


def draw_questions(
    questions: Sequence[Question], count: int, rng: np.random.Generator
) -> list[Question]:
    """Draw half true ones, most of what has changed, and half false ones; some twice if few."""
    changed = [q for q in questions if q.true and q.changed]
    old = [q for q in questions if q.true and not q.changed]
    false = [q for q in questions if not q.true]
    drawn: list[Question] = []
    for pool, share in ((changed, 0.33), (old, 0.17), (false, 0.5)):
        if pool:
            wanted = max(1, round(share * count))
            drawn += [pool[i] for i in rng.permutation(len(pool))[:wanted]]
    while len(drawn) < count:
        drawn.append(questions[int(rng.integers(len(questions)))])
    return drawn[:count]


def augment(
    before: Tensor, after: Tensor, goal: Tensor, noise: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Vary light and place of all three alike, and blur the end as an imagination does.

    The goal's picture gets some light and shift of its own: it was taken at another time. Returned
    are all three, and the shifts (B, 2) of y and x in pixels, which things have moved against.
    """
    count = len(before)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=noise)

    def lit(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
        return x * gain + offset

    gain, offset = uniform(0.85, 1.15, 1, 1, 1), uniform(-0.12, 0.12, 1, 1, 1)
    tint = uniform(-0.03, 0.03, 3, 1, 1)
    before, after = (lit(x, gain, offset + tint) for x in (before, after))
    goal = lit(goal, gain * uniform(0.95, 1.05, 1, 1, 1), offset + tint)
    shifts = torch.randint(-3, 4, (count, 2), generator=noise)
    jitter = torch.randint(-1, 2, (count, 2), generator=noise)
    before, after = _shift(before, shifts), _shift(after, shifts)
    goal = _shift(goal, shifts + jitter)
    # Softer, as decoded frames are, and with noise.
    after = torch.lerp(after, _soften(after), uniform(-0.3, 1.0, 1, 1, 1).clamp(min=0))
    level = uniform(-0.03, 0.06, 1, 1, 1).clamp(min=0)
    after = after + level * torch.randn(after.shape, generator=noise)
    return before, after, goal, shifts


def _shift(pictures: Tensor, by: Tensor) -> Tensor:
    """Move each picture by whole pixels (dy, dx), its edge repeated."""
    reach = 4
    padded = F.pad(pictures, (reach,) * 4, mode="replicate")
    size = pictures.shape[-1]
    return torch.stack(
        [
            picture[:, reach + dy : reach + dy + size, reach + dx : reach + dx + size]
            for picture, (dy, dx) in zip(padded, by.tolist(), strict=True)
        ]
    )


def _soften(pictures: Tensor) -> Tensor:
    padded = F.pad(pictures, (2,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, 3, 1), 3, 1)


def _draw_goal(
    examples: Examples, row: int, order: Order, rng: np.random.Generator
) -> tuple[Any, float]:
    """Draw a goal's picture, and whether the pair of moments has reached it."""
    frames = examples.frames[row]
    # Where nothing came about, the end looks as the start does.
    came = any(q.changed and q.true for p in examples.pairs[row] if p.order == "done"
               for q in p.questions)  # fmt: skip
    if order != "done":
        undone = 0.0 if order == "still" and came else -1.0
        return frames[1 + rng.integers(ENDS)], undone
    kind = rng.random()
    if kind < 0.1:
        return frames[0], 0.0 if came else -1.0
    options = [match for match in examples.matches[row] if match[1] == (kind < 0.5)]
    if not options:
        options = list(examples.matches[row])
    if not options:
        return frames[0], -1.0
    other, answer = options[rng.integers(len(options))]
    return examples.frames[other, 1 + rng.integers(ENDS)], float(answer)


def _loss(net: SuccessNet, batch: Batch, settings: SuccessTraining) -> Tensor:
    features = net.look(batch.before, batch.after)
    loss = F.binary_cross_entropy_with_logits(net.ask(features, batch.words), batch.true)
    if settings.place_weight and not batch.places.isnan().all():
        loss = loss + settings.place_weight * place_loss(net.point(features, batch.names), batch)
    # Of every other pair: a picture costs as much to look at as the pair itself.
    known = (batch.reached >= 0) & (torch.arange(len(batch.reached)) % 2 == 0)
    if settings.picture_weight and known.any():
        wanted = net.look(batch.before[known], batch.goal[known])
        matched = net.match(features[known], wanted)
        loss = loss + settings.picture_weight * F.binary_cross_entropy_with_logits(
            matched, batch.reached[known]
        )
    return loss


def place_loss(maps: Tensor, batch: Batch) -> Tensor:
    """Return the cross-entropy of where things are, from logits (B, P, 2, places)."""
    side = round(maps.shape[-1] ** 0.5)
    cells = (batch.places * side).floor()
    seen = ((cells >= 0) & (cells < side)).all(-1)
    target = torch.where(seen, cells[..., 1] * side + cells[..., 0], -1).long()
    return F.cross_entropy(maps.flatten(0, 2), target.flatten(), ignore_index=-1)


def _progress(settings: SuccessTraining, step: int, elapsed: float) -> float:
    of_steps = step / settings.steps if settings.steps else 0.0
    return max(of_steps, elapsed / (60 * settings.minutes) if settings.minutes else 0.0)


def _save(
    folder: Path, net: SuccessNet, average: Sequence[Tensor], optimizer: Any, recipe: Any,
    step: int, elapsed: float,
) -> None:  # fmt: skip
    tensors: dict[str, Tensor] = {}
    for (name, parameter), mean in zip(net.named_parameters(), average, strict=True):
        tensors[f"weights/{name}"], tensors[f"average/{name}"] = parameter.detach(), mean
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = value
    write_state(folder, step, tensors, {"step": step, "elapsed": elapsed, "recipe": recipe})


def _resume(
    folder: Path, net: SuccessNet, average: Sequence[Tensor], optimizer: Any, recipe: Any
) -> tuple[int, float]:
    found = read_state(folder)
    if found is None:
        return 0, 0.0
    tensors, facts, _ = found
    check_recipe(folder, facts["recipe"], recipe)
    with torch.no_grad():
        for (name, parameter), mean in zip(net.named_parameters(), average, strict=True):
            parameter.copy_(tensors[f"weights/{name}"])
            mean.copy_(tensors[f"average/{name}"])
            if f"exp_avg/{name}" in tensors:
                optimizer.state[parameter] = {
                    key: tensors[f"{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
                }
    return int(facts["step"]), float(facts["elapsed"])
