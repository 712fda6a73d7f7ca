"""Reports of a study that is made by hand: their numbers, their escaping, and the page in a real browser."""

import base64
import html.parser
import io
import json
import re
import shutil
import subprocess
from html import escape

import numpy as np
import pytest
from PIL import Image

from segjax.evaluation.protocol import Protocol
from segjax.studies import report_text
from segjax.studies.read import read_study
from segjax.studies.report import gather
from segjax.studies.report_html import page
from tests.process import run as run_main
from tests.studies.made_study import CLASSES, ERROR, TITLE, make_study

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Elements of HTML that have no end tag.
VOID = {"meta", "img", "input", "br", "wbr", "hr", "link", "path", "circle", "polyline", "polygon"}

# Differences of the seeds 62 - 50 and 70 - 60: mean 11, sd sqrt(2), and t(0.975, 1) = 12.706 makes 11 -+ 12.71.
# p of t = 11 with one degree of freedom is 2 atan(1 / 11) / pi = 0.0577; the other row's p, 2 / 10001 of the images, is
# the smaller of two, so that Holm leaves the larger as it is.
WIDE = ["+11.00", "[-1.71, +23.71]", "[+11.00, +11.00]", "0.058", "not significant"]
# Seed 0 is the one that both have: 30 - 50.
FLIPPED = ["-20.00", "1 seed, no interval", "[-20.00, -20.00]", "< 0.001", "significant by images alone"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("study") / "made")


@pytest.fixture(scope="module")
def report(folder):
    return gather(read_study(folder))


@pytest.fixture(scope="module")
def written(report):
    return page(report)


class Parser(html.parser.HTMLParser):
    """Text of the cells of each table, all addresses, and whether every element is closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.addresses, self.ids, self.images, self._open, self._script = [], [], [], [], [], ""
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        assert len(named) == len(attributes), f"an attribute stands twice: {attributes}"
        self.addresses += [
            (tag, name, value) for name, value in attributes if name in ("src", "href", "action", "data")
        ]
        self.ids += [named["id"]] if "id" in named else []
        self.images += [named] if tag == "img" else []
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open and self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if "table" in self._open:
            self.tables[-1][-1][-1] += data


def test_main_table_of_the_page(written):
    head, base, wide, flipped = Parser(written).tables[0]
    assert head[:4] == ["row", "kernel <k>", "paper mIoU", "our mIoU"]
    # 50 and 60: sd 10 / sqrt(2); 62 and 70: 8 / sqrt(2).
    assert base == ["base", "3x3 & <i>", "-", "55.00 ± 7.072 seeds", "base", "1.23 M", "0:01:30"]
    assert wide[2:4] == ["61.50a", "66.00 ± 5.662 seeds"]
    assert wide[4] == "+11.00 [-1.71, +23.71]not significant"
    assert flipped[3] == "30.001 seed, no interval1 of 2 seeds failed"
    assert flipped[4] == "-20.00 [-20.00, -20.00]significant by images alone"
    assert flipped[6] == "0:01:00"


def test_differences_of_the_page(written):
    _, wide, flipped = Parser(written).tables[1]
    assert [*wide[:3], *wide[4:]] == ["wide", "base", *WIDE]
    assert [*flipped[:3], *flipped[4:]] == ["flipped", "base", *FLIPPED]


def test_classes_of_the_page(written):
    # 80 and 82, 20 and 38: sd sqrt(2) and 18 / sqrt(2).
    head, *lines = Parser(written).tables[2]
    assert head == ["class", "base", "wide", "flipped"]
    assert lines[0] == [CLASSES[0], "81.0 ±1.4", "85.0 ±1.4", "60.0"]
    assert lines[1] == [CLASSES[1], "29.0 ±12.7", "47.0 ±9.9", "0.0"]
    assert lines[2] == [CLASSES[2], "-", "-", "-"]


def test_runs_of_the_page(written):
    runs = Parser(written).tables[3]
    assert runs[1] == [
        "base",
        "0",
        "finished",
        "50.00",
        "30",
        "0:01:00",
        "12.3",
        "1.50",
        "2 × made up",
        "0123456789-dirty",
    ]
    assert runs[6][:4] == ["flipped", "1", f"failederror{ERROR}", "-"]


def test_markdown(report):
    text = report_text.markdown(report)
    assert text.startswith(
        r'# Kernels &lt;script&gt;alert(1)&lt;/script&gt; &amp; 50 % of\_$x$ \#1 {\~^} \| "quoted" \\ \*end\*'
    )
    assert r"| base | 3x3 &amp; &lt;i&gt; | - | 55.00 ± 7.07 (2 seeds) | base | 1.23 M | 0:01:30 |" in text
    assert r"| wide | 5x5\_$50%$ \| \[\#\] | 61.50 (a) | 66.00 ± 5.66 (2 seeds) |" in text
    assert r"30.00 (1 seed, no interval); 1 of 2 seeds failed" in text
    for row in (WIDE, FLIPPED):
        assert " | ".join(row).replace("<", "&lt;").replace("[", r"\[").replace("]", r"\]") in text
    assert r"| never\|there | - | - | - |" in text
    assert "| flipped | 1 | failed | FloatingPointError: the loss is not finite &amp; &lt;nan&gt; |" in text
    # Every line of a table has as many cells as its head.
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for lines in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_latex(report):
    text = report_text.latex(report)
    assert (
        r"\caption{Kernels $<$script$>$alert(1)$<$/script$>$ \& 50 \% of\_\$x\$ \#1"
        r" \{\textasciitilde{}\textasciicircum{}\} $|$ ''quoted'' \textbackslash{} *end*. mIoU in \%" in text
    )
    assert r"base & 3x3 \& $<$i$>$ & - & 55.00 $\pm$ 7.07 & base & 1.23 M & 0:01:30 \\" in text
    wide = r"61.50\textsuperscript{a} & 66.00 $\pm$ 5.66 & +11.00 [$-$1.71, +23.71], not significant &"
    assert r"wide & 5x5\_\$50\%\$ $|$ [\#] & " + wide in text
    assert "30.00 (1 seed) & $-$20.00 [$-$20.00, $-$20.00] *i &" in text
    assert "1 seed, no interval" in text
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines() if line.endswith(r"\\")} == {6}


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not on the PATH")
def test_latex_is_typeset(report, tmp_path):
    if subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).returncode:
        pytest.skip("the LaTeX here has no booktabs")
    head = r"\documentclass{article}\usepackage[utf8]{inputenc}\usepackage{booktabs}\begin{document}"
    (tmp_path / "paper.tex").write_text(head + "\n" + report_text.latex(report) + r"\end{document}")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_warnings(report):
    text = "\n".join(report.warnings)
    assert "protocols differ between rows" in text
    assert "base | flipped/0: flip: False | True" in text
    assert "flipped has 1 of 2 seeds: seed 1 failed" in text
    assert "1 seed, no interval" in text and "-dirty" in text
    assert "different commits" not in text and "different devices" not in text


def test_page_names_the_warnings_the_command_and_the_note(written):
    assert written.count('<aside class="warning"') == 1
    command = "python -m segjax.ablate --config experiments/ablations/kernels.py:small --workdir DIR --rows wide"
    assert f"{command} --set training.steps=30 --set {escape(chr(39))}data.name=a b{escape(chr(39))}" in written
    assert "Doe &amp; Roe 2020, table 3: test &lt;split&gt;, 100 % of it" in written


def test_page_loads_nothing_and_runs_only_its_own_script(written):
    parsed = Parser(written)
    for tag, name, value in parsed.addresses:
        if value.startswith("http"):
            assert (tag, name, value) == ("a", "href", "https://example.org/a?b=1&c=2")
        else:
            assert value.startswith(("data:image/", "#"))
    assert {value[1:] for _, _, value in parsed.addresses if value.startswith("#")} <= set(parsed.ids)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert "url(" not in written and "@import" not in written
    assert written.count("<script>") == 1
    assert f"<title>{escape(TITLE)}</title>" in written
    assert len(written) < 200_000


def test_pictures_are_those_of_the_runs(folder, written):
    strip = np.asarray(Image.open(folder / "wide" / "0" / "predictions" / "val_0.png"))
    shown = {image["id"]: image for image in Parser(written).images if "src" in image}
    # Two images and their labels, three rows' predictions and errors, without those of a row that lacks an image.
    assert len(shown) == 2 * 2 + 2 * 6 - 2
    for kind, left in (("prediction", 2 * 36), ("error", 3 * 36)):
        source = shown[f"p-0-1-{kind}"]["src"]
        decoded = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")
        np.testing.assert_array_equal(np.asarray(decoded), strip[20:, left : left + 32])
    assert shown["p-1-label"]["alt"] == "label of val_1"
    assert written.count("no picture</div>") == 1


def test_chosen_comparisons_take_the_place_of_those_with_the_base(tmp_path):
    report = gather(read_study(make_study(tmp_path / "made", compare=[["flipped", "wide"]])))
    (found,) = report.comparisons
    assert (found.first, found.second, found.seeds) == ("flipped", "wide", 1)
    assert found.difference == pytest.approx(0.30 - 0.62)
    assert found.by_images == pytest.approx((0.30 - 0.62, 0.30 - 0.62))
    assert found.p == pytest.approx(2 / 10_001)  # one comparison: Holm changes nothing
    assert [row[4] for row in Parser(page(report)).tables[0][1:]] == ["base", "-", "-"]


def test_study_of_which_nothing_is_finished(tmp_path):
    make_study(tmp_path / "made")
    for run in ("base/0", "base/1", "wide/0", "wide/1", "flipped/0"):
        shutil.rmtree(tmp_path / "made" / run)
    report = gather(read_study(tmp_path / "made"))
    tables = Parser(page(report)).tables
    assert [row[3] for row in tables[0][1:]] == ["-2 of 2 seeds missing"] * 2 + [
        "-1 of 2 seeds failed, 1 of 2 seeds missing"
    ]
    assert [row[-1] for row in tables[1][1:]] == ["not tested"] * 2
    assert "2 of 2 seeds missing" in report_text.markdown(report)
    assert "2 of 2 seeds missing" in report_text.latex(report)


def test_frames_of_a_clip_are_not_taken_for_images(tmp_path):
    """Both frames of each run are of one clip, and one clip says nothing of others."""
    make_study(tmp_path / "made")
    for path in (tmp_path / "made").rglob("evaluation-*.json"):
        found = json.loads(path.read_text())
        found["protocol"]["clip"] = 2
        path.write_text(json.dumps(found))
    report = gather(read_study(tmp_path / "made"))
    wide, flipped = report.comparisons
    assert np.isnan(wide.by_images).all() and wide.verdict == "not significant by seeds alone"
    assert flipped.difference == pytest.approx(-0.2) and flipped.verdict == "not tested"
    assert "over the clips of the split" in report_text.markdown(report)


def test_without_counts_of_the_images_seeds_decide_alone(tmp_path):
    make_study(tmp_path / "made")
    for path in (tmp_path / "made").rglob("*.npz"):
        path.unlink()
    wide, flipped = gather(read_study(tmp_path / "made")).comparisons
    assert np.isnan(wide.by_images).all() and wide.verdict == "not significant by seeds alone"
    assert np.isnan(flipped.p) and flipped.verdict == "not tested"


def test_counts_that_are_cut_off_are_named(tmp_path):
    make_study(tmp_path / "made")
    path = next((tmp_path / "made").rglob("*.npz"))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"per_image-.*npz must hold the counts .* segjax.evaluate --workdir="):
        read_study(tmp_path / "made")


def test_main_writes_three_files(folder):
    run_main("report", f"--workdir={folder}")
    assert {path.name for path in folder.glob("report.*")} == {"report.html", "report.md", "report.tex"}


def test_main_says_that_a_training_is_no_study(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    output = run_main("report", f"--workdir={tmp_path}", status=1)
    assert "study.json" in output and "Traceback" not in output and "Unknown command line flag" not in output


@pytest.mark.parametrize(
    "protocol, words",
    [
        (Protocol("camvid", "test", 11), "whole images; one scale; no flip"),
        (Protocol("voc", "val", 21, window=(512, 512), stride=(256, 256)), "windows of 512x512, stride 256x256"),
        (Protocol("voc", "val", 21, scales=(0.5, 1.0), flip=True), "scales 0.5, 1; flipped too"),
        (Protocol("a", "val", 150, short_side=512, long_side=2048), "short side 512, long side 2048"),
        (Protocol("a", "val", 2, reduction="per_image", score="V_rand"), "V_rand of mean over images"),
        (Protocol("a", "val", 2, resize="32x48", corruption="fog3", clip=4), "resized to 32x48; whole images"),
    ],
)
def test_protocols_in_words(protocol, words):
    assert words in report_text.in_words(protocol)


def test_curves_end_at_their_values(written):
    """The score's axis goes from 0 to 70, of which base has 55 and flipped 30 at the last step."""
    (_, score) = re.findall(r'<svg class="chart".*?</svg>', written)
    ends = [float(re.search(r'points="[^"]*,([\d.]+)"/>', line)[1]) for line in re.findall(r"<polyline.*?/>", score)]
    labels = [
        (float(y) - 4, float(value)) for y, value in re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', score)
    ]
    (y0, v0), (y1, v1) = labels[0], labels[-1]
    values = [v0 + (y - y0) * (v1 - v0) / (y1 - y0) for y in ends]
    np.testing.assert_allclose(values, [55, 66, 30], atol=0.1)  # coordinates have one decimal
    assert score.count("<polygon") == 2  # a band for each row of two seeds


# Two copies of the page, as a phone's and a screen's, and what a person would do in the first.
DRIVE = """
onload = () => {
  const seen = [...document.querySelectorAll("iframe")].map(frame => {
    const view = frame.contentWindow, page = frame.contentDocument, root = page.documentElement;
    return {ready: root.dataset.ready, overflow: root.dataset.overflow, width: view.innerWidth,
            scroll: root.scrollWidth, dark: view.matchMedia("(prefers-color-scheme: dark)").matches};
  });
  const page = document.querySelector("iframe").contentDocument, find = id => page.getElementById(id);
  const set = (id, value, event) => { find(id).value = value; find(id).dispatchEvent(new Event(event)); };
  const shown = () => ["stage-a", "stage-b"].map(
    name => [find(name).hidden, find(name).alt, find(name.replace("stage", "words")).textContent]);
  seen.push(shown());
  set("side-a", "label", "change"); set("side-b", "1-error", "change"); set("slide", "25", "input");
  seen.push([shown(), find("stage-a").src === find("p-0-label").src, find("stage-b").src === find("p-0-1-error").src,
             page.defaultView.getComputedStyle(find("stage-a")).clipPath]);
  set("side-image", "1", "change");
  seen.push(shown());
  const box = page.querySelector("input[data-show='1']");
  box.click();
  seen.push([...page.querySelectorAll(".chart g")].map(line => page.defaultView.getComputedStyle(line).display));
  const back = () => page.defaultView.getComputedStyle(page.body).backgroundColor;
  const colours = [back()];
  for (const _ of [1, 2]) { find("theme").click(); colours.push(back()); }
  seen.push(colours);
  document.body.textContent = JSON.stringify(seen);
};
"""


def browse(folder, address, *options):
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder}/profile", "--virtual-time-budget=2000", *options, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def frames(written, script):
    """A page with the report at 390 and at 1280 pixels; a browser's own window is at least 500 wide."""
    inner = "".join(
        f'<iframe style="border:0;flex:none;width:{width}px;height:2000px" srcdoc="{escape(written)}"></iframe>'
        for width in (390, 1280)
    )
    return f'<!DOCTYPE html><body style="margin:0;display:flex">{inner}<script>{script}</script></body>'


@pytest.mark.skipif(not BROWSER, reason="chromium, chromium-browser or google-chrome must be on the PATH")
def test_page_in_a_browser(written, tmp_path):
    (tmp_path / "drive.html").write_text(frames(written, DRIVE))
    text = re.search(r"<body[^>]*>(\[.*\])", browse(tmp_path, f"file://{tmp_path}/drive.html", "--dump-dom"))[1]
    phone, screen, first, sides, missing, lines, colours = json.loads(text.replace("&amp;", "&"))
    for seen, width in ((phone, 390), (screen, 1280)):
        assert (seen["ready"], seen["overflow"], seen["width"]) == ("1", "0", width)  # no error stopped the script
        assert seen["scroll"] <= width
    assert [words for _, _, words in first] == ["base: prediction", "wide: prediction"]
    assert sides == [
        [[False, "label", "label"], [False, "wide: error", "wide: error"]],
        True,
        True,
        "inset(0px 75% 0px 0px)",
    ]
    assert missing == [[False, "label", "label"], [True, "wide: error", "wide: error: no picture"]]
    assert lines == ["inline", "none", "inline"] * 2  # of two charts with three rows
    light, dark = "rgb(253, 253, 252)", "rgb(21, 23, 26)"
    assert colours == [light, light, dark]


@pytest.mark.skipif(not BROWSER, reason="chromium, chromium-browser or google-chrome must be on the PATH")
@pytest.mark.parametrize("theme, back", [("light", (253, 253, 252)), ("dark", (21, 23, 26))])
def test_page_looks_as_the_reader_prefers(written, tmp_path, theme, back):
    (tmp_path / "both.html").write_text(frames(written, ""))
    scheme = {"light": 1, "dark": 0}[theme]
    options = [f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1670,2000"]
    browse(tmp_path, f"file://{tmp_path}/both.html", *options, f"--screenshot={tmp_path}/{theme}.png")
    pixels = np.asarray(Image.open(tmp_path / f"{theme}.png").convert("RGB"))
    assert pixels.shape == (2000, 1670, 3)
    for place in ((5, 5), (5, 395), (1990, 395)):
        assert tuple(pixels[place]) == back
    # Something is drawn over most of the height of both.
    for left, right in ((0, 390), (390, 1670)):
        rows = (pixels[:, left:right] != back).any((1, 2))
        assert rows.mean() > 0.5


@pytest.mark.skipif(not BROWSER, reason="chromium, chromium-browser or google-chrome must be on the PATH")
def test_file_opens_by_its_path_in_the_theme_that_is_asked_for(written, tmp_path):
    (tmp_path / "report.html").write_text(written)
    seen = browse(tmp_path, f"file://{tmp_path}/report.html?theme=dark", "--window-size=1280,2000", "--dump-dom")
    root = re.search(r"<html[^>]*>", seen)[0]
    assert 'data-theme="dark"' in root and 'data-ready="1"' in root and 'data-overflow="0"' in root
