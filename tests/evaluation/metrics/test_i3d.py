"""I3D computes what the reference computes; FVD orders what is plainly worse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aid_robot.errors import CheckpointError, MetricError, WeightsNotFoundError
from aid_robot.evaluation.metrics.frechet import FVD, kernel_distance
from aid_robot.evaluation.metrics.i3d import I3D, _pad_same, resize_bilinear
from aid_robot.evaluation.metrics.weights import I3D_FILE, VARIABLE

# FVD of the two public sets of uniform noise, by Google's TensorFlow code and by StyleGAN-V's:
# github.com/universome/fvd-comparison.
PUBLISHED = 10.138085


@pytest.fixture(scope="module")
def network(weights_dir: Path) -> I3D:
    return I3D.load(weights_dir, "cpu")


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (48, 300)])
def test_resizing_reads_where_tensorflow_1_does(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    resized = resize_bilinear(torch.from_numpy(frames)).numpy()
    assert resized.shape == (2, 224, 224, 3)
    # Pixel i is read at i * H / 224, with no shift by half a pixel.
    x, y = (np.arange(224, dtype=np.float32) * np.float32(n / 224) for n in size[::-1])
    maps = np.meshgrid(x, y)
    for ours, frame in zip(resized, frames, strict=True):
        theirs = cv2.remap(
            frame.astype(np.float32), *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        # OpenCV rounds places to 1/32 pixel.
        assert np.abs(ours - theirs).max() < 255 / 16


def test_same_size_is_left_alone() -> None:
    frames = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8)
    torch.testing.assert_close(resize_bilinear(frames), frames.float())


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"),
    [
        (16, 7, 2, (2, 3)),
        (224, 7, 2, (2, 3)),
        (112, 3, 2, (0, 1)),
        (15, 3, 2, (1, 1)),
        (8, 3, 1, (1, 1)),
    ],
)
def test_padding_is_tensorflows(size: int, kernel: int, stride: int, pads: tuple[int, int]) -> None:
    line = torch.ones(1, 1, 1, 1, size)
    padded = _pad_same(line, (1, 1, kernel), (1, 1, stride)).flatten()
    ones = padded.nonzero().flatten()
    assert (int(ones[0]), len(padded) - 1 - int(ones[-1])) == pads


def test_clips_that_are_too_short(network: I3D) -> None:
    clip = np.zeros((8, 64, 64, 3), np.uint8)
    with pytest.raises(MetricError, match="at least 9 frames, got 8"):
        network(clip)
    assert network(np.zeros((9, 32, 32, 3), np.uint8)).shape == (400,)


def test_growing_noise_and_blur_grow_the_distance(network: I3D, moving_clip: np.ndarray) -> None:
    clips = [np.rot90(moving_clip[:9], turn, (1, 2)).copy() for turn in range(3)]
    rng = np.random.default_rng(0)
    noise = [rng.normal(size=clip.shape) for clip in clips]
    true = np.stack([network(clip) for clip in clips]).astype(np.float64)
    fvd = FVD(network, force=True)
    assert fvd.distance(true, true) < 1e-6

    def worse(strength: float) -> float:
        made = [
            network(np.clip(clip + strength * more, 0, 255).astype(np.uint8))
            for clip, more in zip(clips, noise, strict=True)
        ]
        return fvd.distance(np.stack(made).astype(np.float64), true)

    found = [0.0, *(worse(strength) for strength in (10, 30, 80))]
    assert found == sorted(found)
    assert found[1] > 0.1


@pytest.mark.slow
def test_published_figure_of_uniform_noise(network: I3D) -> None:
    features = []
    for seed in (1, 2):
        rng = np.random.RandomState(seed)
        clips = (rng.rand(16, 224, 224, 3).astype(np.float32) for _ in range(128))
        # As they are, in [0, 1], neither resized nor scaled.
        made = [network.logits(torch.from_numpy(c).permute(3, 0, 1, 2)[None])[0] for c in clips]
        features.append(torch.stack(made).double().cpu().numpy())
    assert FVD(network).distance(*features) == pytest.approx(PUBLISHED, abs=1e-3)


def _blurred(clip: np.ndarray, share: float, place: float) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 4 * share) for frame in clip])


def _noisy(clip: np.ndarray, share: float, place: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 60 * share, clip.shape)
    return np.clip(clip + noise, 0, 255).astype(np.uint8)


def _dropped(clip: np.ndarray, share: float, place: float) -> np.ndarray:
    """Hold frames that were dropped: at most the last of every run is new."""
    step = 1 + round(5 * share)
    return clip[np.arange(len(clip)) // step * step]


def _reversed(clip: np.ndarray, share: float, place: float) -> np.ndarray:
    """Turn a share of the clips around in time, each as a whole: in a part it would be a cut."""
    return clip[::-1].copy() if place < share else clip


@pytest.mark.slow
@pytest.mark.bridge
@pytest.mark.parametrize("worsen", [_blurred, _noisy, _dropped, _reversed])
def test_recorded_clips_made_worse_step_by_step(
    network: I3D, bridge_dir: Path, worsen: Callable[[np.ndarray, float, float], np.ndarray]
) -> None:
    from aid_robot.data.ingest import open_recording
    from aid_robot.observation import resize_frames

    clips = []
    for episode in open_recording(bridge_dir / "demos"):
        frames = np.asarray(episode.frames[:48])
        clips += [
            resize_frames(frames[start : start + 16], (128, 128))
            for start in range(0, len(frames) - 15, 16)
        ]
    clips = clips[:24]
    true = np.stack([network(clip) for clip in clips]).astype(np.float64)
    fvd = FVD(network, force=True)
    distances, kernels = [fvd.distance(true, true)], []
    for share in (1 / 3, 2 / 3, 1.0):
        worse = [worsen(clip, share, i / len(clips)) for i, clip in enumerate(clips)]
        made = np.stack([network(clip) for clip in worse]).astype(np.float64)
        distances.append(fvd.distance(made, true))
        kernels.append(kernel_distance(made, true))
    assert distances[0] < 1e-6
    assert distances == sorted(distances)
    assert distances[1] > 1
    assert kernels == sorted(kernels)


def test_missing_and_foreign_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights_dir: Path
) -> None:
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(WeightsNotFoundError, match=rf"{I3D_FILE}.*{VARIABLE} \(unset\).*piergiaj"):
        I3D.load()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(WeightsNotFoundError, match=str(tmp_path)):
        I3D.load()
    some = load_file(weights_dir / I3D_FILE)
    del some["Mixed_4d.b2b.conv3d.weight"]
    save_file(some, tmp_path / I3D_FILE)
    with pytest.raises(CheckpointError, match=r"Mixed_4d\.b2b\.conv3d\.weight"):
        I3D.load()
    (tmp_path / I3D_FILE).write_bytes(b"\x08\0\0\0\0\0\0\0garbage")
    with pytest.raises(CheckpointError, match="restore"):
        I3D.load()
