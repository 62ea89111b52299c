"""The demo's pairs: parts that share nothing, negatives that are none of one's own, labels that nothing short
of reading both sides tells."""

from __future__ import annotations

import ast
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from cluster.errors import RunError
from data_jobs.hashes import sha256
from llm import demo_pairs
from llm.demo_pairs import Function, collect, functions_of, make_pairs, others, pairs_of

HELD = ("json/decoder.py", "textwrap.py", "tarfile.py")  # as if they were the corpus' validation documents


@pytest.fixture(scope="module")
def library() -> list[tuple[str, str]]:
    """A fifth of the standard library, and the modules that are held out."""
    modules = list(demo_pairs.stdlib_modules({"form": "NFC"}))
    return [(name, text) for i, (name, text) in enumerate(modules) if i % 5 == 0 or name in HELD]


@pytest.fixture(scope="module")
def parts(library: list[tuple[str, str]]) -> dict[str, list[dict[str, str]]]:
    held = {sha256(text.encode()) for name, text in library if name in HELD}
    found, _ = collect(library, held)
    return {part: pairs_of(functions, 7) for part, functions in found.items()}


def test_no_module_is_in_two_parts(parts: dict[str, list[dict[str, str]]]) -> None:
    modules = {
        part: {pair["module"] for pair in pairs} | {pair["code_of"].split(":")[0] for pair in pairs}
        for part, pairs in parts.items()
    }
    assert modules["test"] == set(HELD)
    assert all(len(own) > 2 for own in modules.values())
    assert not modules["train"] & modules["val"] and not modules["test"] & (modules["train"] | modules["val"])


def test_no_text_is_in_two_parts_or_twice_with_a_label(parts: dict[str, list[dict[str, str]]]) -> None:
    for side in ("text", "second"):
        of_part = {part: {pair[side] for pair in pairs} for part, pairs in parts.items()}
        assert not of_part["train"] & of_part["test"] and not of_part["train"] & of_part["val"]
        for pairs in parts.values():
            own, other = (
                Counter(p[side] for p in pairs if p["label"] == label) for label in ("own", "other")
            )
            assert own == other and set(own.values()) == {1}


def test_parts_are_balanced_and_negatives_are_of_others(parts: dict[str, list[dict[str, str]]]) -> None:
    for pairs in parts.values():
        counts = Counter(pair["label"] for pair in pairs)
        assert counts["own"] == counts["other"] == len(pairs) / 2 > 10
        code = {pair["text"]: pair["second"] for pair in pairs if pair["label"] == "own"}
        for pair in pairs:
            place = f"{pair['module']}:{pair['function']}"
            assert (pair["code_of"] == place) == (pair["label"] == "own")
            assert (pair["second"] == code[pair["text"]]) == (pair["label"] == "own")
        found = demo_pairs.count(pairs)
        near = sum(p["label"] == "other" and p["code_of"].startswith(p["module"] + ":") for p in pairs)
        assert found["same_module"] == near >= 0.1 * counts["other"]


def test_a_docstring_is_its_functions_and_the_code_has_none(library: list[tuple[str, str]]) -> None:
    """Against the syntax tree, function by function."""
    name, source = next(each for each in library if each[0] == "textwrap.py")
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    documented = {(n.name, " ".join((ast.get_docstring(n) or "").split())) for n in nodes}
    found = [f for f in functions_of(name, source) if isinstance(f, Function)]
    assert {"wrap", "fill", "dedent", "indent", "shorten"} <= {f.name for f in found}
    for function in found:
        name = function.name.rpartition(".")[2]
        assert any(of == name and text.startswith(function.text) for of, text in documented)
        assert function.code.startswith(f"def {name}(") and '"""' not in function.code
        assert len(function.text) <= 160 and len(function.code) <= 220
        lines = {line.strip() for line in source.splitlines()}
        assert {line.strip() for line in function.code.splitlines()[:-1]} <= lines


CASES = '''
class A:
    def plain(self, a):
        """Give back what was given, and one."""
        # why one
        return [a for _ in range(3)] + ["a word and another word"]

    def bare(self):
        return 1

    def short(self):
        """Short words."""
        return "a text that is long enough to be a function of some size, is it not?"

    def stub(self):
        """A function that does nothing yet."""

    def one_line(self): """All of it in a line, code too."""; return "a text that is long enough, is it not"

    async def nested(self):
        """Hold a function that has one, too."""
        def inside():
            """Say a thing from the inside of it."""
            return "a text that is long enough to be a function of some size, is it not?"
        return inside() + "a text that is long enough to be a function of some size"
'''


def test_what_is_left_out_has_a_reason() -> None:
    found = list(functions_of("m.py", CASES))
    assert [f.name for f in found if isinstance(f, Function)] == ["A.plain", "A.nested", "A.nested.inside"]
    assert Counter(f for f in found if isinstance(f, str)) == {
        "without a docstring": 1,
        "with a docstring under 4 words": 1,
        "with code under 60 characters": 1,
        "with a docstring that shares a line with code": 1,
    }
    plain = next(f for f in found if isinstance(f, Function))
    assert plain.code.split("\n")[:2] == ["def plain(self, a):", "    # why one"]
    assert list(functions_of("m.py", "def broken(")) == ["in a module that does not parse"]


def test_docstrings_and_codes_that_come_twice_are_left_out() -> None:
    twin = CASES.replace("from the inside", "FROM THE INSIDE").replace("what was given", "another thing")
    parts, left_out = collect([("a.py", CASES), ("b.py", twin)], set())
    assert [f.module for part in parts.values() for f in part] == []  # where docstrings differ, codes do not
    assert left_out["docstring of several functions"] == 4 and left_out["code of several functions"] == 2


def make_functions(sizes: list[int]) -> list[Function]:
    return [
        Function(f"m{m}.py", f"f{i}", f"text {m} {i}", f"code {m} {i}")
        for m, size in enumerate(sizes)
        for i in range(size)
    ]


@pytest.mark.parametrize("sizes", [[2], [1, 1], [3, 0, 1], [12, 1, 30, 2], [8, 8], [9], [1] * 40, []])
def test_negatives_are_a_permutation_that_moves_everyone(sizes: list[int]) -> None:
    functions = make_functions(sizes)
    found = others(functions, 3)
    assert sorted(found) == list(range(len(functions)))
    assert all(i != other for i, other in enumerate(found))


def test_one_function_alone_has_no_negative() -> None:
    with pytest.raises(RunError, match="one function alone"):
        others(make_functions([1]), 0)


def test_pairs_hang_on_the_functions_alone() -> None:
    functions = make_functions([12, 5, 30, 2])
    mixed = random.Random(0).sample(functions, len(functions))
    assert pairs_of(functions, 5) == pairs_of(mixed, 5) != pairs_of(functions, 6)


def lengths(pair: dict[str, str]) -> list[float]:
    """Lengths of both sides in characters, words and lines, their logarithms and products."""
    a, b = pair["text"], pair["second"]
    plain = [float(n) for side in (a, b) for n in (len(side), len(side.split()), side.count("\n"))]
    logs = [float(np.log1p(n)) for n in plain]
    return [*plain, *logs, *(x * y for x in logs[:3] for y in logs[3:])]


def test_lengths_alone_do_not_tell_the_label(library: list[tuple[str, str]]) -> None:
    """A logistic regression over the lengths of both sides stays below 0.56 of accuracy: chance is 0.5, and a
    model that reads has to be well above. (Long docstrings do stand in longer functions, a little.)"""
    found, _ = collect(library, set())
    pairs = pairs_of([*found["train"], *found["val"]], 1)
    x = np.array([lengths(pair) for pair in pairs])
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
    y = np.array([pair["label"] == "own" for pair in pairs])
    assert len(y) > 1000
    # Both pairs of a function fall into one fold, else a fold would be told by its other half.
    order = np.argsort([pair["text"] for pair in pairs], kind="stable")
    scores = cross_val_score(LogisticRegression(max_iter=2000), x[order], y[order], cv=5)
    assert scores.mean() < 0.56
    words = np.array([[*lengths(pair), overlap(pair)] for pair in pairs])[order]
    told = cross_val_score(
        LogisticRegression(max_iter=2000), words / np.maximum(words.std(0), 1e-9), y[order], cv=5
    )
    assert told.mean() > scores.mean() + 0.1  # who reads both sides can tell: the task is no noise


def overlap(pair: dict[str, str]) -> float:
    """Share of the docstring's long words that stand in the code."""
    words = {word.strip(".,:()'\"").lower() for word in pair["text"].split() if len(word) > 3}
    return sum(word in pair["second"].lower() for word in words) / max(len(words), 1)


def test_files_are_written_once_and_are_equal(tmp_path: Path) -> None:
    """Held out is what the corpus has among its validation documents; the record is written last."""
    corpus, out = corpus_of(tmp_path), tmp_path / "pairs"
    make_pairs(corpus, out)
    names = [*(f"{part}.jsonl" for part in demo_pairs.PARTS), "pairs.json"]
    first = {name: (out / name).read_bytes() for name in names}
    record = json.loads(first["pairs.json"])
    for part in demo_pairs.PARTS:
        pairs = [json.loads(line) for line in first[f"{part}.jsonl"].splitlines()]
        assert record["parts"][part] == demo_pairs.count(pairs) and len(pairs) > 10
        if part == "test":
            assert {pair["module"] for pair in pairs} <= set(HELD) | set(ALSO)
    stamp = (out / "train.jsonl").stat().st_mtime_ns
    make_pairs(corpus, out)
    assert (out / "train.jsonl").stat().st_mtime_ns == stamp
    (out / "pairs.json").write_text(json.dumps({**record, "key": {**record["key"], "python": "3.99"}}))
    make_pairs(corpus, out)
    assert (out / "train.jsonl").stat().st_mtime_ns != stamp
    assert first == {name: (out / name).read_bytes() for name in names}


ALSO = (
    "argparse.py",
    "inspect.py",
    "heapq.py",
    "bisect.py",
    "ftplib.py",
    "mailbox.py",
    "typing.py",
    "shutil.py",
)


def corpus_of(folder: Path) -> Path:
    """A corpus of some modules by the real pipeline; about half of them are its validation documents."""
    import sysconfig

    from data_jobs.pipeline import Build
    from data_jobs.reading.inputs import list_files
    from data_jobs.settings import CorpusSettings
    from data_jobs.work import run_here

    root = Path(sysconfig.get_paths()["stdlib"])
    values: dict[str, Any] = {
        "sources": [{"name": "some", "path": str(root), "format": "code", "include": [*HELD, *ALSO]}],
        "tokenizer": {"vocab_size": 2000}, "val_fraction": 0.5,
    }  # fmt: skip
    settings = CorpusSettings.model_validate(values)
    Build(settings, folder / "corpus", list_files(settings.sources), run_here, lambda *_: None).run()
    return folder / "corpus"
