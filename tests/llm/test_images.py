"""The shipped recipe `images`, made small: a folder of images to a GPT that draws some."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import llm
from cluster.errors import UserError
from cluster.recipe import Recipe, load_recipe
from data_jobs.pipeline import Build
from data_jobs.reading.inputs import list_files
from data_jobs.settings import CorpusSettings
from data_jobs.tokens.tokenizer_pixels import PixelTokenizer, pixel_tokenizer
from data_jobs.work import run_here
from llm import evaluate, generate, plan, pretrain
from llm.exchange.tokenizer_files import write_tokenizer
from llm.model.drawing import sheet, write_images
from llm.settings import PretrainSettings
from tests.data_jobs.drawn import write_shapes

STEPS = 6
SMALL = {
    "model.layers": "1", "model.width": "32", "model.heads": "2", "pretrain.steps": str(STEPS),
    "pretrain.batch": "4", "pretrain.launch": "here", "pretrain.precision": "fp32",
    "pretrain.validation.every": "0", "pretrain.checkpoint.every": str(STEPS),
    "pretrain.wandb.mode": "disabled", "corpus.val_fraction": "0.2",
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `images/` lies, a corpus of it, and a run on that."""
    folder = tmp_path_factory.mktemp("images")
    write_shapes(folder / "images", 40, side=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        recipe: Recipe = load_recipe("images", SMALL)
        settings = recipe.need(CorpusSettings)
        files = list_files(settings.sources)
        Build(settings, folder / "runs/images/corpus", files, run_here, lambda *_: None).run()
        flags = [word for name, value in SMALL.items() for word in (f"--{name}", value)]
        assert plan.main(["images", *flags, "--json"]) in (0, 1)  # it fits, or says that it does not
        assert pretrain.main(["images", *flags]) == 0
    return folder


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.chdir(home)
    capsys.readouterr()
    return "runs/images/pretrain"


def test_a_row_is_one_image() -> None:
    recipe = load_recipe("images")
    [source] = recipe.need(CorpusSettings).sources
    assert recipe.need(PretrainSettings).length == source.size[0] * source.size[1] + 1


def test_it_draws(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main([run, "--out", str(tmp_path / "a"), "--images", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == 3 and told["step"] == STEPS
    assert [Path(file).name for file in told["files"]] == ["0000.png", "0001.png", "0002.png", "sheet.png"]
    tokenizer = llm.load(run).tokenizer
    assert isinstance(tokenizer, PixelTokenizer)
    found = [np.asarray(Image.open(file)) for file in told["files"][:3]]
    assert all(
        image.shape == (16, 16) and set(image.ravel()) <= set(tokenizer.palette.ravel()) for image in found
    )
    assert not np.array_equal(found[0], found[1])
    assert np.asarray(Image.open(told["files"][3])).shape == (34, 34)
    # The same again as one file; another seed draws others; an image does not hang on how many there are.
    assert generate.main([run, "--out", str(tmp_path / "b.png"), "--images", "3"]) == 0
    assert "3 images of 16 x 16 pixels" in capsys.readouterr().out
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a/sheet.png").read_bytes()
    generate.main([run, "--out", str(tmp_path / "c"), "--images", "1", "--seed", "1"])
    generate.main([run, "--out", str(tmp_path / "d"), "--images", "1", "--top-k", "1"])
    firsts = {(tmp_path / name / "0000.png").read_bytes() for name in "acd"}
    assert len(firsts) == 3


def test_bits_per_pixel(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([run, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    pixels = told["tokens"] * 256 / 257
    assert told["bits_per_pixel"] == pytest.approx(told["loss"] * told["tokens"] / math.log(2) / pixels)
    assert 0 < told["bits_per_pixel"] < 5
    assert evaluate.main([run]) == 0
    assert "bits per pixel" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--prompt", "x"], "draws images and writes no text: give --out FOLDER"),
        (["--out", "x", "--prompt", "y", "--tokens", "3"], "--prompt, --tokens: of no use with --out"),
        (["--out", "x", "--images", "0"], "--images must be at least 1"),
        (["--images", "3"], "needs --out"),
    ],
)
def test_what_is_refused(run: str, flags: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        generate.main([run, *flags])


def test_what_images_have_not(run: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("text")
    with pytest.raises(UserError, match="--text is for a model of texts"):
        evaluate.main([run, "--text", str(tmp_path / "t.txt")])
    with pytest.raises(UserError, match="kind 'pixels' has no files of Hugging Face's"):
        write_tokenizer(llm.load(run).tokenizer, tmp_path, "gpt", 257)


def test_a_sheet_of_colours(tmp_path: Path) -> None:
    images = [np.full((2, 3, 3), number, np.uint8) for number in range(5)]
    whole = sheet(images)
    assert whole.shape == (6, 13, 3)
    assert whole[4:, 5:8].tolist() == images[4].tolist() and (whole[2:4] == 128).all()
    [file] = write_images(images, str(tmp_path / "s.png"))
    assert np.array_equal(np.asarray(Image.open(str(file))), whole)
    assert pixel_tokenizer((2, 3), 1, 4).pixels == 6
