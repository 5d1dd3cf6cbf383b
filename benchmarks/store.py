"""Random clips a second from an episode store, and from what people keep episodes in otherwise.

    python benchmarks/store.py [--episodes 40] [--scale 50000] [-o benchmarks/results/store.json]

The same 256x256 episodes, as an episode store (JPEG), as LeRobot-style mp4 (H.264, a keyframe every
second frame, as LeRobot writes it, and with the encoder's own keyframes), as an RLDS TFRecord and
as one JPEG file a frame. Each is asked for the same random windows of 16 frames, one after the
other, on one thread; rounds take turns. All JPEGs are the same bytes and are decoded by the same
decoder; the files are in the page cache. `--scale N` also fills a store with N short episodes, and
compares opening it and its rate of clips with one of 500.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
import zarr
from tqdm import tqdm

from aid_robot.data import EncodedFrames, Episode, VideoFrames
from aid_robot.data.ingest.example import parse_example
from aid_robot.data.ingest.tfrecord import RecordFile, masked_crc
from aid_robot.data.store import EpisodeStore
from aid_robot.hub import bundled_model

SIDE, CLIP, QUALITY, FPS = 256, 16, 95, 5
Frames = npt.NDArray[np.uint8]
# A window of an episode: (episode, start) -> (16, H, W, 3).
Reader = Callable[[int, int], Frames]


def draw_episodes(count: int, seed: int = 0) -> Iterator[Frames]:
    """Move an arm and a cube over the sample picture, with a sensor's noise on it."""
    rng = np.random.default_rng(seed)
    picture = bundled_model().parent / "observations" / "tabletop.png"
    scene = cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB)
    scene = cv2.resize(scene, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    for _ in range(count):
        length = int(rng.integers(30, 50))
        begin, end = rng.uniform(30, SIDE - 30, (2, 2))
        frames = np.empty((length, SIDE, SIDE, 3), np.uint8)
        still = np.roll(scene, int(rng.integers(40)), axis=1)
        for t in range(length):
            frame = still.copy()
            x, y = begin + (end - begin) * t / length
            cv2.line(frame, (SIDE // 2, 0), (int(x), int(y)), (60, 60, 66), 14, cv2.LINE_AA)
            cv2.circle(frame, (int(x), int(y)), 12, (200, 60, 40), -1, cv2.LINE_AA)
            noisy = frame + rng.normal(0, 2.5, frame.shape)
            frames[t] = noisy.round().clip(0, 255)
        yield frames


def jpeg(frame: Frames) -> bytes:
    encoded: bytes = simplejpeg.encode_jpeg(frame, quality=QUALITY, colorsubsampling="420")
    return encoded


def decode(images: Iterable[Any], out: Frames) -> Frames:
    for image, place in zip(images, out, strict=True):
        simplejpeg.decode_jpeg(image, buffer=place)
    return out


def blank_clip() -> Frames:
    return np.empty((CLIP, SIDE, SIDE, 3), np.uint8)


def as_memory(episodes: list[list[bytes]]) -> Reader:
    return lambda e, start: decode(episodes[e][start : start + CLIP], blank_clip())


def as_files(episodes: list[list[bytes]], folder: Path) -> Reader:
    for e, images in enumerate(episodes):
        (folder / f"{e:06d}").mkdir(parents=True)
        for t, image in enumerate(images):
            (folder / f"{e:06d}" / f"{t:06d}.jpg").write_bytes(image)

    def read(e: int, start: int) -> Frames:
        paths = (folder / f"{e:06d}" / f"{t:06d}.jpg" for t in range(start, start + CLIP))
        return decode((path.read_bytes() for path in paths), blank_clip())

    return read


def as_tfrecord(episodes: list[list[bytes]], path: Path) -> Reader:
    def varint(number: int) -> bytes:
        encoded = bytearray()
        while number >= 0x80:
            encoded.append(number & 0x7F | 0x80)
            number >>= 7
        return bytes([*encoded, number])

    def field(number: int, content: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(content)) + content

    key = "steps/observation/image_0"
    with path.open("wb") as file:
        for images in episodes:
            values = field(1, b"".join(field(1, image) for image in images))
            data = field(1, field(1, field(1, key.encode()) + field(2, values)))
            length = struct.pack("<Q", len(data))
            file.write(length + struct.pack("<I", masked_crc(length)))
            file.write(data + struct.pack("<I", masked_crc(data)))
    records = RecordFile(path)

    def read(e: int, start: int) -> Frames:
        images = parse_example(records.read(e), path.name)[key]
        return decode(images[start : start + CLIP], blank_clip())

    return read


def write_mp4(episodes: Iterable[Frames], path: Path, keyframes: int | None) -> list[int]:
    """Write all episodes into one file, as LeRobot v3 does; return where each begins."""
    starts, count = [], 0
    options = {"crf": "23", "preset": "medium"} | ({"g": str(keyframes)} if keyframes else {})
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for frames in episodes:
            starts.append(count)
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                count += 1
        container.mux(stream.encode(None))
    return starts


def as_mp4_reopened(path: Path, starts: list[int]) -> Reader:
    """Open, seek by time and decode in each query, as LeRobot's PyAV backend does."""

    def read(e: int, start: int) -> Frames:
        clip, first = blank_clip(), starts[e] + start
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            assert stream.time_base is not None
            container.seek(round(first / FPS / stream.time_base), stream=stream, backward=True)
            for frame in container.decode(stream):
                place = round(frame.pts * stream.time_base * FPS) - first
                if place >= 0:
                    clip[place] = frame.to_ndarray(format="rgb24")
                if place == CLIP - 1:
                    return clip
        raise EOFError(f"{path} ends within a clip")

    return read


def as_mp4_open(path: Path, starts: list[int]) -> Reader:
    """Keep the file open and indexed: the best that mp4 can do here."""
    video = VideoFrames(path)
    return lambda e, start: video[starts[e] + start : starts[e] + start + CLIP]


def as_store(episodes: list[list[bytes]], folder: Path) -> tuple[Reader, Reader]:
    """Return our own way of reading a store, and zarr's for the same arrays."""
    with EpisodeStore.create(folder, quality=QUALITY) as store:
        store.extend(
            Episode(f"{e}", {"image_0": EncodedFrames(images, f"{e}")}, fps=FPS)
            for e, images in enumerate(episodes)
        )
    store = EpisodeStore.open(folder)
    camera = zarr.open_group(folder, mode="r")["data/image_0"]
    starts = np.cumsum([0, *store.lengths])

    def by_zarr(e: int, start: int) -> Frames:
        return np.asarray(camera[starts[e] + start : starts[e] + start + CLIP])

    return (lambda e, start: store.clip(e, start, CLIP)), by_zarr


def size_of(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)


def rates(readers: Mapping[str, Reader], lengths: list[int], rounds: int, clips: int) -> dict:
    """Clips a second of each reader: the median over rounds in which all take turns."""
    seen: dict[str, list[float]] = {name: [] for name in readers}
    for index in tqdm(range(rounds + 1), desc="rounds"):  # the first is the warm-up
        rng = np.random.default_rng(index)
        chosen = rng.integers(len(lengths), size=clips)
        windows = [(int(e), int(rng.integers(lengths[e] - CLIP + 1))) for e in chosen]
        for name, read in readers.items():
            started = time.perf_counter()
            for window in windows:
                read(*window)
            if index:
                seen[name].append(clips / (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in seen.items()}


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    videos = list(tqdm(draw_episodes(args.episodes), total=args.episodes, desc="draw"))
    episodes = [[jpeg(frame) for frame in frames] for frames in videos]
    lengths = [len(images) for images in episodes]
    jpeg_bytes = sum(len(image) for images in episodes for image in images)
    started = time.perf_counter()
    ours, by_zarr = as_store(episodes, folder / "store.zarr")
    filled = time.perf_counter() - started
    g2, gop = folder / "g2.mp4", folder / "gop.mp4"
    starts = write_mp4(videos, g2, 2)
    write_mp4(videos, gop, None)
    readers = {
        "JPEG decoding alone, from memory": as_memory(episodes),
        "episode store": ours,
        "episode store, read by zarr-python": by_zarr,
        "one JPEG file a frame": as_files(episodes, folder / "files"),
        "RLDS TFRecord": as_tfrecord(episodes, folder / "rlds.tfrecord"),
        "mp4, keyframe every 2, opened for each clip": as_mp4_reopened(g2, starts),
        "mp4, keyframe every 2, kept open": as_mp4_open(g2, starts),
        "mp4, encoder's keyframes, opened for each clip": as_mp4_reopened(gop, starts),
        "mp4, encoder's keyframes, kept open": as_mp4_open(gop, starts),
    }
    expected = readers["JPEG decoding alone, from memory"](1, 3)
    for name in ("episode store", "episode store, read by zarr-python", "RLDS TFRecord"):
        assert np.array_equal(readers[name](1, 3), expected), name
    measured = rates(readers, lengths, args.rounds, args.clips)
    sizes = {
        "JPEG": jpeg_bytes,
        "episode store": size_of(folder / "store.zarr"),
        "RLDS TFRecord": size_of(folder / "rlds.tfrecord"),
        "mp4, keyframe every 2": size_of(g2),
        "mp4, encoder's keyframes": size_of(gop),
    }
    memory = measured["JPEG decoding alone, from memory"]
    print(f"\n{len(episodes)} episodes, {sum(lengths)} frames of {SIDE}x{SIDE}; clips of {CLIP}")
    print(f"{'':48s} clips/s   of JPEG decoding")
    for name, rate in measured.items():
        print(f"{name:48s} {rate:7.1f} {rate / memory:8.0%}")
    for name, size in sizes.items():
        print(f"bytes of {name:39s} {size / 1e6:7.1f} MB {size / jpeg_bytes:6.2f}x")
    print(f"filled at {len(episodes) / filled:.0f} episodes/s (frames already JPEG)")
    return {"clips_per_second": measured, "bytes": sizes, "filled": len(episodes) / filled}


def scale(counts: list[int], folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Open stores of many episodes, and read clips from them."""
    frames = next(draw_episodes(1))[:CLIP]
    small = np.stack([cv2.resize(f, (64, 64), interpolation=cv2.INTER_AREA) for f in frames])
    images = EncodedFrames([jpeg(frame) for frame in small], "scale")
    readers, result = {}, {}
    for count in counts:
        path = folder / f"scale-{count}.zarr"
        started = time.perf_counter()
        with EpisodeStore.create(path) as store:
            store.extend(
                Episode(f"{e}", {"image_0": images}, instruction="push the cube", fps=FPS)
                for e in tqdm(range(count), desc=f"fill {count}")
            )
        filled = time.perf_counter() - started
        opening = []
        for _ in range(5):
            started = time.perf_counter()
            store = EpisodeStore.open(path)
            last = store[len(store) - 1].instruction
            opening.append(time.perf_counter() - started)
            assert last == "push the cube"
        readers[f"{count}"] = lambda e, start, store=store, n=count: store.clip(e % n, 0, CLIP)
        result[f"{count}"] = {
            "open_s": statistics.median(opening),
            "filled": count / filled,
            "bytes": size_of(path),
        }
    for name, rate in rates(readers, [CLIP] * max(counts), args.rounds, args.clips * 4).items():
        result[name]["clips_per_second"] = rate
        print(f"{name:>7s} episodes: opened, last instruction read in "
              f"{result[name]['open_s'] * 1e3:.0f} ms; {rate:.0f} clips/s of 64x64; filled at "
              f"{result[name]['filled']:.0f} episodes/s")  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clips", type=int, default=40, help="a round and format")
    parser.add_argument("--scale", type=int, metavar="N", help="e.g. 50000")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    hardware = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "zarr": zarr.__version__,
        "simplejpeg": simplejpeg.__version__,
        "av": av.__version__,
    }
    print(hardware)
    record: dict[str, Any] = {"hardware": hardware, "arguments": vars(args) | {"output": None}}
    with tempfile.TemporaryDirectory() as folder:
        record["formats"] = compare(args, Path(folder))
        if args.scale:
            record["scale"] = scale([500, args.scale], Path(folder), args)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
