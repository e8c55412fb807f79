"""Units: they tile any prompt of any tokenizer, belong together, and stand where a person asked for them."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import pytest
import regex
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attribution.errors import InputError, ModelError
from attribution.explainer import explain
from attribution.local_problem import LocalProblem
from attribution.models.codec import Codec
from attribution.models.local import LocalModel
from attribution.prompts.alignment import UNKNOWN, align
from attribution.prompts.chat import Chat
from attribution.prompts.prompt import LEVELS, Encoding, Prompt, divide, levels, nesting
from attribution.prompts.rendered import Rendered
from attribution.prompts.source import Part, Source, text_source
from attribution.prompts.units import NAMES, check_units
from attribution.question import ask
from attribution.target import named_target, read_output
from tests.templates import FAMILIES
from tests.tiny import VOCABULARY, WINDOW, tiny_model, tiny_tokenizer
from tests.tokenizers_ import FAMILIES_OF_TOKENIZERS, byte_level, chat_tokenizer, slow_tokenizer

TOKENIZERS = FAMILIES_OF_TOKENIZERS | {"slow": slow_tokenizer}
CODECS = {name: Codec(make(), lambda: VOCABULARY) for name, make in TOKENIZERS.items()}

every_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)
# ByT5 warns of a text that ends with its EOS token.
no_warning = pytest.mark.filterwarnings("ignore:This sequence already has:UserWarning")

PIECES = (
    *("Sam", " has 3.5 ", "apples", ". ", "x", "\n", "\r\n", "\n\n", "\t", " ", "  ", "\u3000", "\u2028", "e.g. "),
    *("日本", "。", "ครับ", "é", "e\u0301", "\u0301", "\u200d", "\u200b", "\xad", "👩‍👩‍👧", "שלום", "عالم؟ ", "ﬁ", "İ"),
    *("\x00", "\x1c", "\ud800", "\udc00", "\ufeff", "\uffff", "\U000f0000", "▁", "Ġ", "①", "㎏"),
    *("- item\n", "1. one\n", "```\ncode()\n```\n", "Q: ", "A: ", "http://a.b/c.", "<s>", "</s>", "[UNK]", "<unk>"),
)
TEXTS = (
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), min_size=1, max_size=14)
    .map("".join)
    .filter(lambda text: bool(text.strip()))
)
PATTERNS = [regex.compile(pattern) for pattern in (r"\w+", r"\S", r"(?s).", r"\s+", r"[^a]+", r"$", "a|b")]
DIVISIONS = st.one_of(st.sampled_from([*NAMES, *PATTERNS]), st.lists(st.integers(0, 60), min_size=2, max_size=6))

few = settings(max_examples=60, deadline=None, derandomize=True, database=None)
many = settings(few, max_examples=400, suppress_health_check=list(HealthCheck))


def divided(text: str, units: object, encoding: Encoding) -> Prompt | None:
    """The prompt in these units; None where they do not fit it. A list of numbers is cut into spans."""
    if isinstance(units, list) and all(isinstance(unit, int) for unit in units):
        places = sorted({min(unit, len(text)) for unit in units})
        units = list(pairwise(places))[::2] or "word"
    try:
        return divide(text_source(text), encoding, check_units(units))
    except InputError:
        return None


def check_tiling(prompt: Prompt) -> None:
    reached = token = 0
    for unit in prompt.units:
        assert unit.characters[0] == reached <= unit.characters[1]
        assert unit.tokens[0] == token < unit.tokens[1]
        assert unit.special == (unit.role in ("special", "rest", "template"))
        reached, token = unit.characters[1], unit.tokens[1]
    assert reached == len(prompt.text)
    assert token == len(prompt.encoding.ids)
    assert "".join(map(prompt.unit_text, prompt.units)) == prompt.text
    assert not all(unit.special for unit in prompt.units)


def check_nesting(prompt: Prompt) -> None:
    found = nesting(prompt)
    assert tuple(found) == LEVELS
    for coarse, fine in pairwise(LEVELS):
        owners: dict[int, int | None] = {}
        for own, other in zip(found[fine], found[coarse], strict=True):
            assert (own is None) == (other is None)
            assert own is None or owners.setdefault(own, other) == other
        known = [own for own in found[fine] if own is not None]
        assert known == sorted(known)
    for level in levels(prompt, 2):
        assert len(level) == len(prompt.units) + 2
        assert level[0] == 0
        assert all(0 <= b - a <= 1 for a, b in pairwise(level))


def check_properties(text: str, units: object, name: str) -> None:
    codec = CODECS[name]
    encoding = codec.encode(text)
    prompt = divided(text, units, encoding)
    if prompt is None:
        return
    assert prompt.encoding.ids == encoding.ids
    check_tiling(prompt)
    check_nesting(prompt)
    if units in LEVELS:
        # The tokens of a unit know it, and each other.
        tokens = divided(text, "token", encoding)
        assert tokens is not None
        own, of_token = nesting(prompt)[units], nesting(tokens)[units]
        known = [number for number in own if number is not None]
        assert len(known) == len(set(known))
        for unit, number in zip(prompt.units, own, strict=True):
            assert {of_token[token] for token in range(*unit.tokens)} == {number}


@no_warning
@every_tokenizer
@few
@given(text=TEXTS, units=DIVISIONS)
def test_units_tile_and_nest(name: str, text: str, units: object) -> None:
    check_properties(text, units, name)


@pytest.mark.slow
@no_warning
@every_tokenizer
@many
@given(text=TEXTS, units=DIVISIONS)
def test_units_tile_and_nest_more_often(name: str, text: str, units: object) -> None:
    check_properties(text, units, name)


@no_warning
@every_tokenizer
@few
@given(text=TEXTS)
def test_ids_are_those_of_the_tokenizer(name: str, text: str) -> None:
    read = re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)  # what a tokenizer can read
    ids = tuple(TOKENIZERS[name]()(read)["input_ids"])
    bos = TOKENIZERS[name]().bos_token_id
    encoding = CODECS[name].encode(text)
    adds_bos = name in ("metaspace", "prepended")
    brings_its_own = adds_bos and ids[:2] == (bos, bos)
    assert encoding.ids == (ids[1:] if brings_its_own else ids)
    assert encoding.aligned == (name == "slow")
    assert len(encoding.ids) == len(encoding.offsets) == len(encoding.special)


@few
@given(
    parts=st.lists(st.tuples(TEXTS, st.sampled_from(["", "<s>", "\n", "[INST] ", "x"])), min_size=1, max_size=4),
    units=DIVISIONS.filter(lambda units: not isinstance(units, list)),
    name=st.sampled_from(list(FAMILIES_OF_TOKENIZERS)),
)
def test_units_tile_what_a_template_wrote(parts: list[tuple[str, str]], units: object, name: str) -> None:
    """Texts of a person between texts of a template: no unit is both, and each knows its own text."""
    text, found = "", []
    for index, (own, template) in enumerate(parts):
        text += template
        found.append(Part(len(text), len(text) + len(own), "user", index, "content", ((len(text), 0, len(own)),)))
        text += own
    source = Source(text, tuple(found), tokenizer_adds=False)
    encoding = CODECS[name].encode_source(source)
    try:
        prompt = divide(source, encoding, check_units(units))
    except InputError:
        return
    check_tiling(prompt)
    check_nesting(prompt)
    for unit in prompt.units:
        assert (unit.part is None) == (unit.role in ("special", "template"))
        if unit.role == "user" and unit.part is not None:
            part = prompt.parts[unit.part]
            own = part.own(*unit.characters)
            if own is not None:
                assert parts[unit.part][0][slice(*own)] in prompt.unit_text(unit)


# Absence


def value_of(model: LocalModel, ids: tuple[int, ...], output: tuple[int, ...]) -> torch.Tensor:
    """The log-probability of each output token, by the plainest of ways."""
    with torch.no_grad():
        logits = model.model(torch.tensor([[*ids, *output]])).logits[0].float().log_softmax(-1)
    return logits[len(ids) - 1 : -1].gather(1, torch.tensor(output)[:, None])[:, 0]


@no_warning
@every_tokenizer
@settings(few, max_examples=12)
@given(text=TEXTS, units=st.sampled_from(["token", "word", "sentence", "message"]))
def test_all_and_nothing_of_a_prompt(name: str, text: str, units: str) -> None:
    model = LocalModel(tiny_model("llama"), TOKENIZERS[name]())
    output = (20, 30)
    prompt = divided(text, units, model.codec.encode(text))
    if prompt is None or len(prompt.encoding.ids) + len(output) > WINDOW:
        return
    problem = LocalProblem(model, prompt, read_output(output, named_target("logprob")), output_units=units == "token")
    keep = torch.ones(2, problem.n_units, dtype=torch.bool)
    keep[1] = False
    assert torch.allclose(problem.value(keep[:1])[0], value_of(model, prompt.encoding.ids, output), atol=1e-4)
    if name == "wordpiece":  # it has neither BOS nor EOS to begin with
        with pytest.raises(ModelError, match="neither a BOS nor an EOS"):
            problem.value(keep[1:])
    else:
        assert problem.value(keep[1:]).isfinite().all()


@every_tokenizer
def test_every_kind_of_tokenizer_can_be_explained(name: str) -> None:
    model = (tiny_model("llama"), TOKENIZERS[name]())
    text = "  Sam has 3 apples. 日本 é!\r\n\tx\ud800"
    for units in ("token", "word", "sentence"):
        result = explain(model, text, output=[20, 30], units=units, method="saliency")
        assert "".join(text[unit.start : unit.end] for unit in result.units) == text
        assert result.notes.get("aligned", False) == (name == "slow")
        assert result.notes["half_characters"] == 1
        own = [unit for unit in result.units if not unit.special]
        assert all((unit.own_start, unit.own_end) == (unit.start, unit.end) for unit in own if unit.start < unit.end)


# The rule for tokens over an edge


def by_tokens(text: str, units: object, *tokens: tuple[int, int]) -> list[str]:
    encoding = Encoding(tuple(range(len(tokens))), tokens, (False,) * len(tokens))
    prompt = divide(text_source(text), encoding, check_units(units))
    check_tiling(prompt)
    return [prompt.unit_text(unit) for unit in prompt.units]


def test_a_token_belongs_to_its_first_visible_character() -> None:
    text = "Hi. So\nit is"
    assert by_tokens(text, "word", (0, 3), (3, 7), (7, 9), (9, 12)) == ["Hi.", " So\n", "it", " is"]
    # " So\nit" begins in one line and ends in the next.
    assert by_tokens(text, "line", (0, 3), (3, 9), (9, 12)) == ["Hi. So\nit", " is"]
    assert by_tokens(text, "sentence", (0, 2), (2, 6), (6, 12)) == ["Hi. So", "\nit is"]


def test_a_token_of_white_space_belongs_to_its_first_character() -> None:
    assert by_tokens("a\n b", "line", (0, 1), (1, 3), (3, 4)) == ["a\n ", "b"]
    assert by_tokens("a b", "word", (0, 1), (1, 2), (2, 3)) == ["a", " b"]


def test_white_space_that_no_token_covers() -> None:
    assert by_tokens("a b\n c", "word", (0, 1), (2, 3), (5, 6)) == ["a", " b\n", " c"]
    assert by_tokens("a  b", "token", (0, 1), (3, 4)) == ["a", "  b"]
    assert by_tokens(" a ", "word", (1, 2)) == [" a "]


def test_an_empty_token_behind_a_gap_stands_for_it() -> None:
    # A byte-level tokenizer with trimmed offsets: the middle token is the space.
    assert by_tokens("a b", "word", (0, 1), (2, 2), (2, 3)) == ["a", " b"]
    assert by_tokens("a  b", "token", (0, 1), (2, 2), (3, 4)) == ["a", " ", " b"]


def test_offsets_that_overlap_or_go_back() -> None:
    assert by_tokens("abc", "token", (0, 1), (0, 2), (1, 2), (2, 3)) == ["a", "b", "", "c"]
    assert by_tokens("abc", "token", (1, 3), (0, 1), (3, 3)) == ["abc", "", ""]
    assert by_tokens("a b", "word", (2, 3), (0, 1)) == ["a b"]


def test_a_mark_before_a_word_is_no_part_of_it() -> None:
    encoding = CODECS["prepended"].encode("日本")
    assert encoding.offsets == ((0, 0), (0, 0), (0, 1), (1, 2))
    prompt = divide(text_source("日本"), encoding, check_units("token"))
    assert [prompt.unit_text(unit) for unit in prompt.units] == ["", "", "日", "本"]


# Places that a person asks for

TEXT = "Sam has 3 apples. Tom has 5.\nSam asks."


def places(units: object, text: str = TEXT) -> list[tuple[str, str]]:
    """The name and the text of every unit that was asked for."""
    prompt = divide(text_source(text), CODECS["byte_level"].encode(text), check_units(units))
    check_tiling(prompt)
    assert all(unit.role == "rest" for unit in prompt.units if unit.special)
    return [(unit.name, prompt.unit_text(unit)) for unit in prompt.units if not unit.special]


def test_named_spans() -> None:
    assert places({"who": (0, 3), "what": (10, 16)}) == [("who", "Sam"), ("what", " apples")]
    assert places({"b": (18, 28), "a": "apples"}) == [("a", " apples"), ("b", " Tom has 5.")]
    assert places([(0, 3), (4, 7)]) == [("", "Sam"), ("", " has")]
    assert places(["Tom has 5."]) == [("", " Tom has 5.")]
    assert places({"all": (0, len(TEXT))}) == [("all", TEXT)]


def test_matches_of_a_regular_expression() -> None:
    assert places(re.compile("Sam")) == [("", "Sam"), ("", "Sam")]
    assert places(r"Sam|Tom \w+") == [("", "Sam"), ("", " Tom has"), ("", "Sam")]
    assert places(regex.compile(r"(?m)^\w+")) == [("", "Sam"), ("", "Sam")]
    assert places(re.compile(r"\d")) == [("", " 3"), ("", "5")]  # the space before 5 is a token of its own


def test_a_regular_expression_reads_one_text_at_a_time() -> None:
    source = Rendered("<u>Sam has</u><u>Sam asks</u>", [(3, 10, "user"), (17, 25, "user")]).source
    prompt = divide(source, CODECS["byte_level"].encode_source(source), check_units(r"^\w+"))
    assert [prompt.unit_text(unit) for unit in prompt.units if not unit.special] == ["Sam", "Sam"]


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"a": (0, 99)}, r"within the prompt's 38 characters, start before end, got \(0, 99\)"),
        ({"a": (3, 3)}, r"start before end, got \(3, 3\)"),
        ({"a": (-3, -1)}, r"start before end, got \(-3, -1\)"),
        ({"a": (0, 5), "b": (4, 8)}, r"do not overlap, got 'a' \(0, 5\) and 'b' \(4, 8\)"),
        ([(0, 5), (0, 5)], r"do not overlap, got \(0, 5\) and \(0, 5\)"),
        ({"a": "Sam"}, "once, 'Sam' stands there 2 times"),
        ({"a": "Ann"}, "once, 'Ann' does not stand there"),
        ({"a": (0, 1, 2)}, r"as \(start, end\), since the prompt is no chat, got \(0, 1, 2\)"),
        ({"a": (3, 4)}, r"every token in ' ' \(characters 3 to 4\) is white space of what follows"),
        ({"a": (1, 3)}, "begins before it. Give whole words"),
        (re.compile("Ann"), "matches parts of the prompt, 'Ann' matches none"),
        (r"\bAnn\b", "Units with a name are token, word"),
        (re.compile("(?s).*"), "matches all of it at once. Match less"),
        (re.compile(""), "matches none"),
        (re.compile(r"(?<= )\b"), "matches none"),
        (re.compile("pples"), "begins before it"),
        ("list_item", "Expected a list"),
        ("example", "Expected few-shot examples"),
    ],
)
def test_units_that_do_not_fit(units: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        places(units)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ("letter", "'token', 'word', .* got 'letter'"),
        ("words", "Did you mean 'word'?"),
        ("list item", "Did you mean 'list_item'?"),
        ("oranges", r"For a regular expression type re.compile\(...\)"),
        ("", "got ''"),
        ("(a", r"or a regular expression, got '\(a': missing \)"),
        (re.compile(b"a"), "for text, got one for bytes"),
        (None, "got None"),
        (3, "got 3"),
        (b"word", "got b'word'"),
        ({1, 2}, "or spans such as"),
        ({}, "at least one span, got none"),
        ([], "at least one span, got none"),
        ((310, 842), r"as \(start, end\) in characters.* got 310"),
        ({"a": (1,)}, r"got \(1,\)"),
        ({"a": (1, 2, 3, 4)}, r"as \(message, place, start, end\).* got \(1, 2, 3, 4\)"),
        ({"a": (1, "content", 3)}, r"got \(1, 'content', 3\)"),
        ({"a": (True, "content", 3, 4)}, r"got \(True, 'content', 3, 4\)"),
        ({"a": (1, "content", "3", 4)}, r"got \(1, 'content', '3', 4\)"),
        ({"a": (0.5, 2)}, r"got \(0.5, 2\)"),
        ({"a": (True, 5)}, r"got \(True, 5\)"),
        ({"a": ("1", "2")}, r"got \('1', '2'\)"),
        ({"a": ""}, "got ''"),
        ({"a": None}, "got None"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_units_that_are_none(units: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_units(units)


# Texts that a template writes in other characters

RESULT = 'It is cold.\nIt rains "hard".\n\nBye.'
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": 'Bonn "x"'}}}
CALLED = [
    {"role": "user", "content": "Is it cold?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "name": "weather", "content": RESULT},
]
LLAMA = Codec(chat_tokenizer(next(family for family in FAMILIES if family.name == "llama3.1")), lambda: VOCABULARY)


def with_template(template: str) -> Codec:
    tokenizer = byte_level()
    own = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|endoftext|>")
    own.chat_template = template
    return Codec(own, lambda: VOCABULARY)


def of_chat(units: object, messages: list[dict] = CALLED, codec: Codec = LLAMA) -> list[tuple[int | None, str]]:
    """The message of every unit that was asked for, and what is read there."""
    source = codec.render(Chat(messages))
    prompt = divide(source, codec.encode_source(source), check_units(units))
    check_tiling(prompt)
    check_nesting(prompt)
    own = [(unit, prompt.parts[unit.part]) for unit in prompt.units if unit.part is not None and not unit.special]
    return [(part.message, prompt.unit_text(unit)) for unit, part in own]


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ("paragraph", [r"It is cold.\nIt rains \"hard\".\n\n", "Bye."]),
        ("line", [r"It is cold.\n", r"It rains \"hard\".\n\n", "Bye."]),
        ("sentence", [r"It is cold.\n", r"It rains \"hard\".\n\n", "Bye."]),
        (
            "word",
            ["It", " is", " cold", r".\n", "It", " rains", r" \"", "hard", r"\"", r".\n\n", "Bye", "."],
        ),
        ('"hard"', [r"\"hard\""]),
        (r"(?m)^\w+", ["It", "It", "Bye"]),
        (['rains "hard"'], [r"rains \"hard\""]),
        ({"a": (2, 0, 11)}, ["It is cold."]),
        ({"a": (2, "content", 12, 14), "b": "Bye"}, ["It", "Bye"]),
    ],
    ids=str,
)
def test_an_escaped_text_is_divided_as_it_was_written(units: object, expected: list[str]) -> None:
    assert [text for message, text in of_chat(units) if message == 2] == expected


def test_a_token_of_half_an_escape_belongs_to_what_follows_it() -> None:
    read = r"a.\nIt is"  # the token "nIt" begins within an escape
    part = Part(0, 9, "tool", 0, "content", ((0, 0, 3), (3, 2, 6)), is_exact=False, text="a.\nIt is")
    tokens = ((0, 2), (2, 3), (3, 6), (6, 9))
    prompt = divide(Source(read, (part,)), Encoding((1, 2, 3, 4), tokens, (False,) * 4), check_units("line"))
    assert [unit.tokens for unit in prompt.units] == [(0, 2), (2, 4)]
    assert nesting(prompt)["line"] == [0, 1]


def test_a_template_that_indents_and_changes_letters() -> None:
    template = "{% for m in messages %}<{{ m.content | upper | indent(4) }}>{% endfor %}"
    codec = with_template(template)
    assert of_chat("line", [{"role": "user", "content": "one two\nthree"}], codec) == [
        (0, "ONE TWO\n"),
        (0, "    THREE"),
    ]
    assert of_chat(["three"], [{"role": "user", "content": "one two\nthree"}], codec) == [(0, " THREE")]


# Spans of a message


def test_spans_of_other_texts_than_the_content() -> None:
    assert of_chat({"a": (1, "tool_calls[0].function.arguments.city", 0, 4)}) == [(1, "Bonn")]
    parts = [{"role": "user", "content": [{"type": "text", "text": "Sam has"}, {"type": "text", "text": "Tom asks"}]}]
    codec = with_template("{% for m in messages %}{% for part in m.content %}<{{ part.text }}>{% endfor %}{% endfor %}")
    assert of_chat({"a": (0, "content[1].text", 0, 3), "b": (0, "content[0].text", 0, 3)}, parts, codec) == [
        (0, "Sam"),
        (0, "Tom"),
    ]
    with pytest.raises(
        InputError, match=r"message 0 has 2.*\(0, 'content\[0\].text', 0, 7\) or \(0, 'content\[1\].*, 8\)"
    ):
        of_chat({"a": (0, 0, 8)}, parts, codec)
    with pytest.raises(InputError, match=r"characters 0 to 8 of 7"):
        of_chat({"a": (0, "content[0].text", 0, 8)}, parts, codec)
    one = [{"role": "user", "content": parts[0]["content"][:1]}]
    assert of_chat({"a": (0, 0, 3)}, one, codec) == [(0, "Sam")]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((1, 0, 3), r"message 1 has 2, got \(1, 0, 3\). Say which: \(1, 'tool_calls\[0\].function.name', 0, 7\)"),
        ((2, "contents", 0, 3), "a text out of .*'content'.*, got 'contents'"),
        ((2, "content", 30, 40), "within the content of message 2.* characters 30 to 40 of 34"),
        ((9, 0, 3), "a message from 0 to 2.* got message 9"),
        ((-1, 0, 3), "a message from 0 to 2.* got message -1"),
    ],
)
def test_spans_of_messages_that_are_none(place: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        of_chat({"a": place})


# Texts within a token, and tokens within a character


def test_a_message_that_a_token_swallows() -> None:
    source = Source("Sam. Go", (Part(1, 3, "user", 0, "content", ((1, 0, 2),)), Part(5, 7, "user", 1, "content")))
    encoding = Encoding((1, 2, 3), ((0, 3), (3, 4), (4, 7)), (False,) * 3)
    for units in ("word", "token", "message"):
        assert divide(source, encoding, check_units(units)).swallowed == source.parts[:1]
    assert divide(text_source("Sam. Go"), encoding, check_units("word")).swallowed == ()


@pytest.mark.parametrize("name", ["byte_level", "slow"])
def test_all_tokens_of_a_character_stand_for_it(name: str) -> None:
    prompt = divide(text_source("日é"), CODECS[name].encode("日é"), check_units("token"))
    spans = [prompt.span_of(unit) for unit in prompt.units if not unit.special]
    assert spans == [(0, 1)] * 3 + [(1, 2)] * 2
    result = explain((tiny_model("llama"), TOKENIZERS[name]()), "日é", output=[20], units="token", method="saliency")
    assert [(unit.own_start, unit.own_end) for unit in result.units if not unit.special] == spans


def test_a_regular_expression_that_matches_every_text_whole() -> None:
    source = Rendered("<u>Sam has</u><u>Sam asks</u>", [(3, 10, "user"), (17, 25, "user")]).source
    encoding = CODECS["byte_level"].encode_source(source)
    with pytest.raises(InputError, match="matches all of it at once"):
        divide(source, encoding, check_units(re.compile(".+")))
    with pytest.raises(InputError, match="matches all of it at once"):
        of_chat(re.compile("(?s).+"))
    assert divide(source, encoding, check_units(re.compile("Sam has|asks"))).units


# Prompts that came rendered

RENDERED = "<s>[SYS]Be brief.[/SYS] Sam has 3.[/INST]"


def test_a_rendered_prompt() -> None:
    rendered = Rendered(RENDERED, [(8, 17, "system"), (24, 34, "user")])
    model = LocalModel(tiny_model("llama"), tiny_tokenizer())
    question = ask(model, rendered, check_units("word"), "logprob", output=[20])
    prompt = question.prompt
    check_tiling(prompt)
    assert prompt.encoding.ids == model.codec.ids_of(RENDERED)  # no BOS is added
    texts = {role: [prompt.unit_text(u).strip() for u in prompt.units if u.role == role] for role in ("system", "user")}
    assert texts == {"system": ["Be", "brief", "."], "user": ["Sam", "has", "3", "."]}
    assert {message for message in nesting(prompt)["message"] if message is not None} == {0, 1}
    result = explain(model, rendered, output=[20], units="message", method="leave_one_out")
    assert [(unit.role, unit.text) for unit in result.units if not unit.special] == [
        ("system", "Be brief."),
        ("user", "Sam has 3."),
    ]
    assert [(unit.own_start, unit.own_end) for unit in result.units if not unit.special] == [(8, 17), (24, 34)]
    with pytest.raises(InputError, match="takes in what the template wrote"):
        explain(model, rendered, output=[20], units=[(10, 30)], method="leave_one_out")


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([], "at least one span that a person wrote"),
        ([(0, 99, "user")], r"within the prompt's 41 characters, got \(0, 99, 'user'\)"),
        ([(-1, 9, "user")], "in order, without overlap"),
        ([(9, 9, "user")], "in order, without overlap"),
        ([(0, 9, "user"), (8, 12, "user")], r"without overlap, .* got \(8, 12, 'user'\)"),
        ([(9, 12, "user"), (0, 3, "user")], "in order"),
        ([(0, 9)], r"as \(start, end, role\)"),
        ([(0, 9, "")], r"as \(start, end, role\)"),
        ([(0, "9", "user")], r"as \(start, end, role\)"),
    ],
)
def test_rendered_prompts_that_are_none(spans: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Rendered(RENDERED, spans)


def test_a_prompt_that_is_all_template() -> None:
    # The only token of the person's text begins in the template's.
    parts = (Part(1, 2, "user", blocks=((1, 1, 1),)),)
    for source in (Source("ab", parts, tokenizer_adds=False), Source("ab", ())):
        with pytest.raises(InputError, match="every token of it is the template's"):
            divide(source, Encoding((1,), ((0, 2),), (False,)), check_units("word"))


# Tokenizers that give no offsets


class Hidden:
    """A tokenizer that keeps to itself where its tokens stand."""

    is_fast = False

    def __init__(self, tokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": self._tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]}

    def __getattr__(self, name: str):
        return getattr(self._tokenizer, name)


@pytest.mark.parametrize("make", FAMILIES_OF_TOKENIZERS.values(), ids=list(FAMILIES_OF_TOKENIZERS))
@pytest.mark.parametrize(
    "text",
    [
        "Sam has 3 apples and Tom has 5 oranges.",
        "  Sam   has\n\n3 apples. ",
        "Où est la CRÈME brûlée ?",
        "Sam ☃ has ☃☃ Xylophone apples ☃",
        "שלום עולם",
    ],
)
def test_spans_recovered_by_alignment(make: Callable, text: str) -> None:
    exact, recovered = Codec(make(), lambda: VOCABULARY).encode(text), Codec(Hidden(make()), lambda: 320).encode(text)
    assert recovered.ids == exact.ids
    assert recovered.special == exact.special
    assert recovered.aligned
    assert not exact.aligned
    one, other = (divide(text_source(text), encoding, check_units("word")) for encoding in (exact, recovered))
    assert [unit.tokens for unit in one.units] == [unit.tokens for unit in other.units]
    assert [one.unit_text(unit).strip() for unit in one.units] == [other.unit_text(u).strip() for u in other.units]


@few
@given(text=TEXTS, name=st.sampled_from(list(FAMILIES_OF_TOKENIZERS)))
def test_recovered_spans_tile(text: str, name: str) -> None:
    encoding = Codec(Hidden(TOKENIZERS[name]()), lambda: VOCABULARY).encode(text)
    for units in ("token", "word"):
        prompt = divided(text, units, encoding)
        if prompt is not None:
            check_tiling(prompt)
            check_nesting(prompt)


def test_bytes_of_a_character_stand_where_it_stands() -> None:
    encoding = CODECS["slow"].encode("日\ud800é")
    assert encoding.offsets == ((0, 1), (1, 1), (1, 1), (1, 2), (2, 2), (2, 2), (2, 3), (3, 3), (3, 3))
    assert encoding.special == (*[False] * 8, True)


@pytest.mark.parametrize(
    ("own", "read", "expected"),
    [
        ("abc", "abc", [0, 1, 2]),
        ("a b", " A  B", [-1, 0, 1, -1, 2]),
        ("é ﬁ", "e fi", [0, 1, 2, 2]),
        ('"a"\n\\', r"\"a\"\n\\", [0, 0, 1, 2, 2, 3, 3, 4, 4]),
        ("é😀<", r"\u00e9\ud83d\ude00&lt;", [*[0] * 6, *[1] * 12, *[2] * 4]),
        ("a</think>b", "ab", [0, 9]),
        ("ab", "a, b", [0, -1, -1, 1]),
        (f"日X本Y {UNKNOWN}", f"日{UNKNOWN}本{UNKNOWN}", [0, 1, 2, 3]),
        ("Sam ☃☃ X", f"Sam{UNKNOWN}{UNKNOWN}{UNKNOWN}", [0, 1, 2, 4, 5, 7]),
        ("one two end", f"{UNKNOWN}{UNKNOWN} end", [0, 4, 7, 8, 9, 10]),
        ("abc", "xyz", [-1, -1, -1]),
        ("", "x", [-1]),
        ("x", "", []),
    ],
)
def test_alignment(own: str, read: str, expected: list[int]) -> None:
    assert align(own, read) == expected


@few
@given(own=TEXTS, read=TEXTS)
def test_alignment_never_goes_back(own: str, read: str) -> None:
    places = align(own, read)
    known = [place for place in places if place >= 0]
    assert len(places) == len(read)
    assert known == sorted(known)
    assert all(place < len(own) for place in known)


# Speed

LONG = ("The quick brown fox, e.g. Dr. Smith, jumps over 3.5 dogs. See http://a.b/c. " * 13 + "\n") * 100


def test_long_texts_are_divided() -> None:
    prompt = divide(text_source(LONG), CODECS["byte_level"].encode(LONG), check_units("word"))
    assert len(prompt.units) > 20_000
    assert "".join(map(prompt.unit_text, prompt.units)) == LONG


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["-", ".", "a.", "a@", "http://.", "@a.", "\u200d", "日", "(", "- ", "```\n", "1. "])
def test_no_text_is_cut_in_quadratic_time(piece: str) -> None:
    """It would take minutes."""
    text = piece * (30_000 // len(piece))
    for name in ("word", "sentence", "line", "paragraph", "list_item", "code_line", "example"):
        divided(text, name, Encoding((1,), ((0, len(text)),), (False,)))


@pytest.mark.parametrize("change", [str.upper, lambda text: text.replace("o", "zz"), repr, lambda _: UNKNOWN * 90_000])
def test_long_texts_are_aligned(change: Callable[[str], str]) -> None:
    """Places never go back, whatever became of the text; in quadratic time it would take minutes."""
    places = [place for place in align(LONG, change(LONG)) if place >= 0]
    assert places == sorted(places)
    assert all(place < len(LONG) for place in places)
