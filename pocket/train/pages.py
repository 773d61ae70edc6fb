"""Renders the Chromium pages that joint training mixes in: `python -m pocket.train.pages OUT.zip`."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from random import Random

from pocket.screens.archive import Rendered, write
from pocket.screens.chromium import browser, render
from pocket.screens.html import html_page
from pocket.screens.words import Phrases


def rendered_pages(count: int, seed: int) -> Iterator[Rendered]:
    """`count` training pages with at least two visible elements each."""
    phrases = Phrases("train")
    with browser() as tab:
        made = index = 0
        while made < count:
            pixels, screen = render(tab, html_page(Random(f"pages/{seed}/{index}"), phrases))
            index += 1
            if len(screen.elements) >= 2:
                made += 1
                yield pixels, screen


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    print(write(options.out, rendered_pages(options.count, options.seed)), "pages in", options.out)
