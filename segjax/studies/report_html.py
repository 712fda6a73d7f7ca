"""The report of a study as one HTML file, with style, script, curves and pictures in it: it loads nothing else."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from segjax.core.pictures import panels_of_row
from segjax.studies import report_charts as charts
from segjax.studies import report_text as text
from segjax.studies.report import Comparison, Report, ReportRow
from segjax.studies.report_style import SCRIPT, STYLE

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
PANELS = ("image", "label", "prediction", "error")
LARGEST_IMAGES = 6
"""Of a split that are shown."""


def page(report: Report) -> str:
    """The whole file. Pictures are read from the paths in the report; a file that is no strip of four is left out."""
    sections = [
        ("results", "Results", _results(report)),
        ("differences", "Differences", _differences(report)),
        ("curves", "Learning curves", _curves(report)),
        ("classes", "IoU of the classes", _classes(report)),
        *_pictures(report),
        ("runs", "Runs", _runs(report)),
        ("commands", "Commands", _commands(report)),
        ("where", "When and where", _facts(report)),
    ]
    sections = [(name, title, body) for name, title, body in sections if body]
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in sections)
    bodies = "\n".join(
        f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>{body}</section>'
        for name, title, body in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="segjax">
<title>{escape(report.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<button class="theme" id="theme" type="button" hidden></button>
<h1>{escape(report.title)}</h1>
<p class="muted">{_linked(report.paper)}</p>
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{_warnings(report)}
{bodies}
</main>
<footer class="muted">One file without outside parts; the same tables are in report.md and report.tex.</footer>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _linked(words: str) -> str:
    """Escaped; what is an address is a link that a reader may follow, nothing that the page loads."""
    parts = []
    for word in words.split(" "):
        address = word.rstrip(".,;)")
        if address.startswith(("https://", "http://")):
            link = f'<a href="{escape(address)}" rel="noreferrer">{escape(address)}</a>'
            parts.append(link + escape(word[len(address) :]))
        else:
            parts.append(escape(word))
    return " ".join(parts)


def _warnings(report: Report) -> str:
    if not report.warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in report.warnings)
    return (
        f'<aside class="warning" aria-labelledby="warning"><h2 id="warning">Read with care</h2><ul>{items}</ul></aside>'
    )


def _table(
    label: str, head: Sequence[str], lines: Sequence[Sequence[str]], numbers=(), classes: str = "", box: str = ""
):
    """A table in a box that scrolls. Head and cells are HTML; the first cell of a line is its header."""
    kind = [' class="n"' if number in numbers else "" for number in range(len(head))]
    top = "".join(f'<th scope="col"{kind[number]}>{cell}</th>' for number, cell in enumerate(head))
    body = []
    for first, *rest in lines:
        # A cell that brings its own tag, for its colours, stays as it is.
        cells = [cell if cell.startswith("<td") else f"<td{kind[n]}>{cell}</td>" for n, cell in enumerate(rest, 1)]
        body.append(f'<tr><th scope="row">{first}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="scroll {box}" tabindex="0" role="region" aria-label="{escape(label)}"><table class="{classes}">'
        f"<thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _named(number: int, name: str) -> str:
    """A row's line and name; the name may go to the next line behind a "+"."""
    first, *others = escape(name).split("+")
    return f'<span class="keep">{_swatch(number)}{first}</span>' + "".join(f"+<wbr>{part}" for part in others)


def _swatch(number: int) -> str:
    style = charts.line_style(number)
    return f'<svg class="swatch" viewBox="0 0 26 10" aria-hidden="true"><path d="M0 5H26" {style}/></svg>'


def _verdict(found: Comparison) -> str:
    kind = "yes" if found.verdict == "significant" else "no"
    return f'<span class="{kind}">{escape(found.verdict)}</span>'


def _results(report: Report) -> str:
    head = [escape(name) for name in text.header(report)]
    lines = []
    for number, row in enumerate(report.rows):
        cells = [_named(number, row.name), *map(escape, row.labels)]
        if text.has_published(report):
            value, mark = text.published(report, row)
            cells.append(escape(value) + (f'<sup><a href="#note-{mark}">{mark}</a></sup>' if mark else ""))
        cells += [_ours(row), _to_base(report, row), text.count(row.params), text.time(row.seconds)]
        lines.append(cells)
    first = 1 + len(report.axes)
    published = text.has_published(report)
    numbers = {first, len(head) - 1, len(head) - 2} | ({first + 1} if published else set())
    notes = "".join(f'<li id="note-{mark}"><b>{mark}</b> {_linked(words)}</li>' for mark, words in text.notes(report))
    if notes:
        notes = f'<ul class="note" style="list-style:none;padding:0">{notes}</ul>'
    return f"<p>{escape(text.score_words(report))}</p>" + _table("Results", head, lines, numbers) + notes


def _ours(row: ReportRow) -> str:
    missing = text.unfinished(row)
    missing = f'<small class="bad">{escape(missing)}</small>' if missing else ""
    if not row.summary.count:
        return text.DASH + missing
    mean = f"<b>{text.percent(row.summary.mean)}</b>"
    if row.summary.count == 1:
        return f"{mean}<small>{text.ONE_SEED}</small>{missing}"
    return f"{mean} ± {text.percent(row.summary.std)}<small>{text.seeds(row.summary.count)}</small>{missing}"


def _to_base(report: Report, row: ReportRow) -> str:
    found = report.to_base(row)
    if row.name == report.base:
        return '<span class="muted">base</span>'
    if found is None or not math.isfinite(found.difference):
        return text.DASH
    by = found.by_seeds if math.isfinite(found.by_seeds[0]) else found.by_images
    bounds = f" {text.interval(*by)}" if math.isfinite(by[0]) else ""
    value = f'<span class="keep">{text.percent(found.difference, sign=True)}{bounds}</span>'
    return f"{value}<small>{_verdict(found)}</small>"


def _differences(report: Report) -> str:
    if not report.comparisons:
        return ""
    drawn = charts.intervals([(c.difference, (c.by_seeds, c.by_images)) for c in report.comparisons])
    reach = charts.reach([(c.difference, (c.by_seeds, c.by_images)) for c in report.comparisons])
    head = [*text.COMPARISON_HEADER[:3], f"−{100 * reach:.3g} … 0 … +{100 * reach:.3g}", *text.COMPARISON_HEADER[3:]]
    lines = []
    for found, picture in zip(report.comparisons, drawn, strict=True):
        cells = [escape(cell) for cell in text.comparison_cells(found)]
        lines.append([*cells[:3], picture, *cells[3:-1], _verdict(found)])
    bars = [
        f'<svg class="swatch" viewBox="0 0 26 10" aria-hidden="true"><path class="bar {kind}" d="M0 5H26"/></svg>'
        for kind in ("b0", "b1")
    ]
    key = (
        f'<p class="note">The dot is the difference; the {bars[0]}upper bar is its interval by seeds, the'
        f" {bars[1]}lower one that by images.</p>"
    )
    table = _table("Differences", [escape(cell) for cell in head], lines, {2, 4, 5, 6})
    return f"<p>{escape(text.method_words(report))}</p>{table}{key}"


def _curves(report: Report) -> str:
    figures = []
    for kind, title, axis, log, factor in (
        ("loss", "Training loss", "loss", True, 1.0),
        (
            "score",
            f"{report.score} of {report.protocol.split if report.protocol else 'the split'}",
            f"{report.score}, %",
            False,
            100.0,
        ),
    ):
        bands = {n: (row.name, row.bands[kind]) for n, row in enumerate(report.rows) if kind in row.bands}
        if all(len(found.steps) < 2 for _, found in bands.values()):
            continue  # one evaluation at the end is a number, not a curve
        drawn = charts.curves(title, axis, bands, log=log, factor=factor)
        if drawn:
            figures.append(f"<figure>{drawn}<figcaption>{escape(title)}</figcaption></figure>")
    if not figures:
        return ""
    boxes = "".join(
        f'<label><input type="checkbox" checked data-show="{number}">{_swatch(number)}{escape(row.name)}</label>'
        for number, row in enumerate(report.rows)
        if row.bands
    )
    return (
        "<p>Lines are means over the seeds; bands reach from the lowest to the highest seed.</p>"
        f'<fieldset class="rows"><legend class="muted">Rows shown</legend>{boxes}</fieldset>'
        f'<div class="charts">{"".join(figures)}</div>'
    )


def _classes(report: Report) -> str:
    if not report.classes:
        return ""
    means = np.array([[row.classes.get(name, text.NOTHING)[0] for row in report.rows] for name in report.classes])
    lines = []
    for name, values in zip(report.classes, means, strict=True):
        known = values[np.isfinite(values)]
        best = known.max() if len(known) and known.max() > known.min() else None
        cells = [escape(name)]
        for row, value in zip(report.rows, values, strict=True):
            if not math.isfinite(value):
                cells.append(text.DASH)
                continue
            back, front = charts.heat_colours(value)
            spread = row.classes[name][1]
            spread = f" <small>±{text.percent(spread, 1)}</small>" if math.isfinite(spread) else ""
            kind = ' class="best"' if value == best else ""
            number = f"<span{kind}>{text.percent(value, 1)}</span>"
            cells.append(f'<td style="background:{back};color:{front}">{number}{spread}</td>')
        lines.append(cells)
    head = ["class", *(escape(row.name) for row in report.rows)]
    numbers = set(range(1, len(head)))
    words = (
        "IoU in %, mean ± standard deviation over the seeds, dark at 0 and bright at 100; the best row of each class is"
        " underlined. A dash is a class that is neither in the labels nor predicted, or a row without a finished run."
    )
    return f"<p>{words}</p>" + _table("IoU of the classes", head, lines, numbers, "heat", "tall")


def _pictures(report: Report) -> list[tuple[str, str, str]]:
    """The section of predictions, and that of the slider, which takes its pictures from there."""
    images = sorted({name for row in report.rows for name in row.pictures})
    shown, blocks = images[:LARGEST_IMAGES], []
    for place, image in enumerate(shown):
        panels = [_panels(row, image) for row in report.rows]
        first = next((found for found in panels if found), None)
        if first is None:
            continue
        figures = [
            f"<figure>{_picture(first[kind], f'p-{place}-{PANELS[kind]}', f'{PANELS[kind]} of {image}')}"
            f"<figcaption>{PANELS[kind]}</figcaption></figure>"
            for kind in (0, 1)
        ]
        for number, (row, found) in enumerate(zip(report.rows, panels, strict=True)):
            if found is None:
                body = '<div class="empty">no picture</div>'
            else:
                body = "".join(
                    _picture(
                        found[kind], f"p-{place}-{number}-{PANELS[kind]}", f"{PANELS[kind]} of {row.name} on {image}"
                    )
                    for kind in (2, 3)
                )
            figures.append(f"<figure>{body}<figcaption>{escape(row.name)}</figcaption></figure>")
        blocks.append(f'<h3>{escape(image)}</h3><div class="pictures">{"".join(figures)}</div>')
    if not blocks:
        return []
    words = (
        "Of each row, the run of the first seed that has the picture: above its prediction, below its errors (red:"
        " wrong, grey: not labelled)."
    )
    if len(images) > len(shown):
        words += f" The first {len(shown)} of {len(images)} images."
    predictions = f"<p>{words}</p>{_legend(report)}{''.join(blocks)}"
    return [("predictions", "Predictions", predictions), ("slider", "Two rows over each other", _slider(report, shown))]


def _legend(report: Report) -> str:
    items = "".join(f'<li><i style="background:rgb{colour}"></i>{escape(name)}</li>' for name, colour in report.palette)
    return f'<ul class="legend" aria-label="Colours of the classes">{items}</ul>' if items else ""


def _panels(row: ReportRow, image: str) -> list[np.ndarray] | None:
    """image, label, prediction and error of a row on an image; None where there is no strip of four."""
    path = row.pictures.get(image)
    if path is None:
        return None
    try:
        with Image.open(path) as file:
            return panels_of_row(np.asarray(file.convert("RGB")), len(PANELS))
    except (OSError, ValueError):
        return None


def _picture(picture: np.ndarray, name: str, words: str) -> str:
    source = charts.data_uri(picture)
    kind = ' class="pixel"' if source.startswith("data:image/png") else ""
    height, width = picture.shape[:2]
    return f'<img id="{name}"{kind} src="{source}" width="{width}" height="{height}" alt="{escape(words)}">'


def _slider(report: Report, images: Sequence[str]) -> str:
    options = [("image", "image"), ("label", "label")]
    for kind in ("prediction", "error"):
        options += [
            (f"{number}-{kind}", f"{row.name}: {kind}") for number, row in enumerate(report.rows) if row.pictures
        ]

    def select(name: str, words: str, choices: Sequence[tuple[str, str]], chosen: int) -> str:
        items = "".join(
            f'<option value="{value}"{" selected" if number == chosen else ""}>{escape(shown)}</option>'
            for number, (value, shown) in enumerate(choices)
        )
        return f'<label>{words}<select id="{name}">{items}</select></label>'

    rows = (len(options) - 2) // 2
    controls = [
        select("side-a", "A, on the left", options, 2),
        select("side-b", "B, on the right", options, 3 if rows > 1 else 1),
        select("side-image", "image", [(str(place), image) for place, image in enumerate(images)], 0),
    ]
    return (
        "<noscript><p>This part needs the script of the page.</p></noscript>"
        f'<div id="tool" hidden><div class="controls">{"".join(controls)}</div>'
        '<div class="stage" id="stage"><img id="stage-b" alt=""><img id="stage-a" class="over" alt=""></div>'
        '<input class="slide" id="slide" type="range" min="0" max="100" value="50"'
        ' aria-label="Where A ends and B begins"><div class="sides">'
        '<span>◀ A: <span id="words-a"></span></span><span>B: <span id="words-b"></span> ▶</span></div>'
        "</div>"
    )


def _runs(report: Report) -> str:
    names = list(dict.fromkeys(name for row in report.rows for run in row.runs for name, _ in run.facts))
    lines = []
    for row in report.rows:
        for run in row.runs:
            facts = dict(run.facts)
            state = run.state
            if run.state != "finished":
                state = f'<span class="bad">{escape(run.state)}</span>'
            if run.error:
                state += f"<details><summary>error</summary><pre>{escape(run.error)}</pre></details>"
            known = [escape(facts.get(name, text.DASH)) for name in names]
            lines.append([escape(row.name), str(run.seed), state, text.percent(run.score), *known])
    head = ["row", "seed", "state", escape(f"{report.score}, %"), *map(escape, names)]
    return _table("Runs", head, lines, {1, 3}, "runs", "tall")


def _commands(report: Report) -> str:
    blocks = []
    for row in report.rows:
        lines = [*(f"# {each}" for each in row.changes), row.command]
        blocks.append(f'<h3>{escape(row.name)}</h3><pre tabindex="0">{escape(chr(10).join(lines))}</pre>')
    return f"<p>{escape(text.COMMAND_WORDS)}</p>{''.join(blocks)}"


def _facts(report: Report) -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in report.facts)
    return f"<dl>{items}</dl>" if items else ""
