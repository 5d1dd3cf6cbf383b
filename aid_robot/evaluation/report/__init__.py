"""The page of one or several evaluations: one HTML file that needs nothing else.

`write_report([RunFolder.open("runs/eval")], "report.html")`. Modules: `page` what it says, `charts`
its curves as SVG, `picks` which clips it shows, `pictures` their frames.
"""

from __future__ import annotations

from aid_robot.evaluation.report.page import write_report

__all__ = ["write_report"]
