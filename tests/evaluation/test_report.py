"""The page holds all that it shows."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from aid_robot.evaluation.report import write_report
from aid_robot.evaluation.report.charts import Line, draw_lines
from aid_robot.evaluation.results import RunFolder
from aid_robot.evaluation.run import evaluate
from tests.evaluation.worlds import PROTOCOL, Obedient, copying, make_episodes, make_store

_VOID = {"img", "meta", "br", "path", "circle", "polyline", "polygon"}


class Reader(HTMLParser):
    """Reads tags and text, and checks that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.words: list[str] = []
        self.images = 0
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self._open.append(tag)
        self.images += tag == "img"
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "data", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def finish(self) -> str:
        assert self._open == []
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    path = tmp_path_factory.mktemp("report")
    episodes = make_episodes(4)
    store = make_store(path / "<b>.zarr", episodes)
    evaluate(
        [store], {"ours & more": Obedient(3), "copying": copying()}, PROTOCOL, path / "run",
        metrics=("psnr",), scales=(2.0,),
    )  # fmt: skip
    return RunFolder.open(path / "run")


def read(path: Path) -> tuple[Reader, str]:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader, reader.finish()


def test_the_page_needs_nothing_else(folder: RunFolder) -> None:
    reader, _ = read(folder.path / "report.html")
    assert reader.images >= 20
    assert all(link.startswith(("data:image/webp;base64,", "#")) for link in reader.links)
    text = (folder.path / "report.html").read_text()
    assert "url(" not in text
    assert "<script" not in text


def test_the_page_says_what_was_measured_and_how(folder: RunFolder) -> None:
    _, words = read(folder.path / "report.html")
    for said in (
        "ours & more", "<b>.zarr", "K=1 given, N=4", "16 clips", "psnr [dB]",
        "Does it follow the instruction?", "retrieval", "By horizon", "best:", "median:", "worst:",
        "The same start, other words", "Every clip was read and judged.", "s_t=2",
        "push the cube",
    ):  # fmt: skip
        assert said in words, said
    for figure in folder.results()["figures"][:1]:
        assert f"{figure['value']:.2f}" in words


def test_several_runs_share_a_page(folder: RunFolder, tmp_path: Path) -> None:
    write_report([folder, folder], tmp_path / "both.html")
    reader, _ = read(tmp_path / "both.html")
    assert [link for link in reader.links if link.startswith("#")] == ["#run-0", "#run-1"]


def test_a_missing_picture_is_said(folder: RunFolder, tmp_path: Path) -> None:
    strips = folder.path / "strips"
    strips.rename(folder.path / "away")
    try:
        write_report([folder], tmp_path / "page.html")
    finally:
        (folder.path / "away").rename(strips)
    assert "its picture is missing" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 1.0],
        [1.0, 1.0 + 1e-15],
        [0.0, 1e-12],
        [0.0, 1e-5],
        [-3.0, 250.0],
        [float("nan"), 2.0],
    ],
)
def test_charts_hold_their_lines(values: list[float]) -> None:
    line = Line("a", "#000", [1.0, 2.0], values, values, values)
    chart = draw_lines([line], title="t", x_label="frame")
    points = chart.split('<polyline points="')[1].split('"')[0].split()
    for point in points:
        x, y = map(float, point.split(","))
        assert 0 <= x <= 360
        assert 0 <= y <= 210
