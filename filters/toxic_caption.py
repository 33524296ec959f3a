"""Toxicity of captions: the BiLSTM of package ``toxic-comment-classifier`` (Jigsaw labels), rebuilt in torch.

The package itself needs TensorFlow and unpickles its tokenizer freely; here its two files are checked by
sha256, the weights are read with h5py, and the tokenizer with an unpickler that builds plain containers only.

Network, as trained: 100 word ids, padded in front with id 0 -> embedding 50 -> bidirectional LSTM 50 + 50 ->
maximum over time -> dense 50, ReLU -> dense 6, sigmoid.  Padding is not masked, so it is part of the input.
"""

import collections
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from filters.normalise import NORMALISE_VERSION, score_views
from filters.scorer import Samples, ScoreSpec
from filters.weights import package_file

LABELS = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
WEIGHTS_SHA256 = "03ed4c3f52be909821a8c3263de2dcd65b95908bfae6f569c9a9cec90538a4b3"
TOKENIZER_SHA256 = "d8e998211d68c5264b84c6eb6753f08897194038e0345e91a592f97cd38c125c"
WINDOW = 100
VOCABULARY = 20_000
WIDTH = 50

# Every forward pass has this many rows: BLAS picks its kernel by shape, and a caption's score must not
# depend on the batch it arrives in.  Few, because a pass that is not full costs as much as a full one.
ROWS_PER_PASS = 32


class ToxicCaption:
    """Six probabilities, ``toxic_<label>``, each the maximum over the caption's views and 100-word windows.

    Windows are a deviation: the package keeps the last 100 words only; anything said before is unseen.
    """

    name = "toxic_caption"
    version = 1
    needs = frozenset({"captions"})
    specs = tuple(
        ScoreSpec(
            name=f"toxic_{label}", low=0.0, high=1.0, worse="high", description=f"P({label}), Jigsaw label"
        )
        for label in LABELS
    )

    def __init__(self) -> None:
        distribution = "toxic-comment-classifier"
        weights = package_file(
            "toxic_classifier", "model/model.weights.h5", distribution, sha256=WEIGHTS_SHA256
        )
        vocabulary = package_file(
            "toxic_classifier", "model/tokenizer.pickle", distribution, sha256=TOKENIZER_SHA256
        )
        self.tokenizer = WordTokenizer.from_pickle(vocabulary)
        self.network = ToxicNetwork.from_h5(weights)

    def identity(self) -> dict[str, Any]:
        return {"weights": WEIGHTS_SHA256, "tokenizer": TOKENIZER_SHA256, "normalise": NORMALISE_VERSION}

    def score(self, samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
        assert samples.captions is not None, "checked_scores checks needs"
        probabilities = score_views(samples.captions, self.probabilities, len(LABELS))
        return {f"toxic_{label}": probabilities[:, i] for i, label in enumerate(LABELS)}

    def probabilities(self, texts: Sequence[str]) -> Float[np.ndarray, "n 6"]:
        """Probabilities of the texts as written, in the order of LABELS."""
        windows, owner = [], []
        for i, text in enumerate(texts):
            for window in _windows(self.tokenizer.ids(text)):
                windows.append(window)
                owner.append(i)
        result = np.zeros((len(texts), len(LABELS)), dtype=np.float32)
        np.maximum.at(result, np.array(owner, dtype=np.int64), self._run(windows))
        return result

    def _run(self, windows: list[list[int]]) -> Float[np.ndarray, "windows 6"]:
        total = -(-len(windows) // ROWS_PER_PASS) * ROWS_PER_PASS
        ids = np.zeros((total, WINDOW), dtype=np.int64)
        for row, window in zip(ids, windows, strict=False):
            row[WINDOW - len(window) :] = window
        with torch.inference_mode():
            passes = [self.network(part) for part in torch.from_numpy(ids).split(ROWS_PER_PASS)]
        return torch.cat(passes)[: len(windows)].numpy() if passes else np.zeros((0, len(LABELS)), np.float32)


def _windows(ids: list[int]) -> list[list[int]]:
    """The ids in windows of at most 100, half overlapping; without a known word, one empty window."""
    if len(ids) <= WINDOW:
        return [ids]
    starts = range(0, len(ids) - WINDOW // 2, WINDOW // 2)
    return [ids[start : start + WINDOW] for start in starts]


class ToxicNetwork(nn.Module):
    """The classifier's network; probabilities for rows of 100 word ids."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True, bidirectional=True)
        self.hidden = nn.Linear(2 * WIDTH, 50)
        self.output = nn.Linear(50, len(LABELS))

    def forward(self, ids: Int[Tensor, "rows 100"]) -> Float[Tensor, "rows 6"]:
        states, _ = self.lstm(self.embedding(ids))
        # The head runs in float64: in float32 its last bit depends on a row's place in the batch.
        pooled = states.amax(dim=1).double()
        hidden = torch.relu(linear(pooled, self.hidden.weight.double(), self.hidden.bias.double()))
        return torch.sigmoid(linear(hidden, self.output.weight.double(), self.output.bias.double())).float()

    @classmethod
    def from_h5(cls, path: Path) -> "ToxicNetwork":
        """Reads a Keras 3 weight file.  Keras and torch share the LSTM's gate order (i, f, g, o)."""
        import h5py

        network = cls()
        with h5py.File(path, "r") as file:

            def tensor(name: str) -> Tensor:
                return torch.from_numpy(np.asarray(file[f"layers/{name}"], dtype=np.float32))

            state = {"embedding.weight": tensor("embedding/vars/0")}
            for direction, suffix in (("forward", ""), ("backward", "_reverse")):
                cell = f"bidirectional/{direction}_layer/cell/vars"
                state[f"lstm.weight_ih_l0{suffix}"] = tensor(f"{cell}/0").T
                state[f"lstm.weight_hh_l0{suffix}"] = tensor(f"{cell}/1").T
                state[f"lstm.bias_ih_l0{suffix}"] = tensor(f"{cell}/2")
                # Keras has one bias where torch adds two.
                state[f"lstm.bias_hh_l0{suffix}"] = torch.zeros(4 * WIDTH)
            for ours, theirs in (("hidden", "dense"), ("output", "dense_1")):
                state[f"{ours}.weight"] = tensor(f"{theirs}/vars/0").T
                state[f"{ours}.bias"] = tensor(f"{theirs}/vars/1")
        network.load_state_dict(state)
        return network.eval()


class WordTokenizer:
    """Keras' legacy word tokenizer: lower case, split at separators, known words to ids."""

    def __init__(self, words: dict[str, int], separators: str) -> None:
        self._words = words
        self._table = str.maketrans(dict.fromkeys(separators, " "))

    def ids(self, text: str) -> list[int]:
        words = text.lower().translate(self._table).split(" ")
        return [self._words[word] for word in words if word in self._words]

    @classmethod
    def from_pickle(cls, path: Path) -> "WordTokenizer":
        """Reads the tokenizer's attributes without importing Keras or running any code of the file."""
        with path.open("rb") as file:
            attributes = vars(_ContainerUnpickler(file).load())
        known = {word: i for word, i in attributes["word_index"].items() if i < attributes["num_words"]}
        return cls(known, attributes["filters"])


class _Attributes:
    """Receives the pickled tokenizer's attributes; has no behaviour of its own."""


class _ContainerUnpickler(pickle.Unpickler):
    """Resolves the four names in the tokenizer's file to plain containers and refuses every other."""

    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("keras.src.legacy.preprocessing.text", "Tokenizer"): _Attributes,
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("collections", "defaultdict"): collections.defaultdict,
        ("builtins", "int"): int,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"refused {module}.{name}: only plain containers are read")
        return self._ALLOWED[module, name]
