"""The DeepSpeed ZeRO engine: the one file that imports deepspeed.

Private names of DeepSpeed (verified on 0.19.8) are used to reach the partitions; each has a test.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# DeepSpeed compiles its shared-memory operator for CPUs with torch's extension builder. It is kept in the
# environment that it was built for: torch's own cache is shared by all of a user's environments.
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions"))
# One ninja for all processes: another version does not trust the first one's log and compiles anew.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ.get("PATH", "")])
os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # nothing here loads a pickle

import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
import torch.distributed as dist
from deepspeed.runtime.utils import combine_grad_norm_groups
from deepspeed.utils import safe_get_local_grad

from cluster.errors import RunError
from llm.deepspeed_config import zero_config
from llm.model.inputs import Inputs
from llm.train.engine import STATES, WEIGHT, Fragment
from llm.train.objective import Objective, What
from llm.train.optimizers import (
    Piece,
    Rate,
    create_states,
    full_rate,
    in_one_piece,
    make_optimizer,
    set_rate,
    set_updates,
    states_by_name,
)
from llm.training_settings import OffloadSettings, OptimizerSettings

logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
# A step is skipped where the trainer wants it, and told by the trainer. Optimizers are ours, and have tests.
QUIET = ("OVERFLOW! Skipping", "untested optimizer")
logging.getLogger("DeepSpeed").addFilter(lambda record: not any(w in record.getMessage() for w in QUIET))
# It prints at each start that its operator is built. (The attribute `deepspeed.comm.torch` is torch itself.)
vars(sys.modules["deepspeed.comm.torch"])["print"] = lambda *words: None
# DeepSpeed 0.19 calls collectives under names that torch 2.13 has renamed: nothing that a user can mend.
warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)


class ZeroEngine:
    """Engine (see engine.py) on DeepSpeed ZeRO (Rajbhandari et al. 2020), stages 0 to 3.

    Needs torch.distributed to be initialised. DeepSpeed takes the mean of gradients over workers, so each
    loss is scaled by their number: the contract is a sum over the batch's real tokens.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: OptimizerSettings,
        world: int,
        stage: int,
        micro_batch: int,
        accumulation: int,
        offload: OffloadSettings | None = None,
        overrides: Mapping[str, Any] | None = None,
        rate: Rate = full_rate,
    ) -> None:
        """`overrides`: keys of DeepSpeed's dict that replace ours (deepspeed_config.check_overrides)."""
        self.objective = objective
        self.world = world
        self.stage = stage
        self.partitioned = stage > 0
        self.clip = optimizer.clip
        self.loss_scale = 1.0
        # Names and shapes are taken before ZeRO 3 replaces the parameters' data.
        self.named = dict(objective.model.named_parameters())
        self.states = states_by_name(objective, optimizer)
        learning = sum(p.numel() for p in self.named.values() if p.requires_grad)
        self.config = zero_config(
            stage, micro_batch, accumulation, optimizer.clip, learning, offload, torch.cuda.is_available(),
            overrides,
        )  # fmt: skip
        self.engine, *_ = deepspeed.initialize(
            model=objective,
            optimizer=make_optimizer(
                objective, optimizer, in_one_piece if stage == 0 else self._pieces, rate
            ),
            config=self.config,
            dist_init_required=False,
        )
        self._create_states()
        self._take_over_norm()

    def accumulate(self, inputs: Inputs, scales: Tensor, last: bool) -> Tensor:
        self.engine.set_gradient_accumulation_boundary(last)
        sums: Tensor = self.engine(inputs)
        self.engine.backward((sums * (scales * (self.world * self.loss_scale))).sum(), scale_wrt_gas=False)
        if not last:
            self.engine.step()  # counts the micro-batch
        return sums.detach()

    def norm(self) -> float:
        if self.stage == 0:
            return torch.nn.utils.get_total_norm(self._whole_gradients()).item() / self.loss_scale
        self._norm = self._measure()
        whole = combine_grad_norm_groups(self._norm if self.stage == 3 else [self._norm])
        return whole.item() / self.loss_scale

    def step(self, lr: float) -> None:
        set_rate(self.engine.optimizer, lr)
        if self.stage == 0:
            if self.loss_scale != 1:
                torch._foreach_mul_(self._whole_gradients(), 1 / self.loss_scale)
            self.engine.step()
        else:
            self.engine.optimizer.loss_scale = self.loss_scale
            self.engine.step()
            self.engine.optimizer.loss_scale = 1.0  # its backward would scale the loss, too
        if not self.engine.was_step_applied():
            raise RunError("DeepSpeed has left out an update by itself: the weights are as before this step")

    def skip(self) -> None:
        if self.stage == 0:
            self.engine.zero_grad()
            self.engine.set_gradient_accumulation_boundary(False)
        else:  # its own way with a norm that is not finite: it clears what the stage keeps of the gradients
            infinite = torch.tensor(math.inf, device=self.engine.device)
            self._norm = [infinite] if self.stage == 3 else infinite
        self.engine.step()
        assert not self.engine.was_step_applied()

    def gradients(self) -> list[Fragment]:
        found = ((name, self._find_gradient(parameter)) for name, parameter in self.named.items())
        return [Fragment(name, "gradient", *part) for name, part in found if part is not None]

    @torch.no_grad()
    def forward(self, inputs: Inputs, what: What) -> Tensor:
        self.engine.eval()
        result: Tensor = self.engine(inputs, what)
        self.engine.train()
        return result

    def held(self) -> list[Fragment]:
        fragments = []
        for name, parameter in self.named.items():
            found = self._find(parameter)
            if found is not None:
                start, views = found
                fragments += [Fragment(name, state, start, view) for state, view in views.items()]
        return fragments

    def restored(self, updates: int) -> None:
        set_updates(self._torch_optimizer(), updates)
        zero = self.engine.optimizer
        if self.stage in (1, 2):
            zero.update_lp_params()
            for parameter in self.named.values():
                if not parameter.requires_grad:
                    self._gather_frozen(parameter)
        elif self.stage == 3:
            persistent = zero.persistent_parameters
            if persistent:
                persistent[0].partition(persistent)
            for i in range(len(zero.fp32_partitioned_groups_flat)):
                zero._reassign_or_swap_out_partitioned_parameters(i)
            if persistent:
                persistent[0].all_gather(persistent)

    def describe(self) -> dict[str, object]:
        return self.config

    def _torch_optimizer(self) -> torch.optim.Optimizer:
        return self.engine.optimizer.optimizer if self.partitioned else self.engine.optimizer

    def _whole_gradients(self) -> list[Tensor]:
        return [p.grad for p in self.named.values() if p.grad is not None]

    def _create_states(self) -> None:
        """Create the optimizer's states before the first step, so that `held` is complete from the start."""
        zero = self.engine.optimizer
        if self.stage == 0:
            create_states(zero, [group["params"] for group in zero.param_groups])
        elif self.stage in (1, 2):
            create_states(zero.optimizer, [[flat] for flat in zero.single_partition_of_fp32_groups])
            zero._lazy_init_hp_params_optimizer_state()
        else:
            flats: list[list[Tensor]] = [[] for _ in zero.optimizer.param_groups]
            for number, flat in enumerate(zero.fp32_partitioned_groups_flat):
                flats[zero.sub_group_to_group_id[number]].append(flat)
            create_states(zero.optimizer, flats)
        set_updates(self._torch_optimizer(), 0)

    def _pieces(self, flat: Tensor, values: Tensor) -> Iterable[Piece]:
        """Whole matrices of values [n] that stand as `flat`, this worker's part of some parameters, does."""
        zero, rank = self.engine.optimizer, dist.get_rank()
        here = values.to(self.engine.device)
        gathered = here.new_empty(self.world * here.numel())
        dist.all_gather_into_tensor(gathered, here)
        if self.stage == 3:
            (number,) = (i for i, other in enumerate(zero.fp32_partitioned_groups_flat) if other is flat)
            parts = gathered.view(self.world, -1)
            for parameter in zero.fp16_groups[number]:
                _, offset, padded = zero.grad_position[zero.get_param_id(parameter)]
                whole = parts[:, offset : offset + padded].reshape(-1)[: parameter.ds_numel]
                start = rank * padded
                length = min(padded, parameter.ds_numel - start)  # the last part is padded at its end
                if length > 0:
                    part = values.narrow(0, offset, length)
                    yield Piece(whole.view(parameter.ds_shape), part, start)
            return
        (number,) = (i for i, other in enumerate(zero.single_partition_of_fp32_groups) if other is flat)
        first, end = rank * values.numel(), (rank + 1) * values.numel()
        at = 0
        for parameter in zero.round_robin_bit16_groups[number]:
            low, high = max(at, first), min(at + parameter.numel(), end)
            if low < high:
                whole = gathered[at : at + parameter.numel()].view(parameter.shape)
                yield Piece(whole, values[low - first : high - first], low - at)
            at += parameter.numel()

    def _take_over_norm(self) -> None:
        """DeepSpeed measures the gradient's norm in its `step`; here that takes what `norm` has measured."""
        zero = self.engine.optimizer
        if self.stage in (1, 2):
            self._measure, zero.scaled_global_norm = zero.scaled_global_norm, lambda norm_type=2: self._norm
        elif self.stage == 3:
            self._measure, zero._get_norm_groups = zero._get_norm_groups, lambda: self._norm

    def _find_gradient(self, parameter: Any) -> tuple[int, Tensor] | None:
        """Where this worker's part of a parameter's gradient starts, and its values; None: no part."""
        if not parameter.requires_grad:
            return None
        if self.stage == 0:
            return None if parameter.grad is None else (0, parameter.grad.view(-1))
        found = self._find(parameter)
        if found is None:
            return None
        start, length = found[0], found[1]["weight"].numel()
        if self.stage == 3:
            return start, safe_get_local_grad(parameter).view(-1)[:length]
        values = parameter._hp_mapping.get_lp_grad_fragment(parameter._index_in_param_group).view(-1)
        # Some layouts keep the whole gradient on each worker; it owns but its own part of it.
        return start, values.narrow(0, start, length) if values.numel() == parameter.numel() else values

    def _find(self, parameter: Any) -> tuple[int, dict[str, Tensor]] | None:
        """Where this worker's part of a parameter starts, and live views on its states; None: no part."""
        zero = self.engine.optimizer
        if self.stage == 0:
            views = {WEIGHT: parameter.detach().view(-1)}
            kept = _kept(zero.state.get(parameter, {}))
            return 0, views | {name: values.view(-1) for name, values in kept}
        if not parameter.requires_grad:
            return self._find_frozen(parameter)
        if self.stage in (1, 2):
            mapping = parameter._hp_mapping
            if mapping is None:
                return None
            views = {WEIGHT: mapping.get_hp_fragment().detach()}
            views |= dict(_kept(mapping.optim_fragment or {}))
            return mapping.lp_fragment_address.start, views
        group, offset, padded = zero.grad_position[zero.get_param_id(parameter)]
        start = dist.get_rank() * padded
        length = min(padded, parameter.ds_numel - start)  # the last part is padded at its end
        if length <= 0:
            return None
        flat = zero.fp32_partitioned_groups_flat[group]
        whole = {WEIGHT: flat.detach()} | dict(_kept(zero.optimizer.state[flat]))
        return start, {state: values.narrow(0, offset, length) for state, values in whole.items()}

    def _find_frozen(self, parameter: Any) -> tuple[int, dict[str, Tensor]] | None:
        """This worker's share of a parameter that the optimizer does not know; all are of one length.

        Stage 3 has cut it up so, into `ds_tensor`; else every worker has all of it.
        """
        if self.stage == 3:
            numel, share = parameter.ds_numel, parameter.ds_tensor.ds_numel
        else:
            numel, share = parameter.numel(), -(-parameter.numel() // self.world)
        start = dist.get_rank() * share
        length = min(share, numel - start)
        if length <= 0:
            return None
        if self.stage == 3:
            return start, {WEIGHT: parameter.ds_tensor.detach().view(-1).narrow(0, 0, length)}
        return start, {WEIGHT: parameter.detach().view(-1).narrow(0, start, length)}

    def _gather_frozen(self, parameter: Tensor) -> None:
        """Put a frozen parameter together from the workers' shares of it, bit by bit."""
        whole = parameter.detach().view(-1)
        share = -(-whole.numel() // self.world)
        own, all_ = whole.new_zeros(share), whole.new_empty(self.world * share)
        part = whole[dist.get_rank() * share :][:share]
        own[: part.numel()] = part
        dist.all_gather_into_tensor(all_, own)
        whole.copy_(all_[: whole.numel()])


def _kept(state: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """What an optimizer keeps for each element, in the order of `STATES`."""
    return [(name, state[name]) for name in STATES if name in state]


def build_ops() -> bool:
    """Compile what DeepSpeed would otherwise compile at its first start; False where nothing is needed."""
    if torch.cuda.is_available():
        return False
    from deepspeed.comm.torch import build_shm_op

    return build_shm_op() is not None
