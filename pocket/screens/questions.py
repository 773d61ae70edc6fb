"""What can be asked about a screen, in many wordings, and the one right answer to each question.

An answer format is a promise to users: points are `(x, y)` and actions are JSON, 0-1000 relative to the image.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from pocket.screens.screen import TOGGLES, Element, Screen
from pocket.screens.words import Phrases

ABSENT = "not on this screen"
NO_ACTION = '{"action":"none"}'


@dataclass(frozen=True, slots=True)
class Turn:
    """One question, its answer, and a short thought that leads to it (used when the prompt asks for thinking)."""

    task: str
    question: str
    answer: str
    thought: str = ""
    element: Element | None = None


def point_text(screen: Screen, element: Element) -> str:
    """Where an element is, as answers write it."""
    x, y = screen.point(element)
    return f"({x}, {y})"


def click_text(screen: Screen, element: Element) -> str:
    """The JSON action that clicks an element."""
    x, y = screen.point(element)
    return f'{{"action":"click","x":{x},"y":{y}}}'


def _pick(rng: Random, screen: Screen, kinds: tuple[str, ...] = ()) -> Element | None:
    """A random element of the given kinds; names never repeat on a generated screen."""
    fits = [e for e in screen.elements if not kinds or e.kind in kinds]
    return rng.choice(fits) if fits else None


def _refer(rng: Random, name: str, kind: str) -> str:
    """Names an element the way people do."""
    return rng.choice(
        (f"{name}", f"{name}", f'"{name}"', f"the {name} {kind}", f'the "{name}" {kind}', f"the {kind} {name}")
    )


def _say(rng: Random, *wordings: str) -> str:
    """One wording, sometimes typed carelessly (only in its own first letter and full stop)."""
    text = rng.choice(wordings)
    return text.rstrip(".?") if rng.random() < 0.2 else text


_POINT = ("Where is {}?", "Point at {}.", "Point to {}.", "Find {}.", "Locate {}.", "Show me where {} is.",
          "Where can I find {}?", "Give me the position of {}.")  # fmt: skip
_CLICK = (
    "Click {}.",
    "Press {}.",
    "Tap {}.",
    "Click on {}.",
    "Tap on {}.",
    "Select {}.",
    "Open {}.",
    "Choose {}.",
    "Please click {}.",
)


def ask_point(rng: Random, screen: Screen, _phrases: Phrases) -> Turn | None:
    """Where an element is."""
    element = _pick(rng, screen)
    if element is None:
        return None
    question = _say(rng, *_POINT).format(_refer(rng, element.name, element.kind))
    point = point_text(screen, element)
    return Turn("point", question, point, f"{element.name} is a {element.kind}.", element)


def ask_click(rng: Random, screen: Screen, _phrases: Phrases) -> Turn | None:
    """An action request for one click."""
    element = _pick(rng, screen, ("button", "link", "tab", "item", "checkbox", "radio", "switch", "field"))
    if element is None:
        return None
    question = _say(rng, *_CLICK).format(_refer(rng, element.name, element.kind))
    thought = f"{element.name} is a {element.kind} at {point_text(screen, element)}."
    return Turn("click", question, click_text(screen, element), thought, element)


def ask_type(rng: Random, screen: Screen, phrases: Phrases) -> Turn | None:
    """An action request to type into a field."""
    element = _pick(rng, screen, ("field",))
    if element is None:
        return None
    text = phrases.value(rng)
    wordings = (
        "Type {t} into {n}.",
        "Enter {t} in {n}.",
        "Put {t} in {n}.",
        "Set {n} to {t}.",
        "Fill {n} with {t}.",
        "Write {t} into {n}.",
    )
    question = _say(rng, *wordings).format(t=f'"{text}"', n=_refer(rng, element.name, "field"))
    x, y = screen.point(element)
    answer = f'{{"action":"type","x":{x},"y":{y},"text":{json.dumps(text)}}}'
    return Turn("type", question, answer, f"{element.name} is a field at {point_text(screen, element)}.", element)


def ask_set(rng: Random, screen: Screen, _phrases: Phrases) -> Turn | None:
    """An action request that needs a click only when the state is not yet right."""
    element = _pick(rng, screen, ("checkbox", "switch"))
    if element is None:
        return None
    on, off = TOGGLES[element.kind]
    wanted = rng.choice((on, off))
    verbs = {"on": "Turn on {}.", "off": "Turn off {}.", "checked": "Check {}.", "unchecked": "Uncheck {}."}
    question = _say(rng, verbs[wanted], "Make sure {} is " + wanted + ".").format(
        _refer(rng, element.name, element.kind)
    )
    thought = f"{element.name} is {element.state}."
    answer = NO_ACTION if element.state == wanted else click_text(screen, element)
    return Turn("set", question, answer, thought, element)


def ask_title(rng: Random, screen: Screen, _phrases: Phrases) -> Turn | None:
    """The screen's title."""
    element = next((e for e in screen.elements if e.kind == "title"), None)
    if element is None:
        return None
    wordings = ("What is the title?", "Read the title.", "What is this screen called?",
                "What is the title of this screen?", "Which screen is this?")  # fmt: skip
    return Turn("title", _say(rng, *wordings), element.name, element=element)


def ask_read(rng: Random, screen: Screen, _phrases: Phrases) -> Turn | None:
    """The text of the element at a point."""
    element = _pick(rng, screen)
    if element is None:
        return None
    left, top, right, bottom = element.target
    x = (left + (right - left) * rng.uniform(0.25, 0.75)) / screen.width
    y = (top + (bottom - top) * rng.uniform(0.35, 0.65)) / screen.height
    place = f"({round(x * 100) * 10}, {round(y * 100) * 10})"
    if screen.at((round(x * 100) * 10, round(y * 100) * 10)) is not element:
        return None
    wordings = ("What is at {p}?", "Read the {k} at {p}.", "What does the {k} at {p} say?", "Which element is at {p}?",
                "Read the text at {p}.")  # fmt: skip
    return Turn("read", _say(rng, *wordings).format(p=place, k=element.kind), element.name, element=element)


def ask_value(rng: Random, screen: Screen, _phrases: Phrases) -> Turn | None:
    """What a field holds, or what stands beside an item's name."""
    element = _pick(rng, screen, ("field", "item"))
    if element is None or (element.kind == "item" and not element.value):
        return None
    wordings: tuple[str, ...]
    if element.kind == "field":
        wordings = ("What is in {}?", "What does {} contain?", "Read the value of {}.", "What is entered in {}?")
    else:
        wordings = ("What is the value of {}?", "Read the value of {}.", "What does {} show?")
        if element.value.startswith("$"):
            wordings = ("How much is {}?", "What is the price of {}?", "What does {} cost?")
    question = _say(rng, *wordings).format(_refer(rng, element.name, element.kind))
    return Turn("value", question, element.value or "empty", element=element)


def ask_kind(rng: Random, screen: Screen, _phrases: Phrases) -> Turn | None:
    """What sort of element a name is."""
    element = _pick(rng, screen)
    if element is None:
        return None
    wordings = ("What kind of element is {}?", "What is {}?", "What type of element is {}?")
    name = rng.choice((element.name, f'"{element.name}"'))
    return Turn("kind", _say(rng, *wordings).format(name), element.kind, element=element)


def ask_state(rng: Random, screen: Screen, _phrases: Phrases) -> Turn | None:
    """The state of a toggle, tab, field or button."""
    element = _pick(rng, screen, ("checkbox", "switch", "radio", "tab", "button", "field"))
    if element is None:
        return None
    state = element.state or "enabled"
    name = _refer(rng, element.name, element.kind)
    if rng.random() < 0.5:
        return Turn(
            "state", _say(rng, "What is the state of {}?", "What state is {} in?").format(name), state, element=element
        )
    pairs = {**TOGGLES, "button": ("enabled", "disabled"), "field": ("empty", "filled")}
    asked = pairs[element.kind][0]
    answer = "yes" if state == asked else "no"
    return Turn("state", f"Is {name} {asked}?", answer, f"{element.name} is {state}.", element)


def ask_list(rng: Random, screen: Screen, _phrases: Phrases) -> Turn | None:
    """Every element with kind, name and place."""
    if not screen.elements:
        return None
    lines = [f'{e.kind} "{e.name}" {point_text(screen, e)}' for e in reading_order(screen)]
    wordings = (
        "List the elements.",
        "List all elements of this screen.",
        "What is on this screen?",
        "Describe the screen.",
    )
    return Turn("list", _say(rng, *wordings), "\n".join(lines))


def ask_text(rng: Random, screen: Screen, _phrases: Phrases) -> Turn | None:
    """Every name in reading order."""
    if not screen.elements:
        return None
    wordings = ("Read everything.", "Read all the text.", "Read this screen.", "What does this screen say?")
    return Turn("text", _say(rng, *wordings), "\n".join(e.name for e in reading_order(screen)))


def ask_names(rng: Random, screen: Screen, _phrases: Phrases) -> Turn | None:
    """The names of all elements of one kind."""
    element = _pick(rng, screen)
    if element is None:
        return None
    names = [e.name for e in reading_order(screen) if e.kind == element.kind]
    wordings = ("List the {}.", "List all {}.", "Which {} are there?", "Name the {} on this screen.")
    plural = {"switch": "switches", "checkbox": "checkboxes"}.get(element.kind, element.kind + "s")
    return Turn("names", _say(rng, *wordings).format(plural), "\n".join(names))


def ask_absent(rng: Random, screen: Screen, phrases: Phrases) -> Turn | None:
    """A question about something that is not there."""
    taken = {e.name.lower() for e in screen.elements} | {e.value.lower() for e in screen.elements}
    name = phrases.name(rng)
    if name.lower() in taken or any(name.lower() in other or other in name.lower() for other in taken if other):
        return None
    kind = rng.choice(("button", "link", "field", "switch", "checkbox", "item"))
    refer = _refer(rng, name, kind)
    if rng.random() < 0.4:
        return Turn("absent", _say(rng, *_CLICK).format(refer), NO_ACTION, f"{name} is {ABSENT}.")
    return Turn("absent", _say(rng, *_POINT).format(refer), ABSENT, f"{name} is {ABSENT}.")


def ask_exists(rng: Random, screen: Screen, phrases: Phrases) -> Turn | None:
    """Whether something is there."""
    turn = ask_absent(rng, screen, phrases) if rng.random() < 0.5 else None
    element = _pick(rng, screen)
    if element is None:
        return None
    name = turn.thought.removesuffix(f" is {ABSENT}.") if turn else element.name
    question = _say(rng, "Is there {}?", "Is {} on this screen?", "Can you see {}?").format(
        rng.choice((name, f'"{name}"'))
    )
    return Turn("exists", question, "no" if turn else "yes")


def ask_change(rng: Random, sentence: str) -> Turn:
    """What is different between two screenshots."""
    wordings = ("What changed?", "What changed between the two screens?", "What is different now?",
                "Compare the two screens.", "What is new in the second screen?")  # fmt: skip
    return Turn("change", _say(rng, *wordings), sentence)


LONG = ("list", "text")
Ask = Callable[[Random, Screen, Phrases], Turn | None]
TASKS: dict[Ask, float] = {
    ask_point: 4, ask_click: 3, ask_type: 1, ask_set: 1, ask_title: 1, ask_read: 3, ask_value: 2, ask_kind: 1.5,
    ask_state: 2, ask_list: 0.8, ask_text: 0.4, ask_names: 0.8, ask_absent: 3, ask_exists: 1,
}  # fmt: skip


def ask(rng: Random, screen: Screen, phrases: Phrases, count: int) -> list[Turn]:
    """Up to `count` random questions about one screen, at most one list among them."""
    turns: list[Turn] = []
    for task in rng.choices(list(TASKS), weights=list(TASKS.values()), k=count * 2):
        turn = task(rng, screen, phrases)
        if turn is not None and not (turn.task in LONG and any(t.task in LONG for t in turns)):
            turns.append(turn)
        if len(turns) == count:
            break
    return turns


def reading_order(screen: Screen) -> list[Element]:
    """Elements from top to bottom in 32-pixel bands, left to right inside a band."""
    return sorted(screen.elements, key=lambda e: (int(e.center[1] // 32), e.center[0]))
