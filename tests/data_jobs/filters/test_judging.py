"""Languages, lists, classifiers, and that batches do not matter."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import UserError
from data_jobs.filters.filter_settings import fixed_filters
from data_jobs.filters.histograms import add_histograms
from data_jobs.filters.judging import Dropped, Judge, Kept
from data_jobs.filters.language import TextClassifier, model_file
from data_jobs.filters.word_list import WordList
from data_jobs.settings import CorpusSettings
from tests.data_jobs.conftest import make_texts
from tests.data_jobs.filters.test_filter_rules import CHINESE, PROSE

ROOT = Path(__file__).parents[3]

SENTENCES = {
    "en": [
        "The train to the coast leaves every morning before the shops open.",
        "She has read that book twice, but she never liked how it ends.",
        "We should ask the neighbours whether they have seen our cat.",
        "Most of the houses in this street were built after the war.",
    ],
    "de": [
        "Der Zug an die Küste fährt jeden Morgen, bevor die Geschäfte öffnen.",
        "Sie hat das Buch zweimal gelesen, aber das Ende hat ihr nie gefallen.",
        "Wir sollten die Nachbarn fragen, ob sie unsere Katze gesehen haben.",
        "Die meisten Häuser in dieser Straße wurden nach dem Krieg gebaut.",
    ],
    "fr": [
        "Le train pour la côte part chaque matin avant l'ouverture des magasins.",
        "Elle a lu ce livre deux fois, mais elle n'en a jamais aimé la fin.",
        "Nous devrions demander aux voisins s'ils ont vu notre chat.",
        "La plupart des maisons de cette rue ont été construites après la guerre.",
    ],
    "es": [
        "El tren a la costa sale cada mañana antes de que abran las tiendas.",
        "Ha leído ese libro dos veces, pero nunca le gustó cómo termina.",
        "Deberíamos preguntar a los vecinos si han visto a nuestro gato.",
        "La mayoría de las casas de esta calle se construyeron después de la guerra.",
    ],
    "ru": [
        "Поезд к морю отправляется каждое утро, ещё до открытия магазинов.",
        "Она прочла эту книгу дважды, но конец ей никогда не нравился.",
        "Надо спросить соседей, не видели ли они нашу кошку.",
        "Большинство домов на этой улице построено после войны.",
    ],
    "zh": [
        "她每天早上坐火车去海边，因为那里很安静。",
        "这本书她读了两遍，但是从来不喜欢它的结局。",
        "我们应该问问邻居有没有看见我们的猫。",
        "这条街上的大部分房子是战争以后建的。",
    ],
    "ja": [
        "海岸へ行く列車は毎朝、店が開く前に出発します。",
        "彼女はその本を二回読みましたが、終わり方は好きではありませんでした。",
        "うちの猫を見なかったか、近所の人に聞いてみましょう。",
        "この通りの家のほとんどは戦争のあとに建てられました。",
    ],
}


def judge_of(filters: dict[str, Any], **source: Any) -> Judge:
    settings = CorpusSettings.model_validate(
        {"sources": [{"name": "s", "path": "x", **source}], "filters": filters}
    )
    return Judge(settings, settings.sources[0])


def test_languages_are_told_apart() -> None:
    model = TextClassifier(model_file(), "corpus.filters.language")
    for language, sentences in SENTENCES.items():
        found = [label for label, _ in model.best(sentences)]
        assert found.count(language) >= 0.9 * len(sentences), (language, found)
        assert model.best(["\n".join(sentences)])[0][0] == language
    assert model.best([]) == []


def test_the_language_filter_keeps_what_it_is_told() -> None:
    judge = judge_of({"language": {"keep": ["en", "zh"]}})
    texts = [" ".join(sentences) for sentences in SENTENCES.values()]
    verdicts = dict(zip(SENTENCES, judge.judge(texts), strict=True))
    kept = {language for language, verdict in verdicts.items() if isinstance(verdict, Kept)}
    assert kept == {"en", "zh"}
    assert verdicts["de"] == Dropped("language_other", verdicts["de"].detail)  # type: ignore[union-attr]
    assert judge.to_json()["histograms"]["language"] == {"en": 1, "zh": 1}
    unsure = judge_of({"language": {"keep": ["en"], "min_score": 1.0}}).judge(["ok 12 net 34 la 56"])[0]
    assert isinstance(unsure, Dropped) and unsure.reason in ("language_unsure", "language_other")


def test_only_the_beginning_is_asked_for_its_language() -> None:
    english, german = (" ".join(SENTENCES[language] * 4) for language in ("en", "de"))
    assert isinstance(judge_of({"language": {"keep": ["en"]}}).judge([english + german * 9])[0], Kept)
    whole = judge_of({"language": {"keep": ["en"], "bytes": 100_000}}).judge([english + german * 9])[0]
    assert isinstance(whole, Dropped)


def test_a_list_of_words(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# a comment\nDamn\nhot dog\nгадость\n坏词\n")
    words = WordList.of_file(path, "corpus.filters.words.path")
    from data_jobs.filters.scanning import Scanner

    texts = [
        "Damn! It is a (hot-dog), no: a hot dog.", "DAMN damn", "damned hotdogs", "Гадость, гадость",
        "这是坏词吗",
        "hot\ndog", "", "坏 词",
    ]  # fmt: skip
    assert words.count(Scanner().scan(texts)).tolist() == [2, 2, 0, 2, 1, 1, 0, 1]
    filters = {"words": {"path": str(path), "max_share": 0.5}}
    verdicts = judge_of(filters).judge(["damn damn damn", "damn it", PROSE])
    assert [isinstance(verdict, Kept) for verdict in verdicts] == [False, True, True]
    with pytest.raises(UserError, match="words.path: .*nowhere: cannot be read"):
        judge_of({"words": {"path": str(tmp_path / "nowhere")}})


def test_bad_words_of_c4(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("gulls\n")
    found = judge_of({"c4": {"bad_words": str(tmp_path / "bad")}}).judge(
        [PROSE, PROSE.replace("gulls", "sails")]
    )
    assert found == [
        Dropped("c4_bad_words", "1 words of the list, more than 0"),
        Kept(PROSE.replace("gulls", "sails")),
    ]


def test_a_classifier_of_ones_own(tmp_path: Path) -> None:
    """Any fastText model will do: the one for languages has labels too."""
    filters = {"fasttext": {"path": str(model_file()), "label": "fr", "min_score": 0.5}}
    texts = [" ".join(sentences) for sentences in SENTENCES.values()]
    kept = [isinstance(verdict, Kept) for verdict in judge_of(filters).judge(texts)]
    assert kept == [language == "fr" for language in SENTENCES]
    (tmp_path / "none.bin").write_bytes(b"no model")
    with pytest.raises(UserError, match="fasttext.path: .*no fastText model"):
        judge_of({"fasttext": {"path": str(tmp_path / "none.bin"), "label": "x"}})


ALL = {
    "gopher_quality": {"min_words": 10}, "gopher_repetition": {}, "c4": {"min_sentences": 2}, "fineweb": {},
    "length": {"min_characters": 40}, "language": {"keep": ["en"], "min_score": 0.1},
}  # fmt: skip


def test_verdicts_do_not_hang_on_batches() -> None:
    draw = random.Random(5)
    texts = [*make_texts(120), PROSE, CHINESE, "", "Menu\n" * 30, "\n".join([PROSE, "Menu", PROSE])]
    texts += [f"Menu\n{PROSE}", f"{PROSE}[1]"]
    texts += ["\n".join(draw.choices(PROSE.split(". "), k=12)) + "." for _ in range(40)]
    whole = judge_of(ALL)
    verdicts = whole.judge(texts)
    assert {type(verdict) for verdict in verdicts} == {Kept, Dropped}
    assert len({verdict.reason for verdict in verdicts if isinstance(verdict, Dropped)}) >= 4
    for size in (1, 17):
        other = judge_of(ALL)
        assert [
            v for at in range(0, len(texts), size) for v in other.judge(texts[at : at + size])
        ] == verdicts
        assert other.to_json() == whole.to_json()
    count = whole.count
    assert count.documents_in == len(texts) and count.bytes_in == sum(len(text.encode()) for text in texts)
    assert count.bytes_removed == len("Menu\n") + len("[1]")
    assert count.bytes_out == sum(len(v.text.encode()) for v in verdicts if isinstance(v, Kept))
    lengths = whole.to_json()["histograms"]["words_log2"]
    assert sum(lengths.values()) == count.documents_out


def test_a_judge_with_nothing_to_do() -> None:
    judge = judge_of({})
    assert not judge.does_anything
    assert judge.judge(["a", "{"]) == [Kept("a"), Kept("{")]
    assert judge.judge([]) == []
    assert judge.to_json()["histograms"] == {"characters_log2": {"0": 2}}


def test_code_is_not_judged_as_prose() -> None:
    code = "int main() { return 0; }"
    filters = {"c4": {}, "gopher_quality": {}, "length": {"max_characters": 100}}
    assert isinstance(judge_of(filters).judge([code])[0], Dropped)
    verdicts = judge_of(filters, format="code").judge([code, code * 9])
    assert [type(verdict) for verdict in verdicts] == [Kept, Dropped]


def test_a_corpus_hangs_on_what_a_list_holds_and_not_on_its_place(tmp_path: Path) -> None:
    for name, words in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).write_text(words)
    fixed = [
        fixed_filters(
            CorpusSettings.model_validate({"filters": {"words": {"path": str(tmp_path / name)}}}).filters
        )
        for name in "abc"
    ]
    assert fixed[0] == fixed[1] != fixed[2]
    assert fixed[0]["c4"] is None
    with pytest.raises(UserError, match="corpus.filters.words.path: .*cannot be read"):
        fixed_filters(CorpusSettings.model_validate({"filters": {"words": {"path": "/nowhere/x"}}}).filters)


def test_histograms_add_up() -> None:
    parts = [{"a": {"1": 2, "10": 1}}, {"a": {"2": 1}, "b": {"x": 1}}, {}]
    assert add_histograms(parts) == {"a": {"1": 2, "2": 1, "10": 1}, "b": {"x": 1}}


def test_nothing_heavy_is_loaded_before_a_recipe_asks_for_it() -> None:
    code = (
        "import sys, data_jobs.prepare, data_jobs.clean_task\n"
        "print(*{'numba', 'ftfy', 'fasttext', 'symspellpy'}.intersection(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "\n"
