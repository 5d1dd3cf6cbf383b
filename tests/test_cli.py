"""What a user types, and what comes back: files, a summary, or one clear line."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aid_robot.cli import main, run_cleanly
from aid_robot.clip import Foresight
from aid_robot.commands.inputs import capture_frames, read_image
from aid_robot.data import VideoFrames, write_video
from aid_robot.errors import AIDRobotError, DataFormatError, InstructionError
from aid_robot.hub import write_checksums
from aid_robot.model.checkpoint import load_model, save_model
from aid_robot.observation import resize_frames
from tests.recordings import plain_frames, write_irasim
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_irasim(tmp_path_factory.mktemp("recording"), episodes=3)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "scene.png"
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def predict(*args: object) -> int:
    return main(["predict", *map(str, args)])


def test_help_answers_without_loading_what_is_heavy() -> None:
    code = (
        "import sys\nfrom aid_robot.cli import main\n"
        "for args in (['--help'], ['predict', '--help'], ['--version']):\n"
        "    try: main(args)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'cv2', 'PIL', 'av', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "predict" in done.stdout


def test_image_and_instruction_become_files(
    image: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("out/clip.mp4", "clip.gif", "clip.png", "clip.npz")
    outputs = [tmp_path / name for name in names]
    options = [part for path in outputs for part in ("-o", path)]
    # The instruction may also come last.
    assert predict(image, *options, "--model", tiny_model_dir, "--seed", 7, "lift the cube") == 0
    printed = capsys.readouterr().out
    assert re.search(r"^instruction +lift the cube$", printed, re.MULTILINE)
    assert re.search(r"^seed +7$", printed, re.MULTILINE)
    assert re.search(r"^time .*load .*denoise .*decode .*save ", printed, re.MULTILINE)
    assert "PSNR" not in printed
    assert all(str(path) in printed and path.stat().st_size for path in outputs)
    assert len(VideoFrames(outputs[0])) == 4
    foresight = Foresight.load(outputs[3])
    expected = resize_frames(read_image(image), (32, 32))
    assert np.array_equal(foresight.frames[0, 0], expected)


def test_same_seed_same_frames(image: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    clips = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = tmp_path / f"{name}.npz"
        args = ("--model", tiny_model_dir, "--samples", 2, "--steps", 1, "--seed", seed)
        assert predict(image, "open it", "-o", path, *args) == 0
        clips.append(Foresight.load(path).predicted)
    assert clips[0].shape[0] == 2
    assert np.array_equal(clips[0], clips[1])
    assert not np.array_equal(clips[0], clips[2])


def test_episode_brings_its_instruction_and_its_truth(
    recording: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", tiny_model_dir, "--steps", 1)
    sizes = {}
    for option in ((), ("--no-truth",)):
        path = tmp_path / f"strip{len(option)}.png"
        assert predict(f"{recording}#train/1", "-o", path, *model, *option) == 0
        printed = capsys.readouterr().out
        assert "open the drawer" in printed
        assert ("PSNR" in printed) == (not option)
        with Image.open(path) as strip:
            sizes[option] = strip.height
    assert sizes[()] > sizes[("--no-truth",)] + 90  # a row more


def test_copying_the_last_frame_is_measured_on_predicted_frames_only(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "v.mp4", plain_frames([90, 100, 110, 110]), 5)
    args = ("-o", tmp_path / "o.png", "--model", tiny_model_dir, "--steps", 1, "--frame", 1)
    assert predict(video, "wait", *args) == 0
    printed = capsys.readouterr().out
    # Frame 1 is given, frames 2 and 3 differ from it by 10 of 255.
    copied = float(re.search(r"copying the last given frame ([\d.]+) dB", printed)[1])
    assert copied == pytest.approx(20 * np.log10(255 / 10), abs=1.0)
    assert "the 2 predicted frames that were recorded too" in printed


def test_first_of_several_episodes_is_taken_and_said(
    recording: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("-o", tmp_path / "o.npz", "--model", tiny_model_dir, "--steps", 1)
    assert predict(recording, *args) == 0
    printed = capsys.readouterr().out
    assert "put the carrot on the plate" in printed
    assert "3 episodes and this is the first" in printed
    assert f"{recording}#train/1" in printed


def test_rate_decides_whether_there_is_a_truth(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "v.mp4", plain_frames([40, 60, 80, 100, 120]), 15)
    output = tmp_path / "o.png"
    args = (video, "open it", "-o", output, "--model", tiny_model_dir, "--steps", 1)
    assert predict(*args) == 0
    printed = capsys.readouterr().out
    assert "15 frames a second, the model 5" in printed
    assert "PSNR" not in printed
    output.unlink()
    assert predict(*args, "--compare") == 2
    assert "--fps" in capsys.readouterr().err
    assert not output.exists()  # refused before the model ran
    assert predict(*args, "--compare", "--fps", 5) == 0
    assert "PSNR" in capsys.readouterr().out


def test_other_instruction_than_recorded_is_said(
    recording: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("-o", tmp_path / "o.png", "--model", tiny_model_dir, "--steps", 1)
    assert predict(f"{recording}#0", "close the drawer", *args) == 0
    assert "own instruction, 'put the carrot on the plate'" in capsys.readouterr().out


def test_plan_is_rolled_out_step_by_step(image: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.npz"
    plan = ("--plan", "open the drawer", "lift the cube")
    assert predict(image, *plan, "-o", path, "--model", tiny_model_dir, "--steps", 1) == 0
    foresight = Foresight.load(path)
    assert len(foresight) == 1 + 2 * 3
    assert [step["instruction"] for step in foresight.settings["plan"]] == list(plan[1:])


def test_model_of_two_frames_takes_those_that_end_at_frame(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    save_model(tiny_model(num_conditioning_frames=2), model)
    output = tmp_path / "o.npz"
    args = ("-o", output, "--model", model, "--steps", 1)
    recorded = VideoFrames(recording / "videos/train/0/rgb.mp4")
    for frame, steps in (((), [0, 1]), (("--frame", 5), [4, 5])):
        assert predict(f"{recording}#0", *args, *frame) == 0
        given = Foresight.load(output).frames[0, :2]
        assert np.array_equal(given, resize_frames(recorded[steps], (32, 32)))
    assert predict(f"{recording}#0", *args, "--frame", 0) == 2
    assert "choose one from 1 to 7" in capsys.readouterr().err
    # Two frames at another rate would show another speed.
    assert predict(f"{recording}#0", *args, "--fps", 10) == 2
    assert "10" in capsys.readouterr().err


def test_every_mistake_is_one_line_that_says_what_to_do(
    recording: Path,
    image: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(image.read_bytes()[:500])
    model = ("--model", tiny_model_dir)
    mistakes = [
        ((image,), "instruction"),
        ((f"{recording}#2",), "--text-guidance-scale 0"),
        ((image, "  ", *model), "blank"),
        ((image, "open it", "--plan", "lift it"), "--plan"),
        ((tmp_path / "nothing.png", "open it"), "check the path"),
        ((tmp_path / "nothing", "open it"), "PATH#EPISODE"),
        ((damaged, "open it"), "no whole"),
        ((f"{recording}#7", "open it"), "0 to 2"),
        ((f"{recording}#1", "--camera", "image_9"), "image_0"),
        ((f"{recording}#1", "--frame", 99, *model), "0 to 7"),
        ((image, "open it", "--frame", 1, *model), "leave it out"),
        ((image, "open it", "--compare", *model), "--compare"),
        ((image, "open it", "-o", tmp_path / "clip.avi"), ".mp4"),
        ((image, "open it", "-o", f"{image}/clip.mp4"), "scene.png"),
        ((image, "open it", "--model", tmp_path / "no-model"), "no-model"),
        ((image, "open it", "--device", "quantum", *model), "cpu"),
        ((image, "open it", "--steps", 0, *model), "steps=0"),
        (("987", "open it"), "camera 987"),
    ]
    for args, hint in mistakes:
        if "-o" not in args:
            args = (*args, "-o", tmp_path / "out.png")
        assert predict(*args) == 2, args
        error = capsys.readouterr().err
        assert error.startswith("aid-robot: error: "), args
        assert error.count("\n") == 1, error
        assert hint in error, error
    assert not (tmp_path / "out.png").exists()


def test_instruction_without_quotes_is_not_taken_for_a_plan(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        predict(image, "put", "the", "carrot")
    assert end.value.code == 2
    assert "quotes" in capsys.readouterr().err


def test_debug_shows_the_traceback(image: Path) -> None:
    for args in (["--debug", "predict", str(image)], ["predict", str(image), "--debug"]):
        with pytest.raises(InstructionError):
            main(args)


def test_interrupt_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert run_cleanly("aid-robot", interrupted) == 130
    assert capsys.readouterr().err == "aid-robot: interrupted\n"


def test_a_flood_of_warnings_is_dammed(capsys: pytest.CaptureFixture[str]) -> None:
    def flood() -> int:
        for number in range(20):
            warnings.warn(f"text {number} is too long", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
        return 0

    assert run_cleanly("aid-robot", flood) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 6
    assert said[0] == "aid-robot: warning: text 0 is too long"
    assert "not shown" in said[4]
    assert said[5] == "aid-robot: warning: something else"


def test_info_counts_the_parameters_that_are_there(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AID_ROBOT_ENDPOINT_KEY", "sesame")
    assert main(["info", "--json", "--model", str(tiny_model_dir)]) == 0
    printed = capsys.readouterr().out
    found = json.loads(printed)
    model = load_model(tiny_model_dir)
    for part in ("vae", "image_encoder", "text_encoder"):
        count = sum(tensor.numel() for tensor in model.modules[part].state_dict().values())
        assert found["model"]["parameters"][part] == count
    assert found["model"]["config"]["num_frames"] == 4
    assert found["environment"]["AID_ROBOT_ENDPOINT_KEY"] == "set"
    assert "sesame" not in printed
    assert main(["info", "--model", str(tiny_model_dir)]) == 0
    assert f"{found['model']['parameters']['unet']:,}" in capsys.readouterr().out


def test_info_tells_a_damaged_model_from_a_whole_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def model() -> dict[str, str]:
        assert main(["info", "--json", "--model", str(tmp_path)]) == 0
        found: dict[str, str] = json.loads(capsys.readouterr().out)["model"]
        return found

    assert "aid/config.json" in model()["problem"]
    save_model(tiny_model(), tmp_path)
    assert "none recorded" in model()["checksums"]
    write_checksums(tmp_path)
    assert model()["checksums"] == "ok"
    weights = tmp_path / "aid" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert model()["checksums"] == "not ok"
    weights.write_bytes(b"\xff" * 16)
    assert "restore" in model()["problem"]


def test_sideways_photo_is_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40] = (250, 10, 10)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", exif=exif)
    upright = read_image(tmp_path / "photo.jpg")
    assert upright.shape == (80, 40, 3)
    assert upright[10, 20, 0] > 200 > upright[70, 20, 0]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_damaged_image_is_refused_or_read_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str
) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)).save(stream, kind)
    encoded = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(0, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(encoded[: data.draw(st.integers(0, len(encoded)))])
    with contextlib.suppress(DataFormatError):
        frame = read_image(path)
        assert frame.dtype == np.uint8
        assert frame.shape[-1] == 3


def test_camera_frames_are_rgb(tmp_path: Path) -> None:
    red = np.zeros((6, 48, 64, 3), np.uint8)
    red[..., 0] = 220
    video = write_video(tmp_path / "red.mp4", red, 30)
    # OpenCV opens a file as it opens a camera.
    frames = capture_frames(cv2.VideoCapture(str(video)), 2, fps=1e6, warm_up=0)
    assert frames.shape == (2, 48, 64, 3)
    assert frames[..., 0].mean() > 180 > 60 > frames[..., 2].mean()


def test_camera_that_falls_silent_is_an_error(tmp_path: Path) -> None:
    video = write_video(tmp_path / "short.mp4", plain_frames([40, 50, 60]), 30)
    with pytest.raises(AIDRobotError, match="cable"):
        capture_frames(cv2.VideoCapture(str(video)), 9, fps=1e6, warm_up=0)


@pytest.mark.bridge
@pytest.mark.parametrize("source", ["irasim#train/c0", "demos#0", "rlds/bridge_dataset/1.0.0#2"])
def test_recorded_bridge_episodes_of_three_layouts(
    bridge_dir: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    source: str,
) -> None:
    path = tmp_path / "strip.png"
    args = ("-o", path, "--model", tiny_model_dir, "--steps", 1, "--compare")
    assert predict(bridge_dir / source, *args) == 0
    assert "PSNR" in capsys.readouterr().out
    assert path.stat().st_size > 1000
