"""Ray Train starts the workers: the one file that imports ray.train."""

from __future__ import annotations

import inspect
import logging
import os
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.execution.context import TrainContext

from cluster import places
from cluster.errors import RunError, UserError
from cluster.places import ObjectPath
from llm.settings import PretrainSettings
from llm.train.group import Group
from llm.train.worker import Job, work


def train_on_ray(job: Job, cpus_per_worker: int) -> None:
    """Run the job on its workers; a lost one restarts the group from the newest checkpoint.

    Ray must be initialised. RunError where the group failed more often than the settings allow.
    """
    settings = PretrainSettings.model_validate(job.pretrain)
    gpu = _use_gpu(settings)
    run = places.at(job.run)
    # Ray's own folder. For a run in an object store it is one of this machine: nothing of it is needed.
    storage = job.scratch if isinstance(run, ObjectPath) else run
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": vars(job), "cpus": cpus_per_worker},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=settings.workers, use_gpu=gpu, resources_per_worker=_resources(cpus_per_worker, gpu)
        ),
        run_config=RunConfig(
            name=storage.name,
            storage_path=str(storage.parent),
            failure_config=FailureConfig(max_failures=settings.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    # Ray keeps a list of the checkpoints that it was told of, and refuses to start where one of them was
    # swept. The storage is the truth, its list a copy that nothing needs.
    (storage / "checkpoint_manager_snapshot.json").unlink(missing_ok=True)
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise RunError(
            f"the workers failed more than pretrain.max_failures ({settings.max_failures}) times; "
            f"the last checkpoint is good and the same command continues. The last failure: {_cause(error)}"
        ) from error


def _use_gpu(settings: PretrainSettings) -> bool:
    """By what the cluster has, since the driver often stands on a node without a GPU."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if settings.device == "cuda" and gpus < settings.workers:
        raise UserError(
            f"pretrain.device is cuda and pretrain.workers {settings.workers}, the cluster has {gpus} GPUs: "
            "lower workers, or set device to cpu"
        )
    return settings.device == "cuda" or (settings.device == "auto" and gpus >= settings.workers)


def _resources(cpus: int, gpu: bool) -> dict[str, float]:
    return {"CPU": cpus, "GPU": 1} if gpu else {"CPU": cpus}


def _worker(config: dict[str, Any]) -> None:
    """Runs in each worker process, with torch.distributed initialised by Ray."""
    # It tells of every report, through a logger that it names after its file.
    logging.getLogger(inspect.getfile(TrainContext)).setLevel(logging.WARNING)
    context = ray.train.get_context()
    os.environ.setdefault("OMP_NUM_THREADS", str(config["cpus"]))
    torch.set_num_threads(config["cpus"])
    device = ray.train.torch.get_device()
    group = Group(context.get_world_rank(), context.get_world_size(), device)
    work(Job(**config["job"]), group, _report)


def _report(folder: str, metrics: dict[str, Any]) -> None:
    """Tell Ray Train of a checkpoint that lies in its place already: nothing is uploaded."""
    if places.is_remote(folder):  # its list would need a file system of its own
        return
    ray.train.report(
        metrics,
        checkpoint=Checkpoint(folder),
        checkpoint_dir_name=f"checkpoints/{Path(folder).name}",
        checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
    )


def _cause(error: BaseException) -> str:
    """The last line of the first worker's error."""
    failures = getattr(error, "worker_failures", None) or {}
    first = next(iter(failures.values()), error)
    return str(first).strip().splitlines()[-1] if str(first).strip() else type(first).__name__
