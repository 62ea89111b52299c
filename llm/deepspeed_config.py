"""DeepSpeed's dict: complete, and what of it an expert may replace. Pure values, without DeepSpeed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from llm.training_settings import OffloadSettings

BUCKET = 500_000_000
BUCKET_UNIT = 1024  # ZeRO 1 and 2 refuse one that is no multiple of 2

# What a setting of ours decides; to be changed there.
OWNED = {
    "train_batch_size": "pretrain.batch",
    "train_micro_batch_size_per_gpu": "pretrain.micro_batch",
    "gradient_accumulation_steps": "pretrain.batch, workers and micro_batch",
    "gradient_clipping": "pretrain.optimizer.clip",
    "optimizer": "pretrain.optimizer",
    "scheduler": "pretrain.schedule",
    "fp16": "pretrain.precision",
    "bf16": "pretrain.precision",
    "amp": "pretrain.precision",
    "torch_autocast": "pretrain.precision",
    "activation_checkpointing": "pretrain.activation_checkpointing",
    "compile": "pretrain.compile",
    "zero_optimization.stage": "pretrain.zero_stage",
    "zero_optimization.offload_optimizer": "pretrain.offload.optimizer",
    "zero_optimization.offload_param": "pretrain.offload.parameters",
    "checkpoint": "pretrain.checkpoint",
    "wandb": "pretrain.wandb",
    "seed": "pretrain.seed",
    "elasticity": "pretrain.workers: {min: .., max: ..}",
    "curriculum_learning": "pretrain.weights and length",
    "data_efficiency": "pretrain.weights and length",
}
# What the engine's arithmetic stands on.
FIXED = (
    "managed_gradient_accumulation", "gradient_allreduce_op", "prescale_gradients",
    "gradient_predivide_factor", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer",
    "steps_per_print", "data_types", "zero_optimization.load_from_fp32_weights",
)  # fmt: skip
# Stages at which a key of zero_optimization has an effect; at others DeepSpeed reads and forgets it.
STAGES = {
    "overlap_comm": (1, 2, 3),
    "reduce_scatter": (1, 2, 3),
    "contiguous_gradients": (1, 2, 3),
    "reduce_bucket_size": (1, 2, 3),
    "use_multi_rank_bucket_allreduce": (1, 2),
    "allgather_partitions": (1, 2),
    "allgather_bucket_size": (1, 2),
    "round_robin_gradients": (1, 2),
    "sub_group_size": (3,),
    "zero_hpz_partition_size": (3,),
    "zero_quantized_weights": (3,),
    "zero_quantized_gradients": (3,),
    "memory_efficient_linear": (3,),
    "stage3_prefetch_bucket_size": (3,),
    "stage3_param_persistence_threshold": (3,),
    "stage3_model_persistence_threshold": (3,),
    "stage3_max_live_parameters": (3,),
    "stage3_max_reuse_distance": (3,),
    "stage3_module_granularity_threshold": (3,),
    "stage3_use_all_reduce_for_fetch_params": (3,),
    "stage3_allgather_sequential": (3,),
    "stage3_gather_16bit_weights_on_model_save": (),
}


def zero_config(
    stage: int,
    micro_batch: int,
    accumulation: int,
    clip: float,
    parameters: int = BUCKET,
    offload: OffloadSettings | None = None,
    pinned: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The complete DeepSpeed dict: every key that we rely on, since defaults change between releases.

    Buckets are no larger than the model: DeepSpeed allocates a whole one (2 GB at its default) in each step.
    `pinned`: offloaded parts lie in page-locked memory, for GPUs. `overrides` replace what stands here.
    """
    bucket = min(BUCKET, -(-parameters // BUCKET_UNIT) * BUCKET_UNIT)
    offload = offload or OffloadSettings()
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "managed_gradient_accumulation": True,
        "gradient_clipping": clip,
        "gradient_allreduce_op": "mean",
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "communication_data_type": None,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
        "wall_clock_breakdown": False,
        "memory_breakdown": False,
        "dump_state": False,
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
        "torch_autocast": {"enabled": False},
        "data_types": {"grad_accum_dtype": "fp32"},
        "comms_logger": {"enabled": False, "verbose": False, "prof_all": True, "debug": False},
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": False,
            "reduce_scatter": True,
            "contiguous_gradients": True,
            "reduce_bucket_size": bucket,
            "use_multi_rank_bucket_allreduce": True,
            "allgather_partitions": True,
            "allgather_bucket_size": bucket,
            "round_robin_gradients": False,
            "sub_group_size": 1_000_000_000,
            "zero_hpz_partition_size": 1,
            "zero_quantized_weights": False,
            "zero_quantized_gradients": False,
            "memory_efficient_linear": True,
            "load_from_fp32_weights": True,
            "stage3_prefetch_bucket_size": 50_000_000,
            "stage3_param_persistence_threshold": 100_000,
            "stage3_model_persistence_threshold": 2**63 - 1,
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            "stage3_module_granularity_threshold": 0,
            "stage3_use_all_reduce_for_fetch_params": False,
            "stage3_allgather_sequential": False,
            "stage3_gather_16bit_weights_on_model_save": False,
            "offload_optimizer": {"device": offload.optimizer, "pin_memory": pinned, "ratio": 1.0},
            "offload_param": {"device": offload.parameters, "pin_memory": pinned},
        },
    }
    return _merged(config, overrides or {})


def check_overrides(overrides: Mapping[str, Any], stage: int) -> list[str]:
    """What is wrong with keys that shall replace ours at this ZeRO stage; a key without effect is wrong."""
    known = zero_config(stage, 1, 1, 0.0)
    return list(_problems(overrides, known, "", stage))


def _problems(given: Mapping[str, Any], known: Mapping[str, Any], above: str, stage: int) -> Iterator[str]:
    for key, value in given.items():
        name = f"{above}{key}"
        short = name.removeprefix("zero_optimization.")
        if name in OWNED:
            yield f"{name}: set {OWNED[name]} instead"
        elif name in FIXED:
            yield f"{name}: the engine stands on {known[key]!r} there"
        elif key not in known:
            near = difflib.get_close_matches(str(key), list(known), n=1, cutoff=0.5)
            hint = f"; did you mean '{above}{near[0]}'?" if near else ""
            yield f"{name}: DeepSpeed would ignore or refuse it here{hint}"
        elif short in STAGES and name != short and stage not in STAGES[short]:
            stages = ", ".join(map(str, STAGES[short])) or "none (Manta writes its own checkpoints)"
            yield f"{name}: DeepSpeed uses it at ZeRO stage {stages}, zero_stage is {stage}"
        elif isinstance(known[key], Mapping):
            if isinstance(value, Mapping):
                yield from _problems(value, known[key], f"{name}.", stage)
            else:
                yield f"{name}: must be a mapping of names to values, is {value!r}"
        elif not _is_like(value, known[key]):
            yield f"{name}: must be {_kind(known[key])}, is {value!r}"


def _is_like(value: Any, known: Any) -> bool:
    if known is None:
        return value is None or isinstance(value, str)
    if isinstance(known, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(known, bool)
    if isinstance(known, float):
        return isinstance(value, int | float)
    if isinstance(known, int):  # YAML reads 5e8 as text, and 5.0e+8 as a float
        return isinstance(value, int | float) and float(value).is_integer() and value >= 0
    return isinstance(value, type(known))


def _kind(known: Any) -> str:
    names = {bool: "true or false", int: "a whole number, at least 0", float: "a number", str: "text"}
    return names.get(type(known), "text, or nothing")


def _merged(config: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(config)
    for key, value in overrides.items():
        known = config[key]
        if isinstance(known, dict):
            result[key] = _merged(known, value)
        else:
            result[key] = int(value) if type(known) is int else value
    return result
