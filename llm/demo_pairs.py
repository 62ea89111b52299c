"""Pairs of the standard library for the demo: does this docstring belong to this function?

A docstring's first paragraph and the function without it, both cut, are a pair with the label `own`. With the
label `other` the same docstring stands beside another function's code. In each part of the data every
docstring and every code stands once with each label, so neither tells the label alone, nor does its length.

The test part is made of modules that pretraining has not read either: the corpus' validation documents.
"""

from __future__ import annotations

import ast
import inspect
import json
import platform
import sysconfig
import textwrap
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import RunError
from cluster.places import write_bytes, write_json
from data_jobs.cleaning.cleaner import clean_text, recorded_rules
from data_jobs.hashes import h64, sha256
from llm.demo_baselines import validation_documents
from llm.demo_stages import read_json

SEED = 0
PARTS = ("train", "val", "test")
LEAST_WORDS = 4  # of a docstring
LEAST_CODE = 60  # characters of a function without it
TEXT_CHARACTERS, CODE_CHARACTERS = 160, 220
VAL_SHARE = 0.1  # of the modules that are not held out
SAME_MODULE = 0.25  # share of the negatives whose code is of the docstring's own module: the hard ones
LEFT_ALONE = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
RULES = {
    "seed": SEED, "words": LEAST_WORDS, "code": LEAST_CODE, "cut": [TEXT_CHARACTERS, CODE_CHARACTERS],
    "val_share": VAL_SHARE, "same_module": SAME_MODULE,
}  # fmt: skip


@dataclass(frozen=True)
class Function:
    """A function with a docstring."""

    module: str
    """Its file under the standard library, such as json/decoder.py."""
    name: str
    """With the classes and functions that it stands in, such as JSONDecoder.decode."""
    text: str
    code: str


def make_pairs(corpus: Path, out: Path) -> None:
    """Write {train,val,test}.jsonl, and last pairs.json: what there is, and what was left out and why."""
    manifest = read_json(corpus / "manifest.json")
    key = {"corpus_id": manifest["corpus_id"], "python": platform.python_version(), **RULES}
    record = out / "pairs.json"
    if record.is_file() and read_json(record)["key"] == key:
        print(f"pairs: already done, {out}")
        return
    rules = {
        name.removeprefix("clean."): value
        for name, value in manifest["settings"].items()
        if name.startswith("clean.")
    }
    held = {sha256(text.encode()) for text in validation_documents(corpus)}
    parts, left_out = collect(stdlib_modules(rules), held)
    out.mkdir(parents=True, exist_ok=True)
    counts = {}
    for part in PARTS:
        pairs = pairs_of(parts[part], h64(SEED, part))
        write_bytes(out / f"{part}.jsonl", "".join(json.dumps(pair) + "\n" for pair in pairs).encode())
        counts[part] = count(pairs)
    write_json(record, {"key": key, "parts": counts, "left_out": left_out})
    for part, found in counts.items():
        print(f"pairs: {part} {found['pairs']:,} of {found['modules']:,} modules", flush=True)
    print("pairs: functions left out:", ", ".join(f"{n:,} {why}" for why, n in left_out.items()))


def stdlib_modules(rules: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(module, source) of the standard library that runs this, cleaned as the corpus was, sorted by name.

    A file that is not UTF-8 is left out here as it is there.
    """
    root, clean = Path(sysconfig.get_paths()["stdlib"]), recorded_rules(rules)
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(root)
        if LEFT_ALONE.isdisjoint(module.parts[:-1]):
            try:
                yield module.as_posix(), clean_text(path.read_bytes().decode(), clean)
            except UnicodeDecodeError:
                continue


def collect(
    modules: Iterable[tuple[str, str]], held: Collection[str]
) -> tuple[dict[str, list[Function]], dict[str, int]]:
    """The functions of each part, and how many were left out, by reason.

    `held`: digests of the sources that make the test part. A docstring that several functions have would be
    right beside each of them, and a code that comes twice could stand in two parts: all these are left out.
    """
    left_out: Counter[str] = Counter()
    found: list[tuple[str, Function]] = []
    for module, source in modules:
        part = part_of(module, sha256(source.encode()) in held)
        for each in functions_of(module, source):
            if isinstance(each, Function):
                found.append((part, each))
            else:
                left_out[each] += 1
    texts, codes = (Counter(getattr(f, what).lower() for _, f in found) for what in ("text", "code"))
    parts: dict[str, list[Function]] = {part: [] for part in PARTS}
    for part, function in found:
        if texts[function.text.lower()] > 1:
            left_out["docstring of several functions"] += 1
        elif codes[function.code.lower()] > 1:
            left_out["code of several functions"] += 1
        else:
            parts[part].append(function)
    return parts, dict(sorted(left_out.items()))


def part_of(module: str, held: bool) -> str:
    """A module's part: by its name alone, but for those that are held out."""
    if held:
        return "test"
    return "val" if h64(SEED, "part", module) < VAL_SHARE * 2**64 else "train"


def functions_of(module: str, source: str) -> Iterator[Function | str]:
    """The functions of a source in the order of its lines, or why one is left out."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        yield "in a module that does not parse"
        return
    lines = source.split("\n")
    todo: list[tuple[ast.AST, str]] = [(tree, "")]
    while todo:
        node, inside = todo.pop()
        for child in reversed(list(ast.iter_child_nodes(node))):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                todo.append((child, f"{inside}{child.name}."))
            else:
                todo.append((child, inside))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield _function(module, inside.rstrip("."), node, lines)


def _function(
    module: str, name: str, node: ast.FunctionDef | ast.AsyncFunctionDef, lines: Sequence[str]
) -> Function | str:
    documented = ast.get_docstring(node, clean=False)
    if documented is None:
        return "without a docstring"
    doc = node.body[0]
    end = doc.end_lineno or doc.lineno
    others = [part.lineno for part in node.body[1:]]
    if doc.lineno == node.lineno or end in others or lines[doc.lineno - 1][: doc.col_offset].strip():
        return "with a docstring that shares a line with code"
    text = " ".join(inspect.cleandoc(documented).split("\n\n")[0].split())
    if len(text.split()) < LEAST_WORDS:
        return f"with a docstring under {LEAST_WORDS} words"
    code = [*lines[node.lineno - 1 : doc.lineno - 1], *lines[end : node.end_lineno]]
    code_text = textwrap.dedent("\n".join(line for line in code if line.strip()))
    if len(code_text) < LEAST_CODE:
        return f"with code under {LEAST_CODE} characters"
    return Function(module, name, cut(text, TEXT_CHARACTERS), cut(code_text, CODE_CHARACTERS))


def cut(text: str, most: int) -> str:
    """The text's beginning, to the end of a word."""
    if len(text) <= most:
        return text
    head = text[:most]
    return head[: max(head.rfind(" "), head.rfind("\n"))].rstrip() or head


def pairs_of(functions: Sequence[Function], seed: int) -> list[dict[str, str]]:
    """Two pairs of each function, in an order by hash."""
    pairs = [
        {
            "text": function.text,
            "second": other.code,
            "label": "own" if other is function else "other",
            "module": function.module,
            "function": function.name,
            "code_of": f"{other.module}:{other.name}",
        }
        for function, wrong in zip(functions, others(functions, seed), strict=True)
        for other in (function, functions[wrong])
    ]
    return sorted(pairs, key=lambda pair: h64(seed, "order", *pair.values()))


def others(functions: Sequence[Function], seed: int) -> list[int]:
    """For each function the number of another one: a permutation that leaves none at its place.

    Cycles: a share of each module's functions among themselves, and all that are left in one.
    """
    order = sorted(
        range(len(functions)), key=lambda n: h64(seed, "other", functions[n].module, functions[n].name)
    )
    by_module: dict[str, list[int]] = {}
    for number in order:
        by_module.setdefault(functions[number].module, []).append(number)
    near = {module: own[: round(SAME_MODULE * len(own))] for module, own in by_module.items()}
    cycles = [own for own in near.values() if len(own) > 1]
    taken = {number for cycle in cycles for number in cycle}
    rest = [number for number in order if number not in taken]
    if len(rest) == 1 and cycles:
        cycles[0] = [*cycles[0], *rest]
    elif len(rest) == 1:
        raise RunError("a part of the pairs has one function alone: no other code to stand beside it")
    else:
        cycles.append(rest)
    found = [0] * len(functions)
    for cycle in cycles:
        for number, following in zip(cycle, [*cycle[1:], *cycle[:1]], strict=True):
            found[number] = following
    return found


def count(pairs: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """What a part holds. `same_module`: negatives with code of the docstring's own module."""
    negatives = [pair for pair in pairs if pair["label"] == "other"]
    return {
        "pairs": len(pairs),
        "modules": len({pair["module"] for pair in pairs}),
        "own": len(pairs) - len(negatives),
        "other": len(negatives),
        "same_module": sum(pair["code_of"].startswith(f"{pair['module']}:") for pair in negatives),
    }
