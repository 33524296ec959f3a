"""Scorers that need more than a batch: options, files, prompts, other scores, one certain encoder."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from filters.one_pass import score_in_one_pass
from filters.pair_context import PairContext
from filters.policy import Policy
from filters.registry import load_scorer
from filters.scorer import Samples
from filters.zero_shot_concepts import ZeroShotConcepts
from infra.journal import Journal
from pipelines.annotate.annotator import Annotator
from pipelines.annotate.config import AnnotateConfig
from pipelines.annotate.step import Annotate
from pipelines.encoders.lit import Lit
from pipelines.train_clip import Features, TrainClipConfig, fit_heads
from tests.filters.released import needs_released_weights
from tests.tiny import emoji_images
from workflows.recipe import load_recipe

CONCEPTS = """
schema_version: 1
logit_scale: 14
neutral: [an animal, a flag, a clock, food, a building, a letter, a ball, the beach, furniture]
concepts:
  bath: {prompts: [a shower, a bathtub, a bathroom], threshold: 0.9}
  bed: {prompts: [a bed, a bedroom], threshold: 0.9}
  underwear: {prompts: [underwear, lingerie], threshold: 0.9}
  face: {prompts: [a face, a smiling face], threshold: 0.9}
"""
NAMED = ("shower", "bathtub", "bed", "briefs", "beach with umbrella", "soccer ball", "one-piece swimsuit")
HELD_OUT = "one-piece swimsuit"


def annotate_config(**config: object) -> AnnotateConfig:
    return AnnotateConfig.model_validate({"corpus": "c", "scorers": (), **config})


class Drawings:
    """Every eighth emoji and the named ones, with heads of `lit` fitted on four fifths of the former."""

    def __init__(self, folder: Path) -> None:
        pairs = {caption: image for image, caption in emoji_images(10_000)}
        self.captions = [*NAMED, *sorted(set(list(pairs)[::8]) - set(NAMED))]
        self.images = [np.asarray(Image.open(io.BytesIO(pairs[caption]))) for caption in self.captions]
        self.held_out = np.arange(len(self.captions)) % 5 == 3
        self.held_out[: len(NAMED)] = [name == HELD_OUT for name in NAMED]
        self._encoder = Lit()
        images, texts = self._encoder.encode_images(self.images), self._encoder.encode_texts(self.captions)
        features = {
            split: Features(image=images[rows], text=texts[rows])
            for split, rows in (("train", ~self.held_out), ("validation", self.held_out))
        }
        config = TrainClipConfig(annotation="a", verdict="v", steps=40)
        self._heads, _ = fit_heads(features, config, Journal(folder / "journal.jsonl"))
        with torch.inference_mode():
            self.embeddings = self._heads.encode_image(torch.from_numpy(images)).numpy()

    def embed(self, texts: tuple[str, ...]) -> np.ndarray:
        with torch.inference_mode():
            return self._heads.encode_text(torch.from_numpy(self._encoder.encode_texts(texts))).numpy()

    def scored(
        self, concepts: Path, caption: str | None = None, names: tuple[str, ...] = ()
    ) -> dict[str, np.ndarray]:
        """Scores of the named drawings with one caption for all, or of all drawings with their own."""
        zero_shot = ZeroShotConcepts(concepts=concepts)
        zero_shot.use_prompts(self.embed(zero_shot.prompts))
        rows = len(NAMED) if caption else len(self.captions)
        samples = Samples(
            keys=self.captions[:rows],
            images=self.images[:rows],
            captions=[caption] * rows if caption else self.captions,
            image_embeddings=self.embeddings[:rows],
        )
        others = [load_scorer(name) for name in names]
        return score_in_one_pass([PairContext(), zero_shot, *others], samples)


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Drawings:
    return Drawings(tmp_path_factory.mktemp("heads"))


@pytest.fixture
def concepts(tmp_path: Path) -> Path:
    path = tmp_path / "concepts.yaml"
    path.write_text(CONCEPTS)
    return path


def test_a_prompt_finds_drawings_that_no_head_saw(drawings: Drawings, concepts: Path) -> None:
    scores = drawings.scored(concepts)["concept_face"][drawings.held_out]
    held_out = [c for c, held in zip(drawings.captions, drawings.held_out, strict=True) if held]
    faces = np.array(["face" in caption for caption in held_out])
    assert faces.sum() >= 3
    # The area under the ROC curve: a face outranks what is none in nine cases of ten.
    assert (scores[faces][:, None] > scores[~faces][None]).mean() > 0.9


def test_pairs_that_no_filter_of_one_half_sees(drawings: Drawings, concepts: Path) -> None:
    """A drawing of a shower with "a woman": the demo's policy keeps it, the pair's score is high.

    The shower is among the drawings that the heads were fitted on; the swimsuit is not.
    """
    halves = ("explicit_image", "image_geometry", "toxic_caption", "lexicon_caption", "caption_geometry")
    scores = drawings.scored(concepts, "a woman", halves)
    pair = dict(zip(NAMED, scores["explicit_context"].tolist(), strict=True))
    assert min(pair[name] for name in ("shower", "bathtub", "bed", "briefs")) > 0.7
    assert pair[HELD_OUT] > 0.5
    assert max(pair[name] for name in ("beach with umbrella", "soccer ball")) < 0.3
    policy = Policy.from_file("filters/policies/demo.yaml")
    table = pa.table({"key": list(NAMED), **{name: scores[name] for name in policy.score_names()}})
    assert policy.decide(table)["keep"].to_pylist() == [True] * len(NAMED)
    tools = drawings.scored(concepts, "a plumber's tool")["explicit_context"]
    assert not tools.any()


def test_options_and_files_reach_the_scorers(tmp_path: Path) -> None:
    path = tmp_path / "concepts.yaml"
    path.write_text(CONCEPTS)
    config = annotate_config(
        scorers=("zero_shot_concepts", "caption_language"),
        scorer_options={"caption_language": {"languages": ["de", "en"]}},
        scorer_files={"zero_shot_concepts": {"concepts": str(path)}},
    )
    zero_shot, language = Annotator(config).scorers
    assert "concept_face" in [spec.name for spec in zero_shot.specs]
    assert [spec.name for spec in language.specs] == ["language_de", "language_en"]


def test_a_file_counts_by_its_content(tmp_path: Path) -> None:
    step, identities = Annotate(), []
    for name, text in (("a", CONCEPTS), ("b", CONCEPTS), ("c", CONCEPTS.replace("0.9", "0.8"))):
        (tmp_path / name).write_text(text)
        files = {"zero_shot_concepts": {"concepts": str(tmp_path / name)}}
        config = annotate_config(scorers=("zero_shot_concepts",), scorer_files=files)
        identities.append(step.identity(config))
    assert identities[0] == identities[1] != identities[2]


def test_files_are_found_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(CONCEPTS)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "schema_version: 1\nname: r\nsteps:\n"
        "  shards: {kind: adopt, folder: /nowhere}\n"
        "  annotate:\n    kind: annotate\n    corpus: ${steps.shards}\n    scorers: [zero_shot_concepts]\n"
        "    scorer_files: {zero_shot_concepts: {concepts: mine.yaml}}\n"
    )
    config = next(node.config for node in load_recipe(recipe).nodes if node.name == "annotate")
    assert isinstance(config, AnnotateConfig)
    assert config.scorer_files == {"zero_shot_concepts": {"concepts": str(tmp_path / "mine.yaml")}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"scorers": ("pair_context",)},
            "'pair_context' combines score 'concept_bath', which no other scorer",
        ),
        ({"scorers": ("zero_shot_concepts",)}, "'zero_shot_concepts' compares image with text embeddings"),
        (
            {"scorers": ("caption_language",), "scorer_options": {"caption_language": {"languages": ["xx"]}}},
            "caption_language: no language xx; known: af",
        ),
        (
            {"scorer_options": {"caption_language": {"languages": ["en"]}}},
            "scorer_options.caption_language: no such scorer in this step; its scorers are none",
        ),
        (
            {
                "scorers": ("zero_shot_concepts",),
                "scorer_files": {"zero_shot_concepts": {"concepts": "nowhere.yaml"}},
            },
            "file 'nowhere.yaml' not found",
        ),
    ],
)
def test_check_says_what_is_wrong(config: dict[str, object], message: str) -> None:
    assert message in Annotate().check(annotate_config(**config))[0]


@needs_released_weights
def test_a_head_of_another_encoder_is_refused_by_the_plan() -> None:
    (problem,) = Annotate().check(annotate_config(scorers=("clip_explicit",)))
    assert problem.startswith(
        "scorer 'clip_explicit' expected embeddings of open_clip:ViT-L-14-quickgelu/openai"
    )
    assert problem.endswith("got those of lit-towers")
    fits = annotate_config(scorers=("clip_explicit",), encoder="open_clip:ViT-L-14-quickgelu/openai")
    assert Annotate().check(fits) == []
