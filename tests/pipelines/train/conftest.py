"""The fixtures of training, which `tests/faults` shares."""

from tests.pipelines.train.fixtures import ar_prior_job, prior_job, tiny, upsampler_job

__all__ = ["ar_prior_job", "prior_job", "tiny", "upsampler_job"]
