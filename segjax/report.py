"""Write what a study found: report.html, one file with curves and pictures, report.md, and report.tex for a paper.

  python -m segjax.report --workdir runs/ablation

The folder is one that `segjax.ablate` wrote; runs that failed or are still missing are said to be so.
"""

from pathlib import Path

from absl import flags

from segjax.core.logger import write_atomically
from segjax.core.main import run
from segjax.studies.read import read_study
from segjax.studies.report import gather
from segjax.studies.report_html import page
from segjax.studies.report_text import latex, markdown


def main() -> None:
    folder = Path(WORKDIR.value)
    report = gather(read_study(folder))
    for name, write in (("report.html", page), ("report.md", markdown), ("report.tex", latex)):
        write_atomically(folder / name, write(report))
        print(folder / name)


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a study.")
    run(main, required=("workdir",))
