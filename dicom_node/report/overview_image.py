"""
One picture for one glance: where was measured, what came out, and may I believe it.

Left the spine in two cuts with the bodies and measured cores outlined, right a table, above all the
warning if there is one. Nothing in it names the patient, and nothing depends on colour alone:
bodies are thin lines, cores thick ones, withheld ones dashed, and each finding is a word.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont
from scipy import ndimage

from dicom_node.report import codes
from dicom_node.report.equipment import is_research_only, model_name
from dicom_node.report.measurement_groups import why_withheld
from dicom_node.report.spine_cuts import FINE, Plane, SpineCut, cut_spine, frame_spine, trace_spine
from engine.records import BoneFinding, Quantity, Reason, ScreeningResult, VertebralLevel
from engine.volume import Analysis

SIZE = (1600, 1000)
WINDOW = (-250.0, 750.0)  # HU: width 1000, level 250, a bone window that still shows soft tissue

_Colour = tuple[int, int, int]
_GROUND: _Colour = (10, 12, 16)
_LINE: _Colour = (70, 76, 86)
_TEXT: _Colour = (236, 238, 240)
_QUIET: _Colour = (164, 170, 178)
_BODY: _Colour = (150, 210, 255)
_CORE: _Colour = (255, 196, 0)
_WARNING: _Colour = (150, 22, 22)

_PANEL_TOP, _PANEL_HEIGHT, _PANELS_WIDTH = 112, 812, 852
_TABLE_LEFT, _TABLE_RIGHT = 908, 1576
_COLUMNS = {
    "Level": (0, "l"), "HU mean": (134, "r"), "SD": (184, "r"), "vBMD mg/cm3": (308, "r"), "Class": (332, "l"),
    "Notes": (450, "l"),
}  # fmt: skip
"""Where each column begins or, if right-aligned, ends."""
_FINDINGS = {
    BoneFinding.NORMAL: "Normal",
    BoneFinding.OSTEOPENIA: "Osteopenia",
    BoneFinding.OSTEOPOROSIS: "Osteoporosis",
}


def draw_overview(analysis: Analysis) -> Image.Image:
    """The picture, RGB."""
    picture = Image.new("RGB", SIZE, _GROUND)
    draw = ImageDraw.Draw(picture)
    _draw_head(draw, analysis.result)
    curve = trace_spine(analysis.bodies)
    frame = frame_spine(curve, analysis.volume.geometry, _PANEL_HEIGHT, _PANELS_WIDTH)
    left = 24
    for plane in Plane:
        cut = cut_spine(analysis, curve, frame, plane)
        picture.paste(_panel(cut, analysis), (left, _PANEL_TOP))
        _draw_marks(draw, cut, plane, analysis, left)
        _draw_scale(draw, cut, plane, left, round(50 / frame.mm_per_pixel))
        left += cut.hounsfield.shape[1] + 16
    _draw_summary(draw, analysis.result)
    _draw_table(draw, analysis.result)
    _draw_foot(draw, analysis)
    return picture


@cache
def _font(size: int) -> FreeTypeFont:
    font = ImageFont.load_default(size=size)
    assert isinstance(font, FreeTypeFont)
    return font


def _panel(cut: SpineCut, analysis: Analysis) -> Image.Image:
    """The cut in its window with its outlines."""
    low, high = WINDOW
    grey = np.clip((cut.hounsfield - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    tall, wide = grey.shape
    canvas = Image.fromarray(grey).resize((wide * FINE, tall * FINE), Image.Resampling.BICUBIC).convert("RGB")
    pixels = np.array(canvas)
    pixels[_outline(cut.bodies, -3)] = _BODY
    withheld = _numbers(analysis, analysis.result.levels, withheld=True)
    row, column = np.ogrid[: tall * FINE, : wide * FINE]
    gaps = np.isin(cut.cores, withheld) & ((row + column) // 9 % 2 == 0)
    pixels[_outline(cut.cores, 4) & ~gaps] = _CORE
    return Image.fromarray(pixels).resize((wide, tall), Image.Resampling.BOX)


def _outline(labels: NDArray[np.uint8], thickness: int) -> NDArray[np.bool_]:
    """The rim of each segment: so many pixels inside of it, or outside where negative."""
    rim = np.zeros(labels.shape, dtype=bool)
    reach = abs(thickness) + 1
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        wide = tuple(slice(max(0, part.start - reach), part.stop + reach) for part in box)
        mask = labels[wide] == number
        inner = mask if thickness < 0 else ndimage.binary_erosion(mask, iterations=thickness)
        outer = mask if thickness > 0 else ndimage.binary_dilation(mask, iterations=-thickness)
        rim[wide] |= outer & ~inner
    return rim


def _numbers(analysis: Analysis, levels: tuple[VertebralLevel, ...], withheld: bool) -> list[int]:
    """Segment numbers of the levels whose density is (not) withheld."""
    chosen = {level for level in levels if bool(why_withheld(analysis.result, level)) is withheld}
    return [n for n, level in enumerate(analysis.trabecular.segments, start=1) if level in chosen]


def _draw_marks(draw: ImageDraw.ImageDraw, cut: SpineCut, plane: Plane, analysis: Analysis, left: int) -> None:
    """Level names beside the bodies, and the patient's sides."""
    _, wide = cut.hounsfield.shape
    for number, (row, column) in cut.anchors.items():
        level = analysis.bodies.segments[number - 1]
        name = "?" if level is None else level.value
        columns = np.flatnonzero((cut.bodies == number).any(axis=0)) // FINE
        first, last = (int(columns[0]), int(columns[-1])) if len(columns) else (column, column)
        front = plane is Plane.SAGITTAL
        at = (left + (first - 8 if front else last + 10), _PANEL_TOP + row)
        used = level in analysis.result.aggregated_levels
        _say(draw, at, name + ("*" if used else ""), 20, _TEXT, "rm" if front else "lm", stroke=2)
    sides = ("A", "P") if plane is Plane.SAGITTAL else ("R", "L")
    _say(draw, (left + 8, _PANEL_TOP + 8), sides[0], 18, _QUIET, "lt", stroke=2)
    _say(draw, (left + wide - 8, _PANEL_TOP + 8), sides[1], 18, _QUIET, "rt", stroke=2)


def _draw_scale(draw: ImageDraw.ImageDraw, cut: SpineCut, plane: Plane, left: int, length: int) -> None:
    """The plane's name and 50 mm, in the lower corner that no level's name needs."""
    tall, wide = cut.hounsfield.shape
    y = _PANEL_TOP + tall - 12
    x, away, anchor = (left + wide - 10, -1, "rb") if plane is Plane.SAGITTAL else (left + 10, 1, "lb")
    draw.line((x, y, x + away * length, y), _TEXT, 3)
    _say(draw, (x, y - 6), f"{plane.value}, 50 mm", 14, _TEXT, anchor, stroke=2)


def _draw_head(draw: ImageDraw.ImageDraw, result: ScreeningResult) -> None:
    _say(draw, (24, 14), "Bone density of the spine from CT", 26, _TEXT, "lt")
    _say(draw, (_TABLE_RIGHT, 18), f"{model_name(result)} {result.engine_version}", 17, _QUIET, "rt")
    if is_research_only(result):
        draw.rectangle((24, 54, _TABLE_RIGHT, 98), _WARNING, (255, 255, 255), 2)
        text = "NOT FOR DIAGNOSIS - reference weights, trained on computer-made phantoms only"
        _say(draw, (800, 76), text, 24, (255, 255, 255), "mm", stroke=0)


def _draw_summary(draw: ImageDraw.ImageDraw, result: ScreeningResult) -> None:
    """What is said of the patient."""
    box = (_TABLE_LEFT, _PANEL_TOP, _TABLE_RIGHT, _PANEL_TOP + 112)
    draw.rectangle(box, (26, 30, 38), _LINE, 1)
    x, y = _TABLE_LEFT + 16, _PANEL_TOP + 14
    density, finding = result.value(Quantity.VOLUMETRIC_BMD, None), result.finding(None)
    if density is not None:
        levels = ", ".join(level.value for level in result.aggregated_levels)
        _say(draw, (x, y), f"{density:.1f} mg/cm3", 34, _TEXT, "lt")
        if finding is not None:
            _say(draw, (_TABLE_RIGHT - 16, y), _FINDINGS[finding].upper(), 34, _TEXT, "rt")
        _say(draw, (x, y + 46), _shorten(f"Mean trabecular density* of {levels}", 18, 636), 18, _TEXT, "lt")
    else:
        reasons = why_withheld(result, None)
        _say(draw, (x, y), "No density given", 34, _TEXT, "lt")
        because = "; ".join(codes.REASONS[reason] for reason in reasons) or "no level was measured"
        more = ". HU below include the agent." if Reason.CONTRAST in reasons and result.levels else ""
        _say(draw, (x, y + 46), _shorten(f"Because: {because}{more}", 18, 636), 18, _TEXT, "lt")
    _say(draw, (x, y + 74), _shorten(f"Policy {result.policy}", 15, 636), 15, _QUIET, "lt")


def _draw_table(draw: ImageDraw.ImageDraw, result: ScreeningResult) -> None:
    top = _PANEL_TOP + 128
    columns = _columns(result)
    for name, (offset, side) in columns.items():
        _say(draw, (_TABLE_LEFT + 16 + offset, top + 6), name, 16, _QUIET, side + "m")
    top += 26
    room = _PANEL_TOP + _PANEL_HEIGHT - 56 - top
    step = min(46, room // max(1, len(result.levels)))
    for level in result.levels:
        draw.line((_TABLE_LEFT, top, _TABLE_RIGHT, top), _LINE, 1)
        _draw_row(draw, result, level, columns, (top, step))
        top += step
    draw.line((_TABLE_LEFT, top, _TABLE_RIGHT, top), _LINE, 1)
    whole = dict.fromkeys(codes.REASONS[flag.reason] for flag in result.flags(None))
    if whole:
        text = _shorten("Whole series: " + "; ".join(whole), 17, _TABLE_RIGHT - _TABLE_LEFT - 16)
        _say(draw, (_TABLE_LEFT + 16, top + 14), text, 17, _TEXT, "lt")


def _columns(result: ScreeningResult) -> dict[str, tuple[int, str]]:
    """The table's columns; where a policy classifies the patient only, the notes take the place of the class."""
    if any(result.finding(level) for level in result.levels):
        return _COLUMNS
    return {**{name: at for name, at in _COLUMNS.items() if name != "Class"}, "Notes": _COLUMNS["Class"]}


def _draw_row(
    draw: ImageDraw.ImageDraw,
    result: ScreeningResult,
    level: VertebralLevel,
    columns: dict[str, tuple[int, str]],
    place: tuple[int, int],
) -> None:
    """One level; place: where the row begins, and how high it is."""
    middle, left = place[0] + place[1] // 2, _TABLE_LEFT + 16
    mean, spread = (result.value(q, level) for q in (Quantity.ATTENUATION_MEAN, Quantity.ATTENUATION_SD))
    density, finding = result.value(Quantity.VOLUMETRIC_BMD, level), result.finding(level)
    used = level in result.aggregated_levels
    cells = {
        "Level": level.value + ("*" if used else ""),
        "HU mean": "-" if mean is None else f"{mean:.0f}",
        "SD": "-" if spread is None else f"{spread:.0f}",
        "vBMD mg/cm3": f"{density:.1f}" if density is not None else "withheld" if why_withheld(result, level) else "-",
        "Class": "-" if finding is None else _FINDINGS[finding],
    }
    for name, text in cells.items():
        if name not in columns:
            continue
        size = 15 if text == "withheld" else 17 if name == "Class" else 20
        offset, side = columns[name]
        _say(draw, (left + offset, middle), text, size, _TEXT, side + "m")
    notes = "; ".join(dict.fromkeys(codes.REASONS[flag.reason] for flag in result.flags(level)))
    offset, _ = columns["Notes"]
    lines = _wrap(notes, 14, _TABLE_RIGHT - left - offset, 2)
    for n, line in enumerate(lines):
        _say(draw, (left + offset, middle + round((n - (len(lines) - 1) / 2) * 16)), line, 14, _TEXT, "lm")


def _draw_foot(draw: ImageDraw.ImageDraw, analysis: Analysis) -> None:
    """Legend, and what the numbers were made with."""
    y, series, result = SIZE[1] - 50, analysis.series, analysis.result
    draw.line((24, y, 60, y), _BODY, 1)
    _say(draw, (68, y), "vertebral body", 15, _QUIET, "lm")
    draw.line((196, y, 232, y), _CORE, 3)
    _say(draw, (240, y), "measured core (broken line: density withheld)", 15, _QUIET, "lm")
    _say(draw, (600, y), "* in the patient's value     ? found, but not named", 15, _QUIET, "lm")
    scan = [
        f"{series.kvp:g} kV" if series.kvp else "",
        f"kernel {series.convolution_kernel[0]}" if series.convolution_kernel else "",
        f"slices every {analysis.volume.geometry.spacing_mm[0]:.4g} mm",
        *(str(model) for model in result.models),
    ]
    line = "   |   ".join(_ascii(part) for part in scan if part)
    _say(draw, (24, SIZE[1] - 22), _shorten(line, 15, SIZE[0] - 48), 15, _QUIET, "lm")


def _say(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, fill: _Colour, anchor: str, stroke: int = 0
) -> None:
    draw.text(at, text, fill, _font(size), anchor, stroke_width=stroke, stroke_fill=(0, 0, 0))


def _ascii(text: str) -> str:
    """What the built-in font can show."""
    return text.encode("ascii", "replace").decode("ascii")


def _shorten(text: str, size: int, width: int) -> str:
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    kept = min(len(text), width)  # no letter is narrower than a pixel
    while kept > 1 and font.getlength(text[:kept].rstrip() + "...") > width:
        kept -= 1 + kept // 16
    return text[:kept].rstrip() + "..."


def _wrap(text: str, size: int, width: int, lines: int) -> list[str]:
    """At most so many lines; the last one tells that there was more."""
    font, wrapped = _font(size), [""]
    words = text.split()
    for n, word in enumerate(words):
        longer = f"{wrapped[-1]} {word}".strip()
        if font.getlength(longer) <= width or not wrapped[-1]:
            wrapped[-1] = longer
        elif len(wrapped) == lines:
            wrapped[-1] = _shorten(" ".join([wrapped[-1], *words[n:]]), size, width)
            break
        else:
            wrapped.append(word)
    return wrapped
