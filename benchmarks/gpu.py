"""Training on one GPU, in one process without Ray: our engine beside a bare loop and transformers.

    python -m benchmarks.gpu [--models 124m 350m 1.3b] [--seconds 5] [--minutes 8] [--compile blocks]

GPT-2 of three sizes in bf16: tokens/s and share of the GPU's peak (MFU), then what each lever gives, what a
checkpoint stalls, and whether bf16 learns what fp32 learns. The peers get the same compile and the same order
of attention kernels. What runs out of memory or fails is a row with a note; gpu.json is written after each
case. It needs torch, numpy, pydantic and PyYAML; the rows of checkpoints pyarrow, those of transformers that:
they say so where it is missing.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import gpu_cases
from benchmarks.gpu_cases import Levers, Rows, Side, Size, Timed
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.rows import Row, table, write_result
from cluster.errors import UserError, run_command
from cluster.recipe import ROOT
from llm.model.counts import training_flops
from llm.train.peaks import published_peak

SIZES = {
    "124m": Size("124M", 12, 768, 12, 1024, 64, 4, goal=0.45),
    "350m": Size("350M", 24, 1024, 16, 1024, 32, 4, goal=0.48),
    "1.3b": Size("1.3B", 24, 2048, 16, 2048, 8, 8, goal=0.52),
}
QUICK = Size("tiny", 2, 32, 2, 32, 2, 2, vocab=512)
PEERS: dict[Side, str] = {
    "bare": "our model in a bare PyTorch loop",
    "transformers": "GPT2LMHeadModel in the same loop",
}
LEARNED_STEPS = 20  # of which bf16 and fp32 are compared
PHRASES = 256
WRITE_STEPS = 8  # most steps that are timed while a checkpoint is written


class Run:
    """The rows so far; what is still to do is left out when the time is up."""

    def __init__(
        self, out: Path, command: str, device: torch.device, levers: Levers, seconds: float, minutes: float
    ) -> None:
        self.out, self.command, self.device = out, command, device
        self.levers, self.seconds = levers, seconds
        self.machine, self.versions = describe_machine(), describe_versions()
        self.rows: list[Row] = []
        self.left_out: list[str] = []
        self.until = time.monotonic() + 60 * minutes
        name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
        self.device_name, self.peak = name, published_peak(name, "bf16")

    def add(self, *rows: Row) -> None:
        """Keep rows, and write all that there are."""
        self.rows += rows
        for row in rows:
            note = "" if row.note is None else f" ({row.note})"
            _say(f"gpu: {row.what}: {row.ours:,.4g} {row.unit}, peer {row.peer or 0:,.4g}{note}")
        write_result(self.out / "gpu.json", self.machine, self.versions, self.command, self.rows)

    def case(self, what: str, unit: str, work: Callable[[], Sequence[Row]]) -> None:
        """One case on its own: whatever goes wrong in it is a row."""
        if time.monotonic() > self.until:
            self.left_out.append(what)
            return
        try:
            rows = work()
        except Exception as error:  # of any kind: the next case is another
            why = "not installed" if isinstance(error, ModuleNotFoundError) else type(error).__name__
            rows = [Row(what, unit, 0.0, note=f"{why}: {str(error).strip()[:300]}")]
        gpu_cases.free()
        self.add(*rows)

    def timed(self, side: Side, size: Size, levers: Levers | None = None) -> Timed:
        """Tokens/s of a side."""
        return gpu_cases.timed(side, size, levers or self.levers, self.device, self.seconds)


def main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    if not options.quick and not torch.cuda.is_available():
        raise UserError("torch sees no GPU here; --quick is a smoke run of tiny shapes on any machine")
    if options.quick and options.out is None:
        raise UserError("--quick measures nothing worth keeping: give it an --out folder")
    out = options.out or ROOT / "benchmarks" / "results"
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    compiled = options.compile or ("none" if options.quick else "blocks")
    run = Run(
        out, shlex.join(["python", "-m", "benchmarks.gpu", *argv]), device, Levers(compile=compiled),
        options.seconds or (0.05 if options.quick else 5.0), options.minutes,
    )  # fmt: skip
    sizes = [QUICK] if options.quick else [SIZES[name] for name in options.models]
    for size in sizes:
        train_cases(run, size)
    run.case("bf16 beside fp32", "share", lambda: [learning_row(run, sizes[0])])
    for size in sizes:
        run.case(f"checkpoint, {size.name}", "seconds", lambda size=size: checkpoint_rows(run, size))
    lever_cases(run, sizes[0])
    print(table(run.rows))
    if run.left_out:
        _say(f"left out, the {options.minutes:g} minutes being up: {'; '.join(run.left_out)}")
    return 0


def train_cases(run: Run, size: Size) -> None:
    """Ours, with its share of the peak, beside each peer."""
    found: list[Timed] = []

    def ours() -> list[Row]:
        found.append(run.timed("ours", size))
        return mfu_rows(run, found[0])

    run.case(f"training {size.name}, {run.levers.precision}", "tokens/s", ours)
    if not found:
        return
    modes = [run.levers.compile] if run.levers.compile == "none" else [run.levers.compile, "none"]
    for side, name in PEERS.items():
        for mode in modes if side == "transformers" else modes[:1]:
            run.case(
                f"training {size.name}, {run.levers.precision}, beside {name}, compile {mode}", "tokens/s",
                lambda side=side, name=name, mode=mode: [peer_row(run, found[0], side, name, mode)],
            )  # fmt: skip


def mfu_rows(run: Run, ours: Timed) -> list[Row]:
    """Tokens/s as share of the peak, by both ways to count attention."""
    size, rate = ours.size, ours.tokens_per_second
    note = f"{run.device_name}; compile {run.levers.compile}; {ours}"
    rows = [Row(f"training {size.name}, {run.levers.precision}", "tokens/s", rate, note=note)]
    if run.peak is None:
        return rows
    peak, source = run.peak
    for every_pair, how in ((True, "scores of all pairs of tokens"), (False, "scores that are seen")):
        flops, share = mfu(size, rate, peak, every_pair)
        goal = f"ours >= {size.goal}" if every_pair and size.goal else None
        rows.append(
            Row(
                f"MFU {size.name}, {how}", "share of peak", share, goal=goal,
                note=f"llm.model.counts.training_flops: 3 times the forward's products, {how} counted "
                f"({'PaLM, appendix B' if every_pair else 'the causal half'}): {flops / 1e9:.3f} GFLOP a "
                f"token x {rate:,.0f} tokens/s over {peak / 1e12:,.1f} TFLOP/s, dense bf16, {source}",
            )
        )  # fmt: skip
    return rows


def mfu(size: Size, tokens_per_second: float, peak: float, every_pair: bool) -> tuple[float, float]:
    """(Operations of a token in training, share of the peak): Chowdhery et al. 2022 (PaLM), appendix B.

    every_pair: attention counts all T tokens of a row, as PaLM does; else those that a token sees.
    """
    flops = training_flops(size.settings, size.vocab, size.length, every_pair)
    return flops, flops * tokens_per_second / peak


def peer_row(run: Run, ours: Timed, side: Side, name: str, mode: gpu_cases.Compile) -> Row:
    """Ours over a peer."""
    peer = run.timed(side, SIZES.get(ours.size.name.lower(), ours.size), replace(run.levers, compile=mode))
    return Row(
        f"training {ours.size.name}, {run.levers.precision}, beside {name}, compile {mode}", "tokens/s",
        ours.tokens_per_second, peer.tokens_per_second, name,
        note=f"ours compile {run.levers.compile}; the peer {peer}",
    )  # fmt: skip


def learning_row(run: Run, size: Size) -> Row:
    """The same steps in bf16 with all levers and in fp32 with none: how far apart are the losses?"""
    small = replace(size, micro_batch=min(8, size.micro_batch), accumulation=1)
    plain = replace(run.levers, compile="none", precision="fp32")
    losses = []
    for levers in (run.levers, plain):
        with gpu_cases.surroundings("ours", levers):
            engine = gpu_cases.make_engine(small, levers, run.device)
            step = gpu_cases.engine_step(engine, small, Rows(small, PHRASES), run.device)
            losses.append([step() for _ in range(LEARNED_STEPS)])
        del engine, step
        gpu_cases.free()
    bf16, fp32 = losses
    apart = max(abs(a / b - 1) for a, b in zip(bf16, fp32, strict=True))
    return Row(
        f"losses of {LEARNED_STEPS} steps in bf16 over those in fp32, {size.name}: most apart", "share",
        apart, goal="ours <= 0.01",
        note=f"{small}; from {fp32[0]:.4f} to {fp32[-1]:.4f} in fp32 and {bf16[-1]:.4f} in bf16; fp32 "
        f"without TF32, bf16 with compile {run.levers.compile}",
    )  # fmt: skip


def checkpoint_rows(run: Run, size: Size) -> list[Row]:
    """How long a save stops the training, and what its writing costs the steps beside it."""
    from llm.train.checkpoints.layout import RunState  # late: they need pyarrow
    from llm.train.checkpoints.retention import Keep
    from llm.train.checkpoints.save import CheckpointSaver

    levers = replace(run.levers, compile="none")
    with tempfile.TemporaryDirectory(prefix="manta-gpu-") as folder, gpu_cases.surroundings("ours", levers):
        engine = gpu_cases.make_engine(size, levers, run.device)
        state = sum(f.values.nbytes for f in engine.held())
        free = shutil.disk_usage(folder).free
        if free < 1.2 * state:
            raise OSError(f"{folder}: {free / 1e9:.0f} GB free, a checkpoint is {state / 1e9:.0f} GB")
        step = gpu_cases.engine_step(engine, size, Rows(size), run.device)
        step(), step()
        alone = [_seconds(step) for _ in range(2)]
        saver = CheckpointSaver(Path(folder), engine, 0, 1, "ab" * 6, Keep(1), {})
        begin = time.perf_counter()
        saver.save(RunState(1, 0, 0, "gpu"))
        stall = saver.stall_seconds
        beside: list[float] = []
        while len(beside) < WRITE_STEPS and saver.committed_step < 1:
            beside.append(_seconds(step))
        saver.finish()
        written = time.perf_counter() - begin
        copied = _seconds(lambda: [f.values.to("cpu", copy=True) for f in engine.held()])
    note = f"{size}; state {state / 1e9:.2f} GB, committed after {written:.1f} s"
    rows = [
        Row(
            f"stall of a save, {size.name}", "seconds", stall, copied,
            "a copy of the same state to host memory", "ratio <= 1.1", note,
        )
    ]  # fmt: skip
    if beside:
        rows.append(
            Row(
                f"step while a checkpoint is written, {size.name}", "seconds", sum(beside) / len(beside),
                sum(alone) / len(alone), "a step without", note=f"{note}; {len(beside)} steps",
            )
        )  # fmt: skip
    return rows


def lever_cases(run: Run, size: Size) -> None:
    """The step as it is over the same step with one lever set otherwise."""
    found: dict[Side, Timed] = {}

    def base(side: Side) -> Timed:
        if side not in found:
            found[side] = run.timed(side, size)
            gpu_cases.free()
        return found[side]

    def row(what: str, side: Side, other: Size, levers: Levers) -> list[Row]:
        ours, peer = base(side), run.timed(side, other, levers)
        note = f"{'our engine' if side == 'ours' else PEERS[side]}; as it is {ours}; with {what} {peer}"
        return [
            Row(
                f"lever, {size.name}: as it is over {what}", "tokens/s", ours.tokens_per_second,
                peer.tokens_per_second, what, note=note,
            )
        ]  # fmt: skip

    for what, side, other, levers in variants(run, size):
        run.case(
            f"lever, {size.name}: as it is over {what}", "tokens/s",
            lambda what=what, side=side, other=other, levers=levers: row(what, side, other, levers),
        )  # fmt: skip


def variants(run: Run, size: Size) -> list[tuple[str, Side, Size, Levers]]:
    """Each lever set otherwise: what, of which side, at which size."""
    now = run.levers
    rows = (64,) if size is QUICK else (2048, 8192)
    found: list[tuple[str, Side, Size, Levers]] = []
    if now.compile != "none":
        for how in ("none", "blocks", "whole"):
            if how != now.compile:
                found.append((f"compile {how}", "ours", size, replace(now, compile=how)))
    if run.device.type == "cuda":
        found += [
            ("torch's own order of attention kernels", "ours", size, replace(now, attention="torch")),
            ("no cuDNN attention", "ours", size, replace(now, attention="flash")),
            ("deterministic algorithms", "ours", size, replace(now, deterministic=True)),
        ]
    found += [
        ("all logits at once", "ours", size, replace(now, loss="whole")),
        *((f"logits of {n:,} rows at once", "ours", size, replace(now, rows=n)) for n in rows),
        (f"micro-batch {size.micro_batch // 2}", "ours", size.halved(), now),
        (f"micro-batch {size.micro_batch * 2}", "ours", _doubled(size), now),
        ("AdamW by foreach, in a bare loop", "bare", size, replace(now, fused=False)),
    ]
    return found


def _doubled(size: Size) -> Size:
    rows = size.micro_batch * 2
    return replace(size, micro_batch=rows, accumulation=max(1, size.accumulation // 2))


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", choices=SIZES, default=list(SIZES), help="sizes of GPT-2 (default: all)"
    )
    parser.add_argument("--seconds", type=float, help="of timed steps in each case (default 5)")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no case is begun (default 8)")
    parser.add_argument(
        "--compile", choices=("none", "blocks", "whole"), help="of ours and the peers (default blocks)"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run of tiny shapes; needs --out")
    parser.add_argument("--out", type=Path, help="folder for gpu.json (default: benchmarks/results)")
    return parser


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_command(main)
