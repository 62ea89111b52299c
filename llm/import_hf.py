"""A local folder of Hugging Face's to a model of ours: `python -m llm.import_hf DIR OUT`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tqdm import tqdm

from cluster import places
from cluster.errors import UserError, run_command
from llm.exchange.importing import import_model
from llm.exchange.model_folder import check_new


def main(argv: list[str]) -> int:
    """Entry of the command."""
    options = _parser().parse_args(argv)
    folder, out = Path(options.folder), places.at(options.out)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder. Nothing is downloaded here: get it first, e.g. `hf download NAME "
            "--local-dir DIR`"
        )
    check_new(out)
    with tqdm(desc="import", unit="tensor", disable=None) as bar:

        def progress(done: int, whole: int) -> None:
            bar.total = whole
            bar.update(done - bar.n)

        record = import_model(folder, out, progress)
    if options.json:
        print(json.dumps({"path": str(out), **record}))
        return 0
    model = record["model"]
    fresh = f"; new weights in {', '.join(record['fresh'])}*" if record["fresh"] else ""
    print(
        f"{out}: {record['architecture']}, {model['layers']} layers, width {model['width']}, "
        f"vocabulary {record['vocab_size']:,}, context {model['context']:,}{fresh}"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llm.import_hf", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "folder", metavar="DIR", help="a folder with config.json, safetensors and the tokenizer's files"
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        help="where the model is written: a new or an empty folder; a path or s3://bucket/name",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


if __name__ == "__main__":
    run_command(main)
