"""The fixtures of training, which `tests/faults` shares."""

from tests.pipelines.train.fixtures import prior_job, tiny, upsampler_job

__all__ = ["prior_job", "tiny", "upsampler_job"]
