"""Put results side by side that were made by one protocol; refuse, and say what differs, where they were not.

  python -m segjax.compare --results runs/a,runs/b
  python -m segjax.compare --results runs/a/evaluation-camvid_test_whole.json,runs/b/evaluation-camvid_test_whole.json

Each is a file that `segjax.train` or `segjax.evaluate` wrote, or a folder that holds one.
"""

from absl import flags

from segjax.core.main import run
from segjax.evaluation.comparison import compare, read_result


def main() -> None:
    print(compare([read_result(path) for path in RESULTS.value]))


if __name__ == "__main__":
    RESULTS = flags.DEFINE_list("results", None, "Two or more files or folders, by commas.")
    run(main, required=("results",))
