"""The report of a study as Markdown and as a LaTeX table, and the words and numbers that all its forms share."""

import math
import re
from collections.abc import Callable, Sequence

from segjax.core.logger import duration
from segjax.evaluation.protocol import Protocol
from segjax.studies.report import Comparison, Report, ReportRow
from segjax.studies.run import reason

ONE_SEED = "1 seed, no interval"
COMMAND_WORDS = (
    "Each trains its row with all seeds in a new folder DIR; what the row changes in the base config stands above it."
    " The config of a run as it was lies in its folder."
)
NOTHING = (math.nan, math.nan)
DASH = "-"


def percent(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A fraction of 1 in percent, "-" where it is not defined."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{100 * value:{'+' if sign else ''}.{digits}f}"


def time(seconds: float) -> str:
    return duration(seconds) if math.isfinite(seconds) else DASH


def count(value: float | None) -> str:
    """A number of parameters."""
    if value is None:
        return DASH
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def seeds(number: int) -> str:
    return f"{number} seed" + ("" if number == 1 else "s")


def ours(row: ReportRow) -> str:
    """Mean and standard deviation over the seeds, or why there is none."""
    if not row.summary.count:
        return DASH
    if row.summary.count == 1:
        return f"{percent(row.summary.mean)} ({ONE_SEED})"
    return f"{percent(row.summary.mean)} ± {percent(row.summary.std)} ({seeds(row.summary.count)})"


def unfinished(row: ReportRow) -> str:
    """ "1 of 3 failed", "2 missing" ... or "" where every seed finished."""
    found = []
    for state in ("failed", "missing", "not scored"):
        number = sum(run.state == state for run in row.runs)
        if number:
            found.append(f"{number} of {seeds(len(row.runs))} {state}")
    return ", ".join(found)


def interval(low: float, high: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return DASH
    return f"[{percent(low, sign=True)}, {percent(high, sign=True)}]"


def p_value(p: float) -> str:
    if not math.isfinite(p):
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def difference(found: Comparison | None) -> str:
    """The difference with its interval over seeds, or over images where that is alone, and the verdict: one cell."""
    if found is None or not math.isfinite(found.difference):
        return DASH
    text = percent(found.difference, sign=True)
    if math.isfinite(found.by_seeds[0]):
        text += f" {interval(*found.by_seeds)}"
    elif math.isfinite(found.by_images[0]):
        text += f" {interval(*found.by_images)}"
    return f"{text}, {found.verdict}"


def score_words(report: Report) -> str:
    """What the numbers of the main table are."""
    words = f"{report.score} in %: mean ± standard deviation over the seeds."
    if report.protocol is not None:
        words += f" Ours: {in_words(report.protocol)}."
    return words


def method_words(report: Report) -> str:
    """How differences were judged; "" where there are none."""
    if not report.comparisons:
        return ""
    tested = sum(math.isfinite(found.p) for found in report.comparisons)
    images = "clips" if report.protocol is not None and report.protocol.clip else "images"
    return (
        f"Differences are in percentage points of {report.score}, of the first row minus the second. By seeds:"
        " Student's t over the seeds that both rows have (would other trainings end so?). By images: paired bootstrap"
        f" over the {images} of the split, networks as they are (would other {images} say so?). p is the larger of the"
        " two tests', corrected by"
        f" Holm over the {tested} comparison{'s' * (tested != 1)} that could be tested; a difference is called"
        " significant at p < 0.05 where every interval that there is leaves out 0; the verdict says where there is one"
        " alone."
    )


def comparison_cells(found: Comparison) -> list[str]:
    """A line of the table of differences, after COMPARISON_HEADER."""
    seeds_interval = interval(*found.by_seeds) if found.seeds > 1 else ONE_SEED if found.seeds else DASH
    numbers = [percent(found.difference, sign=True), seeds_interval, interval(*found.by_images), p_value(found.p)]
    return [found.first, found.second, *numbers, found.verdict]


COMPARISON_HEADER = ["row", "against", "difference", "95 % by seeds", "95 % by images", "p (Holm)", "verdict"]


def failures(report: Report) -> list[list[str]]:
    """[row, seed, state, reason] of each run without a score."""
    return [
        [row.name, str(run.seed), run.state, reason(run.error) if run.error else ""]
        for row in report.rows
        for run in row.runs
        if run.state != "finished"
    ]


def in_words(protocol: Protocol) -> str:
    """A protocol as a reader would say it; what is as usual in such scores is said too, so that nothing is guessed."""
    parts = [f"{protocol.dataset} {protocol.split}, {protocol.num_classes} classes"]
    if protocol.labels != "as in the files":
        parts.append(f"labels: {protocol.labels}")
    parts.append(
        "images and labels at their own size" if protocol.resize == "native" else f"resized to {protocol.resize}"
    )
    if protocol.short_side or protocol.long_side:
        sides = [
            f"{name} side {value}"
            for name, value in (("short", protocol.short_side), ("long", protocol.long_side))
            if value
        ]
        parts.append("the network sees " + ", ".join(sides) + ", labels keep their size")
    if protocol.window is None:
        parts.append("whole images")
    else:
        window = "windows of {}x{}".format(*protocol.window)
        parts.append(window if protocol.stride is None else window + ", stride {}x{}".format(*protocol.stride))
    parts.append("one scale" if protocol.scales == (1.0,) else "scales " + ", ".join(f"{s:g}" for s in protocol.scales))
    parts.append("flipped too" if protocol.flip else "no flip")
    if protocol.crf is not None:
        parts.append("with a CRF")
    if protocol.clip:
        parts.append(f"clips of {protocol.clip} frames")
    if protocol.corruption:
        parts.append(f"images corrupted: {protocol.corruption}")
    if any(protocol.area):
        parts.append(
            "without a margin of {} pixels (top, bottom, left, right)".format("/".join(map(str, protocol.area)))
        )
    parts.append(f"not counted: {protocol.ignore}")
    how = {"micro": "one confusion matrix over all pixels", "per_image": "mean over images"}
    parts.append(f"{protocol.score} of {how.get(protocol.reduction, protocol.reduction)}")
    return "; ".join(parts)


def has_published(report: Report) -> bool:
    return any(row.published for row in report.rows)


def notes(report: Report) -> list[tuple[str, str]]:
    """(mark, text) of each different source and protocol of the paper's numbers, marks "a", "b", ..."""
    return [(_letter(number), text) for number, text in enumerate(_notes(report))]


def published(report: Report, row: ReportRow) -> tuple[str, str]:
    """The paper's number and the mark of its note; ("-", "") where it has none."""
    if row.published is None:
        return DASH, ""
    name = "" if row.published.name == report.score else f" {row.published.name}"
    return f"{row.published.score:.2f}{name}", _letter(_notes(report).index(_note(row.published)))


def _notes(report: Report) -> list[str]:
    return list(dict.fromkeys(_note(row.published) for row in report.rows if row.published))


def _note(found) -> str:
    return f"{found.source}: {found.protocol}" if found.protocol else f"{found.source}; its protocol is not stated"


def _letter(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else f"a{number}"


def header(report: Report) -> list[str]:
    paper = [f"paper {report.score}"] if has_published(report) else []
    return [
        "row",
        *report.axes,
        *paper,
        f"our {report.score}",
        f"difference to {report.base}",
        "parameters",
        "time a run",
    ]


def cells(report: Report, row: ReportRow, mark: Callable[[str], str] = lambda text: f" ({text})") -> list[str]:
    """A line of the main table, as plain text; `mark` writes the mark of a note."""
    number, letter = published(report, row)
    paper = [number + (mark(letter) if letter else "")] if has_published(report) else []
    missing = unfinished(row)
    score = ours(row) if not missing else missing if not row.summary.count else f"{ours(row)}; {missing}"
    versus = "base" if row.name == report.base else difference(report.to_base(row))
    return [row.name, *row.labels, *paper, score, versus, count(row.params), time(row.seconds)]


def markdown(report: Report) -> str:
    """The report as Markdown: tables, warnings, notes and commands, without pictures and curves."""
    parts = [f"# {_md(report.title)}", f"Paper: {_md(report.paper)}"]
    parts += [f"> **Warning.** {_md(warning)}" for warning in report.warnings]
    rows = [cells(report, row) for row in report.rows]
    parts += ["## Results", _md(score_words(report)), _md_table(header(report), rows)]
    parts += [f"({mark}) {_md(text)}" for mark, text in notes(report)]
    if report.comparisons:
        rows = [comparison_cells(found) for found in report.comparisons]
        parts += ["## Differences", _md(method_words(report)), _md_table(COMPARISON_HEADER, rows)]
    if report.classes:
        rows = [
            [name, *(percent(row.classes.get(name, NOTHING)[0], 1) for row in report.rows)] for name in report.classes
        ]
        parts += ["## IoU of the classes, %", _md_table(["class", *(row.name for row in report.rows)], rows)]
    if missing := failures(report):
        parts += ["## Runs without a score", _md_table(["row", "seed", "state", "reason"], missing)]
    parts += ["## When and where", "\n".join(f"- {_md(name)}: {_md(value)}" for name, value in report.facts)]
    commands = "\n".join(line for row in report.rows for line in (*(f"# {each}" for each in row.changes), row.command))
    fence = "`" * (3 + max((len(run) for run in re.findall("`{3,}", commands)), default=0))
    parts += ["## Commands", COMMAND_WORDS, f"{fence}bash\n{commands}\n{fence}"]
    return "\n\n".join(parts) + "\n"


def _md(text: str) -> str:
    """Escaped so that Markdown, and the HTML inside it, show the text as it is."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", " ".join(text.split()))


def _md_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell if number == 1 else _md(cell) for cell in line) + " |"
        for number, line in enumerate(lines)
    )


def latex(report: Report) -> str:
    """The main table for a paper, with its notes below; it needs the package booktabs."""
    columns = "l" * (1 + len(report.axes)) + "r" * has_published(report) + "rlrr"
    title = report.title.rstrip(".")
    notes_below = [rf"\textsuperscript{{{mark}}} {_tex(words)}." for mark, words in notes(report)]
    signs = "* significant, *i by images alone, *s by seeds alone." if report.comparisons else ""
    notes_below += [
        _tex(words) for words in (signs, method_words(report), *(f"{each}." for each in report.warnings)) if words
    ]
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"  \caption{{{_tex(title)}{'' if title[-1:] in '?!' else '.'} {_tex(score_words(report))}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        "    " + " & ".join(_tex(cell) for cell in header(report)) + r" \\",
        r"    \midrule",
        *("    " + " & ".join(_tex_row(report, row)) + r" \\" for row in report.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]
    if notes_below:
        lines += [r"  \par\medskip", r"  \begin{minipage}{\linewidth}\footnotesize"]
        lines += [f"    {line}\\par" for line in notes_below]
        lines += [r"  \end{minipage}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _tex_row(report: Report, row: ReportRow) -> list[str]:
    """As `cells`, but short: the caption and the notes say what the signs mean."""
    number, letter = published(report, row)
    paper = [_tex(number) + rf"\textsuperscript{{{letter}}}" * bool(letter)] if has_published(report) else []
    summary, all_seeds = row.summary, len(row.runs)
    score = percent(summary.mean) if summary.count else unfinished(row) or DASH
    if math.isfinite(summary.std):
        score += f" ± {percent(summary.std)}"
    if summary.count and (summary.count < all_seeds or all_seeds == 1):
        score += f" ({seeds(summary.count)})"
    found = report.to_base(row)
    versus = "base" if row.name == report.base else difference(found)
    versus = versus.replace(", significant by images alone", " *i").replace(", significant by seeds alone", " *s")
    versus = versus.replace(", significant", " *")
    plain = [score, versus, count(row.params), time(row.seconds)]
    return [*map(_tex, (row.name, *row.labels)), *paper, *map(_tex, plain)]


_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": "$<$", ">": "$>$", "|": "$|$",
    "×": r"$\times$", "−": "$-$", "→": r"$\rightarrow$", '"': "''",
}  # fmt: skip


def _tex(text: str) -> str:
    escaped = "".join(_TEX.get(letter, letter) for letter in " ".join(text.split()))
    escaped = re.sub(r"(?<![\w-])-(?=\d)", "$-$", escaped)
    return "{}" + escaped if escaped.startswith("[") else escaped  # else [ would begin an argument of the \\ before
