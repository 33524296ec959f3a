"""`unclip import`: networks that others trained, as ours.

What a source is, is read from its files:

    a folder with model_index.json    diffusers' unCLIP pipeline           -> a model folder
    a folder of .safetensors          Karlo's prior, decoder, upsampler and statistics, with `text_encoder/`
                                      and `tokenizer/` beside them         -> a model folder
    one .safetensors file             a U-Net or an upsampler under OpenAI's names, or GLIDE's
                                      text-conditional model               -> a stage's folder
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from models.config import (
    DecoderConfig,
    DiffusionConfig,
    PriorConfig,
    UnCLIPConfig,
    UNetConfig,
    UpsamplerConfig,
    tagged,
)
from models.sampling import CascadeSampling, StageSampling
from models.weights.names import Row, StateDictError, to_ours
from pipelines.interop.files import (
    PICKLES,
    InteropError,
    check_text_encoder,
    empty_folder,
    read_json,
    read_weights,
    refuse_pickle,
    write_json,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.cascade import UnCLIP

NetworkT = TypeVar("NetworkT", bound="nn.Module")
Rows = Callable[[Mapping[str, "Tensor"]], list[Row]]

KARLO_SAMPLING = CascadeSampling(
    prior=StageSampling(sampler="ddpm", steps=25, guidance=4.0),
    decoder=StageSampling(sampler="ddpm", steps=25, guidance=8.0),
    upsamplers=(StageSampling(sampler="ddpm", steps=7),),
    prior_candidates=1,
)
"""What diffusers' pipeline samples with unless told otherwise."""
KARLO_DIFFUSIONS = (
    DiffusionConfig(prediction="x0", variance="fixed_small", clip_range=10.0),
    DiffusionConfig(),
    DiffusionConfig(variance="fixed_small"),
)
"""Of prior, decoder and upsampler.  diffusers clamps the prior to 5 deviations, Karlo itself to 10."""


def import_weights(source: Path, out: Path, settings: Mapping[str, str] | None = None) -> Path:
    """Import `source` into the new folder `out`, and return it.

    settings: what the shapes of OpenAI's and Karlo's networks do not tell, such as `num_head_channels`.
    Raises `InteropError` for a source that is not recognised, incomplete, pickled, or does not fit.
    """
    given = dict(settings or {})
    if not source.exists():
        raise InteropError(f"{source} does not exist")
    with _told(source):
        if source.is_file():
            refuse_pickle(source)
            return _import_file(source, out, given)
        if (source / "model_index.json").is_file():
            config, load = _read_diffusers(source)
        else:
            config, load = _read_karlo(source, given)
        _no_more(given)
        check_text_encoder(source)
        model = config.build()
        load(model)
    return _write_model(model, source, out)


# ---- diffusers -----------------------------------------------------------------------------------------


def _read_diffusers(source: Path) -> tuple[UnCLIPConfig, Callable[[UnCLIP], None]]:
    from models.weights.diffusers_config import read_decoder, read_prior, read_scheduler, read_upsampler
    from models.weights.diffusers_names import decoder_rows, prior_rows, upsampler_rows
    from pipelines.interop.exports import NETWORKS, SCHEDULER_FILE, SCHEDULERS, WEIGHTS_FILE

    index = read_json(source / "model_index.json")
    if index.get("_class_name") != "UnCLIPPipeline":
        raise InteropError(
            f"{source}: expected diffusers' UnCLIPPipeline, got {index.get('_class_name')!r}; others are not "
            f"made of a prior, a decoder and an upsampler"
        )
    missing = [name for name in (*NETWORKS, *SCHEDULERS) if not (source / name).is_dir()]
    if missing:
        raise InteropError(f"{source}: {', '.join(missing)} missing from the pipeline's folder")
    values = {name: read_json(source / name / "config.json") for name in NETWORKS}
    processes = {name: read_json(source / name / SCHEDULER_FILE) for name in SCHEDULERS}
    states = {name: read_weights(source / name / WEIGHTS_FILE) for name in NETWORKS}
    prior = read_prior(values["prior"], f"{source}/prior")
    decoder = read_decoder(values["decoder"], values["text_proj"], prior.context, str(source))
    upsamplers = [
        read_upsampler(values[name], decoder.image_size, f"{source}/{name}") for name in NETWORKS[3:]
    ]
    if upsamplers[0] != upsamplers[1]:
        raise InteropError(f"{source}: super_res_first and super_res_last are configured differently")
    upsampler = upsamplers[0]
    if _equal(states["super_res_first"], states["super_res_last"]):
        upsampler = UpsamplerConfig.from_dict({**upsampler.to_dict(), "last_step_unet": False})
        del states["super_res_last"]
    config = _cascade(
        prior, decoder, upsampler, [read_scheduler(processes[n], f"{source}/{n}") for n in SCHEDULERS]
    )

    def load(model: UnCLIP) -> None:
        joined = {
            f"{name}.{key}": value
            for name in ("decoder", "text_proj", "super_res_first", "super_res_last")
            for key, value in states.get(name, {}).items()
        }
        super_res = {key: value for key, value in joined.items() if key.startswith("super_res_")}
        rest = {key: value for key, value in joined.items() if key not in super_res}
        assert model.prior is not None
        _fill(model.prior, prior_rows(prior), states["prior"], f"{source}/prior")
        _fill(model.decoder, decoder_rows(decoder), rest, f"{source}")
        _fill(model.upsamplers[0], upsampler_rows(upsampler), super_res, f"{source}")

    return config, load


# ---- Karlo ---------------------------------------------------------------------------------------------


def _read_karlo(source: Path, given: dict[str, str]) -> tuple[UnCLIPConfig, Callable[[UnCLIP], None]]:
    from models.weights import openai

    states = _karlo_states(source)
    size, large = _number(given, "image_size", 64), _number(given, "upsampled_size", 256)
    head = _number(given, "num_head_channels", 64)

    def where(part: str) -> str:
        return f"{source} ({part})"

    bare = {part: {k.partition(".")[2]: v for k, v in state.items()} for part, state in states.items()}
    first = {
        k.partition(".")[2]: v for k, v in states["upsampler"].items() if k.startswith("model_first_steps.")
    }
    heads = _number(given, "prior_heads") if "prior_heads" in given else None
    prior = openai.infer_karlo_prior(bare["prior"], where("prior"), heads=heads)
    decoder = openai.infer_karlo_decoder(
        bare["decoder"],
        where("decoder"),
        image_size=size,
        num_head_channels=head,
        context=prior.context,
    )
    upsampler = openai.infer_karlo_upsampler(first, where("upsampler"), image_size=large, low_res_size=size)
    config = _cascade(prior, decoder, upsampler, KARLO_DIFFUSIONS)

    def load(model: UnCLIP) -> None:
        assert model.prior is not None
        statistics = {f"stats.{k}": v.flatten() for k, v in states["statistics"].items()}
        parts: list[tuple[nn.Module, Rows, dict[str, Tensor], str]] = [
            (model.prior, openai.karlo_prior_rows, states["prior"] | statistics, "prior"),
            (model.decoder, lambda n: openai.karlo_decoder_rows(n, decoder), states["decoder"], "decoder"),
            (model.upsamplers[0], openai.karlo_upsampler_rows, states["upsampler"], "upsampler"),
        ]
        for network, rows, state, part in parts:
            _fill(network, rows(network.state_dict()), state, where(part))

    return config, load


def _karlo_states(source: Path) -> dict[str, dict[str, Tensor]]:
    """The four files, told apart by what is in them."""
    marks = {
        "prior": "model.prd_emb",
        "decoder": "model.cf_param",
        "upsampler": "model_first_steps.out.2.weight",
        "statistics": "clip_mean",
    }
    found: dict[str, dict[str, Tensor]] = {}
    for path in sorted(source.glob("*.safetensors")):
        state = read_weights(path)
        part = next((part for part, mark in marks.items() if mark in state), None)
        if part is None:
            raise InteropError(f"{path} is none of {', '.join(marks)} of Karlo's, nor of diffusers'")
        found[part] = state
    if missing := [part for part in marks if part not in found]:
        pickled = sorted(path.name for path in source.iterdir() if path.suffix in PICKLES)
        if pickled:
            refuse_pickle(source / pickled[0])
        raise InteropError(
            f"{source} is neither a pipeline of diffusers (model_index.json) nor Karlo's weights: "
            f"{', '.join(f'{part} ({marks[part]})' for part in missing)} missing"
        )
    return found


# ---- one network ---------------------------------------------------------------------------------------


def _import_file(source: Path, out: Path, given: dict[str, str]) -> Path:
    from models.weights import openai

    state = read_weights(source)
    if "input_blocks.0.0.weight" not in state:
        raise InteropError(
            f"{source}: input_blocks.0.0.weight missing; expected a U-Net under OpenAI's names. Pipelines of "
            f"diffusers and Karlo are imported by their folder"
        )
    settings = {name: _number(given, name) for name in ("image_size", "num_head_channels")}
    schedule = given.pop("schedule", None)
    config: DecoderConfig | UpsamplerConfig | UNetConfig
    rows: Rows
    if "token_embedding.weight" in state:
        heads = _number(given, "text_heads")
        config = openai.infer_glide(state, str(source), **settings, text_heads=heads)
        rows, unet = openai.glide_rows, config.unet
    elif state["input_blocks.0.0.weight"].shape[1] == 6:
        low_res_size = _number(given, "low_res_size")
        config = openai.infer_upsampler(state, str(source), **settings, low_res_size=low_res_size)
        rows, unet = openai.upsampler_rows, config.unet
    else:
        config = unet = openai.infer_unet(state, str(source), **settings)
        rows = openai.unet_rows
    _no_more(given)
    if schedule not in ("cosine", "linear"):
        raise InteropError(
            f"{source}: the noise schedule is not in the weights; give --set schedule=cosine or linear, got "
            f"{schedule!r}"
        )
    network = config.build()
    _fill(network, rows(network.state_dict()), state, str(source))
    variance = "learned_range" if unet.out_channels == 6 else "fixed_large"
    diffusion = DiffusionConfig.from_dict({"schedule": schedule, "variance": variance})
    empty_folder(out)
    _save(network, out)
    write_json(out / "config.json", {"network": tagged(config), "diffusion": diffusion.to_dict()})
    return out


def _save(network: nn.Module, out: Path) -> None:
    from safetensors.torch import save_file

    from pipelines.cascade_io import STAGE_WEIGHTS

    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, out / STAGE_WEIGHTS)


# ---- shared --------------------------------------------------------------------------------------------


def _cascade(
    prior: PriorConfig, decoder: DecoderConfig, upsampler: UpsamplerConfig, processes: Any
) -> UnCLIPConfig:
    return UnCLIPConfig(
        prior=prior,
        prior_diffusion=processes[0],
        decoder=decoder,
        decoder_diffusion=processes[1],
        upsamplers=(upsampler,),
        upsampler_diffusions=(processes[2],),
    )


def _fill(network: nn.Module, rows: list[Row], theirs: Mapping[str, Tensor], where: str) -> None:
    """Load `theirs` into the network, checked; a given null is all that may be left out."""
    state = network.state_dict()
    left = state.keys() - {row.ours for row in rows}
    assert all("null." in name for name in left), left
    state |= to_ours(rows, theirs, state, where)
    network.load_state_dict(state)


def _write_model(model: UnCLIP, source: Path, out: Path) -> Path:
    """The model's folder, with its text encoder and what that makes of the empty prompt."""
    import torch

    from models.prior import DiffusionPrior
    from models.text_features import TextFeatures
    from pipelines.cascade_io import write_cascade
    from pipelines.encoders.clip_text import ClipText

    with _told(source):
        encoder = ClipText(source)
    features, mask = encoder.features([""])
    pooled = torch.from_numpy(encoder.encode_texts([""]))
    assert isinstance(model.decoder.text, TextFeatures) and isinstance(model.prior, DiffusionPrior)
    model.prior.set_null(features, mask, pooled)
    model.decoder.text.set_null(features, mask, pooled)
    write_cascade(
        empty_folder(out),
        model,
        sampling=KARLO_SAMPLING,
        encoder="clip_text",
        encoder_identity=encoder.identity,
        heads=None,
        text_encoder=source,
    )
    return out


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    import torch

    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _number(given: dict[str, str], name: str, default: int | None = None) -> int:
    text = given.pop(name, None)
    if text is None and default is not None:
        return default
    if text is None or not text.isdigit() or int(text) < 1:
        raise InteropError(f"the weights do not tell {name}; give --set {name}=N, got {text!r}")
    return int(text)


def _no_more(given: Mapping[str, str]) -> None:
    if given:
        raise InteropError(f"--set {', '.join(sorted(given))}: not a setting of this source")


@contextlib.contextmanager
def _told(source: Path) -> Iterator[None]:
    """What does not fit, or is no configuration, is a refusal of the source."""
    try:
        yield
    except StateDictError as error:
        raise InteropError(str(error)) from None
    except InteropError:
        raise
    except ValueError as error:
        raise InteropError(f"{source}: {error}") from error
