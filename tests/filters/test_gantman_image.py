"""GantMan's classes in an environment of their own: what is refused here, and, by `soak`, the whole way.

The environment takes a gigabyte and its first building needs a package index: the test that builds it is
`soak`.  It makes a small random network; where UNCLIP_GANTMAN_WEIGHTS names a published .h5 file, that too.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from filters.registry import load_scorer
from filters.scorer import Samples
from filters.weights import WeightsError, sha256_of
from infra import environment
from infra.environment import EnvironmentFailedError, environment_digest, environment_python
from pipelines.annotate.check import scorer_problems
from pipelines.annotate.config import AnnotateConfig
from pipelines.annotate.step import Annotate

PUBLISHED = "UNCLIP_GANTMAN_WEIGHTS"
CLASSES = ["drawings", "hentai", "neutral", "porn", "sexy"]
SMALL_NETWORK = """
import sys
from tensorflow import keras
keras.utils.set_random_seed(0)
layers = keras.layers
network = keras.Sequential([
    layers.Input((224, 224, 3)), layers.Conv2D(8, 7, 16), layers.Flatten(), layers.Dense(5, "softmax")
])
network.save(sys.argv[1], include_optimizer=False)
"""
DIRECT = """
import json, sys
from nsfw_detector import predict
model = predict.load_model(sys.argv[1])
found = [predict.classify(model, path, model.input_shape[1])[path] for path in sys.argv[2:]]
print(json.dumps(found))
"""


def network_file(path: Path, layer: str) -> Path:
    """A file as Keras writes it, as far as it is read here: the network's layers and no weights."""
    config = {"class_name": "Functional", "config": {"layers": [{"class_name": layer, "config": {}}]}}
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config).replace("Lambda", "\\u004cambda")
    return path


def config_of(weights: Path, sha256: str) -> AnnotateConfig:
    return AnnotateConfig(
        corpus="c",
        scorers=("gantman_image",),
        scorer_files={"gantman_image": {"weights": str(weights)}},
        scorer_options={"gantman_image": {"sha256": sha256}},
    )


@pytest.mark.parametrize("layer", ["Lambda", "TFOpLambda", "KerasLayer"])
def test_a_file_that_holds_code_is_refused(tmp_path: Path, layer: str) -> None:
    path = network_file(tmp_path / "network.h5", layer)
    with pytest.raises(WeightsError, match=rf"holds layers of code or from elsewhere \({layer}\)"):
        load_scorer("gantman_image", weights=path, sha256=sha256_of(path))


def test_weights_are_by_path_and_digest(tmp_path: Path) -> None:
    path = network_file(tmp_path / "network.h5", "Dense")
    for weights, sha256 in ((path, None), (None, "0" * 64), (tmp_path / "none.h5", "0" * 64)):
        with pytest.raises(WeightsError, match=r"expected scorer_files.*GantMan/nsfw_model"):
            load_scorer("gantman_image", weights=weights, sha256=sha256)
    with pytest.raises(WeightsError, match=r"sha256 is .* expected 0000"):
        load_scorer("gantman_image", weights=path, sha256="0" * 64)
    with h5py.File(path, "w"):
        pass
    with pytest.raises(WeightsError, match="no whole network"):
        load_scorer("gantman_image", weights=path, sha256=sha256_of(path))


def test_outside_of_its_environment_it_says_where_it_runs(tmp_path: Path) -> None:
    path = network_file(tmp_path / "network.h5", "Dense")
    scorer = load_scorer("gantman_image", weights=path, sha256=sha256_of(path))
    with pytest.raises(WeightsError, match="in an environment of its own, 'gantman'"):
        scorer.score(Samples(keys=["0"], images=[np.zeros((8, 8, 3), np.uint8)]))


def test_plan_says_that_uv_is_missing_and_the_lock_is_in_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = network_file(tmp_path / "network.h5", "Dense")
    config = config_of(path, sha256_of(path))
    assert scorer_problems(config, None) == []
    identity = Annotate().identity(config)["scorers"]["gantman_image"]
    lock = Path(environment.__file__).parent / "environments" / "gantman.lock"
    assert identity["environment"] == hashlib.sha256(lock.read_bytes()).hexdigest()
    monkeypatch.setenv(environment.HOME, str(tmp_path))
    monkeypatch.setattr(environment.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (problem,) = scorer_problems(config, None)
    assert "scorer 'gantman_image': environment 'gantman' is built with uv, which is not installed" in problem


def test_an_environment_that_cannot_be_built_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "wrong.lock").write_text("six==1.17.0 --hash=sha256:" + 64 * "0" + "\n")
    monkeypatch.setattr(environment, "LOCKS", tmp_path / "locks")
    monkeypatch.setenv(environment.HOME, str(tmp_path / "built"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(EnvironmentFailedError, match=r"uv pip install .* ended with 1"):
        environment_python("wrong")
    assert [path.name for path in (tmp_path / "built").iterdir()] == [".lock"]


def test_the_lock_has_our_ray() -> None:
    root = Path(environment.__file__).parent.parent
    ours, theirs = (
        [line for line in (root / name).read_text().splitlines() if line.startswith("ray==")]
        for name in ("requirements.lock", "infra/environments/gantman.lock")
    )
    assert ours == theirs
    assert len(environment_digest("gantman")) == 64


@pytest.mark.soak
def test_scores_through_ray_equal_the_package_called_directly(tmp_path: Path) -> None:
    import ray
    from sklearn.datasets import load_sample_images

    from infra.ray_session import ensure_ray
    from pipelines.annotate.apart import VARIABLES, Apart

    variables = os.environ | VARIABLES
    python = environment_python("gantman")

    def there(script: str, *arguments: Path | str) -> str:
        command = [str(python), "-c", script, *map(str, arguments)]
        return subprocess.run(command, env=variables, check=True, capture_output=True, text=True).stdout

    china, flower = load_sample_images().images
    images = [china, flower, china[:300, :100]]
    paths = [tmp_path / f"{i}.png" for i in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image).save(path)
    networks = [tmp_path / "small.h5", *([Path(os.environ[PUBLISHED])] if PUBLISHED in os.environ else [])]
    there(SMALL_NETWORK, networks[0])
    ensure_ray()
    for network in networks:
        scorer = config_of(network, sha256_of(network)).load_scorer("gantman_image")
        apart = Apart(scorer, "gantman")
        scores = apart.score(Samples(keys=["0", "1", "2"], images=images))
        direct = json.loads(there(DIRECT, network, *paths).splitlines()[-1])
        for name in CLASSES:
            expected = np.array([found[name] for found in direct], np.float32)
            assert np.array_equal(scores[f"gantman_{name}"], expected), name
        total = sum(scores.values())
        assert np.allclose(total, 1, atol=1e-6)
        if network != networks[0]:
            assert (scores["gantman_neutral"] > 0.9).all(), "photographs of a temple and a flower"
        ray.kill(apart._actor)
