"""The evaluation as files: `evaluation.json`, one self-contained page, and an overview of the prior."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.evaluate.statistics import Figure

if TYPE_CHECKING:
    from PIL.Image import Image

SCHEMA_VERSION = 1
JSON_FILE, HTML_FILE, OVERVIEW_FILE = "evaluation.json", "evaluation.html", "overview.png"
TEMPLATE = Path(__file__).with_name("evaluation.html")


def evaluation_json(sections: Mapping[str, Mapping[str, Figure]], facts: Mapping[str, Any]) -> bytes:
    """Every figure with its interval and n, under the section it belongs to."""
    data = {
        "schema_version": SCHEMA_VERSION,
        "level": 0.95,
        **facts,
        "sections": {
            name: {key: figure.to_json() for key, figure in figures.items()}
            for name, figures in sections.items()
        },
    }
    return (json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def flat(sections: Mapping[str, Mapping[str, Figure]]) -> dict[str, float]:
    """`section_figure` -> value, for the step's summary and thresholds."""
    return {
        f"{name}_{key}": figure.value for name, figures in sections.items() for key, figure in figures.items()
    }


def evaluation_html(
    sections: Mapping[str, Mapping[str, Figure]],
    pictures: Mapping[str, bytes],
    facts: Mapping[str, Any],
    attribution: str,
) -> bytes:
    """One page that needs nothing beside it: pictures (PNG bytes by file name) are inside."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(TEMPLATE.read_text()).render(
        sections=sections,
        pictures={name: base64.b64encode(data).decode() for name, data in pictures.items()},
        facts=facts,
        attribution=attribution,
    )
    return page.encode()


def overview(figures: Mapping[str, Figure], prefix: str, title: str) -> bytes:
    """PNG of the figures named `prefix`..., differences left out: values and 95 % intervals, best on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    chosen = {
        name.removeprefix(prefix): figure
        for name, figure in figures.items()
        if name.startswith(prefix) and "_minus_" not in name
    }
    order = sorted(chosen, key=lambda name: chosen[name].value)
    canvas = Canvas(figsize=(7, 0.4 * len(order) + 1.2), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    values = [chosen[name].value for name in order]
    errors = [
        [chosen[name].value - chosen[name].low for name in order],
        [chosen[name].high - chosen[name].value for name in order],
    ]
    axes.errorbar(values, range(len(order)), xerr=errors, fmt="o", capsize=3)
    axes.set_yticks(range(len(order)), [name.replace("_", " ") for name in order])
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    buffer = io.BytesIO()
    # Without the version of the library in it: equal figures, equal bytes.
    canvas.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def png_bytes(picture: Image) -> bytes:
    """PNG without text or time, so that equal pictures are equal bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
