"""The BiLSTM in torch against a recomputation in numpy, and its hardened tokenizer."""

from __future__ import annotations

import collections
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from filters.scorer import Samples, checked_scores
from filters.toxic_caption import LABELS, WEIGHTS_SHA256, WINDOW, ToxicCaption, WordTokenizer
from filters.weights import WeightsError, package_file, verify_sha256

CAPTIONS = ["You are so dumb and stupid!", "a red house by the sea", "I will kill you"]


@pytest.fixture(scope="module")
def scorer() -> ToxicCaption:
    return ToxicCaption()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm(inputs: np.ndarray, kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Hidden states (time, units) of a Keras LSTM, gates in Keras' order: input, forget, cell, output."""
    hidden = cell = np.zeros(recurrent.shape[0])
    states = []
    for x in inputs:
        i, f, c, o = np.split(x @ kernel + hidden @ recurrent + bias, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(c)
        hidden = sigmoid(o) * np.tanh(cell)
        states.append(hidden)
    return np.array(states)


def reference(ids: list[int]) -> np.ndarray:
    """The package's network in float64, straight from its weight file."""
    path = package_file(
        "toxic_classifier", "model/model.weights.h5", "toxic-comment-classifier", sha256=WEIGHTS_SHA256
    )
    with h5py.File(path, "r") as file:

        def read(name: str) -> np.ndarray:
            return np.asarray(file[f"layers/{name}"], dtype=np.float64)

        embedded = read("embedding/vars/0")[[0] * (WINDOW - len(ids)) + ids]
        cells = {
            way: [read(f"bidirectional/{way}_layer/cell/vars/{i}") for i in range(3)]
            for way in ("forward", "backward")
        }
        ahead = lstm(embedded, *cells["forward"])
        back = lstm(embedded[::-1], *cells["backward"])
        pooled = np.concatenate([ahead, back], axis=1).max(axis=0)
        hidden = np.maximum(pooled @ read("dense/vars/0") + read("dense/vars/1"), 0)
        return sigmoid(hidden @ read("dense_1/vars/0") + read("dense_1/vars/1"))


@pytest.mark.parametrize("caption", CAPTIONS)
def test_network_equals_numpy(scorer: ToxicCaption, caption: str) -> None:
    expected = reference(scorer.tokenizer.ids(caption))
    np.testing.assert_allclose(scorer.probabilities([caption])[0], expected, atol=2e-6)


def test_figures_of_the_package_documentation(scorer: ToxicCaption) -> None:
    """Its README scores this sentence with the original Keras network."""
    published = [0.9889402985572815, 0.07256772369146347, 0.620429277420044]
    published += [0.01934845559298992, 0.8664075136184692, 0.04072948172688484]
    np.testing.assert_allclose(scorer.probabilities([CAPTIONS[0]])[0], published, atol=1e-6)


def test_score_does_not_depend_on_the_batch(scorer: ToxicCaption) -> None:
    many = [f"a photo of house number {i} by the sea" for i in range(150)]
    together = scorer.probabilities([*many, *CAPTIONS])[-3:]
    alone = np.concatenate([scorer.probabilities([caption]) for caption in CAPTIONS])
    assert np.array_equal(together, alone)


def test_long_caption_is_read_to_its_beginning(scorer: ToxicCaption) -> None:
    """The package keeps the last 100 words: an insult before them would go unseen."""
    long = CAPTIONS[0] + " the house by the sea" * 60
    toxic = LABELS.index("toxic")
    assert scorer.probabilities([long])[0, toxic] > 0.6
    assert reference(scorer.tokenizer.ids(long)[-WINDOW:])[toxic] < 0.3


def test_obfuscation_does_not_hide(scorer: ToxicCaption) -> None:
    captions = [
        "you are an idiot",
        "you are an 1d10t",
        "you are an i\u200bd\u200bi\u200bo\u200bt",
        "you are an і d і о t",
    ]
    samples = Samples(keys=[str(i) for i in range(4)], captions=captions)
    toxic = checked_scores(scorer, samples)["toxic_toxic"]
    assert (toxic >= toxic[0]).all()
    assert toxic[0] > 0.9


def test_unpickler_resolves_plain_containers_only(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.pickle"
    path.write_bytes(pickle.dumps(collections.Counter(a=1)))
    with pytest.raises(pickle.UnpicklingError, match=r"refused collections.Counter"):
        WordTokenizer.from_pickle(path)


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.weights.h5"
    path.write_bytes(b"not the weights")
    with pytest.raises(WeightsError, match=f"sha256 is .*, expected {WEIGHTS_SHA256}"):
        verify_sha256(path, WEIGHTS_SHA256)
    with pytest.raises(WeightsError, match="'no_such_package' is not installed; install 'no-such'"):
        package_file("no_such_package", "weights", "no-such", sha256=None)
