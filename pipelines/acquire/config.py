"""Settings of the acquire step; names and defaults are img2dataset's wherever it has the setting."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipelines.step import Resources, StepConfig, file_beside_recipe, input_of

Interpolation = Literal["nearest", "linear", "bilinear", "cubic", "bicubic", "area", "lanczos", "lanczos4"]
ResizeMode = Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]

# Columns the corpus itself writes; an input column of this name would be overwritten.
WRITTEN_COLUMNS = ("key", "status", "error_message", "width", "height", "original_width", "original_height")
# What the column of expected digests is called on its way to a shard.
VERIFY_HASH = "verify_hash"
RESERVED_COLUMNS = frozenset({"url", "caption", "exif", "sha256", VERIFY_HASH, *WRITTEN_COLUMNS})


class Columns(StepConfig):
    """Names of the URL list's columns; `extra` columns travel on into the corpus unchanged.

    `types` of extra columns override what Parquet says and what is guessed from the beginning of text files.
    `verify_hash` is a column of expected digests (hex of either case; null or empty is not checked) and their
    algorithm, as in img2dataset; as there, the column itself travels on only if it is an extra one too.
    """

    url: str = "url"
    caption: str | None = "caption"
    extra: tuple[str, ...] = ()
    types: dict[str, Literal["string", "int64", "float64", "bool"]] = Field(default_factory=dict)
    verify_hash: tuple[str, Literal["md5", "sha256", "sha512"]] | None = None

    @field_validator("extra")
    @classmethod
    def _not_reserved(cls, extra: tuple[str, ...]) -> tuple[str, ...]:
        if taken := sorted(RESERVED_COLUMNS.intersection(extra)):
            raise ValueError(f"{taken} are written by acquire itself; leave them out of the extra columns")
        return extra

    @model_validator(mode="after")
    def _types_of_extra(self) -> Columns:
        if unknown := sorted(self.types.keys() - set(self.extra)):
            raise ValueError(f"types of {unknown} given, expected names among the extra columns {self.extra}")
        return self


class FetchConfig(StepConfig):
    """What may decide whether a URL is fetched.  Addresses are public unless listed in `allow_private`.

    A 429 or 503 that comes with `Retry-After` holds its host off for as long as it says, up to
    `retry_after_max_s`.  `robots_txt: honour` follows RFC 9309 for `user_agent_token`; a site whose
    Crawl-delay is longer than `max_crawl_delay_s` is left alone altogether.  `contact`, a URL or mail
    address, goes into the User-Agent: whoever reads a server's log can then ask.
    """

    total_timeout_s: float = Field(default=30.0, gt=0)
    idle_timeout_s: float = Field(default=10.0, gt=0)
    max_bytes: int = Field(default=32 * 2**20, gt=0)
    max_redirects: int = Field(default=5, ge=0)
    retries: int = Field(default=2, ge=0)
    backoff_s: float = Field(default=0.5, ge=0)
    retry_after_max_s: float = Field(default=30.0, ge=0)
    robots_txt: Literal["honour", "ignore"] = "honour"
    max_crawl_delay_s: float = Field(default=60.0, ge=0)
    user_agent: str = Field(default="unclip/0.1 (image-text corpus builder)", pattern=r"^[ -~]+$")
    user_agent_token: str = Field(default="unclip", pattern=r"^[A-Za-z_-]+$")
    contact: str | None = Field(default=None, pattern=r"^(https?://[!-~]+|[!-~]+@[!-~]+)$")
    disallowed_directives: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex")
    allow_private: tuple[str, ...] = ()

    @field_validator("allow_private")
    @classmethod
    def _networks(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        from infra.addresses import AddressPolicy

        AddressPolicy.of(entries)
        return entries


class ImageConfig(StepConfig):
    """How an image is checked, resized and encoded.

    `orientation: exif` turns the picture the way its camera meant it; `as_stored` is what img2dataset does.
    `max_pixels` (width * height) is checked against the header, before anything is decoded.  Quality is the
    compression level, 0 to 9, for PNG.

    `icc` says what becomes of an embedded colour profile: `drop` leaves it away, as img2dataset does;
    `convert_srgb` turns the colours into sRGB's; `keep` embeds it again where it fits the stored pixels.
    `fast_jpeg` decodes a JPEG at a half, quarter or eighth of its size where that is no smaller than what
    will be stored; its pixels differ a little (tests/pipelines/acquire/test_decode.py measures it).
    """

    size: int = Field(default=256, ge=1)
    mode: ResizeMode = "border"
    only_if_bigger: bool = False
    upscale_interpolation: Interpolation = "lanczos"
    downscale_interpolation: Interpolation = "area"
    format: Literal["jpg", "png", "webp"] = "jpg"
    quality: int = Field(default=95, ge=0, le=100)
    orientation: Literal["exif", "as_stored"] = "exif"
    icc: Literal["drop", "keep", "convert_srgb"] = "drop"
    fast_jpeg: bool = False
    min_side: int = Field(default=0, ge=0)
    # Pillow's own limit, twice MAX_IMAGE_PIXELS, stands above ours.
    max_pixels: int = Field(default=64_000_000, gt=0, le=178_956_970)
    max_aspect_ratio: float = Field(default=10.0, ge=1)

    @model_validator(mode="after")
    def _png_quality(self) -> ImageConfig:
        if self.format == "png" and self.quality > 9:
            raise ValueError(f"quality of png is its compression, expected 0 to 9, got {self.quality}")
        return self


class PerceptualLists(StepConfig):
    """Lists of 64-bit pHashes, and in how many bits a picture may differ from an entry and still be refused.

    The hash is of the picture as fetched, before it is turned or resized.
    """

    files: tuple[str, ...] = ()
    radius: int = Field(default=4, ge=0, le=15)


class BlockListFiles(StepConfig):
    """Files of what must never be fetched (`urls`, `domains`) or stored; formats: `filters.block_lists`."""

    urls: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    md5: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()
    phash: PerceptualLists = PerceptualLists()


class AcquireConfig(StepConfig):
    """Where the URLs are and what is kept of what they lead to.

    Give either `urls` (an artifact) or `url_list`: a file (.parquet, .csv, .tsv, .json, .jsonl or .txt, text
    also with .gz behind), a folder or glob of them, beside the recipe or elsewhere, or a URL such as s3://,
    or several of these.  With
    `serve` the site of that artifact is served on loopback while acquiring.

    A row whose URL (the exact string) stands further up in the list is not fetched again unless
    `duplicate_urls` says so; that row ends as `duplicate_url`, whatever became of the first.
    """

    urls: str | None = input_of("urls", optional=True)
    serve: str | None = input_of("urls", optional=True)
    url_list: str | tuple[str, ...] | None = file_beside_recipe(None)
    columns: Columns = Columns()
    duplicate_urls: Literal["skip", "fetch"] = "skip"
    # One row a shard would make img2dataset's keys ambiguous: they then have no digit for the row.
    shard_size: int = Field(default=10_000, ge=2)
    extract_exif: bool = False
    fetch: FetchConfig = FetchConfig()
    image: ImageConfig = ImageConfig()
    block_lists: BlockListFiles = BlockListFiles()


class AcquireResources(Resources):
    """`connections` and `window` (rows under way, which bounds memory) are per shard in flight.

    `per_host` requests at a time and `per_host_delay_s` between the starts of two hold for the whole run:
    each of `shards_in_flight` takes its part (`infra/http.py`, `Share`), and so it does of a Crawl-delay.

    A shard claims less than a whole core because it also waits: for slow hosts most of all.
    """

    shards_in_flight: int = Field(default=4, ge=1)
    cpus_per_shard: float = Field(default=0.5, gt=0)
    decode_threads: int = Field(default=1, ge=1)
    connections: int = Field(default=32, ge=1)
    per_host: int = Field(default=16, ge=1)
    per_host_delay_s: float = Field(default=0.0, ge=0)
    window: int = Field(default=512, ge=1)

    @model_validator(mode="after")
    def _whole_requests(self) -> AcquireResources:
        if self.per_host < self.shards_in_flight:
            raise ValueError(
                f"per_host {self.per_host} cannot be shared by {self.shards_in_flight} shards in flight: "
                f"expected shards_in_flight of at most {self.per_host}"
            )
        return self
