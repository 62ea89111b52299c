"""One worker of a run, from its job description to the end of training. Assembles; the loop decides."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cluster import places
from cluster.cache import Cache
from cluster.errors import RunError, UserError
from cluster.lease import Pass, Superseded
from cluster.places import PlaceError
from data_jobs import open_corpus
from llm.data.batches import micro_steps
from llm.data.loader import Loader
from llm.model import make_model
from llm.model.generation import generate_uncached
from llm.model.inputs import Inputs
from llm.model.sampling import Sampling
from llm.settings import ModelSettings, PretrainSettings
from llm.train.accounts import make_tracker, open_ledger
from llm.train.beside import keep_of, late_rows, read_beside
from llm.train.checkpoints.layout import RunState, folder_name
from llm.train.checkpoints.load import CheckpointReader, load_newest
from llm.train.checkpoints.retention import Beside
from llm.train.checkpoints.save import (
    CheckpointFailed,
    CheckpointSaver,
    committed_folders,
    sweep_torn,
)
from llm.train.compiling import compile_model
from llm.train.engine import Engine
from llm.train.group import Group
from llm.train.ledger import Ledger
from llm.train.loop import Parts, train
from llm.train.loss_scale import with_scale
from llm.train.mfu import measure_by
from llm.train.objective import Objective
from llm.train.out_of_memory import advice, is_out_of_memory
from llm.train.plain import PlainEngine
from llm.train.rewind import Rewinder, plan_of
from llm.train.run_folder import RunFolder, StopSign, environment
from llm.train.run_order import check_goes_on, even_micro_batch, make_rule, shared_order
from llm.train.selfcheck import bare_copy, check_gradients
from llm.train.start import fill_from
from llm.train.step_clock import StepClock
from llm.train.summary import write_summary
from llm.train.tracking import LineFile, MetricsFile, Tracker
from llm.train.validate import split_size, validate_corpus
from llm.train.validations import CHECKPOINT


@dataclass(frozen=True)
class Job:
    """What a run's workers are told; plain values, so that it travels as JSON. Paths are absolute."""

    model: dict[str, Any]
    pretrain: dict[str, Any]
    corpus: str
    vocab_size: int
    start: dict[str, str] | None
    """The model whose weights are the first, and their digest."""
    run: str
    run_id: str
    launch: str
    """Of this start of the command: tells its failures from those of earlier starts."""
    lease: dict[str, Any]
    """What asks whether this start still writes the run (cluster.lease.Pass)."""
    cache: tuple[str, int | None] = ("", None)
    """Folder on each machine for what is read from an object store, and most bytes in it."""
    began: float = field(default_factory=time.time)
    """When this start of the command did, in Unix seconds."""

    @property
    def scratch(self) -> Path:
        """Where the W&B folder of a run in an object store is, and Ray's: on each machine, not shared."""
        return Path(self.cache[0]) / "runs" / self.run_id


@dataclass(frozen=True)
class Worker:
    """What a worker's surroundings do for it; nothing, in a process of its own."""

    report: Callable[[str, dict[str, Any]], None] = lambda folder, metrics: None
    """Called by all when a checkpoint is there: its folder, and what it is of."""
    noticed: Callable[[], bool] = lambda: False
    """Whether this worker was told, since it was last asked, that its machine goes."""
    beat: Callable[[], None] = lambda: None
    """Called when something was finished. Too long after it, and the process is ended."""


def work(job: Job, group: Group, around: Worker) -> None:
    """Train as one of the workers.

    What must not be tried again (UserError, RunError) is written to the run folder, and a group that is
    started again for the same launch returns at once.
    """
    folder = RunFolder(places.at(job.run))
    if _failed_before(folder, job):
        return
    try:
        _train(job, folder, group, around)
    except (Superseded, CheckpointFailed, PlaceError):
        raise  # the folder is another's, or is away for now: then another try may find it
    except (UserError, RunError, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            words = advice(job.model, job.pretrain, job.vocab_size, group.world, group.device.type == "cuda")
            error = RunError(f"worker {group.rank}: {words}. torch says: {error}")
        elif not isinstance(error, UserError | RunError):
            raise
        kind = "user" if isinstance(error, UserError) else "run"
        places.write_json(folder.failure, {"launch": job.launch, "kind": kind, "message": str(error)})
        raise error from None


def _failed_before(folder: RunFolder, job: Job) -> bool:
    try:
        return bool(json.loads(folder.failure.read_bytes())["launch"] == job.launch)
    except (FileNotFoundError, ValueError, KeyError):
        return False


def _train(job: Job, folder: RunFolder, group: Group, around: Worker) -> None:
    model_settings = ModelSettings.model_validate(job.model)
    settings = PretrainSettings.model_validate(job.pretrain)
    make_deterministic(settings.deterministic)
    cache = Cache(*job.cache)
    corpus = open_corpus(job.corpus, "read", cache)
    corpus.bring(group.rank * len(corpus.shards) // group.world)
    corpus.check_when(settings.verify)
    rule = make_rule(corpus, model_settings, settings)
    order = shared_order(corpus, settings, rule, folder, group)
    micro_batch = even_micro_batch(settings.batch, group.world, settings.micro_batch)
    model = make_model(model_settings, job.vocab_size, settings.seed)
    if job.start is not None and not committed_folders(folder.checkpoints):
        fill_from(job.start, model, cache)
    model = model.to(group.device)
    objective = Objective(model, settings.precision, settings.z_loss)
    bare = bare_copy(objective)
    model.activation_checkpointing = settings.activation_checkpointing
    compile_model(objective, settings.compile)
    engine = make_engine(objective, settings, group, micro_batch)
    writer = Pass(**job.lease)
    if group.rank == 0:
        writer.check()
        sweep_torn(folder.checkpoints)
        places.write_json(folder.deepspeed, engine.describe())

    def check(reader: CheckpointReader) -> None:
        state = reader.state
        check_goes_on(reader, order, settings)
        plan = plan_of(settings, state.guard.left_out)
        if state.next_number != plan.next_number(state.step):
            raise RunError(
                f"{reader.folder}: stands at sample {state.next_number}, the batch schedule puts step "
                f"{state.step} at sample {plan.next_number(state.step)}"
            )

    state = load_newest(folder.checkpoints, engine, group, check) or RunState(0, 0, 0, job.run_id)
    state = with_scale(state, settings)
    plan = plan_of(settings, state.guard.left_out)
    attempt = group.new_attempt()
    record = {
        "model": job.model,
        "pretrain": job.pretrain,
        "versions": environment(),
        "corpus_id": corpus.corpus_id,
        "order": order.describe(),
        "batch_schedule": plan.schedule,
        "skips": plan.skips,
        "zero_stage": settings.zero_stage if settings.engine == "deepspeed" else None,
        "generation": writer.generation,
    }
    utilisation = measure_by(model_settings, job.vocab_size, settings, group)
    logs: list[LineFile] = []
    ledger: Ledger | None = None
    tracker = Tracker([])
    if group.rank == 0:
        # Before the lines of lost steps are dropped: the last of them says until when it was worked on.
        ledger = open_ledger(folder, job.launch, job.began, utilisation, writer)
        after = state.step if state.step else -1
        metrics = MetricsFile(folder.metrics, after, writer.check)
        logs = [metrics, LineFile(folder.samples, after, writer.check)]
        config = {"model": job.model, "pretrain": job.pretrain, "mfu": utilisation.describe()}
        tracker = make_tracker(folder, job.scratch, settings, state, config, metrics, ledger, around.beat)

    def send_logs() -> None:
        for log in logs:
            log.send()

    def before_commit() -> None:
        send_logs()
        writer.check()

    elsewhere = settings.validation.where == "workers"

    def beside() -> Beside:
        return read_beside(folder, settings)

    kept = keep_of(settings)
    saver = CheckpointSaver(
        folder.checkpoints, engine, group.rank, group.world, attempt, kept, record,
        before_commit, around.beat, beside,
    )  # fmt: skip
    stop_sign = StopSign(folder.stop, watch=group.rank == 0)
    tracked = group.rank == 0 and settings.wandb.mode != "disabled"
    late = late_rows(folder) if elsewhere and tracked else None

    def log_line(values: dict[str, Any]) -> None:
        tracker.log(values | {"attempt": attempt})
        tracker.log_late(late.take() if late else [])

    def validate(step: int, most: int | None) -> dict[str, Any]:
        if elsewhere and step > 0:  # the checkpoint of this step is validated; before the first there is none
            return {CHECKPOINT: folder_name(step, saver.attempt)} if split_size(corpus, "val")[0] else {}
        return validate_corpus(
            corpus, settings, rule, folder.plans, model, engine.forward, group, most, around.beat
        )

    def write_samples(step: int) -> None:
        tokenizer, wanted = corpus.tokenizer, settings.samples
        sampling = Sampling(
            tokens=wanted.tokens, seed=settings.seed, forbidden=tuple(tokenizer.specials.values())
        )
        for prompt in wanted.prompts:
            ids = [tokenizer.eos_id, *(int(i) for i in tokenizer.encode(prompt))]

            def forward(shown: torch.Tensor) -> torch.Tensor:
                return engine.forward(Inputs(shown.to(group.device)), "logits").cpu()

            new = list(generate_uncached(forward, ids, sampling, settings.length))
            around.beat()
            if group.rank == 0:
                logs[1].write({"step": step, "prompt": prompt, "text": prompt + tokenizer.decode(new)})

    def on_commit(step: int) -> None:
        around.report(str(folder.checkpoints / folder_name(step, saver.attempt)), {"step": step})

    def forget(step: int) -> None:
        tracker.go_back(step)
        logs[1].go_back(step)

    rewinder = Rewinder(settings, group, engine, saver, check, forget)
    loader = Loader(corpus, "train", order, plan, group.rank, group.world, micro_batch)
    parts = Parts(
        settings=settings,
        group=group,
        engine=engine,
        loader=loader,
        saver=saver,
        clock=StepClock(settings.length, group, loader, saver, utilisation, ledger),
        log=log_line,
        validate=validate,
        write_samples=write_samples,
        stop_wanted=stop_sign.is_there,
        noticed=around.noticed,
        beat=around.beat,
        on_commit=on_commit,
        rewind=rewinder if settings.guard.on_spike == "rewind" else lambda *_: None,
    )
    exit_code = 1
    try:
        around.beat()
        if settings.selfcheck and state.step < settings.steps:
            engine.loss_scale = state.loss_scale
            try:
                check_gradients(engine, bare, parts.loader.batch(state.step), group, settings)
            except torch.OutOfMemoryError as error:
                raise RunError(
                    f"worker {group.rank}: out of memory in the self-check, which needs whole tensors: "
                    f"pretrain.selfcheck false trains without it. torch says: {error}"
                ) from None
            around.beat()
        state, last = train(parts, state)
        if state.step == settings.steps and "val_loss" not in last and not elsewhere:
            last = last | validate(state.step, None)  # resumed after the very last checkpoint
        if group.rank == 0 and state.step == settings.steps:
            send_logs()
            write_summary(
                folder, job.run_id, settings, model, state, last, group.world, utilisation, ledger,
            )  # fmt: skip
        exit_code = 0
    finally:
        stop_sign.close()
        saver.settle()
        if late is not None:
            late.close()
            tracker.log_late(late.take())
        tracker.finish(exit_code)
        for log in logs[1:]:
            log.close()


def make_engine(objective: Objective, settings: PretrainSettings, group: Group, micro_batch: int) -> Engine:
    """The engine that the settings name. DeepSpeed is imported only where it is used."""
    if settings.engine == "plain":
        return PlainEngine(objective, settings.optimizer, group.world)
    from llm.train.deepspeed_zero import ZeroEngine

    accumulation = micro_steps(settings.batch, group.world, micro_batch)
    return ZeroEngine(
        objective, settings.optimizer, group.world, settings.zero_stage, micro_batch, accumulation,
        settings.offload, settings.deepspeed,
    )  # fmt: skip


def make_deterministic(on: bool = True) -> None:
    """The same numbers from the same weights, in this process."""
    torch.use_deterministic_algorithms(on, warn_only=True)
    # It would also fill every fresh buffer, such as DeepSpeed's; nothing here reads what it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def work_here(job: Job) -> None:
    """The one worker of a run without Ray, in this process."""
    settings = PretrainSettings.model_validate(job.pretrain)
    device = _device_here(settings)
    if settings.cpus_per_worker:
        torch.set_num_threads(settings.cpus_per_worker)
    own_group = settings.engine == "deepspeed" and not torch.distributed.is_initialized()
    if own_group:
        import tempfile

        store = torch.distributed.FileStore(tempfile.mktemp(), 1)
        backend = "nccl" if device.type == "cuda" else "gloo"
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "0")
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        work(job, Group(0, 1, device), Worker())
    finally:
        if own_group:
            torch.distributed.destroy_process_group()


def _device_here(settings: PretrainSettings) -> torch.device:
    available = torch.cuda.is_available()
    if settings.device == "cuda" and not available:
        raise UserError("pretrain.device is cuda, and torch sees no GPU here: set it to cpu or auto")
    use = available and settings.device != "cpu"
    check_device(settings, use)
    return torch.device("cuda" if use else "cpu")


def check_device(settings: PretrainSettings, gpu: bool) -> None:
    """UserError where what these settings ask for is not there without a GPU."""
    if settings.precision == "fp16" and not gpu:
        raise UserError(
            "pretrain.precision is fp16 and there is no GPU: CPUs have no fast fp16; bf16 needs no loss scale"
        )
