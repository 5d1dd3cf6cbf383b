"""The success classifier learns from episodes, resumes, is saved, and scores foresights."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch

from aid_robot.cli import main
from aid_robot.clip import Foresight
from aid_robot.data import Episode
from aid_robot.data.frames import ArrayFrames
from aid_robot.data.store import EpisodeStore
from aid_robot.errors import (
    CheckpointError,
    InstructionError,
    ScoreError,
    TrainingError,
    WeightsNotFoundError,
)
from aid_robot.planning.calibration import Calibration
from aid_robot.planning.goals import Goal
from aid_robot.planning.scorers.learned import Progress, SuccessScorer
from aid_robot.planning.success.examples import (
    ENDS,
    Examples,
    Pair,
    Place,
    Question,
    RecordedAsker,
    read_examples,
)
from aid_robot.planning.success.imagined import imagine_ends
from aid_robot.planning.success.measure import measure
from aid_robot.planning.success.model import SuccessConfig, SuccessModel, SuccessNet
from aid_robot.planning.success.train import SuccessTraining, draw_batch, train
from aid_robot.planning.success.words import Words
from tests.planning.clips import moving, picture

CONFIG = SuccessConfig(size=32, channels=(16, 16), blocks=1, width=32, layers=1, heads=2)
CONFIG_WITH_WORDS = replace(CONFIG, words=("push", "square", "left", "right"))
START = 16.0
WAYS = {"push the square left": 5, "push the square right": 27}


def make_episode(number: int, text: str, to: float, outcome: str = "success") -> Episode:
    frames = np.stack([picture(x) for x in (*np.linspace(START, to, 5), to, to)])
    return Episode(
        id=f"{number}", videos={"image_0": ArrayFrames(frames)}, instruction=text,
        instructions=(text,), outcome=outcome, scene=f"scene {number // 2}",
    )  # fmt: skip


def make_episodes(count: int, start: int = 0) -> list[Episode]:
    """Half of each scene goes either way; some fail."""
    episodes = []
    rng = np.random.default_rng(start)
    for number in range(start, start + count):
        text = list(WAYS)[number % 2]
        fails = rng.random() < 0.2
        to = START if fails else WAYS[text] + rng.uniform(-2, 2)
        episodes.append(make_episode(number, text, to, "failure" if fails else "success"))
    return episodes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SuccessModel:
    folder = tmp_path_factory.mktemp("success")
    asker = RecordedAsker(list(WAYS))
    settings = SuccessTraining(
        minutes=None, steps=120, batch_size=16, questions=4, learning_rate=3e-3, warmup_steps=10
    )
    model = train(read_examples(make_episodes(60), asker, 32), CONFIG, settings, folder / "run")
    figures = measure(model, read_examples(make_episodes(40, start=100), asker, 32))
    assert figures["text"]["auroc"] > 0.85
    model.save(folder / "success", {"figures": figures})
    return SuccessModel.load(folder, device="cpu")


def test_it_tells_what_was_done_from_what_was_not(trained: SuccessModel) -> None:
    left, right = moving(WAYS["push the square left"], START), moving(27, START)
    still = moving(START, START)
    scores = SuccessScorer(trained)([left, right, still], Goal(text="push the square left"))[:, 0]
    assert scores[0] > scores[1] + 0.2
    assert scores[0] > scores[2] + 0.2


def test_it_goes_by_a_picture(trained: SuccessModel) -> None:
    futures = [moving(5, START), moving(27, START)]
    for wanted in (0, 1):
        goal = Goal(image=futures[wanted].frames[0, -1])
        scores = SuccessScorer(trained)(futures, goal)[:, 0]
        assert scores.argmax() == wanted


def test_what_is_saved_is_what_was_trained(trained: SuccessModel, tmp_path: Path) -> None:
    again = SuccessModel.load(trained.folder)
    before, after = picture(START)[None], picture(5)[None]
    texts = list(WAYS)
    assert np.array_equal(
        again.judge_texts(before, after, texts), trained.judge_texts(before, after, texts)
    )
    facts = json.loads((trained.folder / "config.json").read_text())
    assert facts["figures"]["text"]["questions"] > 0
    # Of questions of one kind all answers may be alike.
    trained.save(tmp_path, {"families": [{"auroc": float("nan")}]})
    assert "NaN" not in (tmp_path / "config.json").read_text()
    SuccessModel.load(tmp_path)


def test_a_calibration_beside_it_is_used(trained: SuccessModel, tmp_path: Path) -> None:
    trained.save(tmp_path / "success")
    (tmp_path / "success" / "calibration.json").write_text("{}")
    with pytest.raises(CheckpointError, match="calibration"):
        SuccessScorer.load(tmp_path)
    flat = Calibration("platt", (1e-3,), (0.0,), facts={"scorer": "image:latent"})
    flat.save(tmp_path / "success" / "calibration.json")
    with pytest.raises(CheckpointError, match=r"by 'image:latent', and here are those by 'succe"):
        SuccessScorer.load(tmp_path)
    replace(flat, facts={"scorer": "success"}).save(tmp_path / "success" / "calibration.json")
    scorer, goal = SuccessScorer.load(tmp_path), Goal(text="push the square left")
    plain = SuccessScorer(trained)([moving(5, START)], goal)
    assert scorer([moving(5, START)], goal) == pytest.approx(plain), (
        "plans are calibrated, not samples"
    )
    assert scorer.calibration is not None
    assert scorer.calibration(plain) == pytest.approx(0.5, abs=0.01)


def test_progress_likes_what_stays(trained: SuccessModel) -> None:
    there = moving(5, START)
    lost = Foresight(np.concatenate([there.frames, there.frames[:, ::-1]], 1), 5, "", 1)
    kept = Foresight(np.concatenate([there.frames, there.frames[:, -1:]], 1), 5, "", 1)
    scores = Progress(SuccessScorer(trained))([lost, kept], Goal(text="push the square left"))
    assert scores[1, 0] > scores[0, 0]


def test_words_it_does_not_know(trained: SuccessModel) -> None:
    before, after = picture(START)[None], picture(5)[None]
    with pytest.raises(InstructionError, match="knows no word"):
        trained.judge_texts(before, after, ["fetch beer"])
    with pytest.warns(UserWarning, match="blue"):
        trained.judge_texts(before, after, ["push the blue square left"])
    with pytest.raises(ScoreError, match="neither"):
        SuccessScorer(trained)([moving(5)], Goal())


def test_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    examples = read_examples(make_episodes(12), RecordedAsker(list(WAYS)), 32)
    settings = SuccessTraining(minutes=None, steps=6, batch_size=4, questions=2)
    whole = train(examples, CONFIG, settings, tmp_path / "whole")

    calls = 0
    zero_grad = torch.optim.AdamW.zero_grad

    def stop_at_the_fourth(self: Any, *args: Any, **options: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            signal.raise_signal(signal.SIGTERM)
        zero_grad(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "zero_grad", stop_at_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            train(examples, CONFIG, settings, tmp_path / "parts")
    assert calls == 4
    resumed = train(examples, CONFIG, settings, tmp_path / "parts")
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(tensor, resumed.net.state_dict()[name]), name
    other = replace(settings, learning_rate=1e-2)
    with pytest.raises(CheckpointError, match="learning_rate"):
        train(examples, CONFIG, other, tmp_path / "parts")
    others = read_examples(make_episodes(12, start=50), RecordedAsker(list(WAYS)), 32)
    with pytest.raises(CheckpointError, match="examples"):
        train(others, CONFIG, settings, tmp_path / "parts")


def test_names_are_taught_by_places() -> None:
    """Where things are is known of simulated scenes: a name then points at its thing."""
    rng = np.random.default_rng(0)
    frames, pairs = [], []
    for _ in range(40):
        (x, y), (u, v) = rng.uniform(6, 26, 2), rng.uniform(6, 26, 2)
        frames.append(np.stack([picture(x, y), *[picture(u, v)] * ENDS]))
        place = Place(("the red square",), (x / 32, y / 32), (u / 32, v / 32))
        pairs.append(
            (Pair("done", (Question(lambda: ("it moved",), True, True, "all"),), (place,)),)
        )
    ids = tuple(str(i) for i in range(40))
    examples = Examples(np.stack(frames), tuple(pairs), ids, ids, ((),) * 40)
    config = replace(CONFIG, words=("red", "square", "it", "moved"))
    settings = SuccessTraining(
        minutes=None, steps=150, batch_size=16, questions=1, learning_rate=5e-3, warmup_steps=10,
        place_weight=1.0,
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        model = train(examples, config, settings, Path(folder))
    batch = draw_batch(examples, model.words, settings, 10**6)
    with torch.no_grad():
        maps = model.net.point(model.net.look(batch.before, batch.after), batch.names)
    found = model.net.pointer.grid[maps[:, 0].argmax(-1)] / 2 + 0.5
    error = (found - batch.places[:, 0]).abs().mean() * 32
    assert error < 3, f"off by {error} of 32 pixels"


def test_it_begins_with_a_trained_one_and_learns_words(
    trained: SuccessModel, tmp_path: Path
) -> None:
    text = "shove the square off"
    examples = read_examples(
        [make_episode(n, text, 27) for n in range(4)], RecordedAsker([text]), 32
    )
    settings = SuccessTraining(minutes=None, steps=1, batch_size=2, questions=2, warmup_steps=10**6)
    further = train(examples, SuccessConfig(), settings, tmp_path, trained)
    assert further.net.config.size == 32
    assert set(further.words.words) == {*trained.words.words, "shove", "off"}
    before, after = picture(START)[None], picture(5)[None]
    # A single step of nearly no length has changed next to nothing of what it knew.
    assert further.judge_texts(before, after, list(WAYS)) == pytest.approx(
        trained.judge_texts(before, after, list(WAYS)), abs=0.02
    )


def test_a_store_without_text_teaches_nothing() -> None:
    frames = ArrayFrames(np.zeros((8, 32, 32, 3), np.uint8))
    with pytest.raises(TrainingError, match="instruction or captions"):
        read_examples([Episode(id="0", videos={"a": frames})], RecordedAsker([]), 32)


def test_recorded_outcomes_are_answers() -> None:
    asker = RecordedAsker(list(WAYS))
    good, bad = make_episode(0, "push the square left", 5), make_episode(1, "x", 9, "failure")
    told = {
        (pair.order, question.family): question.true
        for pair in asker.pairs(good)
        for question in pair.questions
    }
    assert told == {
        ("done", "instruction"): True,
        ("done", "other instruction"): False,
        ("still", "instruction"): False,
        ("reversed", "instruction"): False,
    }
    assert not asker.pairs(bad)[0].questions[0].true
    assert asker.reached(good, good)
    assert asker.reached(good, bad) is None


def test_damaged_and_missing_classifiers(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match="train-success"):
        SuccessModel.load(tmp_path)
    SuccessModel(SuccessNet(CONFIG)).save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="damaged"):
        SuccessModel.load(tmp_path)


def test_the_command_trains_on_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with EpisodeStore.create(tmp_path / "store.zarr") as store:
        store.extend(make_episodes(12))
    folder = tmp_path / "m" / "success"
    small = ["--steps", "2", "--size", "32", "--batch-size", "2", "--held-out", "0.4"]
    assert main(["train-success", str(tmp_path / "store.zarr"), "-o", str(folder), *small]) == 0
    assert "auroc" in capsys.readouterr().out
    assert SuccessModel.load(tmp_path / "m").net.config.size == 32


def test_the_command_lets_a_model_imagine(tmp_path: Path) -> None:
    with EpisodeStore.create(tmp_path / "store.zarr") as store:
        store.extend(make_episodes(4))
    told = ["train-success", str(tmp_path / "store.zarr"), "-o", str(tmp_path / "success"),
            "--steps", "1", "--batch-size", "2", "--held-out", "0.5", "--imagine"]  # fmt: skip
    assert main(told) == 2, "no model is named"
    assert main([*told, "--model", "bundled"]) == 0
    figures = json.loads((tmp_path / "success" / "config.json").read_text())["figures"]
    assert figures["imagined"]["text"]["questions"] > 0


class Dreamer:
    """Imagines what the instruction says, and remembers what it was asked."""

    num_conditioning_frames, num_frames, fps = 1, 6, 5.0

    def __init__(self) -> None:
        self.asked: list[str] = []

    def predict(self, obs: Any, instruction: str | None = None, **options: Any) -> Foresight:
        raise NotImplementedError

    def predict_many(self, requests: Any, **options: Any) -> list[Foresight]:
        self.asked += [request.instruction for request in requests]
        clips = []
        for request in requests:
            red = request.obs.reshape(-1, 32, 32, 3)[-1][..., 0] > 200
            clips.append(moving(WAYS[request.instruction], np.nonzero(red)[1].min() + 4))
        return clips


def test_imagined_ends_teach_and_are_kept(tmp_path: Path) -> None:
    episodes, dreamer = make_episodes(20), Dreamer()
    told = {"source": "weights", "clips_per_step": 2}
    with pytest.MonkeyPatch.context() as patch:
        # Killed after the first part.
        patch.setattr(Dreamer, "predict_many", stops_after(2, Dreamer.predict_many))
        with pytest.raises(KeyboardInterrupt):
            imagine_ends(dreamer, episodes, 32, tmp_path, **told)
    first = len(dreamer.asked)
    ends = imagine_ends(dreamer, episodes, 32, tmp_path, **told)
    assert first == 2 * 8
    assert len(dreamer.asked) == 2 * 20, "what was imagined before the stop is kept"
    assert np.array_equal(ends["0"][-1], moving(WAYS[episodes[0].instruction or ""]).frames[0, -1])
    imagine_ends(dreamer, episodes, 32, tmp_path, **told)
    assert len(dreamer.asked) == 2 * 20
    imagine_ends(dreamer, episodes, 32, tmp_path, **{**told, "source": "other weights"})
    assert len(dreamer.asked) == 4 * 20

    examples = read_examples(episodes, RecordedAsker(list(WAYS)), 32).with_imagined(ends)
    drawn = [examples.ends(0, np.random.default_rng(seed))[-1] for seed in range(40)]
    dreamt = sum(np.array_equal(end, ends["0"][-1]) for end in drawn)
    assert 15 <= dreamt <= 33, "most are imagined, and some are true"
    figures = measure(SuccessModel(SuccessNet(CONFIG_WITH_WORDS)), examples)
    assert figures["imagined"]["choice"]["goals"] > 0
    half = {name: end for name, end in ends.items() if int(name) % 4 < 2}
    part = measure(
        SuccessModel(SuccessNet(CONFIG_WITH_WORDS)),
        read_examples(episodes, RecordedAsker(list(WAYS)), 32).with_imagined(half),
    )
    assert part["imagined"]["text"]["scenes"] == figures["imagined"]["text"]["scenes"] / 2

    for path in tmp_path.glob("*.npy"):
        path.write_bytes(b"no")
    with pytest.raises(CheckpointError, match="delete it"):
        imagine_ends(dreamer, episodes, 32, tmp_path, **told)


def stops_after(calls: int, function: Any) -> Any:
    count = 0

    def called(*args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count > calls:
            raise KeyboardInterrupt
        return function(*args, **options)

    return called


def test_words() -> None:
    words = Words.of(["put the carrot on the plate", "Put it down!"], max_words=4)
    assert words.words[0] == "put"
    assert "the" not in words.words
    numbers = words.encode(["put the spoon on", ""])
    assert numbers.tolist()[0][1] == 1
    assert numbers.tolist()[1] == [0, 0, 0]
    assert words.unknown("put the spoon") == ["spoon"]
