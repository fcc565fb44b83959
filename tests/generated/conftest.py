"""The generated modules that are checked in, with the example each came from."""

import ast
from pathlib import Path

import pytest

from flashlight.output import read_header

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "generated"


def wrappers() -> list[Path]:
    """Every generated wrapper: the kernels' files are those that end in _triton and _hopper."""
    return sorted(
        path
        for path in GENERATED.glob("*.py")
        if not path.stem.endswith(("_triton", "_hopper")) and read_header(path.read_text(encoding="utf-8"))
    )


def functions(wrapper: Path) -> list[str]:
    """What of a wrapper runs a kernel: the functions whose originals it keeps."""
    body = ast.parse(wrapper.read_text(encoding="utf-8")).body
    names = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    return sorted(name for name in names if f"_{name}_pytorch" in names)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "function" in metafunc.fixturenames:
        pairs = [(path, name) for path in wrappers() for name in functions(path)]
        cases = [pytest.param(path, name, id=f"{path.stem}:{name}") for path, name in pairs]
        metafunc.parametrize(("wrapper", "function"), cases)
    elif "wrapper" in metafunc.fixturenames:
        metafunc.parametrize("wrapper", [pytest.param(path, id=path.stem) for path in wrappers()])


@pytest.fixture
def example(wrapper: Path) -> Path:
    """The file that the wrapper was written from."""
    header = read_header(wrapper.read_text(encoding="utf-8"))
    assert header is not None
    return ROOT / header.source


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
