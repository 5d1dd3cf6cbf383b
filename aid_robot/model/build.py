"""Fresh models with random weights: the full size, the bundled size, and whatever tests need."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D, TemporalResnetBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from aid_robot.errors import ConfigError
from aid_robot.model.aid import AIDModel
from aid_robot.model.conditioning import ConditionEncoder
from aid_robot.model.config import AIDConfig
from aid_robot.model.positions import sine_places
from aid_robot.model.unet import AIDUNet

_ATTENTION_DOWN, _PLAIN_DOWN = "CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"
_ATTENTION_UP, _PLAIN_UP = "CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of every part. The defaults are SVD's and its OpenCLIP ViT-H/14 towers'."""

    # UNet: the last block has no attention, as in SVD.
    unet_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    unet_heads: tuple[int, ...] = (5, 10, 20, 20)
    unet_layers_per_block: int = 2
    time_embed_dim: int = 256
    context_dim: int = 1024
    # VAE: every block but the last halves the frame.
    vae_channels: tuple[int, ...] = (128, 256, 512, 512)
    vae_layers_per_block: int = 2
    latent_channels: int = 4
    scaling_factor: float = 0.18215
    # Vision tower
    image_size: int = 224
    patch_size: int = 14
    vision_width: int = 1280
    vision_layers: int = 32
    vision_heads: int = 16
    # Text tower
    text_width: int = 1024
    text_layers: int = 24
    text_heads: int = 16
    text_length: int = 77
    # Let the towers begin with places and words of unit scale, by sines: learned from little data,
    # the small ones that CLIP begins with let a model take no notice of the text.
    unit_positions: bool = False
    activation: str = "gelu"

    def __post_init__(self) -> None:
        if any(channels % 32 for channels in (*self.unet_channels, *self.vae_channels)):
            raise ConfigError(
                f"unet_channels={self.unet_channels} and vae_channels={self.vae_channels} must be "
                "multiples of 32, the group count of SVD's norms"
            )


SMALL_SIZES = ModelSizes(
    unet_channels=(32, 64, 128),
    unet_heads=(1, 2, 4),
    unet_layers_per_block=1,
    time_embed_dim=32,
    context_dim=128,
    vae_channels=(32, 32, 64),
    vae_layers_per_block=1,
    latent_channels=8,
    scaling_factor=1.0,
    image_size=64,
    patch_size=8,
    vision_width=128,
    vision_layers=4,
    vision_heads=4,
    text_width=128,
    text_layers=3,
    text_heads=4,
    text_length=24,
)


def build_unet(config: AIDConfig, sizes: ModelSizes) -> UNetSpatioTemporalConditionModel:
    """Build diffusers' own UNet, not adapted yet."""
    blocks, patch = len(sizes.unet_channels), config.latent_patch_size**2
    return UNetSpatioTemporalConditionModel(
        in_channels=2 * sizes.latent_channels * patch,
        out_channels=sizes.latent_channels * patch,
        down_block_types=(_ATTENTION_DOWN,) * (blocks - 1) + (_PLAIN_DOWN,),
        up_block_types=(_PLAIN_UP,) + (_ATTENTION_UP,) * (blocks - 1),
        block_out_channels=sizes.unet_channels,
        addition_time_embed_dim=sizes.time_embed_dim,
        projection_class_embeddings_input_dim=3 * sizes.time_embed_dim,
        layers_per_block=sizes.unet_layers_per_block,
        cross_attention_dim=sizes.context_dim,
        num_attention_heads=sizes.unet_heads,
        num_frames=config.num_frames,
    )


def build_vae(sizes: ModelSizes) -> AutoencoderKLTemporalDecoder:
    """Build SVD's VAE: an image encoder and a decoder that mixes neighbouring frames."""
    return AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * len(sizes.vae_channels),
        block_out_channels=sizes.vae_channels,
        layers_per_block=sizes.vae_layers_per_block,
        latent_channels=sizes.latent_channels,
        scaling_factor=sizes.scaling_factor,
        force_upcast=False,
    )


def zero_residual_branches(module: nn.Module) -> None:
    """Let every residual branch of a UNet or VAE start at zero, to be trained from scratch.

    The VAE's mixing of frames then starts as the identity, which its training relies on.
    """
    for part in module.modules():
        if isinstance(part, ResnetBlock2D | TemporalResnetBlock):
            last = part.conv2
        elif isinstance(part, TransformerSpatioTemporalModel):
            last = part.proj_out
        elif isinstance(part, Attention) and part.residual_connection:
            last = part.to_out[0]
        else:
            continue
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    if isinstance(module, AutoencoderKLTemporalDecoder):
        nn.init.dirac_(module.decoder.time_conv_out.weight)
        nn.init.zeros_(module.decoder.time_conv_out.bias)


def build_image_encoder(sizes: ModelSizes) -> Any:
    """Build CLIP's vision tower with its projection."""
    tower = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=sizes.vision_width,
            intermediate_size=4 * sizes.vision_width,
            projection_dim=sizes.context_dim,
            num_hidden_layers=sizes.vision_layers,
            num_attention_heads=sizes.vision_heads,
            image_size=sizes.image_size,
            patch_size=sizes.patch_size,
            hidden_act=sizes.activation,
        )
    )
    if sizes.unit_positions:
        side = sizes.image_size // sizes.patch_size
        with torch.no_grad():
            # The first is the class token's.
            places = sine_places((side, side), sizes.vision_width)
            tower.vision_model.embeddings.position_embedding.weight[1:] = places
            nn.init.normal_(tower.vision_model.embeddings.patch_embedding.weight, std=0.1)
    return tower


def build_text_encoder(sizes: ModelSizes, tokenizer: Any | None = None) -> Any:
    """Build CLIP's text tower; the vocabulary is the tokenizer's, or CLIP's own size."""
    tokens = (
        {}
        if tokenizer is None
        else {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
    )
    tower = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=sizes.text_width,
            intermediate_size=4 * sizes.text_width,
            projection_dim=sizes.context_dim,
            num_hidden_layers=sizes.text_layers,
            num_attention_heads=sizes.text_heads,
            max_position_embeddings=sizes.text_length,
            hidden_act=sizes.activation,
            **tokens,
        )
    )
    if sizes.unit_positions:
        # Some releases of transformers wrap the tower.
        embeddings = getattr(tower, "text_model", tower).embeddings
        with torch.no_grad():
            nn.init.normal_(embeddings.token_embedding.weight, std=1.0)
            embeddings.position_embedding.weight.copy_(
                sine_places((sizes.text_length, 1), sizes.text_width)
            )
    return tower


def build_tokenizer(texts: Iterable[str], vocab_size: int, length: int) -> Any:
    """Learn a byte-pair vocabulary of CLIP's kind from texts; any other text still encodes.

    Args:
        texts: Typical instructions and states.
        vocab_size: Upper bound of the vocabulary; 512 and the two special tokens are the bytes.
        length: Tokens that the text tower takes.
    """
    special = ["<|startoftext|>", "<|endoftext|>"]
    # CLIP's pipeline of normaliser and pre-tokeniser, taken from an empty one of its own class.
    template = CLIPTokenizer(vocab={token: i for i, token in enumerate(special)}, merges=[])
    learner = Tokenizer(BPE(end_of_word_suffix="</w>", unk_token=special[1]))
    learner.normalizer = template.backend_tokenizer.normalizer
    learner.pre_tokenizer = template.backend_tokenizer.pre_tokenizer
    alphabet = sorted(ByteLevel.alphabet())
    learner.train_from_iterator(
        texts,
        BpeTrainer(
            vocab_size=vocab_size,
            # Letters that end a word are named here, or their numbers, and with them which of two
            # equally frequent pairs is merged first, would differ from run to run.
            special_tokens=[*special, *(f"{letter}</w>" for letter in alphabet)],
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    vocab, merges = _vocab_and_merges(learner)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


def _vocab_and_merges(tokenizer: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return dict(model["vocab"]), merges


def build_condition_encoder(
    config: AIDConfig, *, unet: Any, vae: Any, image_encoder: Any, text_encoder: Any
) -> ConditionEncoder:
    """Build AID's part outside the UNet, fitting the given parts."""
    side = 2 ** (len(vae.config.block_out_channels) - 1)
    return ConditionEncoder(
        config,
        context_dim=unet.config.cross_attention_dim,
        text_dim=text_encoder.config.hidden_size,
        image_dim=image_encoder.config.projection_dim,
        latent_channels=vae.config.latent_channels,
        latent_size=(config.height // side, config.width // side),
    )


def build_model(config: AIDConfig, sizes: ModelSizes, tokenizer: Any, seed: int = 0) -> AIDModel:
    """Build a whole AID with random weights from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet, vae = build_unet(config, sizes), build_vae(sizes)
        image_encoder = build_image_encoder(sizes)
        text_encoder = build_text_encoder(sizes, tokenizer)
        return AIDModel(
            config=config,
            unet=AIDUNet.adapt(unet, config.adapters, config.latent_patch_size),
            vae=vae,
            image_encoder=image_encoder,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            condition_encoder=build_condition_encoder(
                config, unet=unet, vae=vae, image_encoder=image_encoder, text_encoder=text_encoder
            ),
        )
