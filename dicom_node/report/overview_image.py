"""
One picture for one glance: where was measured, what came out, and may I believe it.

Left the spine in two cuts with the bodies and measured cores outlined, right a table, above all the
warning if there is one. Nothing in it names the patient, and nothing depends on colour alone:
bodies are thin lines, cores thick ones, withheld ones dashed, and each finding is a word.
"""

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dicom_node.report import overview_style as style
from dicom_node.report.equipment import is_research_only, model_name
from dicom_node.report.measurement_groups import why_withheld
from dicom_node.report.overview_table import draw_summary, draw_table
from dicom_node.report.spine_cuts import FINE, Plane, SpineCut, cut_spine, frame_spine, trace_spine
from engine.records import ScreeningResult, VertebralLevel
from engine.volume import Analysis

WINDOW = (-250.0, 750.0)  # HU: width 1000, level 250, a bone window that still shows soft tissue


def draw_overview(analysis: Analysis) -> Image.Image:
    """The picture, RGB."""
    picture = Image.new("RGB", style.SIZE, style.GROUND)
    draw = ImageDraw.Draw(picture)
    _draw_head(draw, analysis.result)
    curve = trace_spine(analysis.bodies)
    frame = frame_spine(curve, analysis.volume.geometry, style.PANEL_HEIGHT, style.PANELS_WIDTH)
    left = 24
    for plane in Plane:
        cut = cut_spine(analysis, curve, frame, plane)
        picture.paste(_panel(cut, analysis), (left, style.PANEL_TOP))
        _draw_marks(draw, cut, plane, analysis, left)
        _draw_scale(draw, cut, plane, left, round(50 / frame.mm_per_pixel))
        left += cut.hounsfield.shape[1] + 16
    draw_table(draw, analysis.result, draw_summary(draw, analysis.result))
    _draw_foot(draw, analysis)
    return picture


def _panel(cut: SpineCut, analysis: Analysis) -> Image.Image:
    """The cut in its window with its outlines."""
    low, high = WINDOW
    grey = np.clip((cut.hounsfield - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    tall, wide = grey.shape
    canvas = Image.fromarray(grey).resize((wide * FINE, tall * FINE), Image.Resampling.BICUBIC).convert("RGB")
    pixels = np.array(canvas)
    pixels[_outline(cut.bodies, -3)] = style.BODY
    withheld = _numbers(analysis, analysis.result.levels, withheld=True)
    row, column = np.ogrid[: tall * FINE, : wide * FINE]
    gaps = np.isin(cut.cores, withheld) & ((row + column) // 9 % 2 == 0)
    pixels[_outline(cut.cores, 4) & ~gaps] = style.CORE
    return Image.fromarray(pixels).resize((wide, tall), Image.Resampling.BOX)


def _outline(labels: NDArray[np.uint8], thickness: int) -> NDArray[np.bool_]:
    """The rim of each segment: so many pixels inside of it, or outside where negative."""
    rim = np.zeros(labels.shape, dtype=bool)
    reach = abs(thickness) + 1
    for number, box in enumerate(scipy.ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        wide = tuple(slice(max(0, part.start - reach), part.stop + reach) for part in box)
        mask = labels[wide] == number
        inner = mask if thickness < 0 else scipy.ndimage.binary_erosion(mask, iterations=thickness)
        outer = mask if thickness > 0 else scipy.ndimage.binary_dilation(mask, iterations=-thickness)
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
        at = (left + (first - 8 if front else last + 10), style.PANEL_TOP + row)
        used = level in analysis.result.aggregated_levels
        style.say(draw, at, name + ("*" if used else ""), 20, style.TEXT, "rm" if front else "lm", stroke=2)
    sides = ("A", "P") if plane is Plane.SAGITTAL else ("R", "L")
    style.say(draw, (left + 8, style.PANEL_TOP + 8), sides[0], 18, style.QUIET, "lt", stroke=2)
    style.say(draw, (left + wide - 8, style.PANEL_TOP + 8), sides[1], 18, style.QUIET, "rt", stroke=2)


def _draw_scale(draw: ImageDraw.ImageDraw, cut: SpineCut, plane: Plane, left: int, length: int) -> None:
    """The plane's name and 50 mm, in the lower corner that no level's name needs."""
    tall, wide = cut.hounsfield.shape
    y = style.PANEL_TOP + tall - 12
    x, away, anchor = (left + wide - 10, -1, "rb") if plane is Plane.SAGITTAL else (left + 10, 1, "lb")
    draw.line((x, y, x + away * length, y), style.TEXT, 3)
    style.say(draw, (x, y - 6), f"{plane.value}, 50 mm", 14, style.TEXT, anchor, stroke=2)


def _draw_head(draw: ImageDraw.ImageDraw, result: ScreeningResult) -> None:
    style.say(draw, (24, 14), "Bone density of the spine from CT", 26, style.TEXT, "lt")
    style.say(draw, (style.TABLE_RIGHT, 18), f"{model_name(result)} {result.engine_version}", 17, style.QUIET, "rt")
    if is_research_only(result):
        draw.rectangle((24, 54, style.TABLE_RIGHT, 98), style.WARNING, (255, 255, 255), 2)
        text = "NOT FOR DIAGNOSIS - reference weights, trained on computer-made phantoms only"
        style.say(draw, (800, 76), text, 24, (255, 255, 255), "mm", stroke=0)


def _draw_foot(draw: ImageDraw.ImageDraw, analysis: Analysis) -> None:
    """Legend, and what the numbers were made with."""
    y, series, result = style.SIZE[1] - 50, analysis.series, analysis.result
    draw.line((24, y, 60, y), style.BODY, 1)
    style.say(draw, (68, y), "vertebral body", 15, style.QUIET, "lm")
    draw.line((196, y, 232, y), style.CORE, 3)
    style.say(draw, (240, y), "measured core (broken line: density withheld)", 15, style.QUIET, "lm")
    style.say(draw, (600, y), "* in the patient's value     ? found, but not named", 15, style.QUIET, "lm")
    scan = [
        f"{series.kvp:g} kV" if series.kvp else "",
        f"kernel {series.convolution_kernel[0]}" if series.convolution_kernel else "",
        f"slices every {analysis.volume.geometry.spacing_mm[0]:.4g} mm",
        *(str(model) for model in result.models),
    ]
    line = "   |   ".join(style.ascii_only(part) for part in scan if part)
    style.say(draw, (24, style.SIZE[1] - 22), style.shorten(line, 15, style.SIZE[0] - 48), 15, style.QUIET, "lm")
