"""Every wrong record is said with its reason, its field and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from llm.settings import FinetuneSettings
from llm.tasks.example_fields import Answers, BadExample, Example, read_example
from llm.tasks.task_data import Row


def read(kind: str, values: dict[str, Any], is_text: bool = False, **data: Any) -> Example:
    settings = FinetuneSettings.model_validate({"task": {"kind": kind}, "data": data})
    return read_example(Row(values, tuple(values), "f:1", is_text), settings.data, settings.task.kind)


SQUAD = {"text": "The sea is calm.", "question": "what?"}
TWO = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "classification",
        {"text": "t", "lable": "a"},
        "missing_field",
        "no field 'label'.*did you mean 'lable'",
    ),
    ("classification", {"text": "t", "y": 1}, "missing_field", "finetune.data.label.*it has: 'text', 'y'"),
    ("classification", {"text": "t", "label": None}, "null_field", "'label' is null"),
    ("classification", {"text": " \n", "label": "a"}, "empty_text", "field 'text' is empty"),
    ("classification", {"text": 3, "label": "a"}, "not_text", r"'text' is a number \(3\)"),
    ("classification", {"text": "t", "label": 0.5}, "label_type", "text or a whole number"),
    ("classification", {"text": "t", "label": ["a"]}, "label_type", "'label' is a list"),
    ("classification", {"text": "t", "label": ""}, "empty_label", "'label' is empty"),
    ("classification", {"text": "t\ud800", "label": "a"}, "lone_surrogate", "half of a surrogate pair"),
    ("multi_label", {"text": "t", "label": "a"}, "not_a_list", "a list is wanted"),
    ("multi_label", {"text": "t", "label": ["a", 0.5]}, "label_type", "0.5"),
    ("regression", {"text": "t", "label": float("nan")}, "not_finite", "is nan"),
    ("regression", {"text": "t", "label": float("-inf")}, "not_finite", "is -inf"),
    ("regression", {"text": "t", "label": 1e39}, "not_finite", r"1e\+39"),
    ("regression", {"text": "t", "label": "3"}, "label_type", "a number is wanted"),
    ("regression", {"text": "t", "label": True}, "label_type", "true or false"),
    ("token_classification", {"words": ["a", "b"], "label": ["O"]}, "tags_do_not_match", "2 words.*1 tags"),
    ("token_classification", {"words": [], "label": []}, "empty_text", "no words"),
    ("token_classification", {"words": ["a", ""], "label": ["O", "O"]}, "empty_text", "word 2 of 'words'"),
    ("token_classification", {"words": "a b", "label": ["O", "O"]}, "not_a_list", "'words' is a text"),
    (
        "question_answering",
        SQUAD | {"answers": {"text": ["sea"], "answer_start": [5]}},
        "answer_not_there",
        "answer 'sea' does not stand at character 5 of the context, 'ea ' does; it stands at 4",
    ),
    (
        "question_answering",
        SQUAD | {"answers": [{"text": "wind", "answer_start": -1}]},
        "answer_not_there",
        "it stands nowhere",
    ),
    ("question_answering", SQUAD | {"answers": {"text": ["sea"]}}, "answers_shape", "no list 'answer_start'"),
    (
        "question_answering",
        SQUAD | {"answers": {"text": ["sea"], "answer_start": []}},
        "answers_shape",
        "1 of text, 0 of answer_start",
    ),
    ("question_answering", SQUAD | {"answers": ["sea"]}, "answers_shape", "text and answer_start"),
    (
        "question_answering",
        SQUAD | {"answers": {"text": ["sea"], "answer_start": ["4"]}},
        "answers_shape",
        "a whole number",
    ),
    (
        "question_answering",
        SQUAD | {"answers": {"text": [""], "answer_start": [0]}},
        "empty_text",
        "is empty",
    ),
    ("question_answering", SQUAD, "missing_field", "no field 'answers'"),
    ("instruction", {"prompt": "p", "answer": ""}, "empty_text", "'answer' is empty"),
    ("instruction", {"prompt": "p", "response": "r"}, "missing_field", "finetune.data.answer"),
]


@pytest.mark.parametrize(("kind", "values", "reason", "says"), WRONG)
def test_a_wrong_record(kind: str, values: dict[str, Any], reason: str, says: str) -> None:
    with pytest.raises(BadExample) as caught:
        read(kind, values)
    assert caught.value.reason == reason
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(caught.value.detail)


@pytest.mark.parametrize(
    ("messages", "reason", "says"),
    [
        ([], "empty_text", "has no messages"),
        (TWO[:1], "no_answer", "is of 'user'"),
        ([{"role": "user"}], "message_shape", "message 1 of 'chat'"),
        ([{"role": "user", "content": ["q"]}], "message_shape", "are texts"),
        ([*TWO[:1], TWO[1] | {"tool_calls": [1]}], "message_shape", "has 'tool_calls'"),
        ([*TWO[:1], {"role": "assistant", "content": " "}], "empty_text", "message 2 of 'chat'"),
    ],
)
def test_a_wrong_conversation(messages: list[Any], reason: str, says: str) -> None:
    with pytest.raises(BadExample) as caught:
        read("instruction", {"chat": messages}, messages="chat")
    assert caught.value.reason == reason and says in caught.value.detail


def test_what_is_read_of_good_ones() -> None:
    assert read("classification", {"text": "t", "label": True}).label == "true"
    assert read("classification", {"text": "t", "label": -3}).label == "-3"
    assert read("multi_label", {"text": "t", "label": ["b", "a", "b"]}).label == ("a", "b")
    assert read("multi_label", {"text": "t", "label": []}).label == ()
    assert read("regression", {"text": "t", "label": "1e3"}, is_text=True).label == 1000.0
    pair = read("classification", {"a": "x", "b": "y", "label": "z"}, text="a", second="b")
    assert pair.texts == ("x", "y")
    answers = [{"text": "sea", "answer_start": 4}, {"text": "calm", "answer_start": 11}]
    assert read("question_answering", SQUAD | {"answers": answers}).label == Answers(("sea", "calm"), (4, 11))
    assert read("question_answering", SQUAD | {"answers": []}).label == Answers((), ())
    messages = read("instruction", {"chat": [TWO[0] | {"name": None}, TWO[1]]}, messages="chat").messages
    assert [tuple(message) for message in messages] == [("user", "q"), ("assistant", "a")]


def test_content_is_of_what_the_model_reads() -> None:
    one = read("classification", {"text": "a", "second": "bc", "label": "x"}, second="second")
    assert (
        one.content
        == read("classification", {"text": "a", "second": "bc", "label": "y"}, second="second").content
    )
    assert (
        one.content
        != read("classification", {"text": "ab", "second": "c", "label": "x"}, second="second").content
    )
