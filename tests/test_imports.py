"""Who may import whom: core <- data, crf, evaluation <- models <- training <- studies <- mains."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
ROWS = [{"core"}, {"data", "crf", "evaluation"}, {"models"}, {"training", "convert"}, {"studies"}]


def level(folder: str) -> int:
    return next((row for row, folders in enumerate(ROWS) if folder in folders), len(ROWS))


def imported_modules(path: pathlib.Path) -> set[str]:
    """Dotted names of every module that a file imports, `from a import b` counted as both a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def violations(source: str, names: set[str]) -> list[str]:
    """What of `names` a file in the folder `source` of segjax (or a main, "") may not import."""
    problems = []
    for name in sorted(names):
        parts = name.split(".")
        if parts[0] != "segjax" or len(parts) == 1:
            continue
        target = parts[1]
        target_file = ROOT / "segjax" / f"{target}.py"
        if target_file.is_file():
            is_main = "__main__" in target_file.read_text()
            if is_main or source:
                problems.append(f"imports {name}, which is {'a main' if is_main else 'for mains'}")
        elif source and target != source and level(target) >= level(source):
            problems.append(f"imports {name}")
    return problems


@pytest.mark.parametrize("path", sorted((ROOT / "segjax").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    parts = path.relative_to(ROOT / "segjax").parts
    assert not violations(parts[0] if len(parts) > 1 else "", imported_modules(path))


def test_the_rule_finds_violations():
    assert violations("core", {"segjax.data.pipeline"})
    assert violations("models", {"segjax.training.losses"})
    assert violations("data", {"segjax.evaluation.metrics"})
    assert violations("", {"segjax.train"})
    assert violations("training", {"segjax.build"})
    assert not violations("training", {"segjax.models", "segjax.core.batch", "numpy"})


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_experiments_import_configs_only(path):
    if "benchmarks" in path.parts:
        pytest.skip("a benchmark runs the code, so it imports it")
    for name in imported_modules(path):
        parts = name.split(".")
        assert (
            parts[0] in ("math", "ml_collections", "experiments")
            or (name.startswith("segjax.studies") and "ablations" in path.parts)
            or name.startswith("segjax.core.config")
            or name == "segjax.core"
        )
