"""Metrics by name, with the networks they need and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import VideoMAEConfig, VideoMAEModel, ViTConfig, ViTModel

from aid_robot.errors import CheckpointError, ConfigError, WeightsNotFoundError
from aid_robot.evaluation.metrics import FrameMetric, SetMetric, make_metrics
from aid_robot.evaluation.metrics.weights import VARIABLE

CLIP = np.random.default_rng(0).integers(0, 256, (9, 40, 48, 3), np.uint8)
TINY = {
    "image_size": 32, "patch_size": 16, "hidden_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def video_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videomae")
    VideoMAEModel(VideoMAEConfig(num_frames=8, **TINY)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def image_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    ViTModel(ViTConfig(**TINY)).save_pretrained(folder)
    return folder


def test_names_stand_for_what_they_say(weights_dir: Path, tiny_model_dir: Path) -> None:
    names = "psnr, ssim, lpips, motion, latent_l2, pic, fvd, kvd"
    metrics = make_metrics(
        names, size=(40, 48), weights=weights_dir, model=str(tiny_model_dir), device="cpu"
    )
    assert [metric.name for metric in metrics] == [
        "psnr", "ssim", "lpips", "flow_epe", "flow_ratio", "latent_l2", "pic", "fvd", "kvd",
    ]  # fmt: skip
    for metric in metrics:
        assert metric.better in ("higher", "lower")
        assert metric.description
        assert isinstance(metric, SetMetric) == (metric.name in ("fvd", "kvd"))
    frames = [metric for metric in metrics if isinstance(metric, FrameMetric)]
    for metric in frames:
        values = metric(CLIP[1:], CLIP[::-1][1:].copy(), given=CLIP[:1])
        assert values.shape == (8,)
        assert values.dtype == np.float64
        assert np.isfinite(values).all()
    fvd, kvd = metrics[-2:]
    assert isinstance(fvd, SetMetric)
    assert isinstance(kvd, SetMetric)
    assert fvd.source == kvd.source


def test_nothing_is_loaded_that_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert len(make_metrics(["psnr", "psnr", "ssim", "motion"], size=(64, 64))) == 4
    with pytest.raises(WeightsNotFoundError, match="lpips_alex"):
        make_metrics("pic", size=(64, 64))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("psrn", "did you mean 'psnr'"),
        ("fid", "fid-<hub id or folder>"),
        ("lpips", "at least 31x31"),
        ("motion", "at least 16x16"),
    ],
)
def test_what_can_not_be_made(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_metrics([name], size=(12, 12))


def test_fvd_by_a_video_network_has_a_name_of_its_own(video_network: Path) -> None:
    (metric,) = make_metrics(f"fvd-{video_network}", size=(40, 48), device="cpu", force=True)
    assert isinstance(metric, SetMetric)
    assert metric.name == f"fvd-{video_network}"
    assert "VideoMAE" in metric.source
    features = metric.features(CLIP)
    assert features.shape == (24,)
    # Times are read, not the mean picture.
    assert not np.allclose(features, metric.features(CLIP[::-1].copy()), atol=1e-4)
    np.testing.assert_allclose(features, metric.features(CLIP), atol=1e-6)


def test_fid_by_an_image_network_judges_frames(image_network: Path) -> None:
    (metric,) = make_metrics(f"fid-{image_network}", size=(40, 48), device="cpu", force=True)
    assert isinstance(metric, SetMetric)
    features = metric.features(CLIP).astype(np.float64)
    assert features.shape == (9, 24)
    assert metric.distance(features, features) < 1e-6


def test_a_network_of_another_kind_is_refused(image_network: Path) -> None:
    with pytest.raises(CheckpointError, match="VideoMAE"):
        make_metrics(f"fvd-{image_network}", size=(64, 64))
