"""Scorers by name.  A new scorer is one file and one line here.

Classes are named, not imported: a run pays only for the libraries of the scorers that it uses.
"""

import difflib
import importlib
import inspect
from typing import Any

from filters.scorer import Scorer

SCORERS: dict[str, str] = {
    "caption_geometry": "filters.geometry:CaptionGeometry",
    "caption_language": "filters.caption_language:CaptionLanguage",
    "clip_aesthetic": "filters.clip_aesthetic:ClipAesthetic",
    "clip_explicit": "filters.clip_explicit:ClipExplicit",
    "clip_q16": "filters.clip_prompt_pair:ClipQ16",
    "clip_violence": "filters.clip_prompt_pair:ClipViolence",
    "embedding_classifier": "filters.embedding_classifier:EmbeddingClassifier",
    "embedding_similarity": "filters.embedding_similarity:EmbeddingSimilarity",
    "explicit_image": "filters.explicit_image:ExplicitImage",
    "gantman_image": "filters.gantman_image:GantManImage",
    "image_geometry": "filters.geometry:ImageGeometry",
    "lexicon_caption": "filters.lexicon_caption:LexiconCaption",
    "nudenet_image": "filters.nudenet_image:NudeNetImage",
    "pair_context": "filters.pair_context:PairContext",
    "toxic_caption": "filters.toxic_caption:ToxicCaption",
    "zero_shot_concepts": "filters.zero_shot_concepts:ZeroShotConcepts",
}


def load_scorer(name: str, **options: Any) -> Scorer:
    """A ready scorer; ``options`` go to its constructor.

    Raises ValueError for an unknown name or option, WeightsError when its files are missing or changed.
    """
    if name not in SCORERS:
        raise ValueError(
            f"unknown scorer {name!r}; known: {', '.join(sorted(SCORERS))}{nearest(name, SCORERS)}"
        )
    module, _, attribute = SCORERS[name].partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    allowed = list(inspect.signature(factory).parameters)
    for option in options:
        if option not in allowed:
            raise ValueError(
                f"scorer {name!r} has no option {option!r}; allowed: {', '.join(allowed) or 'none'}"
                f"{nearest(option, allowed)}"
            )
    scorer: Scorer = factory(**options)
    return scorer


def nearest(given: str, known: Any) -> str:
    """`` (did you mean 'x'?)`` for an error message, or nothing when no known name is close."""
    close = difflib.get_close_matches(given, sorted(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
