"""Models are saved and loaded whole, or the AID part alone on a base; damage is told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from aid_robot.errors import AIDRobotError, CheckpointError, ConfigError, WeightsNotFoundError
from aid_robot.foresight import VideoForesight
from aid_robot.hub import verify_checksums, write_checksums
from aid_robot.model.checkpoint import from_svd, load_model, save_aid, save_model
from tests.tiny import SIZES, tiny_config, tiny_model

FRAME = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def frames_of(folder: Path) -> np.ndarray:
    foresight = VideoForesight.from_pretrained(folder, dtype="float32")
    return foresight.predict(FRAME, "open the drawer", seed=3).frames


@torch.no_grad()
def train_a_little(model: object) -> None:
    """Move the AID part away from its start, as training would."""
    names = set(model.unet.aid_parameter_names())
    for name, parameter in model.unet.named_parameters():
        if name in names:
            parameter.add_(torch.randn_like(parameter) * 0.05)
    for parameter in model.condition_encoder.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)


def test_whole_model_comes_back_the_same(tmp_path: Path) -> None:
    model = tiny_model()
    train_a_little(model)
    save_model(model, tmp_path / "m")
    direct = VideoForesight(model).predict(FRAME, "open the drawer", seed=3).frames
    np.testing.assert_array_equal(frames_of(tmp_path / "m"), direct)
    assert not [p for p in (tmp_path / "m").rglob("*") if p.suffix in {".bin", ".pt", ".pkl"}]


def test_unet_folder_loads_in_diffusers_and_keeps_the_prior(tmp_path: Path) -> None:
    model = tiny_model()
    before = {
        name: tensor.clone()
        for name, tensor in model.unet.state_dict().items()
        if ".adapters." not in name
    }
    train_a_little(model)
    save_model(model, tmp_path, base_unet=before)
    plain = UNetSpatioTemporalConditionModel.from_pretrained(tmp_path / "unet")
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    loaded = load_model(tmp_path)
    for name, tensor in loaded.unet.state_dict().items():
        assert torch.equal(tensor, model.unet.state_dict()[name]), name


def test_folder_is_a_pipeline_of_diffusers(tmp_path: Path) -> None:
    """What is saved whole really is Stable Video Diffusion, in its own pipeline."""
    # The pipeline is made for a VAE of factor 8 and a vision tower of 224 pixels.
    sizes = replace(SIZES, vae_channels=(32,) * 4, image_size=224, patch_size=112)
    model = tiny_model(sizes=sizes, latent_reference="none")
    save_model(model, tmp_path)
    pipeline = StableVideoDiffusionPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline(
        Image.fromarray(FRAME), height=64, width=64, num_frames=4, num_inference_steps=1,
        output_type="np",
    ).frames  # fmt: skip
    assert frames.shape == (1, 4, 64, 64, 3)


def test_patches_of_latents_survive_saving(tmp_path: Path) -> None:
    model = tiny_model(latent_patch_size=2)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.unet.patch_size == 2
    made = VideoForesight(model).predict(FRAME, "open the drawer", seed=3)
    assert np.array_equal(made.frames, frames_of(tmp_path))
    path = tmp_path / "aid" / "config.json"
    path.write_text(path.read_text().replace('"latent_patch_size": 2', '"latent_patch_size": 1'))
    with pytest.raises(ConfigError, match="needs a UNet of 4 output channels, not 16"):
        load_model(tmp_path)
    with pytest.raises(ConfigError, match="must be multiples of 4, the side of one pixel"):
        tiny_model(latent_patch_size=2, height=34)


def test_text_tower_out_of_a_whole_clip(tmp_path: Path) -> None:
    """OpenCLIP's repository holds both towers; the text one is taken out of it."""
    model = tiny_model()
    base = tmp_path / "svd"
    save_model(model, base)
    for part in ("aid", "text_encoder"):
        shutil.rmtree(base / part)
    clip = CLIPModel(
        CLIPConfig(
            text_config=model.text_encoder.config.to_dict(),
            vision_config=model.image_encoder.config.to_dict(),
            projection_dim=32,
        )
    )
    clip.text_model.load_state_dict(model.text_encoder.state_dict())
    clip.save_pretrained(tmp_path / "clip")
    shutil.copytree(base / "tokenizer", tmp_path / "clip", dirs_exist_ok=True)
    shutil.rmtree(base / "tokenizer")
    loaded = from_svd(base, tiny_config(), text_model=tmp_path / "clip")
    for name, tensor in model.text_encoder.state_dict().items():
        assert torch.equal(loaded.text_encoder.state_dict()[name], tensor), name


def test_aid_part_alone_on_a_base(tmp_path: Path) -> None:
    """As at full size: the base stays where it is, and only what AID trained is saved."""
    base = tmp_path / "svd"
    save_model(tiny_model(seed=1), base)
    shutil.rmtree(base / "aid")
    text = tmp_path / "clip"
    shutil.copytree(base / "text_encoder", text)
    shutil.copytree(base / "tokenizer", text, dirs_exist_ok=True, ignore=lambda *_: ["config.json"])
    shutil.rmtree(base / "text_encoder")
    shutil.rmtree(base / "tokenizer")

    model = from_svd(base, tiny_config(), text_model=text)
    train_a_little(model)
    save_aid(model, tmp_path / "mine")
    files = {p.name for p in (tmp_path / "mine").rglob("*") if p.is_file()}
    assert files == {"config.json", "model.safetensors"}
    direct = VideoForesight(model).predict(FRAME, "open the drawer", seed=3).frames
    np.testing.assert_array_equal(frames_of(tmp_path / "mine"), direct)

    base.rename(tmp_path / "moved")
    with pytest.raises(WeightsNotFoundError, match="svd"):
        load_model(tmp_path / "mine")
    load_model(tmp_path / "mine", base_model=tmp_path / "moved")


def test_half_precision_files_halve_the_size(tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path / "full")
    save_model(tiny_model(), tmp_path / "half", dtype=torch.float16)
    size = {
        name: sum(p.stat().st_size for p in (tmp_path / name).rglob("*.safetensors"))
        for name in ("full", "half")
    }
    assert size["half"] < 0.6 * size["full"]
    # float16 weights move an untrained model's frames by no more than a few levels
    delta = frames_of(tmp_path / "full").astype(int) - frames_of(tmp_path / "half")
    assert np.abs(delta).mean() < 4


def damaged(tmp_path: Path, source: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "damaged"))


def test_missing_and_damaged_parts_are_named(tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(
        WeightsNotFoundError, match=r"no model at '/nowhere/at/all'; tried the folder"
    ):
        load_model("/nowhere/at/all")
    with pytest.raises(WeightsNotFoundError, match="not an AID model"):
        load_model(tmp_path)

    folder = damaged(tmp_path, tiny_model_dir)
    weights = folder / "aid" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(folder)
    weights.unlink()
    with pytest.raises(WeightsNotFoundError, match="incomplete"):
        load_model(folder)
    weights.write_bytes(whole)
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    unet.rename(unet.with_suffix(".bin"))
    with pytest.raises(WeightsNotFoundError, match="pickle"):
        load_model(folder)


def test_weights_that_do_not_fit_the_config_are_named(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = damaged(tmp_path, tiny_model_dir)
    path = folder / "aid" / "model.safetensors"
    state = load_file(path)
    del state["condition_encoder.mask_token"]
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"lacks condition_encoder\.mask_token"):
        load_model(folder)

    config = folder / "aid" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "num_frame": 8}))
    with pytest.raises(ConfigError, match="did you mean 'num_frames'"):
        load_model(folder)
    config.write_text(json.dumps({**values, "num_frames": 10**9}))
    with pytest.raises(CheckpointError, match=r"dqformer\.queries"):
        load_model(folder)  # and does not try to allocate it
    huge = {"conditioning_fill": "draft", "height": 2**20, "width": 2**20}
    config.write_text(json.dumps({**values, **huge}))
    with pytest.raises(CheckpointError, match=r"lacks condition_encoder\.draft"):
        load_model(folder)
    config.write_text(json.dumps({**values, "adapters": 3}))
    with pytest.raises(ConfigError, match="'adapters' is 3"):
        load_model(folder)
    config.write_text("[]")
    with pytest.raises(ConfigError, match="expected names and values"):
        load_model(folder)
    config.write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_model(folder)


def test_checksums_find_a_flipped_bit(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = damaged(tmp_path, tiny_model_dir)
    write_checksums(folder)
    verify_checksums(folder)
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum"):
        load_model(folder)


def test_hub_id_offline_names_the_places_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(AIDRobotError, match="the hub id 'someone/some-aid'"):
        load_model("someone/some-aid")
