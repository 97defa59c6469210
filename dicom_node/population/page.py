"""
A page of HTML that holds everything in itself: text, tables, plots. No script, nothing from elsewhere.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b2a30; max-width: 70rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.2rem; margin-top: 2.4rem; border-bottom: 2px solid #dfe8eb; }
h3 { font-size: 1rem; margin-bottom: .3rem; }
table { border-collapse: collapse; margin: .6rem 0; font-size: .88rem; } caption { text-align: left; color: #55666d; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #dfe8eb; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { display: inline-block; margin: .5rem 1rem .5rem 0; vertical-align: top; max-width: 100%; }
figcaption { font-size: .85rem; color: #55666d; max-width: 34rem; } svg { max-width: 100%; height: auto; }
.warning { border-left: 5px solid #b5472f; background: #faefec; padding: .6rem 1rem; font-weight: 600; }
.flow { list-style: none; padding: 0; } .flow > li { display: flex; align-items: flex-start; gap: 2rem; }
.flow .kept { border: 1.5px solid #1f4e5f; padding: .3rem .9rem; min-width: 19rem; margin: .25rem 0; }
.flow .kept b, .flow .left b { float: right; margin-left: 1.5rem; font-variant-numeric: tabular-nums; }
.flow .left { border: 1px dashed #8fb8c6; padding: .2rem .9rem; min-width: 22rem; margin: .25rem 0; font-size: .88rem; }
nav a { margin-right: 1rem; } footer { margin-top: 3rem; color: #55666d; font-size: .85rem; }
@media print { h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""


def page(title: str, under: str, parts: Iterable[tuple[str, str]], warning: str = "") -> str:
    """The whole page.

    Args:
        under: one line below the title.
        parts: (heading, HTML) each.
        warning: what a reader must see first.
    """
    sections = [(f"part{n}", heading, body) for n, (heading, body) in enumerate(parts, start=1)]
    links = "".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading, _ in sections)
    body = "".join(
        f'<section><h2 id="{name}">{escape(heading)}</h2>{part}</section>' for name, heading, part in sections
    )
    said = f'<p class="warning">{escape(warning)}</p>' if warning else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1><p>{escape(under)}</p>{said}<nav>{links}</nav>{body}"
        "<footer>Made by Trabecula. Not for diagnosis.</footer></body></html>\n"
    )


def paragraph(text: str) -> str:
    """Plain text."""
    return f"<p>{escape(text)}</p>"


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> str:
    """A table; numbers stand right, NULL is a dash."""
    shown = [tuple(row) for row in rows]
    if not shown:
        return paragraph("Nothing to show.")
    numeric = [any(isinstance(row[n], (int, float)) for row in shown) for n in range(len(columns))]
    marks = [' class="number"' if is_number else "" for is_number in numeric]
    head = "".join(f"<th{mark}>{escape(name)}</th>" for name, mark in zip(columns, marks, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{mark}>{_cell(value)}</td>" for value, mark in zip(row, marks, strict=True)) + "</tr>"
        for row in shown
    )
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{said}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def figure(svg: str, caption: str) -> str:
    """A plot with what it shows."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def flow(steps: Iterable[tuple[str, int, Sequence[tuple[str, int]]]]) -> str:
    """A flow diagram: (what is left, how many, what was left out by reason) from top to bottom."""
    items = []
    for what, count, left_out in steps:
        kept = f'<div class="kept">{escape(what)} <b>{count:,}</b></div>'
        lines = "".join(f"<div>{escape(reason)} <b>{n:,}</b></div>" for reason, n in left_out)
        items.append(f"<li>{kept}{f'<div class=left>{lines}</div>' if lines else ''}</li>")
    return f'<ol class="flow">{"".join(items)}</ol>'


def _cell(value: Any) -> str:
    if value is None:
        return "\u2013"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else escape(str(value))
