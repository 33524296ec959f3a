"""Byte-pair tokens of captions."""

from __future__ import annotations

import open_clip
import pytest

from pipelines.train.tokens import CLIP_VOCAB_SIZE, tokenize_captions, tokenize_prompts

CAPTIONS = ["a red heart", "Côte d’Ivoire flag", "man: curly hair, 2 x 3", ""]


def test_the_full_vocabulary_is_clips() -> None:
    theirs = open_clip.get_tokenizer("ViT-B-32")(CAPTIONS).numpy()
    ours = tokenize_captions(CAPTIONS, context=77)
    assert (ours.ids == theirs).all()
    assert (ours.mask == (theirs != 0)).all()


@pytest.mark.parametrize("vocab_size", [514, 600, 4096])
def test_a_smaller_vocabulary_spells_the_same_text_in_smaller_pieces(vocab_size: int) -> None:
    whole = tokenize_captions(CAPTIONS, 77)
    pieces = tokenize_captions(CAPTIONS, 77, vocab_size)
    assert pieces.ids.max() == vocab_size - 1
    assert (pieces.mask.sum(1) >= whole.mask.sum(1)).all()
    # Merges that exist in both lists have the same ids: single letters always do.
    assert tokenize_captions(["a"], 3, vocab_size).ids[0, 1] == tokenize_captions(["a"], 3).ids[0, 1]


def test_a_long_caption_is_cut_and_counted_and_keeps_its_end() -> None:
    tokens = tokenize_captions(["one two three four five six", "one"], context=5)
    assert tokens.truncated == 1
    assert tokens.ids[0, -1] == CLIP_VOCAB_SIZE - 1
    assert tokens.mask.sum(1).tolist() == [5, 3]


def test_a_long_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reads 5 tokens, got 8 .* 'one two three four five six'"):
        tokenize_prompts(["one", "one two three four five six"], context=5)


def test_an_impossible_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="514"):
        tokenize_captions(["a"], 8, 100)
