"""The filter report as one HTML page without external assets; histograms are inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.judge.bias import groups_of

WIDTH, HEIGHT = 300, 80


def render(report: dict[str, Any], pictures: Mapping[str, str]) -> str:
    """The page; every caption in it is escaped, since captions come from strangers.

    `pictures`: data URIs by key.  They are blurred until clicked on, by style alone: MLflow's viewer shows a
    page in an iframe with `sandbox="allow-scripts"` (no storage, no forms, no downloads, no windows), others
    run no script at all.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html")
    return template.render(
        report=report, pictures=pictures, histogram=histogram, terms=groups_of(report["terms"])
    )


def histogram(score: dict[str, Any]) -> Any:
    """SVG of a histogram with logarithmic counts, so that one row beside thousands is seen; bounds in red."""
    from markupsafe import Markup

    counts, edges = score["counts"], score["edges"]
    span, tallest = edges[-1] - edges[0], math.log1p(max(counts, default=0)) or 1.0
    bar = WIDTH / len(counts)
    shapes = []
    for i, count in enumerate(counts):
        high = HEIGHT * math.log1p(count) / tallest
        shapes.append(
            f'<rect x="{i * bar:.1f}" y="{HEIGHT - high:.1f}" width="{bar - 1:.1f}" height="{high:.1f}">'
            f"<title>{edges[i]:g} to {edges[i + 1]:g}: {count}</title></rect>"
        )
    for bound in score["bounds"]:
        x = WIDTH * (bound["value"] - edges[0]) / span
        shapes.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT}"/>')
    # Numbers only: nothing in here needs escaping.
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(shapes)}</svg>')
