"""The long proofs of the data jobs: a case yields one outcome a run, empty where it held, else why not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from cluster import places
from cluster.errors import RunError, UserError
from data_jobs import open_corpus
from data_jobs.settings import CorpusSettings
from data_jobs.shards.corpus import Corpus
from data_jobs.shards.manifest import SHARDS
from data_jobs.shards.shard_file import ShardFile
from data_jobs.verify import problems
from tests import object_store
from tests.data_jobs.conftest import fingerprint, make_texts, prepare, settings_for, write_jsonl
from tests.data_jobs.input_files import KINDS, write_source
from tests.data_jobs.reading.test_input_objects import send
from tests.data_jobs.test_every_source import check_ledger
from tests.faults.damage import damaged
from tests.journeys.home import Home

FLIPS, PREPARE_KILLS, DATA_KILLS, STORE_KILLS = 200, 24, 20, 3
EVERY_STAGE = (
    "clean", "units", "repeat", "rewrite", "evaluation", "contamination", "signature", "bucket", "component",
    "choose", "verdict", "spill", "merge",
)  # fmt: skip
NEWLINE = "\n"
PREPARE = """
import sys
from pathlib import Path
from data_jobs.settings import CorpusSettings
from tests.data_jobs.conftest import prepare
prepare(CorpusSettings.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
"""


def corpus_flips(seed: int) -> Iterator[str]:
    """Random flips and truncations over every promised file of a corpus: found and named."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        source = write_jsonl(Path(folder) / "in.jsonl", make_texts(300))
        corpus = Path(folder) / "corpus"
        prepare(settings_for(source, shard_bytes=20_000, val_fraction=0.1), corpus)
        files = sorted(corpus / name for name in fingerprint(corpus))
        good = {path: ShardFile(path).batch for path in files if path.parent.name == SHARDS}
        for _ in range(FLIPS):
            path = draw.choice(files)
            with damaged(path, draw) as what:
                problem = _not_found(corpus, path, what)
                # Arrow pads its framing: a flip there changes nothing that anybody reads.
                harmless = problem and path in good and ShardFile(path).batch.equals(good[path])
                yield "" if harmless else problem


def prepare_kills(seed: int) -> Iterator[str]:
    """`prepare` killed at random points, often twice, and run again: every promised byte equal."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        plain, whole = ("clean", "spill", "merge"), EVERY_STAGE
        for stages, settings in ((plain, _few_stages(home)), (whole, _every_stage(home, ("jsonl", "csv")))):
            points = [
                f"prepare.{when}_{stage}:job={{job}}" for when in ("before", "after") for stage in stages
            ]
            points += [
                f"prepare.{when}_{what}" for when in ("before", "after") for what in ("train", "manifest")
            ]
            prepare(settings, home / f"clean-{len(stages)}")
            want = fingerprint(home / f"clean-{len(stages)}")
            arguments = [settings.model_dump_json(), str(home / "out")]
            for _ in range(PREPARE_KILLS):
                shutil.rmtree(home / "out", ignore_errors=True)
                said = []
                for _ in range(draw.randint(1, 2)):
                    fault = draw.choice(points).format(job=draw.randint(0, 1))
                    said.append(f"{fault} -> {_run(PREPARE, arguments, MANTA_FAULT=fault)}")
                status = _run(PREPARE, arguments)
                yield "" if status == 0 and fingerprint(home / "out") == want else f"{said}, then {status}"


def data_kills(seed: int) -> Iterator[str]:
    """Every kind of source, every stage, on Ray with 1 and 2 workers: workers and the driver killed at random
    points, every promised byte equal to those of one process that was never stopped, and the ledger exact.
    """
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        settings = _every_stage(home.path, KINDS)
        home.recipe.write_text(yaml.safe_dump({"corpus": settings.model_dump(mode="json")}))
        check_ledger(prepare(settings, home.path / "clean"))
        want = fingerprint(home.path / "clean")
        args = (str(home.recipe), "--corpus.out", str(home.corpus), "--cluster.num_cpus")
        for number in range(DATA_KILLS):
            shutil.rmtree(home.corpus, ignore_errors=True)
            workers, is_worker = str(1 + number % 2), number % 4 < 2
            when = draw.choice(("before", "after"))
            if is_worker:  # the task is run again by Ray, and the command ends well
                fault = f"prepare.{when}_{draw.choice(EVERY_STAGE)}:job=0"
                once = {"MANTA_FAULT": fault, "MANTA_FAULT_ONCE": str(home.path / f"killed-{number}")}
                home.call("data_jobs.prepare", *args, workers, **once)
                reached = Path(once["MANTA_FAULT_ONCE"]).exists()
            else:
                fault = f"prepare.{when}_{draw.choice(('train', 'manifest'))}"
                home.call("data_jobs.prepare", *args, workers, status=-signal.SIGKILL, MANTA_FAULT=fault)
                home.call("data_jobs.prepare", *args, workers)
                reached = True
            same = fingerprint(home.corpus) == want
            yield "" if same and reached else f"{fault}, {workers} workers: same {same}, reached {reached}"


def data_storage(seed: int) -> Iterator[str]:
    """Raw text and corpus on S3, one request in twenty failing, a worker killed, on Ray: every promised byte
    equal to those of a run over local files.
    """
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, object_store.start() as s3:
        os.environ.update(s3.env)  # of this process, for what reads the corpus
        home, bucket = Home(Path(folder)), s3.new_bucket()
        raw = home.path / "raw"
        said = _every_stage(raw, KINDS).model_dump(mode="json")
        prepare(CorpusSettings.model_validate(said), home.path / "clean")
        want = fingerprint(home.path / "clean")
        far = json.loads(json.dumps(said).replace(str(raw), str(send(raw, bucket))))
        home.recipe.write_text(yaml.safe_dump({"corpus": far}))
        args = (str(home.recipe), "--cluster.cache_dir", str(home.path / "cache"), "--corpus.out")
        for number in range(STORE_KILLS):
            place, mark = places.at(f"{bucket}/corpus-{number}"), home.path / f"killed-{number}"
            fault = f"prepare.{draw.choice(('before', 'after'))}_{draw.choice(EVERY_STAGE)}:job=0"
            with s3.failing(20):
                home.call(
                    "data_jobs.prepare", *args, str(place), MANTA_FAULT=fault, MANTA_FAULT_ONCE=str(mark)
                )
            same = {name: (place / name).read_bytes() for name in want} == want
            yield "" if same and mark.exists() else f"{fault}: same {same}, reached {mark.exists()}"


def _few_stages(home: Path) -> CorpusSettings:
    source = write_jsonl(home / "in.jsonl", make_texts(300))
    return settings_for(source, shard_bytes=20_000, split_bytes=20_000)


def _every_stage(home: Path, kinds: Sequence[str]) -> CorpusSettings:
    """A source of each kind, with lines that many share, near duplicates, and an evaluation text."""
    texts = [
        f"{text.replace(NEWLINE, ' ')}{NEWLINE}This line stands in every one." for text in make_texts(60)
    ]
    texts += [f"{text} And a word more." for text in texts[::3]]
    sources = []
    for number, kind in enumerate(kinds):
        own = [text.replace(NEWLINE, " ") for text in texts] if kind == "text line" else texts
        sources.append({"name": f"s{number}", **write_source(home / f"in-{number}", kind, own)})
    (home / "questions.txt").write_text(texts[7])
    return CorpusSettings.model_validate(
        {
            "sources": sources,
            "filters": {"length": {"min_words": 8}},
            "repeats": {"lines": True, "min_documents": 5, "paragraphs": True},
            "decontaminate": {"files": [str(home / "questions.txt")]},
            "dedup": "minhash",
            "minhash": {"threshold": 0.6, "ranges": 2},
            "tokenizer": {"vocab_size": 500},
            "shard_bytes": 20_000,
            "split_bytes": 5_000,
            "max_bad_fraction": 1.0,
        }
    )


def _not_found(corpus: Path, path: Path, what: str) -> str:
    try:
        opened: Corpus = open_corpus(corpus, "start")
        said = list(problems(opened, quiet=True))
    except (RunError, UserError) as error:
        said = [str(error)]
    if not said:
        return f"{what}: not found"
    return "" if any(path.name in line for line in said) else f"{what}: found, and not named: {said[0]}"


def _run(code: str, arguments: list[str], **env: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=os.environ | env, check=False, capture_output=True
    )
    return done.returncode


CASES = (corpus_flips, prepare_kills, data_kills, data_storage)
