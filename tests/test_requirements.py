"""Everything that is installed is pinned, and the lists agree with each other."""

import re
import tomllib

import pytest

PINNED = re.compile(r"[A-Za-z0-9_.-]+(\[[a-z0-9]+\])?==[A-Za-z0-9.+]+( *#.*)?")


def lines(path):
    return [line for line in path.read_text().splitlines() if line and not line.startswith(("#", "-"))]


@pytest.mark.parametrize("file", ["requirements.txt", "tests/requirements.txt", "tests/references/requirements.txt"])
def test_requirements_are_pinned(root, file):
    assert lines(root / file)
    for line in lines(root / file):
        assert PINNED.fullmatch(line), line


@pytest.mark.parametrize("kind", ["cuda12", "cuda13", "tpu"])
def test_an_accelerators_packages_are_pinned_and_belong_to_the_same_jax(root, kind):
    listed = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"][kind]
    (version,) = (line.partition("==")[2] for line in lines(root / "requirements.txt") if line.startswith("jax=="))
    assert listed[0] == f"jax[{kind}]=={version}"
    for line in listed:
        assert PINNED.fullmatch(line), line
        if line.startswith("jax-"):
            assert line.endswith(f"=={version}")


@pytest.mark.parametrize("extra", ["slurm", "video"])
def test_an_extra_that_tests_need_is_pinned_and_among_theirs(root, extra):
    listed = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    assert set(listed) <= set(lines(root / "tests" / "requirements.txt"))
