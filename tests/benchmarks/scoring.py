"""Scoring on one core: each scorer alone, and all of them fused in one pass against one after another.

    python -m tests.benchmarks.scoring --json [--images 330] [--size 256]

One after another is what separate programs do: each reads the shard, decodes and embeds for itself, as far as
it needs to; one of them looks for duplicates.  Embeddings are of `lit`'s image tower; `zero_shot_concepts`
compares them with random vectors of the same width, which cost what prompts cost.  Heads fitted on CLIP
embeddings are timed on random ones of their width, where UNCLIP_WEIGHTS names their weights.  Loading models
is apart.  Seconds are CPU seconds: other work on the machine counts little, waiting for the disk not at all.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from filters.duplicates import fingerprints
from filters.fitted_on import FittedOn
from filters.one_pass import score_in_one_pass
from filters.registry import load_scorer
from filters.scorer import ReadsPrompts, Samples, Scorer, checked_scores
from filters.weights import WEIGHTS_FOLDER
from infra.store import Artifact
from pipelines.annotate.chunks import DecodedChunk, decode, decode_chunk, index_shard, read_member
from pipelines.encoders.lit import IMAGE_WIDTH, Lit
from tests.benchmarks.result import print_result, spread
from tests.filters.emoji_names import emoji_names
from tests.tiny import tiny_corpus

CAPTION_SCORERS = ("caption_geometry", "caption_language", "lexicon_caption", "toxic_caption")
IMAGE_SCORERS = ("explicit_image", "image_geometry")
HEADS = ("clip_aesthetic", "clip_explicit", "clip_q16", "clip_violence")
REPEATS, CHUNK = 3, 32


def rates(samples: int, work: Callable[[], object]) -> dict[str, float]:
    """Samples per second of one core's time over REPEATS runs."""
    values = []
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        values.append(round(samples / max(time.process_time() - started, 1e-9), 1))
    return spread(values)


@dataclass(frozen=True)
class Shards:
    """A corpus read as a filter program reads it, chunk after chunk."""

    corpus: Artifact

    def chunks(self) -> Sequence[tuple[str, Any, int]]:
        """Shard, its entries, and the number of each chunk."""
        found = []
        for record in self.corpus.shards:
            entries = index_shard(self.corpus.path, record.name)
            found += [(record.name, entries, i) for i in range(-(-len(entries) // CHUNK))]
        return found

    def decoded(self, chunk: tuple[str, Any, int]) -> DecodedChunk:
        """As `annotate` decodes: with the fingerprints of the duplicate finder."""
        shard, entries, number = chunk
        return decode_chunk(self.corpus.path, shard, entries, number, CHUNK)

    def pictures(self, chunk: tuple[str, Any, int]) -> tuple[list[str], list[np.ndarray]]:
        """Keys and pixels, and nothing else."""
        shard, entries, number = chunk
        part = entries[number * CHUNK : (number + 1) * CHUNK]
        with (self.corpus.path / f"{shard}.tar").open("rb") as stream:
            images = [decode(read_member(stream, entry.image))[0] for entry in part]
        return [entry.key for entry in part], [image for image in images if image is not None]

    def captions(self) -> list[str]:
        """Captions alone: a text filter decodes no image."""
        found = []
        for record in self.corpus.shards:
            with (self.corpus.path / f"{record.name}.tar").open("rb") as stream:
                for entry in index_shard(self.corpus.path, record.name):
                    assert entry.caption is not None
                    stream.seek(entry.caption[0])
                    found.append(stream.read(entry.caption[1]).decode())
        return found


def ready(name: str) -> Scorer:
    scorer = load_scorer(name)
    if isinstance(scorer, ReadsPrompts):
        scorer.use_prompts(np.random.default_rng(0).standard_normal((len(scorer.prompts), IMAGE_WIDTH)))
    return scorer


def samples_of(chunk: DecodedChunk, encoder: Lit) -> Samples:
    images = [image for image in chunk.images if image is not None]
    vectors = encoder.encode_images(images)
    return Samples(keys=chunk.keys, images=images, captions=chunk.captions, image_embeddings=vectors)


def one_after_another(shards: Shards, scorers: dict[str, Scorer], encoder: Lit) -> None:
    """Every scorer reads the corpus for itself; the pair reads what `zero_shot_concepts` had stored."""
    stored: list[dict[str, np.ndarray]] = []
    for name in (*IMAGE_SCORERS, "zero_shot_concepts"):
        embeds = "image_embeddings" in scorers[name].needs
        for chunk in shards.chunks():
            keys, images = shards.pictures(chunk)
            vectors = encoder.encode_images(images) if embeds else None
            scores = checked_scores(
                scorers[name], Samples(keys=keys, images=images, image_embeddings=vectors)
            )
            if embeds:
                stored.append(scores)
    for chunk in shards.chunks():
        fingerprints(shards.pictures(chunk)[1])
    for name in CAPTION_SCORERS:
        captions = shards.captions()
        checked_scores(scorers[name], Samples(keys=captions, captions=captions))
    captions = shards.captions()
    concepts = {name: np.concatenate([part[name] for part in stored]) for name in stored[0]}
    checked_scores(scorers["pair_context"], Samples(keys=captions, captions=captions, scores=concepts))


def fused(shards: Shards, scorers: dict[str, Scorer], encoder: Lit) -> None:
    for chunk in shards.chunks():
        score_in_one_pass(list(scorers.values()), samples_of(shards.decoded(chunk), encoder))


def parts(shards: Shards, encoder: Lit) -> dict[str, float]:
    """Milliseconds a sample of what one after another does again, and of what both do once."""
    chunks = shards.chunks()
    images = [image for chunk in chunks for image in shards.pictures(chunk)[1]]
    network = load_scorer("explicit_image")
    samples = Samples(keys=[str(i) for i in range(len(images))], images=images)
    work: dict[str, Callable[[], object]] = {
        "read_and_decode": lambda: [shards.pictures(chunk) for chunk in chunks],
        "fingerprints": lambda: fingerprints(images),
        "embed": lambda: encoder.encode_images(images),
        "explicit_image": lambda: network.score(samples),
    }
    return {name: round(1000 / rates(len(images), call)["median"], 2) for name, call in work.items()}


def alone(names: list[str], images: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """Samples per second of each scorer by itself, inputs in memory."""
    rng, result = np.random.default_rng(0), {}
    captions = Samples(keys=names, captions=names)
    for name in CAPTION_SCORERS:
        scorer = ready(name)
        result[f"{name}_captions_per_second"] = rates(len(names), lambda s=scorer: s.score(captions))
    pictures = Samples(keys=[str(i) for i in range(len(images))], images=images)
    for name in IMAGE_SCORERS:
        scorer = ready(name)
        result[f"{name}_images_per_second"] = rates(len(images), lambda s=scorer: s.score(pictures))
    heads = HEADS if WEIGHTS_FOLDER in os.environ else ()
    for name in ("zero_shot_concepts", *heads):
        scorer = ready(name)
        width = scorer.encoder.width if isinstance(scorer, FittedOn) else IMAGE_WIDTH
        vectors = rng.standard_normal((20_000, width), dtype=np.float32)
        rows = Samples(keys=[str(i) for i in range(len(vectors))], image_embeddings=vectors)
        result[f"{name}_embeddings_per_second"] = rates(len(rows), lambda s=scorer, r=rows: s.score(r))
    pair = load_scorer("pair_context")
    concepts = {name: rng.random(len(names), dtype=np.float32) for name in pair.reads}
    both = Samples(keys=names, captions=names, scores=concepts)
    result["pair_context_captions_per_second"] = rates(len(names), lambda: pair.score(both))
    return result


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=330, help="in shards of 33, one of which is missing")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    parser.add_argument("--json", action="store_true", help="accepted for uniformity; the last line is JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        shards = Shards(tiny_corpus(Path(folder), arguments.images, arguments.size, shard_size=CHUNK + 1))
        names = [*IMAGE_SCORERS, "zero_shot_concepts", *CAPTION_SCORERS, "pair_context"]
        scorers, encoder = {name: ready(name) for name in names}, Lit()
        count = shards.corpus.rows.kept
        separate = rates(count, lambda: one_after_another(shards, scorers, encoder))
        together = rates(count, lambda: fused(shards, scorers, encoder))
        milliseconds = parts(shards, encoder)
        images = [image for chunk in shards.chunks() for image in shards.pictures(chunk)[1]]
    print_result(
        "scoring",
        ours={
            "fused_samples_per_second": together["median"],
            "pixels": arguments.size,
            "milliseconds_a_sample": milliseconds,
        },
        peers={"one_after_another_samples_per_second": separate["median"]},
        ratios={"fused_over_one_after_another": round(together["median"] / separate["median"], 2)},
        repeats=REPEATS,
        spread={"fused": together, "one_after_another": separate, **alone(emoji_names(), images)},
    )


if __name__ == "__main__":
    main()
