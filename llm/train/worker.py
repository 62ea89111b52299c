"""One worker of a run, from its job description to the end of training. Assembles; the loop decides."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

import torch

from cluster import places
from cluster.errors import RunError, UserError
from cluster.lease import Pass, Superseded
from cluster.places import PlaceError
from llm.data.batches import micro_steps
from llm.model.generation import generate_uncached
from llm.model.inputs import Inputs
from llm.model.sampling import Sampling
from llm.model.tasks import rate_of
from llm.run_settings import RunSettings
from llm.settings import FinetuneSettings, PretrainSettings
from llm.train.accounts import make_tracker, open_ledger
from llm.train.beside import keep_of, late_rows, read_beside
from llm.train.best import is_over
from llm.train.checkpoints.layout import RunState, folder_name
from llm.train.checkpoints.load import CheckpointReader, check_tensors, load_newest
from llm.train.checkpoints.retention import Beside
from llm.train.checkpoints.save import (
    CheckpointFailed,
    CheckpointSaver,
    committed_folders,
    sweep_torn,
)
from llm.train.compiling import compile_model
from llm.train.engine import Engine
from llm.train.finetuning import Finetuning
from llm.train.group import Group
from llm.train.job import Job, Worker
from llm.train.ledger import Ledger
from llm.train.loop import Parts, train
from llm.train.loss_scale import with_scale
from llm.train.objective import Objective
from llm.train.optimizers import Rate, full_rate
from llm.train.out_of_memory import advice, is_out_of_memory
from llm.train.plain import PlainEngine
from llm.train.pretraining import Pretraining
from llm.train.rewind import Rewinder, plan_of
from llm.train.run_folder import RunFolder, StopSign, environment
from llm.train.run_order import check_goes_on, even_micro_batch
from llm.train.selfcheck import bare_copy, check_gradients
from llm.train.step_clock import StepClock
from llm.train.summary import write_summary
from llm.train.tracking import LineFile, MetricsFile, Tracker
from llm.train.validations import CHECKPOINT
from llm.train.workload import Workload


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
            words = advice(job, group.world, group.device.type == "cuda")
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


def make_workload(job: Job, settings: RunSettings, group: Group) -> Workload:
    """What the job's section trains."""
    if isinstance(settings, FinetuneSettings):
        return Finetuning(job, settings, group)
    assert isinstance(settings, PretrainSettings)
    return Pretraining(job, settings, group)


def _train(job: Job, folder: RunFolder, group: Group, around: Worker) -> None:
    settings = job.parsed()
    make_deterministic(settings.deterministic)
    workload = make_workload(job, settings, group)
    micro_batch = even_micro_batch(settings.batch, group.world, settings.micro_batch)
    model = workload.fresh_model()
    # The first worker's word: listings may differ between nodes.
    if group.agree(group.rank > 0 or not committed_folders(folder.checkpoints)):
        workload.fill(model)
    model = model.to(group.device)
    objective = Objective(model, settings.precision, workload.z_loss)
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
        check_tensors(reader, engine)
        check_goes_on(reader, workload.order, settings)
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
        job.section: job.settings,
        "versions": environment(),
        **workload.facts,
        "order": workload.order.describe(),
        "batch_schedule": plan.schedule,
        "skips": plan.skips,
        "zero_stage": settings.zero_stage if settings.engine == "deepspeed" else None,
        "generation": writer.generation,
    }
    utilisation = workload.measure_by(group)
    logs: list[LineFile] = []
    ledger: Ledger | None = None
    tracker = Tracker([])
    if group.rank == 0:
        # Before the lines of lost steps are dropped: the last of them says until when it was worked on.
        ledger = open_ledger(folder, job.launch, job.began, utilisation, writer)
        after = state.step if state.step else -1
        metrics = MetricsFile(folder.metrics, after, writer.check)
        logs = [metrics, LineFile(folder.samples, after, writer.check)]
        config = {"model": job.model, job.section: job.settings, "mfu": utilisation.describe()}
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
            return {CHECKPOINT: folder_name(step, saver.attempt)} if workload.has_validation else {}
        return workload.validate(most, model, engine.forward, group, around.beat)

    def write_samples(step: int) -> None:
        tokenizer, wanted = workload.tokenizer, settings.samples
        sampling = Sampling(
            tokens=wanted.tokens, seed=settings.seed, forbidden=tuple(tokenizer.specials.values())
        )
        for prompt in wanted.prompts:
            ids = [*workload.start_of_text(), *(int(i) for i in tokenizer.encode(prompt))]

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
    stop_early = settings.early_stop if isinstance(settings, FinetuneSettings) else None
    loader = workload.loader(plan, group, micro_batch)
    parts = Parts(
        settings=settings,
        group=group,
        engine=engine,
        loader=loader,
        saver=saver,
        clock=StepClock(group, loader, saver, utilisation, ledger),
        log=log_line,
        validate=validate,
        write_samples=write_samples,
        stop_wanted=stop_sign.is_there,
        noticed=around.noticed,
        beat=around.beat,
        on_commit=on_commit,
        rewind=rewinder if settings.guard.on_spike == "rewind" else lambda *_: None,
        score=workload.score,
        patience=stop_early.patience if stop_early else None,
        least_gain=stop_early.least if stop_early else 0.0,
    )

    def is_done(state: RunState) -> bool:
        return state.step == settings.steps or is_over(state.best, parts.patience)

    exit_code = 1
    try:
        around.beat()
        if settings.selfcheck and not is_done(state):
            engine.loss_scale = state.loss_scale
            try:
                check_gradients(engine, bare, parts.loader.batch(state.step), group, settings)
            except torch.OutOfMemoryError as error:
                raise RunError(
                    f"worker {group.rank}: out of memory in the self-check, which needs whole tensors: "
                    f"{settings.section}.selfcheck false trains without it. torch says: {error}"
                ) from None
            around.beat()
        state, last = train(parts, state)
        if is_done(state) and "val_loss" not in last and not elsewhere:
            last = last | validate(state.step, None)  # resumed after the very last checkpoint
        if group.rank == 0 and is_done(state):
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


def make_engine(objective: Objective, settings: RunSettings, group: Group, micro_batch: int) -> Engine:
    """The engine that the settings name. DeepSpeed is imported only where it is used."""
    rate: Rate = full_rate
    if isinstance(settings, FinetuneSettings):
        rate = partial(rate_of, settings=settings, layers=objective.model.settings.layers)
    if settings.engine == "plain":
        return PlainEngine(objective, settings.optimizer, group.world, rate)
    from llm.train.deepspeed_zero import ZeroEngine

    accumulation = micro_steps(settings.batch, group.world, micro_batch)
    return ZeroEngine(
        objective, settings.optimizer, group.world, settings.zero_stage, micro_batch, accumulation,
        settings.offload, settings.deepspeed, rate,
    )  # fmt: skip


def make_deterministic(on: bool = True) -> None:
    """The same numbers from the same weights, in this process."""
    torch.use_deterministic_algorithms(on, warn_only=True)
    # It would also fill every fresh buffer, such as DeepSpeed's; nothing here reads what it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def work_here(job: Job) -> None:
    """The one worker of a run without Ray, in this process."""
    settings = job.parsed()
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


def _device_here(settings: RunSettings) -> torch.device:
    available = torch.cuda.is_available()
    if settings.device == "cuda" and not available:
        raise UserError(
            f"{settings.section}.device is cuda, and torch sees no GPU here: set it to cpu or auto"
        )
    use = available and settings.device != "cpu"
    check_device(settings, use)
    return torch.device("cuda" if use else "cpu")


def check_device(settings: RunSettings, gpu: bool) -> None:
    """UserError where what these settings ask for is not there without a GPU."""
    if settings.precision == "fp16" and not gpu:
        raise UserError(
            f"{settings.section}.precision is fp16 and there is no GPU: CPUs have no fast fp16; bf16 "
            "needs no loss scale"
        )
