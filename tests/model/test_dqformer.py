"""DQFormer's shapes, branches and what each depends on."""

from __future__ import annotations

import pytest
import torch

from aid_robot.errors import ConfigError
from aid_robot.model.config import DQFormerConfig
from aid_robot.model.dqformer import DQFormer, MCondition
from tests.tiny import tiny_config

B, N, S, T, P, C = 2, 4, 4, 6, 5, 32


def run(dqformer: DQFormer, seed: int = 0, **changed: float) -> MCondition:
    generator = torch.Generator().manual_seed(seed)
    parts = {
        "text": torch.randn(B, T, C, generator=generator),
        "states": torch.randn(B, S, T, C, generator=generator),
        "image": torch.randn(B, P, C, generator=generator),
    }
    for name, shift in changed.items():
        # Not the same to every channel: a layer norm would not notice that.
        parts[name] = parts[name] + shift * torch.randn(C, generator=generator)
    with torch.no_grad():
        return dqformer(parts["text"], parts["states"], parts["image"])


def build(**dqformer: object) -> DQFormer:
    settings = {"num_attention_heads": 2, "tokens_per_frame": 3, **dqformer}
    context = "multimodal" if settings.get("multimodal", True) else "first_frame"
    config = tiny_config(dqformer=DQFormerConfig(**settings), temporal_context=context)
    torch.manual_seed(0)
    return DQFormer(config, C, C, C).eval()


def test_context_is_both_groups_of_tokens_for_every_frame() -> None:
    context = run(build())
    assert context.spatial.shape == (B, N, T + 3, C)
    assert context.temporal.shape == (B, T, C)
    shared, own = context.spatial.split([T, 3], dim=2)
    assert torch.equal(shared, context.temporal[:, None].expand(-1, N, -1, -1))
    assert not torch.allclose(own[:, 0], own[:, 1]), "frames have tokens of their own"


def test_what_each_branch_depends_on() -> None:
    dqformer = build()
    base, image, states = run(dqformer), run(dqformer, image=0.5), run(dqformer, states=0.5)

    def moved(other: MCondition) -> tuple[bool, bool]:
        change = (other.spatial - base.spatial).abs()
        return bool(change[:, :, :T].max() > 1e-4), bool(change[:, :, T:].max() > 1e-4)

    assert moved(image) == (True, False), "the image speaks through the multimodal branch"
    assert moved(states) == (False, True), "the states speak through the decomposed branch"
    assert moved(run(dqformer, text=0.5)) == (True, True)


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_layers": 2}, {"multimodal": False}, {"decomposed": False}, {"enabled": False},
     {"join": "channels", "tokens_per_frame": T}],
)  # fmt: skip
def test_some_frames_have_the_context_that_they_have_among_all(settings: dict[str, object]) -> None:
    dqformer, generator = build(**settings), torch.Generator().manual_seed(0)
    parts = [torch.randn(B, *shape, generator=generator) for shape in ((T, C), (S, T, C), (P, C))]
    with torch.no_grad():
        full, some = dqformer(*parts), dqformer(*parts, frames=[3, 1])
    assert some.spatial.shape[1] == 2
    assert torch.allclose(some.spatial, full.spatial[:, [3, 1]], atol=1e-6)


def test_branches_depth_and_width_by_config() -> None:
    assert run(build(decomposed=False)).spatial.shape == (B, N, T, C)
    alone = run(build(multimodal=False))
    assert alone.spatial.shape == (B, N, 3, C)
    assert torch.equal(alone.temporal, alone.spatial[:, 0])
    deep = build(num_layers=3, hidden_size=64)
    assert run(deep).spatial.shape == (B, N, T + 3, C)
    assert len(deep.multimodal) == len(deep.decomposed) == 3


def test_branches_joined_on_channels() -> None:
    joined = run(build(join="channels", tokens_per_frame=T))
    assert joined.spatial.shape == (B, N, T, C)
    with pytest.raises(ConfigError, match="make them equal"):
        run(build(join="channels"))


def test_wrong_configs_say_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="keep one branch"):
        DQFormerConfig(multimodal=False, decomposed=False)
    with pytest.raises(ConfigError, match="first_frame"):
        tiny_config(dqformer=DQFormerConfig(multimodal=False))
    with pytest.raises(ConfigError, match="num_attention_heads=5"):
        build(num_attention_heads=5)


def test_order_of_states_matters() -> None:
    """The state index is what tells the first state from the last."""
    dqformer = build()
    torch.nn.init.normal_(dqformer.state_index)
    states = torch.randn(B, S, T, C)
    text, image = torch.randn(B, T, C), torch.randn(B, P, C)
    assert build(state_embedding=False).state_index is None
    with torch.no_grad():
        forward = dqformer(text, states, image).spatial
        backward = dqformer(text, states.flip(1), image).spatial
    assert (forward - backward).abs().max() > 1e-3


def test_without_mcondition_text_and_image_are_the_context_of_every_frame() -> None:
    config = tiny_config(dqformer=DQFormerConfig(num_attention_heads=2, enabled=False))
    dqformer = DQFormer(config, context_dim=8, text_dim=12, image_dim=10)
    text, states, image = torch.randn(2, 3, 12), torch.randn(2, 4, 3, 12), torch.randn(2, 5, 10)
    context = dqformer(text, states, image)
    assert context.spatial.shape == (2, 4, 8, 8)
    assert context.temporal.shape == (2, 8, 8)
    assert context.spatial[:, 0].equal(context.spatial[:, 3])
    assert {name.split(".")[0] for name in dqformer.state_dict()} == {"image_in", "context_out"}


def test_without_states_the_instruction_stands_for_them() -> None:
    config = tiny_config(dqformer=DQFormerConfig(num_attention_heads=2, states=False))
    dqformer = DQFormer(config, context_dim=12, text_dim=12, image_dim=12)
    text, image = torch.randn(2, 3, 12), torch.randn(2, 5, 12)
    first, second = (dqformer(text, torch.randn(2, 4, 3, 12), image).spatial for _ in range(2))
    assert first.equal(second)
    assert not dqformer(text + 1, torch.zeros(2, 4, 3, 12), image).spatial.equal(first)
