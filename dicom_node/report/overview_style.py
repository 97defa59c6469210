"""How the overview picture is drawn: its colours, its type, and where its parts lie."""

from functools import cache

from PIL import ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

SIZE = (1600, 1000)
PANEL_TOP, PANEL_HEIGHT, PANELS_WIDTH = 112, 812, 852
TABLE_LEFT, TABLE_RIGHT = 908, 1576

Colour = tuple[int, int, int]
GROUND: Colour = (10, 12, 16)
BOX: Colour = (26, 30, 38)
LINE: Colour = (70, 76, 86)
TEXT: Colour = (236, 238, 240)
QUIET: Colour = (164, 170, 178)
BODY: Colour = (150, 210, 255)
CORE: Colour = (255, 196, 0)
WARNING: Colour = (150, 22, 22)


@cache
def font(size: int) -> FreeTypeFont:
    """The built-in type, so many pixels high."""
    letters = ImageFont.load_default(size=size)
    assert isinstance(letters, FreeTypeFont)
    return letters


def say(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, fill: Colour, anchor: str, stroke: int = 0
) -> None:
    """One line of text; an anchor as Pillow's (side and height)."""
    draw.text(at, text, fill, font(size), anchor, stroke_width=stroke, stroke_fill=(0, 0, 0))


def ascii_only(text: str) -> str:
    """What the built-in font can show."""
    return text.encode("ascii", "replace").decode("ascii")


def shorten(text: str, size: int, width: int) -> str:
    """As much of a line as fits; dots tell that there was more."""
    letters = font(size)
    if letters.getlength(text) <= width:
        return text
    kept = min(len(text), width)  # no letter is narrower than a pixel
    while kept > 1 and letters.getlength(text[:kept].rstrip() + "...") > width:
        kept -= 1 + kept // 16
    return text[:kept].rstrip() + "..."


def wrap(text: str, size: int, width: int, lines: int) -> list[str]:
    """At most so many lines; the last one tells that there was more."""
    letters, wrapped = font(size), [""]
    words = text.split()
    for n, word in enumerate(words):
        longer = f"{wrapped[-1]} {word}".strip()
        if letters.getlength(longer) <= width or not wrapped[-1]:
            wrapped[-1] = longer
        elif len(wrapped) == lines:
            wrapped[-1] = shorten(" ".join([wrapped[-1], *words[n:]]), size, width)
            break
        else:
            wrapped.append(word)
    return wrapped
