"""The style sheet and the script of a report's page."""

# name -> (light, dark). --c0 to --c7 are the hues of Okabe and Ito 2008, which the colour-blind tell apart, made darker
# or lighter until each has a contrast of 3:1 or more to the page.
COLOURS = {
    "page": ("#fdfdfc", "#15171a"),
    "box": ("#f3f3f0", "#1f2226"),
    "text": ("#1b1c1e", "#e7e7e4"),
    "muted": ("#5c5f64", "#a5a9af"),
    "line": ("#d5d5d0", "#3a3e44"),
    "link": ("#0b57a4", "#8cc0f5"),
    "warn": ("#fff3d6", "#3a2e10"),
    "warn-line": ("#b07400", "#e0a020"),
    "bad": ("#a3260d", "#ff9b82"),
    "c0": ("#0072b2", "#4ba3dc"),
    "c1": ("#d55e00", "#f08033"),
    "c2": ("#00815b", "#1fc08f"),
    "c3": ("#b5589a", "#dd92bd"),
    "c4": ("#a87500", "#e9a82c"),
    "c5": ("#2f8fbf", "#7cc8f0"),
    "c6": ("#6d6a00", "#e6dc4c"),
    "c7": ("#4a4d52", "#c3c6ca"),
}


def _variables(theme: int) -> str:
    return "".join(f"--{name}:{values[theme]};" for name, values in COLOURS.items())


STYLE = (
    f":root{{color-scheme:light;{_variables(0)}}}"
    f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{_variables(1)}}}}}"
    f":root[data-theme=dark]{{color-scheme:dark;{_variables(1)}}}"
    """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
header,main,footer{max-width:1180px;margin:0 auto;padding:0 20px}
header{padding-top:28px}
h1{font-size:clamp(1.5rem,4vw,2.1rem);line-height:1.2;margin:0 0 .3em;overflow-wrap:anywhere}
h2{font-size:1.3rem;margin:2.2em 0 .5em;padding-bottom:.25em;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.4em 0 .4em}
p,li,dd{overflow-wrap:anywhere;max-width:80ch}
a{color:var(--link)}
:focus-visible{outline:3px solid var(--link);outline-offset:2px}
.muted,figcaption,.note{color:var(--muted);font-size:.9rem}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.2em 1.1em;padding:0;margin:1em 0 0}
.warning{background:var(--warn);border-left:5px solid var(--warn-line);padding:.7em 1em;margin:1.4em 0}
.warning h2{border:0;margin:0;font-size:1rem}
.warning ul{margin:.3em 0 0;padding-left:1.2em}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:6px;margin:.8em 0}
.tall{max-height:34rem;overflow-y:auto}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.45em .75em;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
tbody tr:last-child>*{border-bottom:0}
thead th{background:var(--box);font-weight:600;white-space:nowrap}
.tall thead th{position:sticky;top:0;z-index:2}
tbody th{font-weight:600;background:var(--page)}
sup{line-height:0}
.heat tbody th,.heat thead th:first-child{position:sticky;left:0;z-index:1}
.heat thead th:first-child{z-index:3}
.n{text-align:right;white-space:nowrap}
thead th.n{text-align:right}
td small,th small{display:block;color:var(--muted);font-size:.84em;font-weight:400}
.heat td{text-align:right;white-space:nowrap}
.heat td small{display:inline;color:inherit}
.heat .best{font-weight:700;text-decoration:underline;text-underline-offset:3px}
.keep,.runs td{white-space:nowrap}
.runs details pre{max-width:34rem}
.yes{color:var(--text);font-weight:600}
.no{color:var(--muted)}
.bad{color:var(--bad);font-weight:600}
.swatch{display:inline-block;width:26px;height:10px;margin-right:.45em;vertical-align:middle;fill:none;stroke-width:3}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr));gap:1em}
figure{margin:0}
.chart{display:block;width:100%;height:auto}
.chart text{fill:var(--muted);font-size:12px}
.grid{stroke:var(--line);stroke-width:1;fill:none}
.axis{stroke:var(--muted);stroke-width:1;fill:none}
.chart polyline{fill:none;stroke-width:2;stroke-linejoin:round}
.chart polygon{opacity:.2}
.forest{width:160px;height:20px;display:block}
.bar{stroke:var(--c0);stroke-width:3;fill:none}
.bar.b1{stroke:var(--c1)}
.forest circle{fill:var(--text)}
.rows{display:flex;flex-wrap:wrap;gap:.3em 1.2em;border:0;padding:0;margin:.6em 0}
.rows label{display:inline-flex;align-items:center;gap:.35em;overflow-wrap:anywhere}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2em 1em;padding:0;font-size:.9rem}
.legend i{display:inline-block;width:.9em;height:.9em;margin-right:.4em;border:1px solid var(--muted);
vertical-align:-.08em}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(128px,1fr));gap:.8em;align-items:start}
.pictures img,.empty{display:block;width:100%;height:auto;border:1px solid var(--line);image-rendering:auto;
background:#fff;margin-bottom:3px}
.empty{padding:2.5em .5em;text-align:center;color:var(--muted);background:var(--box);border-style:dashed}
.pictures figcaption{overflow-wrap:anywhere;line-height:1.3}
.controls{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,200px),1fr));gap:.7em;margin:.8em 0}
.controls label{display:block;font-size:.9rem;color:var(--muted)}
select,button{font:inherit;color:var(--text);background:var(--box);border:1px solid var(--line);border-radius:5px;
padding:.35em .6em}
select{width:100%;margin-top:.2em}
.stage{position:relative;max-width:640px;overflow:hidden;border:1px solid var(--line);background:#fff}
.stage img{display:block;width:100%;height:auto}
.stage img.pixel,.pictures img.pixel{image-rendering:pixelated}
.stage .over{position:absolute;inset:0;height:100%;clip-path:inset(0 calc(100% - var(--cut,50%)) 0 0)}
.stage::after{content:"";position:absolute;top:0;bottom:0;left:var(--cut,50%);width:2px;margin-left:-1px;
background:#fff;box-shadow:0 0 0 1px #000}
.slide{display:block;width:100%;max-width:640px;margin:.5em 0;accent-color:var(--c0)}
.sides{display:flex;justify-content:space-between;gap:1em;max-width:640px;font-size:.9rem}
pre{background:var(--box);border:1px solid var(--line);border-radius:6px;padding:.8em 1em;overflow-x:auto;
font-size:.85rem;margin:.4em 0}
details{margin:.5em 0}
summary{cursor:pointer;font-weight:600;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:minmax(7em,auto) 1fr;gap:.3em 1.2em;margin:0}
dt{color:var(--muted)}
dd{margin:0}
footer{padding-top:2em;padding-bottom:3em}
.theme{float:right;margin-left:1em;font-size:.85rem}
@media (max-width:520px){body{font-size:15px}header,main,footer{padding-left:14px;padding-right:14px}
.pictures{grid-template-columns:repeat(2,1fr)}dl{grid-template-columns:1fr}dt{margin-top:.4em}}
@media print{nav,.theme,.controls,.slide{display:none}.scroll,.tall{overflow:visible;max-height:none}
h2{break-after:avoid}figure,tr{break-inside:avoid}}
"""
)

SCRIPT = """
"use strict";
const root = document.documentElement, find = id => document.getElementById(id);
const themes = ["auto", "light", "dark"], button = find("theme");
const asked = new URLSearchParams(location.search).get("theme");
function theme(name) {
  if (name === "auto") delete root.dataset.theme; else root.dataset.theme = name;
  button.textContent = "Theme: " + name;
  button.value = name;
}
theme(themes.includes(asked) ? asked : "auto");
button.hidden = false;
button.addEventListener("click", () => theme(themes[(themes.indexOf(button.value) + 1) % 3]));

for (const box of document.querySelectorAll("input[data-show]"))
  box.addEventListener("change", () => {
    for (const line of document.querySelectorAll(`.chart [data-row="${box.dataset.show}"]`))
      line.style.display = box.checked ? "" : "none";
  });

const slide = find("slide");
if (slide) {
  const side = {a: find("side-a"), b: find("side-b")}, image = find("side-image"), stage = find("stage");
  function draw() {
    for (const name of ["a", "b"]) {
      const from = find(`p-${image.value}-${side[name].value}`), to = find("stage-" + name);
      const words = side[name].selectedOptions[0].textContent;
      to.hidden = !from;
      if (from) { to.src = from.src; to.className = from.className + (name === "a" ? " over" : ""); to.alt = words; }
      find("words-" + name).textContent = words + (from ? "" : ": no picture");
    }
  }
  function cut() {
    stage.style.setProperty("--cut", slide.value + "%");
    slide.setAttribute("aria-valuetext", slide.value + " % of the width shows A");
  }
  for (const control of [side.a, side.b, image]) control.addEventListener("change", draw);
  slide.addEventListener("input", cut);
  find("tool").hidden = false;
  draw();
  cut();
}
function measure() { root.dataset.overflow = Math.max(0, root.scrollWidth - innerWidth); }
addEventListener("resize", measure);
measure();
root.dataset.ready = "1";
"""
