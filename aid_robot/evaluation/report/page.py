"""The page: protocol, table, faithfulness, curves, strips, failures."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from aid_robot.evaluation import faithfulness as ask
from aid_robot.evaluation.protocols import Block, Figure
from aid_robot.evaluation.report import picks
from aid_robot.evaluation.report.charts import COLOURS, Line, draw_lines, draw_share
from aid_robot.evaluation.report.pictures import draw_clip
from aid_robot.evaluation.results import RunFolder, write_whole
from aid_robot.evaluation.summary import MetricFacts, Summary, summarize
from aid_robot.evaluation.table import Table

_MEANING = {
    ask.TRUE: "the recorded instruction",
    ask.PARAPHRASE: "another wording of it",
    ask.SHUFFLED: "an instruction that means something else",
    ask.EMPTY: "no instruction",
}
_ARROWS = {"higher": "↑", "lower": "↓", "": ""}


def write_report(folders: Sequence[RunFolder], path: Path) -> None:
    """Write one page about evaluations, with all that it shows inside it."""
    runs = [_Run(folder, number) for number, folder in enumerate(folders)]
    title = " and ".join(dict.fromkeys(run.protocol.name for run in runs))
    links = "".join(f'<a href="#{run.anchor}">{_text(run.title)}</a>' for run in runs)
    style = files("aid_robot.evaluation.report").joinpath("page.css").read_text("utf-8")
    page = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Evaluation: {_text(title)}</title><style>{style}</style></head><body><main>",
        *(f"<nav>{links}</nav>" for _ in range(len(runs) > 1)),
        *(run.draw() for run in runs),
        "</main></body></html>",
    ]
    write_whole(path, "".join(page) + "\n")


class _Run:
    """One evaluation's part of the page."""

    def __init__(self, folder: RunFolder, number: int) -> None:
        self._folder = folder
        self._summary: Summary = summarize(folder)
        self._blocks = self._summary.blocks
        self._names = list(self._blocks)
        self._block: Block = self._blocks[self._names[0]]
        self.protocol = self._block.protocol
        self.title = f"{self.protocol.name}: {', '.join(self._block.clips.sources)}"
        self.anchor = f"run-{number}"
        self._colours = {
            name: COLOURS[place % len(COLOURS)] for place, name in enumerate(self._names)
        }

    @cached_property
    def _table(self) -> Table:
        frames = self.protocol.num_frames - self.protocol.num_given
        return Table(self._folder.verdicts(), frames)

    def draw(self) -> str:
        """Draw all sections."""
        clips = self._block.clips
        count = (
            f"{_count(clips.clips, 'clip')} of {_count(clips.episodes, 'episode')} in "
            f"{_count(clips.clusters, 'scene')}"
        )
        parts = [
            f'<section class="run" id="{self.anchor}"><h1>{_text(self.title)}</h1>',
            f'<p class="lead">{_text(self._names[0])} on {count}, {clips.split.split(":")[0]}. '
            "Brackets are 95 % intervals over scenes.</p>",
            self._scores(),
            self._faithfulness(),
            self._curves(),
            self._quality(),
            self._effects(),
            self._failures(),
            self._protocol(),
        ]
        return "".join([*parts, "</section>"])

    def _protocol(self) -> str:
        """Show the block: what predictors share, and then who they are."""
        own = ("predictor", "sampling")
        shared = [(k, v) for k, v in self._block.rows() if k not in own]
        rows = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in shared)
        predictors = "".join(
            f"<dt>{_text(name)}</dt><dd>{_text(_who(block))}</dd>"
            for name, block in self._blocks.items()
        )
        return f"<h2>Protocol</h2><dl>{rows}</dl><h3>Predictors</h3><dl>{predictors}</dl>"

    def _scores(self) -> str:
        parts = ["<h2>Scores</h2>"]
        for subset, title in (("all", "All clips"), ("moving", "Moving clips")):
            table = self._score_table(subset)
            if table:
                parts.append(f"<h3>{title}</h3>{table}")
        parts += [f'<p class="note">{_text(note)}</p>' for note in self._summary.notes]
        return "".join(parts)

    def _score_table(self, subset: str) -> str:
        rows = [(name, self._key(name) + _text(name), ask.TRUE) for name in self._names]
        for name in self._names:
            if ask.RECONSTRUCTION in self._table.conditions(name):
                label = f'<i class="key"></i>{_text(name)}: its autoencoder on the truth'
                rows.append((name, f"<small>{label}</small>", ask.RECONSTRUCTION))
        metrics = self._summary.metrics
        cells = [
            [self._summary.find(n, m.name, condition=c, subset=subset) for m in metrics]
            for n, _, c in rows
        ]
        if not any(figure for row in cells for figure in row):
            return ""
        best = [
            _best([row[i] for row, (_, _, c) in zip(cells, rows, strict=True) if c == ask.TRUE])
            for i in range(len(metrics))
        ]
        body = "".join(
            f"<tr><th>{label}</th>"
            + "".join(_cell(f, "best" if f and f is best[i] else "") for i, f in enumerate(row))
            + "</tr>"
            for (_, label, _), row in zip(rows, cells, strict=True)
        )
        first = self._names[0]
        for other in self._names[1:]:
            gains = [self._summary.find(first, m.name, minus=other, subset=subset) for m in metrics]
            row = "".join(_cell(f, _sure(f), "+") for f in gains)
            body += f"<tr><th><small>{_text(first)} - {_text(other)}</small></th>{row}</tr>"
        found = next(figure for row in cells for figure in row if figure)
        return _table(
            ["", *map(_head, metrics)],
            body,
            f"{_count(found.clips, 'clip')} in {_count(found.clusters, 'scene')}. Bold: the best, "
            f"and differences whose interval leaves out 0. {self._under()}",
        )

    def _faithfulness(self) -> str:
        asked = [n for n in self._names if ask.EMPTY in self._table.conditions(n)]
        if not asked:
            return ""
        parts = [
            "<h2>Does it follow the instruction?</h2><p>Each clip predicted again from the same "
            "frames and the same noise, under other instructions. The second number is the value "
            "under the true instruction minus this one, in bold where its interval leaves out 0: "
            "where all are near 0, the text hardly matters.</p>"
        ]
        for name in asked:
            if len(asked) > 1:
                parts.append(f"<h3>{self._key(name)}{_text(name)}</h3>")
            parts += [self._conditions(name), self._shares(name)]
        return "".join(parts)

    def _conditions(self, name: str) -> str:
        metrics = [m for m in self._summary.metrics if m.per != "set"]
        body = []
        for condition in self._table.conditions(name):
            if condition == ask.RECONSTRUCTION:
                continue
            meaning = _MEANING.get(condition, "true instruction, text guidance")
            cells = []
            for metric in metrics:
                value = self._summary.find(name, metric.name, condition=condition)
                gain = self._summary.find(name, metric.name, minus=condition)
                cells.append(_cell(value) if gain is None else _gain_cell(value, gain))
            body.append(
                f"<tr><th>{_text(condition)}<small>{_text(meaning)}</small></th>"
                f"{''.join(cells)}</tr>"
            )
        return _table(["instruction", *map(_head, metrics)], "".join(body), self._under())

    def _shares(self, name: str) -> str:
        """Draw retrieval and preference, with chance."""
        rows = []
        for metric, what in (
            (
                ask.RETRIEVAL,
                "of the predictions under all instructions of one start, that under the true one "
                "is nearest to what happened",
            ),
            (ask.PREFERRED, "the true instruction's prediction is nearer than the shuffled one's"),
        ):
            found = self._summary.find(name, metric)
            guess = self._summary.find(name, f"{metric}, by chance")
            if found is None or guess is None:
                continue
            chart = draw_share(found.value, found.low, found.high, guess.value, self._colours[name])
            rows.append(
                f"<tr><th>{_text(metric)}<small>{_text(what)}</small></th>"
                f"<td>{chart}</td>{_cell(found)}<td><b>{guess.value:.3f}</b>"
                f'<span class="ci">{_count(found.clips, "clip")}</span></td></tr>'
            )
        if not rows:
            return ""
        heads = ["share of clips", "0 to 1, dashed: chance", "", "by chance"]
        return _table(heads, "".join(rows), f"Nearest in pixels, ties shared. {self._under()}")

    def _curves(self) -> str:
        charts = []
        for metric in self._summary.metrics:
            lines = []
            for name in self._names:
                for condition in (ask.TRUE, ask.RECONSTRUCTION):
                    line = self._line(name, metric, condition)
                    if line is not None:
                        lines.append(line)
            if lines:
                unit = f" [{metric.unit}]" if metric.unit else ""
                chart = draw_lines(lines, title=metric.name, x_label="frame")
                charts.append(
                    f"<div><h4>{_text(metric.name)}{unit} {_ARROWS[metric.better]}</h4>"
                    f"{chart}</div>"
                )
        if not charts:
            return ""
        legend = "".join(f"<span>{self._key(name)}{_text(name)}</span>" for name in self._names)
        if any(ask.RECONSTRUCTION in self._table.conditions(n) for n in self._names):
            legend += '<span><i class="key dash"></i>its autoencoder on the truth</span>'
        return (
            f'<h2>By horizon</h2><p class="note">All clips. {self._under()}</p>'
            f'<div class="legend">{legend}</div><div class="charts">{"".join(charts)}</div>'
        )

    def _line(self, name: str, metric: MetricFacts, condition: str) -> Line | None:
        frames = range(self.protocol.num_given, self.protocol.num_frames)
        found = [
            self._summary.find(name, metric.name, condition=condition, frame=f) for f in frames
        ]
        known = [(f, figure) for f, figure in zip(frames, found, strict=True) if figure]
        if not known:
            return None
        figures = [figure for _, figure in known]
        return Line(
            label=name,
            colour=self._colours[name],
            x=[float(f) for f, _ in known],
            values=[figure.value for figure in figures],
            low=[figure.low for figure in figures],
            high=[figure.high for figure in figures],
            dashed=condition == ask.RECONSTRUCTION,
        )

    def _quality(self) -> str:
        rows = [(name, ask.TRUE) for name in self._names]
        shown = self._clips(picks.by_quality(self._table, self._summary), lambda _: rows)
        metric = picks.first_metric(self._summary).name
        return (
            "<h2>Best, median, worst</h2><p>By "
            f"{_text(metric)} of {_text(self._names[0])}, of the moving clips.</p>{shown}"
        )

    def _effects(self) -> str:
        first = self._names[0]
        rows = [(first, c) for c in (ask.TRUE, *ask.COUNTERFACTUALS)]
        shown = self._clips(picks.by_effect(self._table, self._summary), lambda _: rows)
        if not shown:
            return ""
        return (
            "<h2>The same start, other words</h2><p>From the clip where the true instruction "
            f"helps {_text(first)} most to the one where it harms most.</p>{shown}"
        )

    def _clips(
        self, chosen: Iterable[picks.Pick], rows: Callable[[str], Sequence[tuple[str, str]]]
    ) -> str:
        return "".join(
            draw_clip(
                self._folder,
                self._table.row(pick.clip),
                pick.why,
                rows(pick.clip),
                self.protocol.fps,
            )
            for pick in chosen
        )

    def _failures(self) -> str:
        errors = self._summary.errors
        if not errors:
            return '<h2>Failures</h2><p class="note">Every clip was read and judged.</p>'
        items = "".join(
            f"<tr><th>{_text(name)}</th><td>{_text(why)}</td></tr>" for name, why in errors.items()
        )
        return (
            f"<h2>Failures</h2><p>{len(errors)} could not be read, and count in no figure.</p>"
            f'<div class="scroll"><table><tbody>{items}</tbody></table></div>'
        )

    def _key(self, name: str) -> str:
        return f'<i class="key" style="background:{self._colours[name]}"></i>'

    def _under(self) -> str:
        """Name the protocol beside a table."""
        p, clips = self.protocol, self._block.clips
        return (
            f"Protocol {_text(p.name)}: K={p.num_given}, N={p.num_frames}, {p.fps:g} fps, "
            f"{p.size[1]}x{p.size[0]}, frames {p.num_given} to {p.num_frames - 1}, "
            f"{p.samples} sample{'s' * (p.samples > 1)} a clip, clips {clips.clips_hash}, "
            f"block {self._block.digest}."
        )


def _who(block: Block) -> str:
    said = dict(block.rows())
    text = said["predictor"].removeprefix(f"{block.predictor.name}, ")
    return f"{text}; {said['sampling']}; block {block.digest}"


def _table(heads: Sequence[str], body: str, note: str) -> str:
    row = "".join(f"<th>{head}</th>" for head in heads)
    return (
        f'<div class="scroll"><table><thead><tr>{row}</tr></thead><tbody>{body}</tbody></table>'
        f'</div><p class="note">{note}</p>'
    )


def _head(metric: MetricFacts) -> str:
    unit = f" [{_text(metric.unit)}]" if metric.unit else ""
    name = f"{_text(metric.name)}{unit} {_ARROWS[metric.better]}"
    return f'<span title="{_text(metric.description)}">{name}</span>'


def _cell(figure: Figure | None, kind: str = "", sign: str = "") -> str:
    if figure is None or math.isnan(figure.value):
        return "<td></td>"
    digits = _digits(figure.value)
    value = f"{figure.value:{sign}.{digits}f}"
    return f'<td class="{kind}"><b>{value}</b>{_interval(figure, digits, sign)}</td>'


def _sure(figure: Figure | None) -> str:
    """Mark a difference whose interval leaves out 0."""
    return "sure" if figure is not None and (figure.low > 0 or figure.high < 0) else ""


def _gain_cell(value: Figure | None, gain: Figure) -> str:
    """Show a value, and that under the true instruction minus it."""
    if value is None or math.isnan(value.value):
        return "<td></td>"
    digits = _digits(value.value)
    return (
        f'<td class="{_sure(gain)}">{value.value:.{digits}f}<br><b>{gain.value:+.{digits}f}</b>'
        f"{_interval(gain, digits, '+')}</td>"
    )


def _interval(figure: Figure, digits: int, sign: str = "") -> str:
    if math.isnan(figure.low):
        return '<span class="ci">one scene</span>'
    low, high = (f"{end:{sign}.{digits}f}" for end in (figure.low, figure.high))
    return f'<span class="ci">[{low}, {high}]</span>'


def _digits(value: float) -> int:
    """Choose digits after the point: as many as make three or four in all."""
    return 1 if abs(value) >= 100 else 2 if abs(value) >= 5 else 3


def _best(figures: Sequence[Figure | None]) -> Figure | None:
    known = [f for f in figures if f is not None and f.better and math.isfinite(f.value)]
    if len(known) < 2:
        return None
    best = (max if known[0].better == "higher" else min)(known, key=lambda f: f.value)
    return best if sum(f.value == best.value for f in known) == 1 else None


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _text(value: object) -> str:
    return html.escape(str(value))
