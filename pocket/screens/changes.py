"""What can happen to a page between two screenshots: a toggle flips, a value changes, a widget comes or goes."""

from dataclasses import replace
from random import Random

from pocket.screens.fonts import text_width
from pocket.screens.page import Page, Widget
from pocket.screens.screen import TOGGLES
from pocket.screens.words import Phrases

NOTHING = "nothing changed"


def change(rng: Random, phrases: Phrases, page: Page) -> tuple[Page, str]:
    """A second page and the sentence that says what is different; sometimes the same page and `NOTHING`."""
    kind = rng.choice(("toggle", "toggle", "value", "gone", "new", "same"))
    widgets = list(page.widgets)
    if kind == "toggle":
        places = [i for i, w in enumerate(widgets) if w.kind in ("checkbox", "switch", "radio")]
        if places:
            index = rng.choice(places)
            widget = widgets[index]
            on, off = TOGGLES[widget.kind]
            widgets[index] = replace(widget, state=off if widget.state == on else on)
            return page.with_widgets(widgets), f"{widget.name} is now {widgets[index].state}"
    if kind == "value":
        places = [i for i, w in enumerate(widgets) if w.kind == "field"]
        if places:
            index = rng.choice(places)
            widget = widgets[index]
            value = phrases.value(rng)
            room = (widget.width if widget.variant < 2 else widget.width / 2) - 14
            if value != widget.value and text_width(page.theme.face, value) < room:
                widgets[index] = replace(widget, value=value, state="filled")
                return page.with_widgets(widgets), f'{widget.name} now says "{value}"'
    places = [i for i, w in enumerate(widgets) if w.kind != "title"]
    if kind in ("gone", "new") and len(places) > 2:
        name, fewer = _without(widgets, rng.choice(places))
        if kind == "gone":
            return page.with_widgets(fewer), f"{name} disappeared"
        return page, f"{name} appeared"  # the caller gets the shorter page as the first one, see `pair`
    return page, NOTHING


def pair(rng: Random, phrases: Phrases, page: Page) -> tuple[Page, Page, str]:
    """Two pages before and after a change, and the sentence that says what changed."""
    after, sentence = change(rng, phrases, page)
    if sentence.endswith(" appeared"):
        name = sentence.removesuffix(" appeared")
        before = page.with_widgets([w for w in page.widgets if w.name != name])
        return before, page, sentence
    return page, after, sentence


def _without(widgets: list[Widget], index: int) -> tuple[str, list[Widget]]:
    return widgets[index].name, widgets[:index] + widgets[index + 1 :]
