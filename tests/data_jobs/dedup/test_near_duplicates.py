"""Near duplicates of whole corpora: what stays, beside all pairs in plain Python, whoever does the work."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data_jobs.content import Placement, content_hash
from data_jobs.dedup.near_report import alarms
from data_jobs.prepare import main
from tests.data_jobs.conftest import fingerprint, prepare, settings_for, write_jsonl
from tests.data_jobs.dedup.dedup_reference import clusters_of, near_pairs, random_text, with_edit
from tests.data_jobs.test_pipeline import documents

SMALL: dict[str, Any] = {"dedup": "minhash", "shard_bytes": 20_000, "val_fraction": 0.1}


def planted(seed: int = 0, singles: int = 60, clusters: int = 25) -> list[str]:
    """Distinct texts: singles, clusters around one, chains whose ends are far apart, short ones, Chinese."""
    draw = random.Random(seed)
    texts = [random_text(draw, draw.randint(8, 250)) for _ in range(singles)]
    for _ in range(clusters):
        base = random_text(draw, draw.randint(400, 600))
        texts += [base, *(with_edit(draw, base) for _ in range(draw.randint(1, 5)))]
    for _ in range(3):
        text = random_text(draw, 400)
        for _ in range(12):
            texts.append(text)
            text = with_edit(draw, text, 2)
    texts += ["a short one", "A short, one!", "another short one", "!!!", "???"]
    han = "".join(chr(draw.randrange(0x4E00, 0x9FA5)) for _ in range(600))
    texts += [han, han[:300] + "新" + han[300:], "".join(sorted(han))]
    return texts


TEXTS = planted()


def what_stays(texts: list[str], threshold: float = 0.75, source: str = "docs") -> list[str]:
    """By all pairs: of each cluster the text with the smallest (key, c)."""
    placement = Placement.of(0, 0.1)
    dropped: set[int] = set()

    def rank(at: int) -> tuple[int, bytes]:
        c = content_hash(source, texts[at])
        return placement.sort_key(c), c

    for cluster in clusters_of(len(texts), near_pairs(texts, threshold, 5)):
        dropped |= cluster - {min(cluster, key=rank)}
    return sorted(text for at, text in enumerate(texts) if at not in dropped)


def minhash(**changes: Any) -> dict[str, Any]:
    return {**SMALL, "minhash": changes}


def report_of(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


@pytest.fixture(scope="module")
def stays() -> list[str]:
    return what_stays(TEXTS)


@pytest.mark.parametrize("ranges", [1, 4, 16, None])
def test_what_stays_is_what_all_pairs_leave(tmp_path: Path, stays: list[str], ranges: int | None) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    manifest = prepare(settings_for(path, **minhash(ranges=ranges), split_bytes=40_000), tmp_path / "out")
    assert documents(tmp_path / "out") == stays
    assert len(stays) < len(TEXTS) - 80
    dropped = manifest["counts"]["documents"]["dropped"]
    assert dropped == {"near_duplicate": len(TEXTS) - len(stays)}


def test_equal_over_cuts_orders_ranges_and_names(tmp_path: Path) -> None:
    """Copies of texts that stay and of those that go, in one run and in several: not a count hangs on it."""
    draw = random.Random(5)
    texts = [*TEXTS, *draw.sample(TEXTS, 60), *draw.sample(TEXTS, 20)]
    path = write_jsonl(tmp_path / "in.jsonl", texts)
    expected = None
    for number, (splits, ranges) in enumerate(((1, 1), (3, 4), (16, 16), (7, None))):
        settings = settings_for(path, **minhash(ranges=ranges), split_bytes=path.stat().st_size // splits + 1)
        prepare(settings, tmp_path / f"out{number}")
        expected = expected or fingerprint(tmp_path / f"out{number}")
        assert fingerprint(tmp_path / f"out{number}") == expected
    folder = tmp_path / "many"
    folder.mkdir()
    shuffled = random.Random(1).sample(texts, len(texts))
    for number in range(7):
        part = write_jsonl(folder / f"z{number * 5 % 7}.jsonl", shuffled[number::7])
        if number % 2:
            (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(part.read_bytes()))
            part.unlink()
    prepare(settings_for(folder, **minhash(ranges=3)), tmp_path / "out-many")
    assert fingerprint(tmp_path / "out-many") == expected


@pytest.mark.parametrize("apart", [True, False])
def test_same_file_twice(tmp_path: Path, stays: list[str], apart: bool) -> None:
    """As two runs of one name, and in one run: the same counts."""
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        path = write_jsonl(tmp_path / "in" / f"{name}.jsonl", TEXTS)
    size = path.stat().st_size * (1 if apart else 2)
    manifest = prepare(settings_for(tmp_path / "in", **minhash(), split_bytes=size), tmp_path / "out")
    assert documents(tmp_path / "out") == stays
    assert manifest["counts"]["documents"]["dropped"] == {
        "near_duplicate": 2 * (len(TEXTS) - len(stays)),
        "duplicate": len(stays),
    }


def test_ledger(tmp_path: Path, stays: list[str]) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [*TEXTS, TEXTS[0], " "])
    manifest = prepare(settings_for(path, **minhash(), split_bytes=50_000), tmp_path / "out")
    names = [stage["stage"] for stage in manifest["stages"]]
    assert names == ["read", "clean", "filter", "near_duplicates", "encode", "deduplicate"]
    for stage in [*manifest["stages"], manifest["counts"]]:
        for unit, removed in (("documents", 0), ("bytes", stage["bytes"]["removed"])):
            part = stage[unit]
            assert part["in"] + part["added"] == part["out"] + sum(part["dropped"].values()) + removed
    near = manifest["stages"][3]
    gone = sum(len(text.encode()) for text in TEXTS) - sum(len(text.encode()) for text in stays)
    assert near["bytes"]["dropped"] == {"near_duplicate": gone}
    assert manifest["counts"]["bytes"]["out"] == sum(len(text.encode()) for text in stays)


def test_dropped_ones_name_the_one_that_stays(tmp_path: Path) -> None:
    draw = random.Random(0)
    base = random_text(draw, 200)
    texts = [base, *(random_text(draw, 50) for _ in range(40)), with_edit(draw, base)]
    path = write_jsonl(tmp_path / "in.jsonl", texts)
    prepare(settings_for(path, **minhash()), tmp_path / "out")
    (row,) = [json.loads(line) for line in (tmp_path / "out/rejected/docs.jsonl").read_text().splitlines()]
    lines = path.read_bytes().splitlines(keepends=True)
    places = {1: 0, 42: sum(map(len, lines[:-1]))}
    assert row["reason"] == "near_duplicate" and row["offset"] == places[row["line"]]
    kept = places[({1, 42} - {row["line"]}).pop()]
    assert row["detail"] == f"near duplicate of the document at byte {kept} of {path} (source docs)"
    assert row["head"] == repr(json.loads(lines[row["line"] - 1])["text"][:80])[1:-1]


# -- which one stays


def test_longest_stays(tmp_path: Path) -> None:
    draw = random.Random(1)
    base = random_text(draw, 300)
    cluster = [base, base + "\nand a few more words", base + "\nand more"]
    texts = [*(random_text(draw, 40) for _ in range(30)), *cluster]
    prepare(
        settings_for(write_jsonl(tmp_path / "in.jsonl", texts), **minhash(keep="longest")), tmp_path / "out"
    )
    assert documents(tmp_path / "out") == sorted([*texts[:30], cluster[1]])


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([1, 3, 2], 1),
        (["0.5", None, "x"], 0),
        ([2, 2, 2], 2),
        ([None, None, None], 2),
        ([-1, "nan", -2.5], 0),
    ],
)
def test_best_stays(tmp_path: Path, scores: list[Any], best: int) -> None:
    """The highest number; where they are equal or missing the longest."""
    draw = random.Random(2)
    base = random_text(draw, 300)
    cluster = [base, base + "\nand more", base + "\nand a few more words"]
    texts = [*(random_text(draw, 40) for _ in range(30)), *cluster]
    path = write_jsonl(tmp_path / "in.jsonl", texts, score=[*[9] * 30, *scores])
    changes = minhash(keep="best", best_by="score")
    prepare(settings_for(path, **changes, source={"metadata": ["score"]}), tmp_path / "out")
    assert documents(tmp_path / "out") == sorted([*texts[:30], cluster[best]])


def test_best_by_names_a_field_that_a_source_passes_on() -> None:
    changes = minhash(keep="best", best_by="scoer")
    with pytest.raises(ValueError, match=r"minhash\.best_by: no source passes on .*'scoer'.*: none\); na"):
        settings_for("in.jsonl", **changes)
    with pytest.raises(ValueError, match=r"\(passed on: score, url\); did you mean 'score'\?"):
        settings_for("in.jsonl", **changes, source={"metadata": ["url", "score"]})
    settings_for("in.jsonl", **changes, source={"metadata": ["scoer"]})
    settings_for("in.jsonl", **{**changes, "dedup": "exact"})  # not used, and a warning says so
    settings_for("in.wet", **minhash(keep="best", best_by="date"), source={"format": "wet"})


def test_a_copy_with_a_better_number_counts(tmp_path: Path) -> None:
    draw = random.Random(3)
    base = random_text(draw, 300)
    texts = [base, base + "\nand more", base]
    fill = [random_text(draw, 40) for _ in range(30)]
    path = write_jsonl(tmp_path / "in.jsonl", [*fill, *texts], score=[*[0] * 30, 1, 2, 3])
    changes = minhash(keep="best", best_by="score")
    settings = settings_for(path, **changes, source={"metadata": ["score"]}, split_bytes=3000)
    manifest = prepare(settings, tmp_path / "out")
    assert documents(tmp_path / "out") == sorted([*fill, base])
    assert manifest["counts"]["documents"]["dropped"] == {"near_duplicate": 1, "duplicate": 1}


def two_sources(tmp_path: Path, scope: str, **changes: Any) -> Any:
    draw = random.Random(4)
    shared = [random_text(draw, 200) for _ in range(10)]
    own = [[random_text(draw, 60) for _ in range(20)] for _ in range(2)]
    first = write_jsonl(tmp_path / "first.jsonl", [*own[0], *shared])
    edited = [with_edit(draw, text) for text in shared[:5]]
    other = write_jsonl(tmp_path / "other.jsonl", [*own[1], *edited, *shared[5:]])
    settings = settings_for(first, **minhash(scope=scope, **changes))
    values = settings.model_dump()
    values["sources"] += [{"name": "more", "path": str(other)}]
    return type(settings).model_validate(values)


@pytest.mark.parametrize(("scope", "lost"), [("corpus", 10), ("source", 0)])
def test_scope(tmp_path: Path, scope: str, lost: int) -> None:
    """Across sources the text of the first stays, and copies are near duplicates; or each for itself."""
    manifest = prepare(two_sources(tmp_path, scope), tmp_path / "out")
    dropped = {
        stage["source"]: sum(stage["documents"]["dropped"].values())
        for stage in manifest["stages"]
        if stage["stage"] == "near_duplicates"
    }
    assert dropped == {"docs": 0, "more": lost}


def test_without_verification_candidates_are_taken(tmp_path: Path) -> None:
    """Pairs at 0.6 agree in one of 14 bands of 4 often; their texts tell them apart."""
    draw = random.Random(6)
    texts: list[str] = []
    for _ in range(40):
        base = random_text(draw, 400)
        texts += [base, with_edit(draw, base, 20)]
    path = write_jsonl(tmp_path / "in.jsonl", texts)
    loose = {"rows": 4, "threshold": 0.9}
    checked = prepare(settings_for(path, **minhash(**loose)), tmp_path / "checked")
    taken = prepare(settings_for(path, **minhash(**loose, verify=False)), tmp_path / "taken")
    assert checked["counts"]["documents"]["dropped"] == {}
    assert 30 <= taken["counts"]["documents"]["dropped"]["near_duplicate"] <= 40
    assert report_of(tmp_path / "checked")["near_duplicates"]["pairs"]["unlike_signatures"] >= 30


def test_a_large_bucket_is_cut_and_still_found(tmp_path: Path) -> None:
    """Many variants of a text: with a window each is compared with two others alone, all are connected."""
    draw = random.Random(7)
    base = random_text(draw, 400)
    texts = [*(random_text(draw, 40) for _ in range(30)), *(with_edit(draw, base) for _ in range(60))]
    path = write_jsonl(tmp_path / "in.jsonl", texts)
    manifest = prepare(settings_for(path, **minhash(max_bucket=2)), tmp_path / "out")
    assert manifest["counts"]["documents"]["dropped"] == {"near_duplicate": 59}
    near = report_of(tmp_path / "out")["near_duplicates"]
    assert near["buckets"]["capped"] >= 1 and near["buckets"]["largest"] >= 30
    assert near["pairs"]["compared"] < 300  # of 1,770


# -- what is told


def test_report(tmp_path: Path, stays: list[str]) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    prepare(settings_for(path, **minhash(ranges=4), split_bytes=40_000), tmp_path / "out")
    near = report_of(tmp_path / "out")["near_duplicates"]
    clusters = clusters_of(len(TEXTS), near_pairs(TEXTS, 0.75, 5))
    assert near["clusters"] == len(clusters)
    sizes = [len(cluster) for cluster in clusters]
    log2 = [size.bit_length() - 1 for size in sizes]
    assert near["cluster_texts_log2"] == [log2.count(i) for i in range(max(log2) + 1)]
    told = near["largest_clusters"]
    assert [cluster["texts"] for cluster in told] == sorted(sizes, reverse=True)[:20]
    heads = {repr(text[:80])[1:-1] for text in stays}
    for cluster in told:
        assert cluster["kept"]["head"] in heads and cluster["kept"]["file"] == str(path)
        assert cluster["sources"] == {"docs": cluster["texts"]}
        assert len(cluster["samples"]) == min(3, cluster["texts"] - 1)
        assert cluster["kept"]["offset"] not in [sample["offset"] for sample in cluster["samples"]]
    assert near["sources"]["docs"]["dropped"] == len(TEXTS) - len(stays)
    assert near["banding"]["found_by_similarity"]["0.75"] == round(1 - (1 - 0.75**8) ** 14, 6)


def test_alarm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A source of which little is left; also said again where nothing is left to do."""
    recipe = tmp_path / "r.yaml"
    draw = random.Random(8)
    base = random_text(draw, 200)
    variants = [with_edit(draw, base) for _ in range(30)]
    write_jsonl(tmp_path / "one.jsonl", [*variants, *(random_text(draw, 60) for _ in range(20))])
    write_jsonl(tmp_path / "other.jsonl", [random_text(draw, 60) for _ in range(40)])
    recipe.write_text(
        f"corpus:\n  sources:\n    - {{name: one, path: '{tmp_path}/one.jsonl'}}\n"
        f"    - {{name: other, path: '{tmp_path}/other.jsonl'}}\n"
        f"  tokenizer: {{vocab_size: 400}}\n  dedup: minhash\n  out: '{tmp_path}/out'\n"
    )
    for fraction, warned in (("0.5", True), ("0.9", False), ("0.5", True)):
        assert main([str(recipe), "--engine", "local", "--corpus.minhash.alarm_fraction", fraction]) == 0
        said = capsys.readouterr().err
        assert ("source 'one' lost 29 of 50 documents as near duplicates" in said) == warned
        assert ("30 texts like '" in said) == warned
        assert "source 'other'" not in said
    assert len(alarms(report_of(tmp_path / "out")["near_duplicates"], 0.5)) == 1


# -- killed in between

RUN = """
import sys
from pathlib import Path
from tests.data_jobs.conftest import prepare, settings_for
from tests.data_jobs.dedup.test_near_duplicates import minhash
tokenizer = {"path": sys.argv[3]} if sys.argv[3:] else {}
settings = settings_for(sys.argv[1], **minhash(ranges=18), split_bytes=60_000, tokenizer=tokenizer)
prepare(settings, Path(sys.argv[2]))
"""
FAULTS = [
    "prepare.before_signature:job=1", "prepare.after_signature:job=0",
    "prepare.before_bucket:job=3", "prepare.after_bucket:job=17",
    "prepare.before_component:job=1", "prepare.after_component:job=0",
    "prepare.before_choose:job=2", "prepare.after_choose:job=5",
    "prepare.before_verdict:job=0", "prepare.after_verdict:job=1", "prepare.after_spill:job=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("whole")
    path = write_jsonl(folder / "in.jsonl", TEXTS)
    prepare(settings_for(path, **minhash()), folder / "out")
    return path, fingerprint(folder / "out")


@pytest.mark.parametrize("fault", FAULTS)
def test_killed_anywhere_and_run_again_gives_the_same_bytes(
    tmp_path: Path, whole: tuple[Path, dict[str, bytes]], fault: str
) -> None:
    path, expected = whole
    env = {"PATH": "", "PYTHONPATH": str(Path(__file__).parents[3]), "MANTA_FAULT": fault}
    killed = subprocess.run(
        [sys.executable, "-c", RUN, str(path), str(tmp_path / "out")], env=env, check=False
    )
    assert killed.returncode == -9
    prepare(settings_for(path, **minhash(ranges=18), split_bytes=60_000), tmp_path / "out")
    assert fingerprint(tmp_path / "out") == expected


def test_input_that_changes_between_two_starts(tmp_path: Path, whole: tuple[Path, dict[str, bytes]]) -> None:
    """Receipts of runs that are still there stay good; what hangs on all runs does not."""
    _, expected = whole
    folder = tmp_path / "in"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", TEXTS[:150])
    write_jsonl(folder / "b.jsonl", planted(seed=9)[:70])
    env = {
        "PATH": "",
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "MANTA_FAULT": "prepare.after_spill:job=1",
    }
    subprocess.run([sys.executable, "-c", RUN, str(folder), str(tmp_path / "out")], env=env, check=False)
    write_jsonl(folder / "b.jsonl", TEXTS[150:])
    prepare(settings_for(folder, **minhash(ranges=18), split_bytes=60_000), tmp_path / "out")
    assert fingerprint(tmp_path / "out") == expected


def test_bitmaps_of_runs_that_did_not_change(tmp_path: Path, whole: tuple[Path, dict[str, bytes]]) -> None:
    """Also with a tokenizer that is given: what stays of a run hangs on all runs."""
    draw = random.Random(10)
    texts = [random_text(draw, 200) for _ in range(40)]
    folder, tokenizer = tmp_path / "in", whole[0].parent / "out" / "tokenizer"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", texts)
    write_jsonl(folder / "b.jsonl", [random_text(draw, 300) for _ in range(40)])
    env = {
        "PATH": "",
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "MANTA_FAULT": "prepare.after_spill:job=1",
    }
    words = [sys.executable, "-c", RUN, *map(str, (folder, tmp_path / "out", tokenizer))]
    assert subprocess.run(words, env=env, check=False).returncode == -9
    write_jsonl(folder / "b.jsonl", [with_edit(draw, text) for text in texts])
    for out in ("out", "new"):
        settings = settings_for(
            folder, **minhash(ranges=18), split_bytes=60_000, tokenizer={"path": str(tokenizer)}
        )
        manifest = prepare(settings, tmp_path / out)
    assert manifest["counts"]["documents"]["dropped"] == {"near_duplicate": 40}
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "new")


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_on_ray(tmp_path: Path, whole: tuple[Path, dict[str, bytes]]) -> None:
    path, expected = whole
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"corpus:\n  sources: [{{name: docs, path: '{path}'}}]\n  tokenizer: {{vocab_size: 500}}\n"
        f"  shard_bytes: 20000\n  val_fraction: 0.1\n  split_bytes: 60000\n  out: '{tmp_path}/out'\n"
        "  dedup: minhash\n  minhash: {ranges: 3}\n"
    )
    words = [sys.executable, "-m", "data_jobs.prepare", str(recipe), "--cluster.num_cpus", "2"]
    done = subprocess.run(words, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert fingerprint(tmp_path / "out") == expected
