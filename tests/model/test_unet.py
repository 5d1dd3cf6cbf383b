"""An untrained AID is Stable Video Diffusion, and caching changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from torch import Tensor

from aid_robot.errors import CheckpointError
from aid_robot.model.adapters import count_parameters
from aid_robot.model.build import ModelSizes, build_unet
from aid_robot.model.config import AdapterConfig, preset
from aid_robot.model.dqformer import DQFormer
from aid_robot.model.unet import AIDTransformer, AIDUNet
from tests.tiny import SIZES, tiny_config, tiny_model

B, N, T, D = 2, 4, 7, SIZES.context_dim


def pair(seed: int = 0) -> tuple[UNetSpatioTemporalConditionModel, AIDUNet]:
    torch.manual_seed(seed)
    reference = build_unet(tiny_config(), SIZES).eval()
    # Mixing factors and biases away from their symmetric starts.
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return reference, AIDUNet.adapt(copy.deepcopy(reference), AdapterConfig(num_attention_heads=2))


def inputs(height: int = 8, width: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(B, N, 8, height, width, generator=generator)
    context = torch.randn(B, T, D, generator=generator)
    time_ids = torch.tensor([[4.0, 127.0, 0.02]]).expand(B, -1)
    return sample, torch.tensor([0.3, -0.8]), context, time_ids


@pytest.mark.parametrize("size", [(8, 8), (10, 6)])
@torch.no_grad()
def test_untrained_aid_equals_svd(size: tuple[int, int]) -> None:
    reference, ours = pair()
    sample, timestep, context, time_ids = inputs(*size)
    expected = reference(sample, timestep, context, time_ids).sample
    cached = ours.project_context(context[:, None].expand(-1, N, -1, -1), context)
    torch.testing.assert_close(
        ours(sample, timestep, cached, time_ids), expected, atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_patches_of_latents_are_channels_to_svd_s_unet() -> None:
    config = tiny_config(latent_patch_size=2)
    torch.manual_seed(0)
    reference = build_unet(config, SIZES).eval()
    assert (reference.config.in_channels, reference.config.out_channels) == (32, 16)
    ours = AIDUNet.adapt(copy.deepcopy(reference), patch_size=2)
    sample, timestep, context, time_ids = inputs(16, 16)
    stacked = torch.stack([sample[..., y::2, x::2] for y in (0, 1) for x in (0, 1)], dim=3)
    expected = reference(stacked.flatten(2, 3), timestep, context, time_ids).sample
    cached = ours.project_context(context[:, None].expand(-1, N, -1, -1), context)
    made = ours(sample, timestep, cached, time_ids)
    assert made.shape == (B, N, 4, 16, 16)
    for number, (y, x) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        torch.testing.assert_close(
            made[..., y::2, x::2], expected[:, :, number::4], atol=1e-5, rtol=0
        )


@torch.no_grad()
def test_untrained_aid_with_dqformer_and_mask_equals_svd() -> None:
    """The whole conditioning path of AID, fed to diffusers' UNet and to ours."""
    model = tiny_model(latent_reference="none")
    reference = build_unet(model.config, SIZES).eval()
    reference.load_state_dict(
        {k: v for k, v in model.unet.state_dict().items() if ".adapters." not in k}
    )
    pixels = torch.rand(1, 1, 3, 32, 32) * 2 - 1
    encodings = model.encode(pixels, pixels, ["open the drawer"], [["a", "b", "c", "d"]])
    context, filled = model.condition_encoder(encodings, model.null_text(), (True, True))
    # diffusers gives all frames the context of the first, so ours gets the same.
    first = context.spatial[:, :1].expand(-1, N, -1, -1)
    cached = model.unet.project_context(first, first[:, 0])
    latents = torch.randn(1, *model.latent_shape)
    sample = torch.cat([latents, filled], dim=2)
    time_ids = torch.tensor([[4.0, 127.0, 0.0]])
    expected = reference(sample, 0.25, first[:, 0], time_ids).sample
    actual = model.unet(sample, 0.25, cached, time_ids)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_each_frame_attends_to_its_own_context() -> None:
    """Block by block against diffusers' transformer, which takes (B*F) contexts unrepeated."""
    reference, ours = pair()
    sample = torch.randn(B * N, 32, 8, 8)
    context = torch.randn(B, N, T, D)
    indicator = torch.zeros(B, N)
    theirs = reference.down_blocks[0].attentions[0]
    mine = ours.down_blocks[0].attentions[0]
    expected = theirs(sample, context.flatten(0, 1), indicator, return_dict=False)[0]
    layers = mine.project_context(context, context[:, 0])
    actual = mine(sample, {mine: layers}, indicator)[0]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_cached_keys_are_exact_over_steps_and_rows() -> None:
    _, ours = pair()
    sample, _, context, time_ids = inputs()
    spatial = context[:, None] + torch.randn(B, N, 1, D)
    cached = ours.project_context(spatial, context)
    for step in (0.9, 0.1, -1.0):
        fresh = ours.project_context(spatial, context)
        whole = ours(sample, step, cached, time_ids)
        assert torch.equal(whole, ours(sample, step, fresh, time_ids))
        row = ours(sample[1:], step, [layer.rows(slice(1, 2)) for layer in cached], time_ids[1:])
        torch.testing.assert_close(row, whole[1:], atol=1e-5, rtol=0)


def test_parameter_names_are_svd_s_own() -> None:
    reference, ours = pair()
    own = {name for name in ours.state_dict() if ".adapters." not in name}
    assert own == set(reference.state_dict())
    with pytest.raises(CheckpointError, match="adapted already"):
        AIDUNet.adapt(ours)


@pytest.mark.parametrize("name", ["spatial", "short_term", "long_term"])
@torch.no_grad()
def test_every_adapter_matters_once_trained_and_can_be_left_out(name: str) -> None:
    sample, timestep, context, time_ids = inputs()
    spatial = context[:, None].expand(-1, N, -1, -1)
    chosen = AdapterConfig(
        spatial=name == "spatial",
        short_term=name == "short_term",
        long_term=name == "long_term",
        num_attention_heads=2,
    )
    torch.manual_seed(0)
    ours = AIDUNet.adapt(build_unet(tiny_config(), SIZES).eval(), chosen)
    adapted = [module for key, module in ours.named_modules() if key.endswith(f".{name}")]
    assert len(adapted) == sum(1 for _ in ours.transformers())
    assert all(".adapters.0." + name in n for n, _ in ours.named_parameters() if ".adapters." in n)
    before = ours(sample, timestep, ours.project_context(spatial, context), time_ids)
    for module in adapted:
        torch.nn.init.normal_(module.up.weight, std=0.1)
    after = ours(sample, timestep, ours.project_context(spatial, context), time_ids)
    assert (after - before).abs().max() > 1e-3


@torch.no_grad()
def test_temporal_adapters_see_other_frames() -> None:
    """A change of the last frame reaches the first one through either temporal adapter alone."""
    from aid_robot.model.adapters import LongTermTemporalAdapter, ShortTermTemporalAdapter

    hidden = torch.randn(N, 4, 8)  # one clip of 2x2 places
    changed = hidden.clone()
    changed[-1] += 1
    short = ShortTermTemporalAdapter(8, 4, (3, 3, 3))
    long = LongTermTemporalAdapter(8, 4, 2)
    torch.nn.init.normal_(short.up.weight)
    torch.nn.init.normal_(long.up.weight)
    moved = (short(changed, N, 2, 2) - short(hidden, N, 2, 2)).abs().amax(dim=(1, 2))
    assert moved[-2] > 1e-4
    assert moved[0] == 0, "three frames wide, so the first of four must not notice"
    by_place = (long(changed.transpose(0, 1)) - long(hidden.transpose(0, 1))).abs().amax(dim=(0, 2))
    assert by_place[0] > 1e-5


def test_full_size_has_the_published_parameter_counts() -> None:
    config = preset("svd")
    with torch.device("meta"):
        unet = build_unet(config, ModelSizes())
        base = count_parameters(unet)
        ours = AIDUNet.adapt(unet, config.adapters)
        dqformer = DQFormer(config, 1024, 1024, 1024)
    parameters = dict(ours.named_parameters())
    trained = ours.aid_parameter_names()
    adapters = sum(parameters[name].numel() for name in trained if ".adapters." in name)
    attention = sum(parameters[name].numel() for name in trained if ".adapters." not in name)
    assert round(base / 1e6, 1) == 1524.6
    assert round(adapters / 1e6, 1) == 21.8
    assert round(attention / 1e6, 1) == 100.8  # 100.7 of cross-attention and its norms
    assert round(count_parameters(dqformer) / 1e6) == 39
    assert sum(1 for _ in ours.transformers()) == 16
    assert all(isinstance(module, AIDTransformer) for _, module in ours.transformers())


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    _, ours = pair()
    sample, timestep, context, time_ids = inputs()
    spatial = context[:, None].expand(-1, N, -1, -1)

    def gradient() -> Tensor:
        ours.zero_grad()
        cached = ours.project_context(spatial, context)
        ours(sample, timestep, cached, time_ids).square().mean().backward()
        weight = ours.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k.weight
        return weight.grad.clone()

    plain = gradient()
    ours.enable_gradient_checkpointing()
    ours.train()
    torch.testing.assert_close(gradient(), plain)
    assert plain.abs().max() > 0


@pytest.mark.slow
def test_full_size_denoises_a_step_in_bfloat16_under_6_gb() -> None:
    """One full-size step on the CPU with random weights: 4 GB; minutes without native bf16."""
    import resource

    config = preset("svd")
    with torch.device("meta"):
        unet = AIDUNet.adapt(build_unet(config, ModelSizes()), config.adapters).bfloat16()
    unet = unet.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for parameter in unet.parameters():
            # A short block, repeated: drawing 1.5 billion numbers would take longer than the step.
            block = torch.randn(997, generator=generator).bfloat16() * 0.02
            flat = parameter.view(-1)
            flat.copy_(block.repeat(flat.numel() // 997 + 1)[: flat.numel()])
        sample = torch.randn(1, 16, 8, 32, 32, dtype=torch.bfloat16)
        spatial = torch.randn(1, 16, 154, 1024, dtype=torch.bfloat16)
        cached = unet.project_context(spatial, spatial[:, 0, :77])
        output = unet(sample, 0.5, cached, torch.tensor([[4.0, 127.0, 0.02]]))
    assert output.shape == (1, 16, 4, 32, 32)
    assert torch.isfinite(output).all()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.1f} GB")
    assert peak < 6
