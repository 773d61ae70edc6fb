"""Draws HTML in headless Chromium and reads the truth back from the DOM: boxes, states, values and every letter.

Elements are those with `data-kind`. Anything that lies outside the viewport, or is covered, is not reported.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocket.screens.html import HtmlPage
from pocket.screens.screen import TOGGLES, Element, Glyph, Screen

EXECUTABLE = "/usr/bin/chromium"
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
          "--disable-component-update", "--disable-sync", "--font-render-hinting=none", "--disable-lcd-text",
          "--force-device-scale-factor=1", "--hide-scrollbars"]  # fmt: skip
_READ_DOM = """
() => {
  const rect = r => [r.left, r.top, r.right, r.bottom];
  const letters = [];
  const pen = document.createElement('canvas').getContext('2d');
  return [...document.querySelectorAll('[data-kind]')].map(node => {
    const glyphs = [], names = [], values = [];
    const walk = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      const text = walk.currentNode, range = document.createRange();
      (text.parentElement.closest('[data-value]') ? values : names).push(text.data);
      for (let i = 0; i < text.length; i++) {
        range.setStart(text, i); range.setEnd(text, i + 1);
        const r = range.getBoundingClientRect();
        if (r.width) glyphs.push([text.data[i], (r.left + r.right) / 2, (r.top + r.bottom) / 2]);
      }
    }
    const input = node.querySelector('input.text');
    let target = rect(node.getBoundingClientRect());
    if (input) {
      const style = getComputedStyle(input), r = input.getBoundingClientRect();
      target = rect(r);
      pen.font = style.font;
      let x = r.left + parseFloat(style.paddingLeft) + parseFloat(style.borderLeftWidth);
      for (const char of input.value) {
        const step = pen.measureText(char).width;
        glyphs.push([char, x + step / 2, (r.top + r.bottom) / 2]);
        x += step;
      }
    }
    const mark = node.querySelector('input[type=checkbox],input[type=radio]');
    const lever = node.querySelector('[role=switch]');
    return {
      kind: node.dataset.kind, name: names.join('').trim(), box: rect(node.getBoundingClientRect()), target, glyphs,
      value: input ? input.value : values.join('').trim(), disabled: !!node.disabled,
      on: mark ? mark.checked : lever ? lever.getAttribute('aria-checked') === 'true'
        : node.getAttribute('aria-selected') === 'true',
    };
  });
}
"""


@contextmanager
def browser() -> Iterator[Any]:
    """A Chromium page to draw with, kept open across screens. Needs the `playwright` package and Debian's chromium."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only where pages are rendered

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=EXECUTABLE, args=_FLAGS)
        try:
            yield chromium.new_page()
        finally:
            chromium.close()


def render(tab: Any, page: HtmlPage) -> tuple[NDArray[np.uint8], Screen]:
    """Pixels `[height, width, 3]` of a document and the truth about what is wholly visible in it."""
    tab.set_viewport_size({"width": page.width, "height": page.height})
    tab.set_content(page.html)
    found = tab.evaluate(_READ_DOM)
    pixels = np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert("RGB"))
    elements = tuple(_element(one) for one in found if _visible(one["box"], page) and one["name"])
    return pixels, Screen(page.width, page.height, elements)


def _visible(box: list[float], page: HtmlPage) -> bool:
    return box[0] >= -1 and box[1] >= -8 and box[2] <= page.width + 1 and box[3] <= page.height + 8


def _element(one: dict[str, Any]) -> Element:
    kind = one["kind"]
    state = ""
    if kind in TOGGLES:
        state = TOGGLES[kind][0 if one["on"] else 1]
    elif kind == "button":
        state = "disabled" if one["disabled"] else ""
    elif kind == "field":
        state = "filled" if one["value"] else "empty"
    glyphs = tuple(Glyph(char, x, y) for char, x, y in one["glyphs"])
    return Element(kind, one["name"], tuple(one["box"]), tuple(one["target"]), state, one["value"], glyphs)
