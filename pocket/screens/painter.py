"""Draws a `Page` with Pillow and reports what was drawn as a `Screen` with the place of every character.

`paint` returns pixels and truth; `measure` only the truth, many times faster. Both walk the same code.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pocket.screens.fonts import GLYPH_HEIGHT, Face, advance, glyph, text_width
from pocket.screens.page import Page, Widget
from pocket.screens.screen import ROW, Box, Color, Element, Glyph, Screen

_ABOVE = 4  # rows of a glyph bitmap above its text row


@dataclass(slots=True)
class _Line:
    text: str
    x: float
    row: int
    face: Face
    color: Color


@dataclass(slots=True)
class _Canvas:
    """Collects text lines and, when drawing, paints shapes at once; text goes on top at the end."""

    page: Page
    draw: ImageDraw.ImageDraw | None
    lines: list[_Line] = field(default_factory=list)

    def shape(self, box: Box, fill: Color | None, outline: Color | None = None, radius: int = 0) -> None:
        """A rounded rectangle, clipped to nothing when it is degenerate."""
        if self.draw is not None and box[2] > box[0] + 1 and box[3] > box[1] + 1:
            corners = (round(box[0]), round(box[1]), round(box[2]) - 1, round(box[3]) - 1)
            self.draw.rounded_rectangle(corners, radius, fill=fill, outline=outline)

    def ellipse(self, box: Box, fill: Color | None, outline: Color | None = None) -> None:
        """An ellipse filling a box."""
        if self.draw is not None:
            self.draw.ellipse((box[0], box[1], box[2] - 1, box[3] - 1), fill=fill, outline=outline)

    def stroke(self, points: list[tuple[float, float]], color: Color, width: int = 2) -> None:
        """A broken line."""
        if self.draw is not None:
            self.draw.line(points, fill=color, width=width)

    def text(self, text: str, x: float, row: int, color: Color, bold: bool = False) -> tuple[Glyph, ...]:
        """Puts a line of text; returns its characters with the middle of each."""
        face = replace(self.page.theme.face, bold=bold)
        self.lines.append(_Line(text, x, row, face, color))
        glyphs = []
        for char in text:
            step = advance(face, char)
            glyphs.append(Glyph(char, x + step / 2, row * ROW + ROW / 2))
            x += step
        return tuple(glyphs)


def measure(page: Page) -> Screen:
    """What `paint` would put on the page, without drawing it."""
    canvas = _Canvas(page, None)
    return Screen(page.width, page.height, tuple(_place(canvas, widget) for widget in page.widgets))


def paint(page: Page, gamma: float = 1.0) -> tuple[NDArray[np.uint8], Screen]:
    """Pixels `[height, width, 3]` and the truth about them. `gamma` below 1 makes text bolder."""
    image = Image.new("RGB", (page.width, page.height), page.theme.paper)
    canvas = _Canvas(page, ImageDraw.Draw(image))
    for panel in page.panels:
        if panel.accent:
            canvas.shape(panel.box, page.theme.accent)
        else:
            canvas.shape(panel.box, page.theme.panel, page.theme.line, page.theme.radius)
    elements = tuple(_place(canvas, widget) for widget in page.widgets)
    pixels = np.asarray(image).astype(np.float32)
    for line in canvas.lines:
        _write(pixels, line, page.theme.drop, gamma)
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8), Screen(page.width, page.height, elements)


def _write(pixels: NDArray[np.float32], line: _Line, drop: int, gamma: float) -> None:
    """Blends a line of text into `pixels`, in place."""
    height, width = pixels.shape[:2]
    origin = int(line.x) - 8  # screen column of the mask's first column
    mask = np.zeros((GLYPH_HEIGHT, int(text_width(line.face, line.text)) + 40), np.float32)
    x = line.x
    for char in line.text:
        quarters = round(x * 4)
        bitmap, offset = glyph(line.face, char, quarters % 4)
        start = quarters // 4 + offset - origin
        mask[:, start : start + bitmap.shape[1]] += bitmap
        x += advance(line.face, char)
    left, right = max(0, origin), min(width, origin + mask.shape[1])
    top = line.row * ROW - _ABOVE + drop
    first, last = max(0, top), min(height, top + GLYPH_HEIGHT)
    alpha = np.minimum(mask[first - top : last - top, left - origin : right - origin, None], 1) ** gamma
    region = pixels[first:last, left:right]
    region += alpha * (np.array(line.color, np.float32) - region)


def _place(canvas: _Canvas, widget: Widget) -> Element:
    """Draws one widget and says what it became."""
    return _PLACERS[widget.kind](canvas, widget)


def _on_bar(canvas: _Canvas, widget: Widget) -> bool:
    return any(panel.accent and panel.box[3] > widget.row * ROW + 8 for panel in canvas.page.panels)


def _band(widget: Widget, pad: float, rows: int = 1) -> Box:
    """The widget's box: its text rows and `pad` pixels around them."""
    return widget.x, widget.row * ROW - pad, widget.x + widget.width, (widget.row + rows) * ROW + pad


def _plain(canvas: _Canvas, widget: Widget) -> Element:
    theme = canvas.page.theme
    color = theme.on_accent if _on_bar(canvas, widget) else theme.accent_ink if widget.kind == "link" else theme.ink
    bold = widget.kind == "title"
    width = text_width(replace(theme.face, bold=bold), widget.name)
    glyphs = canvas.text(widget.name, widget.x, widget.row, color, bold)
    box = (widget.x, float(widget.row * ROW), widget.x + width, float(widget.row * ROW + ROW))
    if widget.kind == "link":
        y = widget.row * ROW + 14 + theme.drop
        canvas.stroke([(widget.x, y), (widget.x + width, y)], color, 1)
    return Element(widget.kind, widget.name, box, box, glyphs=glyphs)


def _button(canvas: _Canvas, widget: Widget) -> Element:
    theme = canvas.page.theme
    box = _band(widget, 4 + widget.variant % 3)
    color = theme.ink
    if widget.state == "disabled":
        canvas.shape(box, _mix(theme.paper, theme.muted, 0.3), None, theme.radius)
        color = _mix(theme.paper, theme.muted, 0.8)
    elif theme.filled_buttons and widget.variant < 3 and not _on_bar(canvas, widget):
        canvas.shape(box, theme.accent, None, theme.radius)
        color = theme.on_accent
    else:
        canvas.shape(box, theme.panel, theme.muted, theme.radius)
    room = widget.width - text_width(theme.face, widget.name)
    glyphs = canvas.text(widget.name, widget.x + room / 2, widget.row, color)
    return Element("button", widget.name, box, box, widget.state, glyphs=glyphs)


def _toggle(canvas: _Canvas, widget: Widget) -> Element:
    """Checkboxes and radio buttons: a mark at the left, the label after it."""
    theme, y = canvas.page.theme, widget.row * ROW + 8.0
    size = 6 + widget.variant % 3 / 2
    mark = (widget.x, y - size, widget.x + 2 * size, y + size)
    on = widget.state in ("checked", "selected")
    if widget.kind == "radio":
        canvas.ellipse(mark, theme.panel, theme.accent if on else theme.muted)
        if on:
            canvas.ellipse((mark[0] + 3, mark[1] + 3, mark[2] - 3, mark[3] - 3), theme.accent)
    else:
        canvas.shape(mark, theme.accent if on else theme.panel, theme.accent if on else theme.muted, 2)
        if on:
            left, top = mark[0], mark[1]
            canvas.stroke([(left + 3, top + 7), (left + 5, top + 10), (left + 10, top + 4)], theme.on_accent)
    width = text_width(theme.face, widget.name)
    glyphs = canvas.text(widget.name, widget.x + 20, widget.row, theme.ink)
    box = (widget.x, y - 8, widget.x + 20 + width, y + 8)
    return Element(widget.kind, widget.name, box, box, widget.state, glyphs=glyphs)


def _switch(canvas: _Canvas, widget: Widget) -> Element:
    theme, y = canvas.page.theme, widget.row * ROW + 8.0
    on = widget.state == "on"
    width = text_width(theme.face, widget.name)
    if widget.variant < 2:  # at the right end of the row
        left, label_x = widget.x + widget.width - 28, widget.x
        box = (widget.x, y - 8, widget.x + widget.width, y + 8)
    else:
        left, label_x = widget.x, widget.x + 34
        box = (widget.x, y - 8, widget.x + 34 + width, y + 8)
    canvas.shape((left, y - 7, left + 28, y + 7), theme.accent if on else _mix(theme.paper, theme.muted, 0.6), None, 7)
    knob = left + 16 if on else left + 2
    canvas.ellipse((knob, y - 5, knob + 10, y + 5), (255, 255, 255))
    glyphs = canvas.text(widget.name, label_x, widget.row, theme.ink)
    return Element("switch", widget.name, box, box, widget.state, glyphs=glyphs)


def _field(canvas: _Canvas, widget: Widget) -> Element:
    """A label above or at the left of a box that holds a value or nothing."""
    theme = canvas.page.theme
    if widget.variant < 2:
        row, left = widget.row + 2, widget.x
        label = canvas.text(widget.name, widget.x, widget.row, theme.ink)
    else:
        row, left = widget.row, widget.x + widget.width / 2
        label = canvas.text(widget.name, widget.x, widget.row, theme.ink)
    target = (left, row * ROW - 5.0, widget.x + widget.width, row * ROW + ROW + 5.0)
    canvas.shape(target, theme.panel, theme.muted, min(theme.radius, 5))
    value = canvas.text(widget.value, left + 6, row, theme.ink) if widget.value else ()
    box = (widget.x, min(widget.row * ROW, target[1]), target[2], target[3])
    return Element("field", widget.name, box, target, widget.state, widget.value, label + value)


def _tab(canvas: _Canvas, widget: Widget) -> Element:
    theme, box = canvas.page.theme, _band(widget, 5)
    on = widget.state == "selected"
    if widget.variant < 2:
        canvas.shape(box, theme.accent if on else _mix(theme.paper, theme.muted, 0.25), None, theme.radius)
        color = theme.on_accent if on else theme.ink
    else:
        color = theme.accent_ink if on else theme.ink
        if on:
            canvas.stroke([(box[0], box[3]), (box[2], box[3])], theme.accent, 3)
    room = widget.width - text_width(theme.face, widget.name)
    glyphs = canvas.text(widget.name, widget.x + room / 2, widget.row, color)
    return Element("tab", widget.name, box, box, widget.state, glyphs=glyphs)


def _item(canvas: _Canvas, widget: Widget) -> Element:
    """A list row with something at its right end, or (variant 7) a card with its value below the name."""
    theme = canvas.page.theme
    card = widget.variant == 7
    box = _band(widget, 10 if card else 5, 2 if card else 1)
    if card or widget.variant % 2:
        canvas.shape(box, theme.panel, theme.line, theme.radius)
    else:
        canvas.stroke([(box[0], box[3]), (box[2], box[3])], theme.line, 1)
    glyphs = canvas.text(widget.name, widget.x + 7, widget.row, theme.ink, card)
    if widget.value and card:
        glyphs += canvas.text(widget.value, widget.x + 7, widget.row + 1, theme.ink)
    elif widget.value:
        x = widget.x + widget.width - 7 - text_width(theme.face, widget.value)
        glyphs += canvas.text(widget.value, x, widget.row, theme.ink)
    return Element("item", widget.name, box, box, "", widget.value, glyphs)


def _mix(first: Color, second: Color, share: float) -> Color:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


_PLACERS = {
    "title": _plain, "text": _plain, "link": _plain, "button": _button, "checkbox": _toggle, "radio": _toggle,
    "switch": _switch, "field": _field, "tab": _tab, "item": _item,
}  # fmt: skip
