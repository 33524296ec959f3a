"""img2dataset is the reference for format and pixels: same members, columns and bytes, compared by key."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
resizer = pytest.importorskip("img2dataset.resizer")

from infra.origin import Origin, Site  # noqa: E402
from infra.store import Artifact  # noqa: E402
from pipelines.acquire.config import ImageConfig, ResizeMode  # noqa: E402
from pipelines.acquire.decode import process_image  # noqa: E402
from pipelines.demo.site import URLS_FILE  # noqa: E402
from tests.small_crawl import SHARD_SIZE, acquire, acquire_config, free_port, make_site  # noqa: E402

EQUAL_SETTINGS: dict[str, Any] = {
    "mode": "border",
    "size": 100,
    "only_if_bigger": False,
    "orientation": "as_stored",
    "min_side": 0,
    "max_aspect_ratio": 1000,
}


def bodies() -> dict[str, bytes]:
    """Encoded images of every layout of pixels that img2dataset handles, at odd sizes."""
    rng = np.random.default_rng(0)
    colour = np.kron(rng.integers(0, 256, (9, 13, 4), np.uint8), np.ones((11, 11, 1), np.uint8))
    found = {}
    for name, mode, image_format in (
        ("jpeg", "RGB", "JPEG"),
        ("grey jpeg", "L", "JPEG"),
        ("png", "RGB", "PNG"),
        ("alpha png", "RGBA", "PNG"),
        ("palette png", "P", "PNG"),
        ("alpha webp", "RGBA", "WEBP"),
        ("grey alpha png", "LA", "PNG"),
        ("cmyk jpeg", "CMYK", "JPEG"),
        ("gif", "P", "GIF"),
    ):
        buffer = io.BytesIO()
        Image.fromarray(colour).convert(mode).save(buffer, image_format)
        found[name] = buffer.getvalue()
    tall = io.BytesIO()
    Image.fromarray(colour).convert("RGB").rotate(90, expand=True).save(tall, "PNG")
    return found | {"tall": tall.getvalue()}


BODIES = bodies()


@pytest.mark.parametrize("kind", sorted(BODIES))
@pytest.mark.parametrize("mode", get_args(ResizeMode))
@pytest.mark.parametrize("size", [64, 99, 143, 200])
def test_every_resize_mode_gives_the_same_bytes(kind: str, mode: Any, size: int) -> None:
    for only_if_bigger in (False, True):
        for image_format, quality in (("jpg", 95), ("png", 6), ("webp", 80)):
            config = ImageConfig(
                mode=mode,
                size=size,
                only_if_bigger=only_if_bigger,
                format=image_format,
                quality=quality,
                orientation="as_stored",
            )
            theirs = resizer.Resizer(
                size, mode, only_if_bigger, encode_format=image_format, encode_quality=quality
            )
            expected = theirs(io.BytesIO(BODIES[kind]))
            ours = process_image(BODIES[kind], config)
            assert expected[5] is None
            assert (ours.width, ours.height, ours.original_width, ours.original_height) == expected[1:5]
            assert ours.data == expected[0]


def img2dataset(site: Artifact, folder: Path) -> None:
    """Run img2dataset on the site, in a process of its own (it takes over signals and standard output)."""
    settings = {
        "url_list": str(site.path / URLS_FILE),
        "output_folder": str(folder),
        "input_format": "parquet",
        "output_format": "webdataset",
        "caption_col": "caption",
        "save_additional_columns": ["licence"],
        "number_sample_per_shard": SHARD_SIZE,
        "image_size": EQUAL_SETTINGS["size"],
        "resize_mode": EQUAL_SETTINGS["mode"],
        "thread_count": 8,
        "timeout": 1,
    }
    code = (
        "import json, sys\nfrom img2dataset import download\n"
        "if __name__ == '__main__':\n    download(**json.loads(sys.argv[1]))\n"
    )
    script = folder.parent / "run_img2dataset.py"
    script.write_text(code)
    with Origin(Site.open(site.path)):
        subprocess.run(
            [sys.executable, str(script), json.dumps(settings)], check=True, capture_output=True, timeout=600
        )


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]


def by_key(path: Path) -> pa.Table:
    return pq.read_table(path).sort_by("key")


@pytest.mark.soak  # a minute; the bytes of every picture are compared above, our layout by tests/golden
def test_shards_are_img2datasets(tmp_path: Path) -> None:
    pytest.importorskip("exifread")
    port = free_port()
    site = make_site(tmp_path, port)
    config = acquire_config(port, **EQUAL_SETTINGS).model_copy(update={"extract_exif": True})
    ours = acquire(tmp_path, site, config).path
    theirs = tmp_path / "theirs"
    img2dataset(site, theirs)
    names = sorted(path.name for path in theirs.glob("*.tar"))
    assert names == sorted(path.name for path in ours.glob("*.tar"))
    for name in names:
        assert members(ours / name) == members(theirs / name)
        table = by_key(ours / name.replace("tar", "parquet"))
        reference = by_key(theirs / name.replace("tar", "parquet"))
        assert table.schema.equals(reference.schema)
        for mine, expected in zip(table.to_pylist(), reference.to_pylist(), strict=True):
            assert (mine["status"] == "success") == (expected["status"] == "success")
            if mine["status"] != "success":  # ours say more precisely what went wrong
                for row in (mine, expected):
                    row.update(status=None, error_message=None)
            assert mine == expected
