"""Chat templates: the names of special tokens, content as string or as parts, and an end to every rendering."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import BadPrompt, BundleError
from edge_runtime.model.conversation import ImagePart, Message, TextPart
from edge_runtime.model.template import MAX_TEMPLATE_BYTES, ChatTemplate

NAMES = {"eos_token": "<|im_end|>", "additional_special_tokens": ("<a>", "<b>")}
Load = Callable[..., ChatTemplate]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Makes a template of its source."""

    def made(source: str, names: dict[str, str | tuple[str, ...]] | None = None) -> ChatTemplate:
        (tmp_path / "t.jinja").write_text(source)
        return ChatTemplate(tmp_path / "t.jinja", names)

    return made


def message(role: str, *parts: object) -> Message:
    return Message(role, tuple(TextPart(part) if isinstance(part, str) else part for part in parts))  # type: ignore[arg-type]


CHAT = (message("system", "be brief"), message("user", "a ", "b"), message("assistant", "c"), message("user", "d"))
IMAGE = ImagePart(np.zeros((2, 2, 3), np.uint8))


def test_the_template_sees_the_names_of_special_tokens_and_no_others(load: Load) -> None:
    source = "{{ eos_token }}{{ additional_special_tokens | join }}{{ bos_token is defined }}"
    source += "{% for part in messages[0].content %}{{ part.text }}{% endfor %}"
    assert load(source, NAMES).render([message("user", "x")]) == "<|im_end|><a><b>Falsex"
    template = load("{{ bos_token }}{{ messages[0].content[0].text }}", {"bos_token": "<s>"})
    assert template.begins("<s>x")
    assert not template.begins("x<s>")
    assert not load("{{ messages[0].content[0].text }}").begins("")


PARTS = "{% for part in message.content %}{{ part.text if part.type == 'text' else '<img>' }}{% endfor %}"
BODIES = {
    "parts": PARTS,
    "string, +": "{{ '' + message.content }}",
    "string, ~": "{{ '' ~ message.content }}",
    "string, alone": "{{ message['content'] | trim }}",
    "either": "{% if message.content is string %}{{ message.content }}{% else %}" + PARTS + "{% endif %}",
    "string or picture": (
        "{% if message.content is string %}{{ message.content }}{% else %}"
        "{% for part in message.content %}{% if part.type == 'image' %}<img>{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}"
    ),
    "users parts, others strings": "{% if message.role == 'user' %}"
    + PARTS
    + "{% else %}{{ message.content ~ '' }}{% endif %}",
}


@pytest.mark.parametrize("name", BODIES)
def test_a_template_gets_the_content_it_can_print(load: Load, name: str) -> None:
    template = load("{% for message in messages %}[{{ message.role }}]" + BODIES[name] + "{% endfor %}")
    assert template.render(CHAT) == "[system]be brief[user]a b[assistant]c[user]d"
    assert template.formats.prints_text
    with_picture = [message("user", "look: ", IMAGE, "?")]
    if "string," in name:
        with pytest.raises(BadPrompt, match="takes text only"):
            template.render(with_picture)
    else:
        assert template.render(with_picture) == "[user]look: <img>?"


def test_a_system_message_that_is_joined_and_turns_that_are_not(load: Load) -> None:
    template = load(
        "{% if messages[0].role == 'system' %}{{ '[system]' ~ messages[0].content }}{% endif %}"
        "{% for message in messages if message.role != 'system' %}[{{ message.role }}]"
        + BODIES["parts"]
        + "{% endfor %}"
    )
    assert template.render(CHAT) == "[system]be brief[user]a b[assistant]c[user]d"


def test_templates_that_know_no_system_message_or_no_turns(load: Load) -> None:
    template = load(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for message in messages %}{{ message.content ~ '.' }}{% endfor %}"
    )
    assert template.render(CHAT[1:]) == "a b.c.d."
    with pytest.raises(BadPrompt, match="no system"):
        template.render(CHAT)
    assert load("{{ messages[-1].content + '!' }}").render(CHAT[:2]) == "a b!"


def test_a_template_that_prints_nothing_said_is_told_apart(load: Load) -> None:
    assert not load("hello").formats.prints_text


LIMITS = r"steps|far more text|a number above"
HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "times": "{{ 'x' * 10**9 }}",
    "times list": "{{ ([1] * 10**9) | length }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "plus": "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}",
    "tilde": "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "block": (
        "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set t %}{{ n.s }}{{ n.s }}{% endset %}"
        "{% set n.s = t %}{% endfor %}"
    ),
    "join": "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = [n.s, n.s] | join %}{% endfor %}",
    "method": "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = ''.join([n.s, n.s]) %}{% endfor %}",
    "replace": "{% set s = 'x' * 100000 %}{{ s.replace('x', s) }}",
    "replace filter": "{% set s = 'x' * 100000 %}{{ s | replace('', s) }}",
    "laughs": "{% set n = namespace(a=['x']) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% endfor %}{{ n.a }}",
    "laughs, tojson": (
        "{% set n = namespace(a=['x']) %}{% for i in range(60) %}{% set n.a = {'a': n.a, 'b': n.a} %}{% endfor %}"
        "{{ n.a | tojson }}"
    ),
    "literal": "{% for i in range(99999) %}" + "y" * 100_000 + "{% endfor %}",
    "width": "{{ '%999999999d' % 1 }}",
    "star width": "{{ '%*d' % (999999999, 1) }}",
    "format": "{{ '{:999999999}'.format(1) }}",
    "nested format": "{{ '{:{w}}'.format(1, w=999999999) }}",
    "format filter": "{{ '%999999999d' | format(1) }}",
    "ljust": "{{ 'x'.ljust(999999999) }}",
    "center": "{{ 'x' | center(999999999) }}",
    "indent": "{{ 'x' | indent(999999999, true) }}",
    "expandtabs": "{% set s = '\t' * 100000 %}{{ s.expandtabs(60000) }}",
    "batch": "{{ [1] | batch(999999999, 0) | list }}",
    "slice": "{{ [1] | slice(999999999) | list }}",
    "sum": "{{ ([['x'] * 9999] * 9999) | sum(start=[]) | length }}",
    "sort": "{% for i in range(999) %}{{ ('x' * 100000) | list | sort | length }}{% endfor %}",
    "integers": "{% set n = namespace(a=9) %}{% for i in range(60) %}{% set n.a = n.a * n.a %}{% endfor %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_that_would_not_end_is_refused_when_it_is_loaded(load: Load, name: str) -> None:
    with pytest.raises(BundleError, match=LIMITS):
        load(HOSTILE[name] + "{% for message in messages %}{{ message.content }}{% endfor %}")


@pytest.mark.parametrize("name", ["loops", "times", "tilde", "laughs", "width", "format filter", "batch"])
def test_a_template_that_shows_its_hand_late_ends_as_well(load: Load, name: str) -> None:
    template = load("{{ messages[0].content }}{% if messages[0].content == 'now' %}" + HOSTILE[name] + "{% endif %}")
    assert template.render([message("user", "soon")]) == "soon"
    with pytest.raises(BadPrompt, match=LIMITS):
        template.render([message("user", "now")])


@pytest.mark.parametrize(
    "source",
    [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
        "{% include 'other' %}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{{ lipsum(n=1000) }}",
    ],
)
def test_what_the_sandbox_itself_refuses_is_a_bad_prompt(load: Load, source: str) -> None:
    with pytest.raises(BadPrompt):
        load(source).render([message("user", "x")])


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
        "{% for a in [1] %}" * 60 + "{% endfor %}" * 60,
        "{{ " + " + ".join(["1"] * 20_000) + " }}",
        "x" * (MAX_TEMPLATE_BYTES + 1),
    ],
    ids=["brackets", "ifs", "fors", "sum", "size"],
)
def test_a_template_too_deep_or_too_long_to_compile_is_refused(load: Load, source: str) -> None:
    with pytest.raises(BundleError, match="is not a chat template"):
        load(source)


def test_an_honest_template_does_not_notice_the_limits(load: Load) -> None:
    template = load(
        "{% for message in messages[::-1] %}{% set last = (messages | length) - loop.index %}{% endfor %}"
        "{% for message in messages %}{{- '<|im_start|>' + message.role + '\\n' -}}"
        "{% for part in message.content %}{{ part.text }}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    )
    text = "word " * 20_000
    assert len(template.render([message("user", text)] * 40)) > 40 * len(text)
    assert template.render([message("user", *["x"] * 10)] * 400).count("x") == 4000
