"""
The numbers on the overview picture: what is said of the patient, then a row a level.

A column is there where any level has something to say in it; the notes take what room is left.
"""

from collections.abc import Callable
from typing import NamedTuple

from PIL import ImageDraw

from dicom_node.report import codes
from dicom_node.report import overview_style as style
from dicom_node.report.measurement_groups import PROJECTED, why_withheld
from engine.records import BoneFinding, Quantity, Reason, ScreeningResult, VertebralLevel

FINDINGS = {
    BoneFinding.NORMAL: "Normal",
    BoneFinding.OSTEOPENIA: "Osteopenia",
    BoneFinding.OSTEOPOROSIS: "Osteoporosis",
    BoneFinding.IMPAIRED_MICROARCHITECTURE: "impaired",
}
_INSET = 16
_INSIDE = style.TABLE_RIGHT - style.TABLE_LEFT - 2 * _INSET


class _Column(NamedTuple):
    title: str
    width: int
    side: str  # "l", "r": what the text is set against
    say: Callable[[ScreeningResult, VertebralLevel], str]
    size: int = 20


def draw_summary(draw: ImageDraw.ImageDraw, result: ScreeningResult) -> int:
    """What is said of the patient.

    Returns:
        The first row of pixels below it.
    """
    lines = _summary_lines(result)
    bottom = style.PANEL_TOP + 60 + 27 * len(lines)
    draw.rectangle((style.TABLE_LEFT, style.PANEL_TOP, style.TABLE_RIGHT, bottom), style.BOX, style.LINE, 1)
    x, y = style.TABLE_LEFT + _INSET, style.PANEL_TOP + 14
    density, finding = result.value(Quantity.VOLUMETRIC_BMD, None), result.finding(None)
    style.say(draw, (x, y), "No density given" if density is None else f"{density:.1f} mg/cm3", 34, style.TEXT, "lt")
    if density is not None and finding is not None:
        style.say(draw, (style.TABLE_RIGHT - _INSET, y), FINDINGS[finding].upper(), 34, style.TEXT, "rt")
    for n, (text, size, colour) in enumerate(lines):
        style.say(draw, (x, y + 46 + 27 * n), style.shorten(text, size, _INSIDE), size, colour, "lt")
    return bottom


def draw_table(draw: ImageDraw.ImageDraw, result: ScreeningResult, top: int) -> None:
    """A row a level, below `top`."""
    top += 16
    places = _places(result)
    for at, column in places:
        style.say(draw, (at, top + 6), column.title, 16, style.QUIET, column.side + "m")
    top += 26
    room = style.PANEL_TOP + style.PANEL_HEIGHT - 56 - top
    step = min(46, room // max(1, len(result.levels)))
    for level in result.levels:
        draw.line((style.TABLE_LEFT, top, style.TABLE_RIGHT, top), style.LINE, 1)
        _draw_row(draw, result, level, places, top + step // 2)
        top += step
    draw.line((style.TABLE_LEFT, top, style.TABLE_RIGHT, top), style.LINE, 1)
    whole = dict.fromkeys(_of_series(result, flag.reason) for flag in result.flags(None))
    if whole:
        text = style.shorten("Whole series: " + "; ".join(whole), 17, style.TABLE_RIGHT - style.TABLE_LEFT - _INSET)
        style.say(draw, (style.TABLE_LEFT + _INSET, top + 14), text, 17, style.TEXT, "lt")


def _of_series(result: ScreeningResult, reason: Reason) -> str:
    """A reason's words; of a transitional spine, what each count calls the lowest vertebra."""
    if reason is not Reason.TRANSITIONAL or not result.levels:
        return codes.REASONS[reason]
    counts = [f"{one.name(result.levels[-1]) or '?'} by the {one.anchor}" for one in result.numberings]
    return f"{codes.REASONS[reason]} (lowest: {', '.join(counts)})" if counts else codes.REASONS[reason]


def _summary_lines(result: ScreeningResult) -> list[tuple[str, int, style.Colour]]:
    """(text, size, colour) under the patient's density."""
    lines = []
    if result.value(Quantity.VOLUMETRIC_BMD, None) is not None:
        lines.append((f"Mean trabecular density* of {_names(result.aggregated_levels)}", 18, style.TEXT))
    else:
        reasons = why_withheld(result, None)
        because = "; ".join(codes.REASONS[reason] for reason in reasons) or "no level was measured"
        more = ". HU below include the agent." if Reason.CONTRAST in reasons and result.levels else ""
        lines.append((f"Because: {because}{more}", 18, style.TEXT))
    calibrated = result.value(Quantity.CALIBRATED_BMD, None)
    if calibrated is not None:
        lines.append(
            (f"By calibrated HU {calibrated:.1f} mg/cm3, mean of {_names(result.calibrated_levels)}", 18, style.TEXT)
        )
    projected = [text for quantity in PROJECTED if (text := _projected(result, quantity))]
    if projected:
        lines.append((f"{', '.join(projected)}: mean of {_names(result.areal_levels)}", 18, style.TEXT))
    policies = dict.fromkeys([result.policy, *(one.policy for one in result.evaluations)])
    lines.append((f"Policy {', '.join(policies)}", 15, style.QUIET))
    return lines


def _projected(result: ScreeningResult, quantity: Quantity) -> str:
    value, finding = result.value(quantity, None), result.finding(None, quantity)
    if value is None:
        return ""
    name, unit, digits = ("aBMD", " g/cm2", 3) if quantity is Quantity.AREAL_BMD else ("bone score", "", 2)
    return f"{name} {value:.{digits}f}{unit}" + (f" ({FINDINGS[finding].lower()})" if finding else "")


def _names(levels: tuple[VertebralLevel, ...]) -> str:
    return ", ".join(level.value for level in levels)


def _places(result: ScreeningResult) -> list[tuple[int, _Column]]:
    """The columns, each with where its text is set."""
    wanted = [
        _Column("Level", 62, "l", lambda r, at: at.value + ("*" if at in r.aggregated_levels else "")),
        _Column("HU mean", 72, "r", _number(Quantity.ATTENUATION_MEAN, 0)),
        _Column("SD", 50, "r", _number(Quantity.ATTENUATION_SD, 0)),
        _Column("vBMD mg/cm3", 124, "r", _density),
    ]
    more = [
        (Quantity.CALIBRATED_BMD, "by HU", 76, 1),
        (Quantity.AREAL_BMD, "aBMD", 72, 3),
        (Quantity.TRABECULAR_BONE_SCORE, "TBS", 58, 2),
    ]
    for quantity, title, width, digits in more:
        if any(result.value(quantity, level) is not None for level in result.levels):
            wanted.append(_Column(title, width, "r", _number(quantity, digits)))
    if len(wanted) == 4 and any(result.finding(level) for level in result.levels):  # the notes need room
        wanted.append(_Column("Class", 118, "l", _class, 17))
    wanted.append(_Column("Notes", 0, "l", _notes, 14))
    places, left = [], style.TABLE_LEFT + _INSET
    for before, column in zip([None, *wanted], wanted, strict=False):
        left += 24 if before is not None and before.side == "r" and column.side == "l" else 0
        places.append((left + (column.width if column.side == "r" else 0), column))
        left += column.width
    return places


def _draw_row(
    draw: ImageDraw.ImageDraw,
    result: ScreeningResult,
    level: VertebralLevel,
    places: list[tuple[int, _Column]],
    middle: int,
) -> None:
    """One level, around a row of pixels."""
    for at, column in places[:-1]:
        text = column.say(result, level)
        style.say(draw, (at, middle), text, 15 if text == "withheld" else column.size, style.TEXT, column.side + "m")
    at, notes = places[-1]
    lines = style.wrap(notes.say(result, level), notes.size, style.TABLE_RIGHT - at, 2)
    for n, line in enumerate(lines):
        y = middle + round((n - (len(lines) - 1) / 2) * 16)
        style.say(draw, (at, y), line, notes.size, style.TEXT, "lm")


def _number(quantity: Quantity, digits: int) -> Callable[[ScreeningResult, VertebralLevel], str]:
    def say(result: ScreeningResult, level: VertebralLevel) -> str:
        value = result.value(quantity, level)
        return "-" if value is None else f"{value:.{digits}f}"

    return say


def _density(result: ScreeningResult, level: VertebralLevel) -> str:
    density = result.value(Quantity.VOLUMETRIC_BMD, level)
    if density is not None:
        return f"{density:.1f}"
    return "withheld" if why_withheld(result, level) else "-"


def _class(result: ScreeningResult, level: VertebralLevel) -> str:
    finding = result.finding(level)
    return FINDINGS[finding] if finding else "-"


def _notes(result: ScreeningResult, level: VertebralLevel) -> str:
    return "; ".join(dict.fromkeys(codes.REASONS[flag.reason] for flag in result.flags(level)))
