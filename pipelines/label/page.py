"""The labelling queue as one HTML page without external assets: blurred pictures, decisions as a CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.label.queue import Candidate


def render(category: str, candidates: Sequence[Candidate], pictures: Mapping[str, str]) -> str:
    """The page.  Captions come from strangers and are escaped; the script reads them nowhere.

    pictures: data URIs by key.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("label.html")
    return template.render(category=category, candidates=candidates, pictures=pictures)
