"""Build sdist and wheel, and try the wheel as a user does: ``python tools/check_wheel.py``.

What a checkout has and a wheel lacks shows outside the checkout only: the wheel (which is built
from the sdist) is installed with all extras into an empty environment, in the locked versions,
and runs the demo from another folder. Leaves both files in ``dist/``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
OUTPUTS = ("run.zarr", "maps.zarr", "scores.csv", "figures", "report.html")

# Prints where the package lies, and reads the plugin's manifest off the installed files.
_INSTALLED = """
import i2am, i2am.viewer
from i2am.analysis import *
from i2am.capture import *
from npe2 import PluginManifest
PluginManifest.from_distribution("i2am")
print(i2am.__file__)
"""


def main() -> int:
    """Build and check; return the exit code."""
    shutil.rmtree(DIST, ignore_errors=True)
    _run(sys.executable, "-m", "build", "--outdir", DIST, ROOT, cwd=ROOT)
    built = sorted(DIST.iterdir())
    _run(sys.executable, "-m", "twine", "check", "--strict", *built, cwd=ROOT)
    (wheel,) = DIST.glob("*.whl")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _install(wheel, folder / "environment")
        faults = _try(folder)
    for fault in faults:
        print(fault, file=sys.stderr)
    if not faults:
        print(f"{' and '.join(path.name for path in built)}: installed, and the demo ran")
    return int(bool(faults))


def _install(wheel: Path, environment: Path) -> None:
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet")
    _run(*pip, "--upgrade", "pip>=25.1", cwd=environment)
    lock = ROOT / "requirements.lock"
    _run(*pip, "--constraint", lock, f"i2am[all] @ {wheel.as_uri()}", cwd=environment)
    _run(python, "-m", "pip", "check", cwd=environment)


def _try(folder: Path) -> list[str]:
    """Return what is wrong with the package that was installed below `folder`."""
    bin_ = folder / "environment" / "bin"
    answer = _run(bin_ / "python", "-c", _INSTALLED, cwd=folder, capture=True)
    lies_at = Path(answer.splitlines()[-1])
    if not lies_at.is_relative_to(folder / "environment"):
        return [f"Expected i2am of the wheel, got {lies_at}."]
    _run(bin_ / "i2am", "demo", "--out", folder / "demo", cwd=folder)
    missing = [name for name in OUTPUTS if not (folder / "demo" / name).exists()]
    if missing:
        return [f"Expected the demo to write {', '.join(OUTPUTS)}, got no {', '.join(missing)}."]
    for store in ("run.zarr", "maps.zarr"):
        _run(bin_ / "i2am", "validate", folder / "demo" / store, cwd=folder)
    return []


def _run(*call: str | Path, cwd: Path, capture: bool = False) -> str:
    """Run a command that must succeed, as offline as its own model is, and return its output."""
    surroundings = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    answer = subprocess.run(
        [str(part) for part in call],
        cwd=cwd,
        env=surroundings | {"HF_HUB_OFFLINE": "1", "QT_QPA_PLATFORM": "offscreen"},
        stdout=subprocess.PIPE if capture else None,
        text=True,
        check=False,
    )
    if answer.returncode:
        sys.exit(f"{' '.join(map(str, call))}: exit code {answer.returncode}")
    return answer.stdout or ""


if __name__ == "__main__":
    sys.exit(main())
