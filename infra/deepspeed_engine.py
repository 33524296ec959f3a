"""A data-parallel engine on DeepSpeed, ZeRO stages 0 to 3 (1910.02054), over torch's AdamW.

It offers what `pipelines.train.engine.Engine` asks for: whole fp32 parameters and Adam moments by name, so
that what is saved at one stage and number of ranks loads at any other, without DeepSpeed's own checkpoints
(which need a conversion for that, offline).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from infra.deepspeed_config import deepspeed_config, import_deepspeed

KEYS = ("exp_avg", "exp_avg_sq")


@final
class DeepSpeedEngine:
    """One rank's side; needs an initialised torch process group."""

    def __init__(
        self,
        network: nn.Module,
        optimiser: torch.optim.AdamW,
        *,
        zero_stage: int,
        micro_batch: int,
        micro_batches: int,
        clip_norm: float,
    ) -> None:
        deepspeed = import_deepspeed()
        self.zero_stage = zero_stage
        self._clip_norm = clip_norm
        self._named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        config = deepspeed_config(
            zero_stage=zero_stage, micro_batch=micro_batch, micro_batches=micro_batches, clip_norm=clip_norm
        )
        deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
        self._engine = deepspeed.initialize(model=network, optimizer=optimiser, config=config)[0]
        self._torch_optimiser = optimiser

    def network(self) -> nn.Module:
        return self._engine

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()  # counts the micro-batch, updates nothing

    def step(self, lr: float) -> float | Tensor:
        for group in self._torch_optimiser.param_groups:
            group["lr"] = lr
        if self.zero_stage == 0:
            parameters = [p for _, p in self._named]
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            if self._clip_norm:
                torch.nn.utils.clip_grads_with_norm_(parameters, self._clip_norm, norm)
            self._engine.step()
            return norm
        self._engine.step()
        return self._engine.get_global_grad_norm()

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        from deepspeed.utils import safe_get_full_fp32_param

        for name, parameter in self._named:
            # Below stage 3 every rank holds the whole fp32 parameter anyway.
            whole = safe_get_full_fp32_param(parameter) if self.zero_stage == 3 else parameter
            yield name, whole.detach()

    def moments(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        from deepspeed.utils import safe_get_full_optimizer_state

        for name, parameter in self._named:
            if self.zero_stage == 0:
                values = [self._torch_optimiser.state[parameter][key] for key in KEYS]
            else:
                values = [safe_get_full_optimizer_state(parameter, key) for key in KEYS]
            yield name, values[0], values[1]

    def load_moments(
        self, exp_avg: Mapping[str, Tensor], exp_avg_sq: Mapping[str, Tensor], updates: int
    ) -> None:
        for flat in self._flat_parameters():
            self._torch_optimiser.state[flat] = {
                "step": torch.tensor(float(updates)),
                **{key: torch.zeros_like(flat) for key in KEYS},
            }
        if self.zero_stage in (1, 2):
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()
        for name, parameter in self._named:
            for key, values in zip(KEYS, (exp_avg, exp_avg_sq), strict=True):
                self._set_moment(parameter, key, values[name].to(parameter.device))

    def _flat_parameters(self) -> list[Tensor]:
        """The tensors Adam really updates: this rank's flat partitions, or at stage 0 the parameters."""
        if self.zero_stage == 0:
            return [p for _, p in self._named]
        if self.zero_stage == 3:
            return list(self._engine.optimizer.fp32_partitioned_groups_flat)
        return list(self._engine.optimizer.single_partition_of_fp32_groups)

    def _set_moment(self, parameter: Any, key: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self.zero_stage == 0:
            self._torch_optimiser.state[parameter][key].copy_(value)
        elif self.zero_stage == 3:
            # The full-tensor setter fails where the last rank's partition is padded: cut it here.
            share = parameter.ds_tensor.numel()
            padded = torch.zeros(share * dist.get_world_size(), dtype=value.dtype, device=value.device)
            padded[: value.numel()] = value.flatten()
            rank = dist.get_rank()
            safe_set_local_optimizer_state(parameter, padded[rank * share : (rank + 1) * share], key)
        else:
            safe_set_full_optimizer_state(parameter, value, key)
