"""What the shell offers at TAB, asked as a shell asks, and what that loads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from i2am.analysis.figures import FIGURES
from i2am.schemas.choices import POLARITIES
from tests.test_imports import HEAVY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what looks like a run, and files."""
    found = tmp_path_factory.mktemp("typed")
    for name in ("up.1.attn2", "up.2.attn2", "mid.attn2"):
        (found / "run.zarr" / "shirt-001" / "layers" / name).mkdir(parents=True)
    for name in ("shirt-002", "skirt-001", ".owners", "odd\nname"):
        (found / "run.zarr" / name).mkdir()
    (found / "run.zarr" / "zarr.json").touch()
    (found / "rows.csv").touch()
    program = found / "i2am"
    program.write_text(f"#!{sys.executable}\nfrom i2am.cli import main\nmain()\n")
    program.chmod(0o755)
    return found


def complete(folder: Path, line: str) -> tuple[list[str], set[str]]:
    """Return what is offered after a line, and the packages that were loaded for it."""
    out = folder / "offered"
    out.unlink(missing_ok=True)
    asked = {
        **{"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_SHELL": "bash"},
        **{"_ARGCOMPLETE_SUPPRESS_SPACE": "0", "_ARGCOMPLETE_STDOUT_FILENAME": str(out)},
        **{"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"},
    }
    call = [sys.executable, "-X", "importtime", "-m", "i2am"]
    answer = subprocess.run(
        call, cwd=folder, env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr[-500:]
    assert answer.stdout == ""
    loaded = {row.rpartition("|")[2].strip() for row in answer.stderr.splitlines()}
    assert "argcomplete" in loaded
    return sorted(name.strip() for name in out.read_text().split("\n") if name), loaded


TYPED = {
    "i2am ana": ["analyze"],
    "i2am report run.zarr --max": ["--max-samples"],
    "i2am capture --step": [],
    "i2am score run.zarr --polarity ": sorted(POLARITIES),
    "i2am analyze run.zarr --samples shirt": ["shirt-001", "shirt-002"],
    "i2am analyze run.zarr --samples shirt-001 sk": ["skirt-001"],
    "i2am view run.zarr --sample ": ["shirt-001", "shirt-002", "skirt-001"],
    "i2am figure run.zarr --layers up": ["up.1.attn2", "up.2.attn2"],
    "i2am figure run.zarr --kinds t": sorted(kind for kind in FIGURES if kind.startswith("t")),
    "i2am causal run.zarr --model i2am-t": ["i2am-tiny"],
    "i2am tokens i2am-t": ["i2am-tiny"],
    "i2am score run.zarr --penalty ": [],
    "i2am info run": ["run.zarr/"],
    "i2am tokens i2am-tiny --manifest ro": ["rows.csv"],
}


@pytest.mark.parametrize("line", TYPED)
def test_a_shell_is_offered_what_can_stand_there_at_once(folder: Path, line: str) -> None:
    offered, loaded = complete(folder, line)
    assert offered == TYPED[line]
    assert loaded & {*HEAVY, "pydantic"} == set()


@pytest.mark.skipif(shutil.which("bash") is None, reason="asks bash")
def test_bash_completes_after_the_line_of_the_guide(folder: Path) -> None:
    register = Path(sys.executable).with_name("register-python-argcomplete")
    line = "i2am analyze run.zarr --samples sk"
    script = f"""
eval "$({register} i2am)"
complete -p i2am > /dev/null || exit 3
COMP_WORDS=({line}); COMP_CWORD=4; COMP_LINE='{line}'; COMP_POINT={len(line)}; COMP_TYPE=9
_python_argcomplete ./i2am sk --samples
printf '%s\n' "${{COMPREPLY[@]}}"
"""
    answer = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["skirt-001"]


def test_a_shell_that_completes_any_program_of_python_finds_the_mark() -> None:
    root = Path(__file__).parents[1] / "i2am"
    for name in ("__main__.py", "cli/__init__.py"):
        assert "PYTHON_ARGCOMPLETE_OK" in (root / name).read_text(encoding="utf-8")[:1024]
