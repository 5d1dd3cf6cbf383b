"""Scorers rank futures as a person would, in [0, 1], and refuse what they can't judge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from aid_robot.errors import ConfigError, ScoreError, WeightsNotFoundError
from aid_robot.foresight import VideoForesight
from aid_robot.planning.goals import Goal
from aid_robot.planning.scorers import Custom, Weighted, default_scorer, make_scorer
from aid_robot.planning.scorers.images import ClipImageDistance, GoalImage, LatentDistance
from aid_robot.planning.scorers.samples import Agreement, Conformity, Plausibility
from aid_robot.planning.scorers.scorer import clauses
from aid_robot.planning.scorers.text import GoalText
from tests.planning.clips import SIDE, moving, picture
from tests.tiny import tiny_model

THERE = Goal(image=picture(26))
FUTURES = [moving(6), moving(16), moving(26)]


class Pixels:
    """The plainest of distances."""

    name = "pixels"

    def __call__(self, pictures, goal, mask):
        apart = np.abs(pictures.astype(float) - goal).mean(-1)
        return (apart if mask is None else apart[:, mask]).reshape(len(pictures), -1).mean(1)


def test_goal_image_is_one_at_the_goal_and_a_half_where_nothing_changes() -> None:
    scores = GoalImage(Pixels())(FUTURES, THERE)[:, 0]
    assert scores[2] > 0.999
    assert scores[0] == pytest.approx(0.5)


def test_goal_image_looks_only_into_the_mask() -> None:
    left = np.zeros((SIDE, SIDE), bool)
    left[:, :12] = True
    scores = GoalImage(Pixels())(FUTURES, Goal(image=picture(26), mask=left))[:, 0]
    # The square has left the masked part in both, wherever it is now.
    assert scores[1] == pytest.approx(scores[2])
    assert scores[1] > 0.9


def test_goal_image_of_another_size_is_resized() -> None:
    large = np.kron(picture(26), np.ones((3, 3, 1), np.uint8))
    mask = np.ones(large.shape[:2], bool)
    scores = GoalImage(Pixels())(FUTURES, Goal(image=large, mask=mask))[:, 0]
    assert scores[2] > 0.999


@pytest.mark.parametrize("part", ["vae", "image_encoder"])
def test_a_models_own_networks_measure_distances(part: str) -> None:
    model = tiny_model()
    kinds = {"vae": LatentDistance, "image_encoder": ClipImageDistance}
    scorer = GoalImage(kinds[part](getattr(model, part)))
    scores = scorer([moving(6, samples=2), moving(26, samples=2)], THERE)
    assert scores.shape == (2, 2)
    assert (scores[1] > 0.99).all()
    assert scores[0] == pytest.approx(0.5, abs=0.01)


def test_goal_text_by_a_whole_clip_prefers_the_picture_that_fits() -> None:
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    tiny = tiny_model()
    torch.manual_seed(0)
    clip = CLIPModel(
        CLIPConfig(
            text_config=CLIPTextConfig(
                vocab_size=len(tiny.tokenizer), max_position_embeddings=48, eos_token_id=1, **sizes
            ).to_dict(),
            vision_config=CLIPVisionConfig(image_size=32, patch_size=8, **sizes).to_dict(),
            projection_dim=8,
        )
    ).eval()
    scorer = GoalText(clip, tiny.tokenizer)
    first, second = Goal(text="put the carrot on the plate"), Goal(text="open the drawer")
    one, two = scorer(FUTURES, first), scorer(FUTURES, second)
    assert one[0, 0] == pytest.approx(0.5)  # nothing has changed, so no text fits better
    assert not np.allclose(one, two)
    with pytest.raises(ScoreError, match="CLIPTextModel has no"):
        GoalText(tiny.text_encoder, tiny.tokenizer)


def test_words_find_the_plan_that_says_the_goal_and_no_more() -> None:
    said = ("put the can in the pot", "open the drawer -> put the can in it", "push the pot left")
    plans = [replace(moving(16, samples=2), instruction=text) for text in said]
    scores = make_scorer("words")(plans, Goal(text="The can is in the pot."))
    assert scores.shape == (3, 2)
    assert scores[0, 0] == pytest.approx(0.8)  # 2 words of 2, of 3 that the plan says
    assert list(np.argsort(-scores[:, 0])) == [0, 2, 1]
    # Nothing that anybody says of a goal is shared, so all are worth the same.
    assert not make_scorer("words")(plans, Goal(text="le tiroir est ouvert")).any()
    with pytest.raises(ScoreError, match="'words' goes by a text"):
        make_scorer("words")(plans, Goal())


def test_agreement_needs_samples_that_end_alike() -> None:
    same, apart = moving(16, samples=3), moving(16, samples=3, jitter=7)
    scores = Agreement()([same, apart], Goal()).mean(1)
    assert scores[0] > 0.99
    assert scores[1] < 0.8
    with pytest.raises(ScoreError, match="num_samples"):
        Agreement()([moving(16)], Goal())


def test_things_that_vanish_or_jump_are_implausible() -> None:
    steady = moving(16, frames=12)
    vanished = replace(steady, frames=steady.frames.copy())
    vanished.frames[:, 6:] = 110
    jumped = replace(steady, frames=steady.frames.copy())
    jumped.frames[:, :6], jumped.frames[:, 6:] = picture(6), picture(26)
    scores = Plausibility()([steady, vanished, jumped], Goal())[:, 0]
    assert scores[0] > 0.6
    assert scores[1] < 0.3
    assert scores[2] < 0.3


def test_any_function_is_a_scorer_and_costs_are_turned_round() -> None:
    def width(foresight, goal):
        return np.argmax(foresight.frames[:, -1, 16, :, 0] > 200, axis=1)

    costs = Custom(width, "left edge", is_cost=True)(FUTURES, Goal())[:, 0]
    assert list(costs) == [1 / 3, 1 / 13, 1 / 23]
    with pytest.raises(ScoreError, match=r"expected a number from 0 to 1"):
        Custom(width)(FUTURES, Goal())
    with pytest.raises(ScoreError, match=r"nan.*go to 16"):
        Custom(lambda f, g: float("nan") if f.instruction == "go to 16" else 1)(FUTURES, Goal())
    with pytest.raises(ScoreError, match="shape"):
        Custom(lambda f, g: np.zeros(7))(FUTURES, Goal())


def test_weights_are_shares() -> None:
    high, low = Custom(lambda f, g: 1.0, "high"), Custom(lambda f, g: 0.0, "low")
    mixed = Weighted({high: 3, low: 1})
    assert mixed(FUTURES, Goal()) == pytest.approx(0.75)
    assert mixed.name == "0.75 high + 0.25 low"
    with pytest.raises(ConfigError, match="positive"):
        Weighted({high: -1.0})
    # Their shares add up to more than 1, by rounding.
    ones = [Custom(lambda f, g: 1.0, name) for name in "abc"]
    assert (Weighted(dict(zip(ones, (1, 0.4, 0.4), strict=True)))(FUTURES, Goal()) == 1).all()

    def plain(foresights, goal):
        return np.ones((len(foresights), 1))

    assert Weighted({plain: 1.0, low: 1.0}).name == "0.5 plain + 0.5 low"
    with pytest.raises(ConfigError, match="no scorers"):
        Weighted({})


@pytest.mark.parametrize(
    ("goal", "scorer"),
    [(Goal(text="there"), GoalImage(Pixels())), (Goal(), make_scorer("plausibility"))],
)
def test_a_goal_must_have_what_the_scorer_goes_by(goal: Goal, scorer) -> None:
    if scorer.name == "plausibility":
        assert scorer(FUTURES, goal).shape == (3, 1)
        return
    with pytest.raises(ScoreError, match="picture"):
        scorer(FUTURES, goal)


def test_foresights_have_one_number_of_samples() -> None:
    with pytest.raises(ScoreError, match=r"\[1, 2\]"):
        Custom(lambda f, g: 1.0)([moving(6), moving(6, samples=2)], Goal())


def test_scorers_by_name(tmp_path: Path) -> None:
    mixed = make_scorer("plausibility + 0.5*agreement")
    assert mixed.name == "0.67 plausibility + 0.33 agreement"
    with pytest.raises(ConfigError, match="did you mean 'plausibility'"):
        make_scorer("plausible")
    with pytest.raises(ConfigError, match="weight 'much'"):
        make_scorer("much*agreement")
    with pytest.raises(WeightsNotFoundError, match="train-success"):
        make_scorer("success", model=tmp_path)


def test_a_loaded_model_lends_its_parts(tiny_model_dir: Path) -> None:
    """It isn't loaded again, but for the classifier, which lies in its folder."""
    model = VideoForesight(tiny_model())
    scorer = make_scorer("image:latent", model=model)
    assert scorer.distance.vae is model.model.vae
    assert scorer(FUTURES, THERE).argmax() == 2
    assert make_scorer("image:latent", model=tiny_model_dir)(FUTURES, THERE).argmax() == 2
    model.model_id = str(tiny_model_dir)
    with pytest.raises(WeightsNotFoundError, match=str(tiny_model_dir)):
        make_scorer("success", model=model)


def test_only_rows_of_statements_are_split() -> None:
    both = "the can is in the pot and the drawer is open"
    assert clauses(both) == ["the can is in the pot", "the drawer is open"]
    one = "pick up the cup and put it on the plate"
    assert clauses(one) == [one]


def test_conformity_prefers_the_scene_that_was_observed() -> None:
    class Apart:
        """Mean difference in place of LPIPS."""

        def distance(self, first, second):
            return torch.from_numpy(np.abs(first / 255.0 - second / 255.0).mean((1, 2, 3)))

    torn = replace(moving(6), frames=np.where(np.arange(6)[:, None, None, None] > 0, 255, 0)
                   .astype(np.uint8) * np.ones_like(moving(6).frames))  # fmt: skip
    scores = Conformity(Apart())([moving(6), moving(26), torn], Goal("x"))[:, 0]  # type: ignore[arg-type]
    assert scores[0] == pytest.approx(1.0), "nothing changes"
    assert scores[0] > scores[1] > 0.8 > scores[2]


def test_what_is_scored_by_goes_with_what_is_wanted() -> None:
    image = picture(26)
    assert default_scorer(Goal(image=image)) == "image:latent"
    assert default_scorer(Goal("it is there")) == "success"
    assert default_scorer(Goal("it is there", image=image)) == "success", "which goes by both"
