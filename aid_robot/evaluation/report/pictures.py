"""Rows of frames as images inside the page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

from aid_robot.evaluation import faithfulness as ask
from aid_robot.evaluation.judge import Verdict
from aid_robot.evaluation.results import RunFolder
from aid_robot.evaluation.strips import cut_rows

_GAP = 4
# Frames are enlarged to about so many pixels, so that a browser's screen doesn't blur them.
_SHOWN = 112


def draw_clip(
    folder: RunFolder, verdict: Verdict, why: str, wanted: Sequence[tuple[str, str]], fps: float
) -> str:
    """Draw the truth and some predictions of a clip, as (predictor, condition) each."""
    all_rows = [(name, condition) for name, condition in verdict["strip"]["rows"]]
    shown = [("truth", ""), *(row for row in wanted if row in all_rows)]
    columns = verdict["strip"]["columns"]
    path = folder.strip(verdict["clip"])
    heads = ["given", *(f"{(frame - columns[0]) / fps:.1f} s" for frame in columns[1:])]
    times = "".join(f"<span>{head}</span>" for head in heads)
    parts = [
        '<figure class="clip">',
        f"<figcaption><q>{html.escape(verdict['instruction'])}</q>"
        f'<span class="why">{html.escape(why)}</span></figcaption>',
        '<div class="rows">',
        f'<span></span><div class="times" style="--n:{len(columns)}">{times}</div>',
    ]
    if not path.is_file():
        return f"{''.join(parts)}<span></span><em>its picture is missing</em></div></figure>"
    places = [all_rows.index(row) for row in shown]
    cut = cut_rows(path, places, len(all_rows), len(columns))
    for (name, condition), frames in zip(shown, cut, strict=True):
        title, told = row_label(name, condition, verdict)
        note = f"<small>{html.escape(told)}</small>" if told else ""
        kind = "true" if name == "truth" else "made"
        parts.append(
            f'<span class="label">{html.escape(title)}{note}</span>'
            f'<img class="{kind}" alt="{html.escape(f"{title} {told}".strip())}" '
            f'src="{_encode(frames)}">'
        )
    return "".join([*parts, "</div></figure>"])


def row_label(name: str, condition: str, verdict: Verdict) -> tuple[str, str]:
    """Say whose frames a row shows, and what it was told in place of the instruction."""
    texts = {ask.PARAPHRASE: verdict["paraphrase"], ask.SHUFFLED: verdict["other"]}
    if condition in texts:
        return condition, f"“{texts[condition]}”"
    if condition == ask.EMPTY:
        return condition, "no instruction"
    return name, ""


def _encode(frames: Sequence[Image.Image]) -> str:
    width, height = frames[0].size
    scale = max(1, round(_SHOWN / min(width, height)))
    size = (width * scale, height * scale)
    step = size[0] + _GAP
    canvas = Image.new("RGB", (len(frames) * step - _GAP, size[1]), (255, 255, 255))
    for place, frame in enumerate(frames):
        canvas.paste(frame.resize(size, Image.Resampling.LANCZOS), (place * step, 0))
    data = io.BytesIO()
    canvas.save(data, "WEBP", quality=72, method=6)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
