"""A recipe: one YAML file and the flags over it, checked against every section's settings.

Each top-level package may have a `settings.py` with `SECTIONS: dict[str, type[Settings]]`. They are found
by that convention, so that a lower package checks a whole recipe without knowing the upper ones by name.
"""

from __future__ import annotations

import argparse
import importlib
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from cluster.errors import UserError, did_you_mean
from cluster.fields import Settings, defaults_of, kinds_of, leaves, nested

ROOT = Path(__file__).resolve().parent.parent
S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. `options` holds a command's own flags, those that are no setting."""

    name: str
    path: Path
    sections: Mapping[str, Settings]
    options: argparse.Namespace
    where: Callable[[str], str] = str
    """A field's dotted name with the file and line, or the flag, that it comes from; for an error."""

    def need(self, kind: type[S]) -> S:
        """The section of this class; a UserError that names it where the recipe has none."""
        for section in self.sections.values():
            if isinstance(section, kind):
                return section
        raise UserError(f"{self.path}: section '{_section_name(kind)}' is missing and this command needs it")

    def get(self, kind: type[S]) -> S:
        """The section of this class, or its defaults."""
        return next((s for s in self.sections.values() if isinstance(s, kind)), None) or kind()

    def out(self, section: str) -> str:
        """Where a section's output goes: its `out`, else `runs/<recipe>/<section>`."""
        return getattr(self.sections.get(section), "out", None) or f"runs/{self.name}/{section}"


def find_sections() -> dict[str, type[Settings]]:
    """All sections that the packages beside this one declare."""
    found: dict[str, type[Settings]] = {}
    for file in sorted(ROOT.glob("*/settings.py")):
        found.update(importlib.import_module(f"{file.parent.name}.settings").SECTIONS)
    return found


def shipped_recipes() -> dict[str, Path]:
    """Name to path of the recipes that lie beside the code that they configure."""
    return {file.stem: file for file in sorted(ROOT.glob("*/recipes/*.yaml"))}


def read_command(
    prog: str,
    description: str,
    argv: Sequence[str],
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> Recipe:
    """Read `RECIPE [--section.key VALUE ...]` from a command line.

    Raises UserError with all problems at once. `--help` and `--list` print and exit 0.
    """
    sections = find_sections()
    parser = _Parser(
        prog=prog,
        usage=f"{prog} RECIPE [--section.key VALUE ...]",
        description=description,
        allow_abbrev=False,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a shipped recipe")
    parser.add_argument("--list", action=_ListRecipes, help="print the shipped recipes and exit")
    add_options(parser)
    for section, kind in sections.items():
        group = parser.add_argument_group(f"section '{section}'")
        defaults = dict(defaults_of(kind))
        for dotted, field in leaves(kind):
            text = (field.description or "").replace("%", "%%")
            default = f" (default {defaults[dotted]!r})".replace("%", "%%") if dotted in defaults else ""
            group.add_argument(
                f"--{section}.{dotted}", metavar="VALUE", help=text + default, default=argparse.SUPPRESS
            )
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        # The words after an unknown flag are most likely its values: name them only where no flag is wrong.
        words = [word for word in unknown if word.startswith("-")] or unknown
        raise UserError(
            "\n       ".join(f"unknown argument {w}{did_you_mean(w.split('=')[0], flags)}" for w in words)
        )
    overrides = {key: options.__dict__.pop(key) for key in list(vars(options)) if "." in key}
    return load_recipe(options.recipe, overrides, sections, options)


def load_recipe(
    where: str | Path,
    overrides: Mapping[str, str] | None = None,
    sections: Mapping[str, type[Settings]] | None = None,
    options: argparse.Namespace | None = None,
) -> Recipe:
    """Read and check a recipe file (or a shipped recipe's name).

    Override values are YAML text, but for a field that holds text they are taken as they are written.
    """
    path = _find(where)
    root, data = _read(path)
    known = dict(sections or find_sections())
    problems = list(_repeated_keys(path, root))
    for dotted, raw in (overrides or {}).items():
        _set(data, dotted.split("."), _flag_value(dotted, raw, known))
    checked: dict[str, Settings] = {}
    for section, values in data.items():
        if section not in known:
            problems.append(
                f"{_place(path, root, [section])}: unknown section '{section}'{did_you_mean(section, known)}"
            )
            continue
        try:
            checked[section] = known[section].model_validate({} if values is None else values)
        except ValidationError as error:
            for item in error.errors():
                problems.append(_explain(path, root, section, known[section], dict(item), overrides or {}))
    if problems:
        raise UserError("\n       ".join(problems))
    flags = list(overrides or {})

    def place_of(dotted: str) -> str:
        loc = [int(part) if part.isdigit() else part for part in dotted.split(".")]
        return _named_place(path, root, loc, flags)

    return Recipe(path.stem, path, checked, options or argparse.Namespace(), place_of)


def _read(path: Path) -> tuple[yaml.Node, dict[str, Any]]:
    """A recipe's syntax tree, which knows the lines, with its values."""
    try:
        text = path.read_text(encoding="utf-8")
        root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that cannot be
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{path}: not a recipe: nested too deeply") from None
    if root is None or not isinstance(data, dict):
        raise UserError(f"{path}: a recipe is a mapping of sections, this is {_yaml_kind(data)}")
    return root, data


def _yaml_kind(value: Any) -> str:
    return {type(None): "empty", list: "a list", str: "text"}.get(type(value), type(value).__name__)


def _repeated_keys(path: Path, root: yaml.Node) -> Iterator[str]:
    """A problem for each key that stands twice in one mapping: YAML would keep the last in silence."""
    todo, seen = [root], set()
    while todo:
        node = todo.pop()
        if id(node) in seen:  # an alias leads to the same node, and may lead back
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode) and lines.setdefault(key.value, line) != line:
                    yield f"{path}:{line}: '{key.value}' stands here again (first in line {lines[key.value]})"
                todo.append(value)
        elif isinstance(node, yaml.SequenceNode):
            todo.extend(node.value)


def _flag_value(dotted: str, raw: str, known: Mapping[str, type[Settings]]) -> Any:
    """What a flag's text means for its field: text as written (`*.txt`, `[MASK]`, `007`), else YAML."""
    section, _, name = dotted.partition(".")
    field: FieldInfo | None = dict(leaves(known[section])).get(name) if section in known else None
    kinds = kinds_of(field) if field is not None else set()
    if kinds and kinds <= {str, type(None)}:
        return None if raw in ("null", "~") and type(None) in kinds else raw
    try:
        return yaml.safe_load(raw)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
        raise UserError(f"--{dotted}: not valid YAML: {problem}; got {_short(raw)}") from None


def _find(where: str | Path) -> Path:
    path = Path(where)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(where) in shipped:
        return shipped[str(where)]
    raise UserError(
        f"recipe '{where}': no such file, and no shipped recipe has that name"
        f"{did_you_mean(str(where), shipped)}; shipped: {', '.join(shipped) or 'none'}"
    )


def _section_name(kind: type[Settings]) -> str:
    return next((name for name, known in find_sections().items() if known is kind), kind.__name__)


def _set(data: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        if data.get(part) is None:
            data[part] = {}
        if not isinstance(data[part], dict):
            return  # the check of the file's own value tells what is wrong
        data = data[part]
    data[path[-1]] = value


def _explain(
    path: Path,
    root: yaml.Node,
    section: str,
    kind: type[Settings],
    item: dict[str, Any],
    overrides: Mapping[str, str],
) -> str:
    loc = [section, *item["loc"]]
    place = _named_place(path, root, loc, overrides)
    if item["type"] == "extra_forbidden":
        return f"{place}: unknown key{did_you_mean(str(loc[-1]), _names_at(kind, loc[1:-1]))}"
    if item["type"] == "missing":
        return f"{place}: required, and missing"
    if rule := _rule(item["type"], item.get("ctx", {})):
        return f"{place}: must be {rule}, is {_short(item['input'])}"
    message = str(item["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if item["type"] == "value_error" and isinstance(item["input"], dict):  # a rule over several fields
        return f"{place}: {message}"
    return f"{place}: {message}, got {_short(item['input'])}"


def _rule(kind: str, context: Mapping[str, Any]) -> str | None:
    """What pydantic's kind of error asks of a value, in our words; None: a rule of our own, or a rare one."""
    match kind:
        case "int_parsing" | "int_type" | "int_from_float":
            return "a whole number"
        case "float_parsing" | "float_type":
            return "a number"
        case "finite_number":
            return "a finite number"
        case "bool_parsing" | "bool_type":
            return "true or false"
        case "string_type":
            return "text"
        case "list_type" | "tuple_type":
            return "a list"
        case "dict_type" | "model_type":
            return "a mapping of names to values"
        case "literal_error":
            return str(context["expected"])
        case "greater_than_equal":
            return f"at least {context['ge']:g}"
        case "greater_than":
            return f"above {context['gt']:g}"
        case "less_than_equal":
            return f"at most {context['le']:g}"
        case "less_than":
            return f"below {context['lt']:g}"
    return None


def _named_place(path: Path, root: yaml.Node, loc: Sequence[Any], flags: Iterable[str]) -> str:
    """Where a field comes from, and its dotted name: a flag that sets it or what holds it, else the file."""
    dotted = ".".join(str(part) for part in loc)
    flag = next((name for name in flags if f"{dotted}.".startswith(f"{name}.")), None)
    where = f"--{flag}" if flag else _place(path, root, loc)
    return where if flag == dotted else f"{where}: {dotted}"


def _short(value: Any) -> str:
    """A value in at most about a line: a few lines of YAML aliases can stand for gigabytes."""
    short = reprlib.Repr()
    short.maxlevel, short.maxlist, short.maxtuple, short.maxdict, short.maxstring = 2, 4, 4, 4, 80
    return short.repr(value)


def _names_at(kind: type[Settings], loc: Sequence[Any]) -> list[str]:
    """Field names of the settings class that stands at `loc` (list positions are passed through)."""
    for part in loc:
        field = kind.model_fields.get(str(part)) if isinstance(part, str) else None
        if field is None:
            continue
        inner = nested(field)
        if inner is None:  # a list of settings: its item class
            inner = next(
                (
                    a
                    for a in getattr(field.annotation, "__args__", ())
                    if isinstance(a, type) and issubclass(a, Settings)
                ),
                None,
            )
        if inner is not None:
            kind = inner
    return list(kind.model_fields)


def _place(path: Path, root: yaml.Node, loc: Sequence[Any]) -> str:
    """`file:line` of the deepest part of `loc` that stands in the file."""
    node, line = root, 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            hit = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if hit is None:
                break
            line, node = hit[0].start_mark.line + 1, hit[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return f"{path}:{line}"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong without the list of all flags before it."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


class _ListRecipes(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        for name, path in shipped_recipes().items():
            first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
            print(f"{name:16} {first}")
        parser.exit(0)
