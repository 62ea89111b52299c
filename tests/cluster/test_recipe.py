"""Recipes: what is wrong is said with its place, all at once, and nothing is ignored."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

import pytest
from pydantic import model_validator

from cluster import recipe as recipes
from cluster.errors import UserError
from cluster.fields import Settings, free, identity, plan
from cluster.recipe import Recipe, load_recipe, read_command


class Source(Settings):
    """Where text comes from."""

    files: str = plan(help="a pattern of file names")
    weight: float = plan(1.0, "share of the mixture", gt=0)


class Corpus(Settings):
    """Raw text to tokens."""

    sources: tuple[Source, ...] = plan((), "what is read")
    mask: str | None = plan(None, "a text")
    out: str | None = free(None, "where the corpus goes")


class Optimizer(Settings):
    """How weights move."""

    learning_rate: float = plan(1e-3, "peak learning rate, 100% of it", gt=0)


class Pretrain(Settings):
    """Tokens to weights."""

    seed: int = plan(help="the one seed")
    steps: int = plan(10, "optimizer steps", ge=1)
    kind: Literal["adamw", "muon"] = identity("adamw", "the optimizer")
    optimizer: Optimizer = plan(Optimizer(), "the optimizer's settings")
    names: list[str] = free(["a"], "names to write down")
    out: str | None = free(None, "where the run goes")

    @model_validator(mode="after")
    def _even(self) -> Pretrain:
        if self.steps == 13:
            raise ValueError("13 steps bring bad luck")
        return self


SECTIONS: dict[str, type[Settings]] = {"corpus": Corpus, "pretrain": Pretrain}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(tmp_path: Path, text: str, **overrides: str) -> list[str]:
    """What is said about this recipe, a line each, without the folder."""
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        load_recipe(path, {k.replace("__", "."): v for k, v in overrides.items()}, SECTIONS)
    return [line.strip().replace(str(path), "r.yaml") for line in str(error.value).splitlines()]


def read(tmp_path: Path, text: str, *flags: str, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setattr(recipes, "find_sections", lambda: SECTIONS)
    return read_command("python -m x.y", "does things", [str(write(tmp_path, text)), *flags])


GOOD = "corpus:\n  sources:\n    - files: '*.txt'\npretrain:\n  seed: 1\n"


def test_a_good_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD), sections=SECTIONS)
    assert recipe.name == "r"
    assert recipe.need(Corpus).sources == (Source(files="*.txt"),)
    assert recipe.need(Pretrain) == Pretrain(seed=1)
    assert recipe.out("corpus") == "runs/r/corpus"


def test_where_a_field_comes_from(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD), {"pretrain.seed": "2"}, SECTIONS)
    assert recipe.where("corpus.sources.0.files") == f"{tmp_path}/r.yaml:3: corpus.sources.0.files"
    assert recipe.where("pretrain.seed") == "--pretrain.seed"


def test_out_of_a_section(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD + "  out: /data/run\n"), sections=SECTIONS)
    assert recipe.out("pretrain") == "/data/run"


def test_unknown_key_with_line_and_nearest_name(tmp_path: Path) -> None:
    assert problems(tmp_path, "pretrain:\n  seed: 1\n  step: 5\n") == [
        "r.yaml:3: pretrain.step: unknown key; did you mean 'steps'?"
    ]


def test_unknown_key_below_a_section_and_in_a_list(tmp_path: Path) -> None:
    text = (
        "corpus:\n  sources:\n    - files: a\n    - files: b\n      weigth: 2\n"
        "pretrain:\n  seed: 1\n  optimizer:\n    learning_rat: 1\n"
    )
    assert problems(tmp_path, text) == [
        "r.yaml:5: corpus.sources.1.weigth: unknown key; did you mean 'weight'?",
        "r.yaml:9: pretrain.optimizer.learning_rat: unknown key; did you mean 'learning_rate'?",
    ]


def test_unknown_section(tmp_path: Path) -> None:
    assert problems(tmp_path, "pretrain: {seed: 1}\ncorpsu: {}\n") == [
        "r.yaml:2: unknown section 'corpsu'; did you mean 'corpus'?"
    ]


def test_all_problems_at_once(tmp_path: Path) -> None:
    text = "pretrian:\n  seed: 1\npretrain:\n  steps: many\n  kind: sgd\n  x: 1\ncorpus: 3\n"
    assert problems(tmp_path, text) == [
        "r.yaml:1: unknown section 'pretrian'; did you mean 'pretrain'?",
        "r.yaml:3: pretrain.seed: required, and missing",
        "r.yaml:4: pretrain.steps: must be a whole number, is 'many'",
        "r.yaml:5: pretrain.kind: must be 'adamw' or 'muon', is 'sgd'",
        "r.yaml:6: pretrain.x: unknown key",
        "r.yaml:7: corpus: must be a mapping of names to values, is 3",
    ]


def test_a_rule_over_several_fields(tmp_path: Path) -> None:
    assert problems(tmp_path, "pretrain: {seed: 1, steps: 13}\n") == [
        "r.yaml:1: pretrain: 13 steps bring bad luck"
    ]


def test_yes_is_no_number(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, "pretrain:\n  seed: yes\n")
    assert problem.startswith("r.yaml:2: pretrain.seed: true and false")


def test_a_key_twice(tmp_path: Path) -> None:
    assert problems(tmp_path, "pretrain:\n  seed: 1\n  steps: 2\n  seed: 3\n") == [
        "r.yaml:4: 'seed' stands here again (first in line 2)"
    ]


def test_missing_section_is_named_with_its_command(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "pretrain: {seed: 1}\n"), sections=SECTIONS)
    with pytest.raises(UserError, match=r"section 'Corpus' is missing and this command needs it"):
        recipe.need(Corpus)


def test_missing_section_by_its_name_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read(tmp_path, "pretrain: {seed: 1}\n", monkeypatch=monkeypatch)
    with pytest.raises(UserError, match=r"r\.yaml: section 'corpus' is missing"):
        recipe.need(Corpus)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a recipe is a mapping of sections, this is empty"),
        ("- a\n", "a recipe is a mapping of sections, this is a list"),
        ("pretrain\n", "a recipe is a mapping of sections, this is text"),
        ("a: 1\n b: 2\n", "r.yaml:2: not valid YAML: mapping values are not allowed here"),
        ("a: [1\n", "not valid YAML"),
        ("a: !!python/object:os.system {}\n", "r.yaml:1: not valid YAML: could not determine a constructor"),
        ("a: *x\n", "r.yaml:1: not valid YAML: found undefined alias"),
        ("a: 1\n---\nb: 2\n", "r.yaml:2: not valid YAML"),
        ("a: 2024-13-45\n", "not valid YAML: month must be in 1..12"),
        ("a: \x00\n", "not valid YAML"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("? [a, b]\n: 1\n", "r.yaml:1: not valid YAML: found unhashable key"),
    ],
)
def test_what_is_no_recipe(tmp_path: Path, text: str, words: str) -> None:
    [problem] = problems(tmp_path, text)
    assert words in problem


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(UserError, match="cannot be read"):
        load_recipe(tmp_path / "r.yaml", sections=SECTIONS)


def test_aliases_that_stand_for_gigabytes_are_harmless(tmp_path: Path) -> None:
    """Nine lines for 10^9 words: the message about them stays short."""
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    lines += ["pretrain: {seed: *a8, names: *a8, kind: *a8}"]
    found = problems(tmp_path, "\n".join(lines))
    assert max(map(len, found)) < 400
    assert any("pretrain.seed" in line for line in found)


def test_an_alias_that_leads_back_to_itself(tmp_path: Path) -> None:
    found = problems(tmp_path, "pretrain: &p\n  seed: 1\n  names: &n [*n]\n  optimizer: *p\n")
    assert found and max(map(len, found)) < 400


def test_aliases_in_good_use(tmp_path: Path) -> None:
    text = "pretrain:\n  seed: &s 7\n  steps: *s\n"
    assert load_recipe(write(tmp_path, text), sections=SECTIONS).need(Pretrain).steps == 7


def test_flags_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read(
        tmp_path,
        GOOD,
        *("--pretrain.steps", "7", "--pretrain.optimizer.learning_rate=3e-4", "--pretrain.names", "[x, y]"),
        *("--corpus.sources", "[{files: b, weight: 2}]", "--pretrain.out", "runs/2024"),
        monkeypatch=monkeypatch,
    )
    pretrain = recipe.need(Pretrain)
    assert (pretrain.seed, pretrain.steps, pretrain.optimizer.learning_rate) == (1, 7, 3e-4)
    assert (pretrain.names, pretrain.out) == (["x", "y"], "runs/2024")
    assert recipe.need(Corpus).sources == (Source(files="b", weight=2),)


@pytest.mark.parametrize(
    "text", ["*.txt", "[MASK]", "007", "2024-01-01", "a: b", "# no comment", "yes", "&x"]
)
def test_a_flag_for_text_takes_it_as_written(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read(tmp_path, GOOD, "--corpus.mask", text, monkeypatch=monkeypatch).need(Corpus).mask == text


def test_a_flag_takes_a_text_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = GOOD + "  out: x\n"
    assert read(tmp_path, text, "--pretrain.out", "null", monkeypatch=monkeypatch).need(Pretrain).out is None


def test_a_flag_fills_a_section_that_the_file_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "corpus:\n"
    recipe = read(tmp_path, text, "--pretrain.seed", "3", monkeypatch=monkeypatch)
    assert recipe.need(Pretrain).seed == 3


def test_a_wrong_flag_value_is_said_of_the_flag(tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD, pretrain__steps="few", corpus__sources="[{files: a, weight: -1}]") == [
        "--corpus.sources: corpus.sources.0.weight: must be above 0, is -1",
        "--pretrain.steps: must be a whole number, is 'few'",
    ]


def test_a_flag_that_is_broken_yaml(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, GOOD, pretrain__names="[a")
    assert problem.startswith("--pretrain.names: not valid YAML: ")


def test_a_flag_below_what_is_no_mapping(tmp_path: Path) -> None:
    [problem] = problems(
        tmp_path, "pretrain:\n  seed: 1\n  optimizer: 5\n", pretrain__optimizer__learning_rate="1"
    )
    assert problem.startswith("r.yaml:3: pretrain.optimizer: must be a mapping")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--pretrain.step", "3"], "unknown argument --pretrain.step; did you mean '--pretrain.steps'?"),
        (["--pretrain.step=3"], "unknown argument --pretrain.step=3; did you mean '--pretrain.steps'?"),
        (
            ["--pretrain.ste", "3", "--corpus.ot", "x"],
            "'--pretrain.steps'?\n       unknown argument --corpus",
        ),
        (["again"], "unknown argument again"),
        (["--pretrain.steps"], "argument --pretrain.steps: expected one argument; see python -m x.y --help"),
    ],
)
def test_unknown_flags(tmp_path: Path, flags: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, GOOD, *flags, monkeypatch=monkeypatch)
    assert words in str(error.value)


def test_no_recipe_is_a_short_message() -> None:
    with pytest.raises(UserError, match="required: RECIPE; see python -m x.y --help"):
        read_command("python -m x.y", "does things", [])


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(UserError, match="recipe 'nowhere.yaml': no such file, and no shipped recipe"):
        load_recipe("nowhere.yaml", sections=SECTIONS)


def test_shipped_recipes_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "shipped_recipes", lambda: {"gpt_small": write(tmp_path, GOOD)})
    assert load_recipe("gpt_small", sections=SECTIONS).need(Pretrain).seed == 1
    with pytest.raises(UserError, match="did you mean 'gpt_small'"):
        load_recipe("gpt_smal", sections=SECTIONS)


def test_help_says_each_flag_with_its_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recipes, "find_sections", lambda: SECTIONS)
    with pytest.raises(SystemExit) as stop:
        read_command("python -m x.y", "does things", ["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert text.startswith("usage: python -m x.y RECIPE [--section.key VALUE ...]\n")
    assert "peak learning rate, 100% of it (default 0.001)" in " ".join(text.split())


def test_options_of_the_command_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true")

    monkeypatch.setattr(recipes, "find_sections", lambda: SECTIONS)
    argv = [str(write(tmp_path, GOOD)), "--json", "--pretrain.steps", "2"]
    recipe = read_command("python -m x.y", "does things", argv, add)
    assert recipe.options.json is True
    assert recipe.need(Pretrain).steps == 2
