"""The laws of the house: who imports whom, which door each giant comes in by, what files and fields say."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import pytest
from pydantic.fields import FieldInfo

from cluster.fields import Settings, leaves, on_resume
from cluster.recipe import find_sections, load_recipe, shipped_recipes
from llm.settings import ModelSettings, PretrainSettings

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cluster", "data_jobs", "llm")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))

# Each giant and the one file of its door; None: some file of data_jobs, and of nothing else.
DOORS: dict[str, str | None] = {
    "deepspeed": "llm/train/deepspeed_zero.py",
    "wandb": "llm/train/wandb_run.py",
    "ray.train": "llm/train/ray_workers.py",
    "ray.tune": "llm/tune/ray_tune.py",
    "ray.data": None,
    "obstore": "cluster/object_store.py",
    "lm_eval": "llm/evaluation/harness.py",
}
DOOR_PACKAGES = {"ray.data": "data_jobs"}

# What llm may import of data_jobs: the shard contract and the record reader. Cleaning is of the former,
# since the bits per byte of a text file are counted on its cleaned text.
CONTRACT = re.compile(
    r"data_jobs(\.open_corpus|\.(settings|hashes|shards|tokens\.tokenizer(_hf|_pixels)?|cleaning\.cleaner"
    r"|reading\.(records|json_lines|csv_files|folders|sources|raw_bytes))(\.\w+)*)?"
)
# What the rooms of llm may import from beside them: no entry file.
ROOMS = ("model", "data", "train", "tasks", "evaluation", "pages", "exchange", "tune")
SHARED = {
    "llm.settings", "llm.run_settings", "llm.finetune_settings", "llm.training_settings",
    "llm.sweep_settings", "llm.presets", "llm.deepspeed_config",
}  # fmt: skip


def name_of(file: Path) -> str:
    """`llm/train/engine.py` to `llm.train.engine`."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of whatever a file imports, in functions and under TYPE_CHECKING too."""
    package = name_of(file) if file.name == "__init__.py" else name_of(file).rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in DOORS:  # `import ray` ... `ray.data`
            yield node.lineno, ast.unparse(node)


def is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def complain(problems: list[str]) -> None:
    assert not problems, "\n" + "\n".join(problems)


def place(file: Path, line: int) -> str:
    return f"{file.relative_to(ROOT)}:{line}"


@pytest.mark.parametrize("giant", DOORS)
def test_each_giant_has_one_door(giant: str) -> None:
    inside: dict[str, str] = {}
    for file in FILES:
        for line, name in imports_of(file):
            if is_in(name, giant):
                inside.setdefault(str(file.relative_to(ROOT)), place(file, line))
    door = DOORS[giant]
    if door is not None:
        complain([f"{at}: only {door} imports {giant}" for file, at in inside.items() if file != door])
    else:
        package = DOOR_PACKAGES[giant]
        complain(
            [f"{at}: only {package} imports {giant}" for f, at in inside.items() if not f.startswith(package)]
        )
        assert len(inside) <= 1, f"{giant} comes in by more than one file: {sorted(inside.values())}"


def test_llm_enters_data_jobs_by_its_doors() -> None:
    complain(
        [
            f"{place(file, line)}: llm imports {name}, and that is no part of the shard contract"
            for file in FILES
            if is_in(name_of(file), "llm")
            for line, name in imports_of(file)
            if is_in(name, "data_jobs") and not CONTRACT.fullmatch(name)
        ]
    )


def test_rooms_import_no_entry_file() -> None:
    """Entry files stand on top: they assemble the rooms, and no room knows them."""
    complain(
        [
            f"{place(file, line)}: a room imports {name}"
            for file in FILES
            if (room := name_of(file).split("."))[0] == "llm" and len(room) > 1 and room[1] in ROOMS
            for line, name in imports_of(file)
            if is_in(name, "llm")
            and name.split(".")[1] not in ROOMS
            and not any(is_in(name, shared) for shared in SHARED)
        ]
    )


def test_the_arrows_hold_inside_functions_too() -> None:
    """What import-linter says of whole modules, for each line: an import hidden in a function is an arrow."""
    above = {"cluster": ("data_jobs", "llm"), "data_jobs": ("llm",), "llm": ()}
    complain(
        [
            f"{place(file, line)}: {name_of(file)} imports {name}"
            for file in FILES
            for line, name in imports_of(file)
            if name.split(".")[0] in above[name_of(file).split(".")[0]]
        ]
    )


def test_files_have_names_that_say_something() -> None:
    empty = {"util", "utils", "helper", "helpers", "misc", "common", "tools", "stuff"}
    complain([str(f.relative_to(ROOT)) for f in FILES if empty & {f.stem, f.parent.name}])


def test_no_file_is_named_after_a_library() -> None:
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    lines = [
        *project["dependencies"],
        *(line for x in project["optional-dependencies"].values() for line in x),
    ]
    taken = {
        re.split(r"[\[<>=; ]", line)[0].replace("-", "_").lower() for line in lines
    } | sys.stdlib_module_names
    complain([str(f.relative_to(ROOT)) for f in FILES if f.stem != "__init__" and f.stem in taken])


def test_every_module_says_its_job() -> None:
    problems = []
    for file in FILES:
        first = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
        if len(first.split()) < 3:
            problems.append(f"{file.relative_to(ROOT)}: its docstring does not say its job")
    complain(problems)


def fields_of(kind: type[Settings], prefix: str) -> Iterator[tuple[str, FieldInfo, bool]]:
    """Name, field, and whether it stands in a list; fields of the settings in lists too."""
    for name, field in leaves(kind):
        yield f"{prefix}.{name}", field, False
        todo = list(get_args(field.annotation))
        while todo:
            item = todo.pop()
            if isinstance(item, type) and issubclass(item, Settings):
                yield from ((n, f, True) for n, f, _ in fields_of(item, f"{prefix}.{name}.*"))
            else:
                todo += get_args(item)


FIELDS = [item for section, kind in find_sections().items() for item in fields_of(kind, section)]


def test_each_field_says_what_it_means_on_resume() -> None:
    complain(
        [
            f"{name}: is it identity, plan or free? (cluster.fields)"
            for name, field, in_list in FIELDS
            if not in_list and on_resume(field) is None
        ]
    )


def test_each_field_has_a_sentence() -> None:
    complain([f"{n}: has no help" for n, field, _ in FIELDS if len((field.description or "").split()) < 2])


def test_recipes_have_been_found() -> None:
    assert "cluster" in find_sections()


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_each_shipped_recipe_is_valid(recipe: str) -> None:
    path = shipped_recipes()[recipe]
    assert load_recipe(recipe).sections
    assert path.read_text(encoding="utf-8").startswith("# "), (
        f"{path}: its first line says what it is, for --list"
    )


def run_python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.timeout(300)
def test_every_module_imports() -> None:
    """In one process of its own, so that what a module does to its process stays there."""
    names = [name_of(file) for file in FILES if file.stem != "__main__"]
    code = (
        "import importlib, json, sys, traceback\nbad = {}\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    try: importlib.import_module(name)\n"
        "    except BaseException: bad[name] = traceback.format_exc(limit=-2)\n"
        "print('\\n' + json.dumps(bad))"
    )
    done = run_python("-c", code, json.dumps(names))
    assert done.returncode == 0, done.stderr
    complain([f"{name}: {why}" for name, why in json.loads(done.stdout.splitlines()[-1]).items()])


def commands() -> list[str]:
    """Modules that are run by `python -m`."""
    main = re.compile(r"^if __name__ == [\"']__main__[\"']:", re.MULTILINE)
    found = [name_of(file) for file in FILES if main.search(file.read_text(encoding="utf-8"))]
    return [name.removesuffix(".__main__") for name in found]


@pytest.mark.timeout(300)
def test_every_command_has_help() -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(commands(), pool.map(lambda name: run_python("-m", name, "--help"), commands())))
    assert "cluster.setup_env" in results
    complain(
        [
            f"python -m {name} --help: status {done.returncode}\n{done.stdout[-300:]}{done.stderr[-800:]}"
            for name, done in results.items()
            if done.returncode or "usage:" not in done.stdout
        ]
    )


def test_what_is_installed_is_pinned() -> None:
    """Each requirement of pyproject.toml has a version in constraints.txt that it allows; torch is first."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0].startswith("torch==")
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), (
        "only NAME==VERSION: no hosts, no paths"
    )
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    wanted = [
        *project["dependencies"],
        *(line for x in project["optional-dependencies"].values() for line in x),
    ]
    complain(
        [
            f"{line}: constraints.txt has {pins.get(canonicalize_name(requirement.name))}"
            for line, requirement in ((line, Requirement(line)) for line in wanted)
            if not requirement.specifier.contains(pins.get(canonicalize_name(requirement.name), "0"))
        ]
    )


def test_the_recipes_of_the_readme_are_valid(tmp_path: Path) -> None:
    recipes = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(recipes) == 3
    for number, text in enumerate(recipes):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text, encoding="utf-8")
        recipe = load_recipe(file)
        if "pretrain" in recipe.sections:
            assert recipe.need(PretrainSettings).length <= recipe.need(ModelSettings).context
        else:
            assert {"finetune", "sweep"} == set(recipe.sections)
