"""Chat templates: answers alone weigh, begin and end where generation has them; specials keep their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from cluster.errors import UserError
from data_jobs.tokens.tokenizer import Tokenizer, load_tokenizer
from llm.generate import start_of
from llm.loading import Loaded, build
from llm.tasks.chat import Chat
from llm.tasks.example_fields import BadExample, Message
from tests.data_jobs.conftest import make_texts
from tests.llm.tasks.task_files import ours, shape

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TURNS = [
    Message("system", "be kind"),
    Message("user", "where is the ship?"),
    Message("assistant", "far away"),
    Message("user", "and the sea?"),
    Message("assistant", "calm today"),
]


def row_of(chat: Chat, messages: list[Message]) -> tuple[list[int], list[bool]]:
    pieces = chat.pieces(messages)
    texts = [piece.content for piece in pieces if isinstance(piece.content, str)]
    return chat.ids_of(pieces, iter(chat.tokenizer.encode_batch(texts)))


def answers_of(ids: list[int], flags: list[bool]) -> list[list[int]]:
    """The runs of ids that are of an answer."""
    runs: list[list[int]] = []
    for at, (token, flag) in enumerate(zip(ids, flags, strict=True)):
        if flag:
            if not at or not flags[at - 1]:
                runs.append([])
            runs[-1].append(token)
    return runs


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    """A tokenizer with ChatML's specials: opened by us, and by transformers with the template."""
    from transformers import PreTrainedTokenizerFast

    folder: Path = tmp_path_factory.mktemp("chatml")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    )  # fmt: skip
    backend.train_from_iterator(make_texts(100), trainer)
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML,
        additional_special_tokens=["<|im_start|>"],
    )  # fmt: skip
    theirs.save_pretrained(folder)
    return load_tokenizer(folder), theirs


def test_the_default_template() -> None:
    mine = ours()
    chat = Chat(None, mine, [mine.eos_id])
    ids, flags = row_of(chat, TURNS)
    assert ids[0] == mine.eos_id and not flags[0]
    assert [mine.decode(run) for run in answers_of(ids, flags)] == [" far away", " calm today"]
    assert all(run[-1] == mine.eos_id for run in answers_of(ids, flags))
    assert mine.decode(ids) == (
        "System: be kind\nUser: where is the ship?\nAssistant: far away\n"
        "User: and the sea?\nAssistant: calm today"
    )
    assert flags[-1] and ids[-1] == mine.eos_id


def test_the_ids_are_those_of_transformers(chatml: tuple[Tokenizer, Any]) -> None:
    mine, theirs = chatml
    chat = Chat(CHATML, mine, [])
    ids, flags = row_of(chat, TURNS)
    messages = [message._asdict() for message in TURNS]
    wanted = theirs.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    assert ids == wanted[: len(ids)]
    assert theirs.decode(wanted[len(ids) :]) == "\n"  # what comes after the last answer's end
    end = theirs.convert_tokens_to_ids("<|im_end|>")
    assert [theirs.decode(run) for run in answers_of(ids, flags)] == [
        "far away<|im_end|>",
        "calm today<|im_end|>",
    ]
    assert ids[-1] == end
    asked = theirs.apply_chat_template(
        messages[:-1], tokenize=True, return_dict=True, add_generation_prompt=True
    )
    assert chat.prompt(TURNS[:-1]) == asked["input_ids"]


@pytest.mark.parametrize("template", [None, CHATML])
@given(
    st.lists(
        st.text(st.one_of(st.sampled_from(" a\n<|im_end|></s>é海"), st.characters(codec="utf-8")), min_size=1)
        .filter(str.strip),
        min_size=2,
        max_size=6,
    )
)  # fmt: skip
def test_generation_sees_what_training_saw(template: str | None, contents: list[str]) -> None:
    """The prompt of each answer is the row before it, for any texts."""
    mine = ours()
    chat = Chat(template, mine, [mine.eos_id])
    contents = contents[: len(contents) // 2 * 2]
    roles = ["user", "assistant"] * (len(contents) // 2)
    messages = [Message(role, content) for role, content in zip(roles, contents, strict=True)]
    ids, flags = row_of(chat, messages)
    begins = [at for at in range(1, len(ids)) if flags[at] and not flags[at - 1]]
    assert len(begins) == len(contents) // 2
    for number, at in enumerate(begins):
        assert chat.prompt(messages[: 2 * number + 1]) == ids[:at]


def test_specials_in_a_message_stay_text(chatml: tuple[Tokenizer, Any]) -> None:
    mine, _ = chatml
    chat = Chat(CHATML, mine, [])
    sly = [Message("user", "say <|im_end|>"), Message("assistant", "<|im_end|> it is <|im_start|>")]
    ids, flags = row_of(chat, sly)
    specials = mine.special_texts
    assert ids.count(specials["<|im_end|>"]) == 2 and ids.count(specials["<|im_start|>"]) == 2
    (answer,) = answers_of(ids, flags)
    assert (
        mine.decode(answer[:-1]) == "<|im_end|> it is <|im_start|>" and answer[-1] == specials["<|im_end|>"]
    )


def test_an_answer_that_ends_in_another_special_is_followed_by_eos(chatml: tuple[Tokenizer, Any]) -> None:
    mine, _ = chatml
    template = CHATML.replace("<|im_end|>", "<|im_start|>")
    ids, flags = row_of(Chat(template, mine, []), TURNS[1:])
    first, last = answers_of(ids, flags)
    start = mine.special_texts["<|im_start|>"]
    assert first[-1] == start and last[-2:] == [start, mine.eos_id]


def test_a_template_that_writes_the_start_has_it_once() -> None:
    mine = ours()
    chat = Chat("{{ eos_token }}" + CHATML, mine, [mine.eos_id])
    ids, _ = row_of(chat, TURNS[1:3])
    assert ids.count(mine.eos_id) == 2  # the start, and the end: this vocabulary has no <|im_end|>
    assert ids[0] == ids[-1] == mine.eos_id


@pytest.mark.parametrize(
    ("template", "reason", "says"),
    [
        ("{{ raise_exception('no ' + messages[0].role) }}", "template_error", "no user"),
        ("{{ messages[5].content }}", "template_error", "no element 5"),
        ("{{ messages.__class__.__mro__ }}", "template_error", "unsafe"),
        ("{{ messages | length }}{{ messages[-1].content }}", "template_rewrites", "leave out what depends"),
    ],
)
def test_templates_that_fail(template: str, reason: str, says: str) -> None:
    chat = Chat(template, ours(), [])
    with pytest.raises(BadExample) as caught:
        chat.pieces(TURNS[1:3])
    assert caught.value.reason == reason and says in caught.value.detail


def test_no_template() -> None:
    with pytest.raises(UserError, match=r"chat_template: is no Jinja template: .*end of template"):
        Chat("{% for message in messages %}", ours(), [])


@pytest.mark.parametrize("template", [None, CHATML])
def test_a_prompt_is_a_message_where_instructions_were_learned(template: str | None) -> None:
    mine = ours()
    settings: dict[str, Any] = {"finetune": {"task": {"kind": "instruction", "chat_template": template}}}
    loaded = Loaded(build(shape("gpt"), mine.vocab_size), mine, settings, 1, Path("run"))
    ids, flags = row_of(Chat(template, mine, [mine.eos_id]), TURNS[1:3])
    assert start_of(loaded, mine, TURNS[1].content) == ids[: flags.index(True)]
    plain = Loaded(loaded.model, mine, {}, 1, Path("run"))
    assert start_of(plain, mine, "the ship") == [mine.eos_id, *mine.encode("the ship")]


def test_json_in_a_template() -> None:
    template = "{% for m in messages %}{{ m.content | tojson }}{% endfor %}"
    mine = ours()
    ids, _ = row_of(Chat(template, mine, []), TURNS[1:3])
    assert mine.decode(ids) == json.dumps("where is the ship?") + json.dumps("far away")
