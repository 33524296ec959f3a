"""CLIP's byte-pair tokens of captions and prompts.

Ids are those of CLIP's tokenizer at its full vocabulary.  A smaller `vocab_size` keeps only the first (most
frequent) merges of the same list: any text still encodes, into more tokens, and small networks need no
embedding table of 49,408 rows, most of which a small corpus would never train.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int

if TYPE_CHECKING:
    from torch import Tensor

CLIP_VOCAB_SIZE = 49408
_BYTES, _SPECIALS = 512, 2
"""256 bytes, each also as the end of a word; start and end of text."""
MIN_VOCAB_SIZE = _BYTES + _SPECIALS


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedCaptions:
    """Token ids padded with 0, the mask that is True on tokens, and how many captions were cut."""

    ids: Int[np.ndarray, "n context"]
    mask: Bool[np.ndarray, "n context"]
    truncated: int


def tokenize_captions(
    captions: Sequence[str], context: int, vocab_size: int = CLIP_VOCAB_SIZE
) -> TokenizedCaptions:
    """Token ids of training captions.  One that is too long is cut, keeps its end-of-text token, and is
    counted."""
    encoded = [_encode(caption, vocab_size) for caption in captions]
    end = vocab_size - 1
    truncated = sum(len(tokens) > context for tokens in encoded)
    fitted = [tokens if len(tokens) <= context else [*tokens[: context - 1], end] for tokens in encoded]
    ids = np.zeros((len(captions), context), np.int64)
    mask = np.zeros((len(captions), context), bool)
    for row, tokens in enumerate(fitted):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = True
    return TokenizedCaptions(ids=ids, mask=mask, truncated=truncated)


def tokenize_prompts(
    prompts: Sequence[str], context: int, vocab_size: int = CLIP_VOCAB_SIZE
) -> tuple[Int[Tensor, "n context"], Bool[Tensor, "n context"]]:
    """Token ids and mask of prompts, as tensors.

    Raises `ValueError` on a prompt past the context: what a user asked for is not silently cut.
    """
    import torch

    for prompt in prompts:
        length = len(_encode(prompt, vocab_size))
        if length > context:
            raise ValueError(
                f"prompt too long: the model reads {context} tokens, got {length} (start and end included) "
                f"in {prompt!r}; shorten it"
            )
    tokens = tokenize_captions(prompts, context, vocab_size)
    return torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)


def _encode(text: str, vocab_size: int) -> list[int]:
    tokenizer = _tokenizer(vocab_size)
    ids: Iterable[int] = tokenizer.encode(text)
    return [vocab_size - 2, *ids, vocab_size - 1]


@lru_cache(maxsize=4)
def _tokenizer(vocab_size: int) -> Any:
    if not MIN_VOCAB_SIZE <= vocab_size <= CLIP_VOCAB_SIZE:
        raise ValueError(
            f"vocab_size: expected {MIN_VOCAB_SIZE} (bytes alone) to {CLIP_VOCAB_SIZE} (CLIP's), "
            f"got {vocab_size}"
        )
    tokenizer = _clip_tokenizer_class()()
    merges = list(tokenizer.bpe_ranks)[: vocab_size - MIN_VOCAB_SIZE]
    vocabulary = [*list(tokenizer.encoder)[: _BYTES + len(merges)], "<start_of_text>", "<end_of_text>"]
    tokenizer.bpe_ranks = {merge: rank for rank, merge in enumerate(merges)}
    tokenizer.encoder = {token: index for index, token in enumerate(vocabulary)}
    return tokenizer


@lru_cache(maxsize=1)
def _clip_tokenizer_class() -> Any:
    """`SimpleTokenizer` from its own file: importing the package around it costs 10 s of vision code."""
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("tokenizing captions needs open_clip: pip install open-clip-torch")
    path = Path(package.submodule_search_locations[0]) / "tokenizer.py"
    spec = importlib.util.spec_from_file_location("_open_clip_tokenizer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer
