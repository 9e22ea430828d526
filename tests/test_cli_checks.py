"""What can be checked of a call is told before its work begins: no model is loaded, no cluster is started.

The calls name a model that does not exist, and a cluster that does not answer: whoever came so far would
say so.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from PIL import Image

from i2am.analysis import analyze_run
from i2am.cli import build_parser, main
from tests.support.effects_store import effect_arrays, write_effects
from tests.support.synthetic_run import SyntheticLayer, write_run
from tests.test_cli import _leave_libraries_as_they_are, _listing  # noqa: F401 - a fixture

LAYERS = (
    SyntheticLayer("one", (4, 4), (2, 2), channels=3),
    SyntheticLayer("two", (2, 2), (2, 2), representation="logits"),
)
CAPTURE = "capture --model nosuch --manifest good.csv --out new.zarr"
CAUSAL = "causal run.zarr --model nosuch --out new.zarr"
ANALYZE = "analyze run.zarr --out new.zarr --scheduler tcp://localhost:1"
# By command: what is called, its exit code, and what is said.
WRONG = {
    "demo": [("--out notes.txt", 1, "Expected a folder, got a file, at notes.txt")],
    "tokens": [
        ("nosuch --manifest header.csv", 1, "no rows. Mend these rows"),
        ("nosuch --argument x=1 --argument x=2", 1, "--argument x=… once, got it twice"),
        ("nosuch --ip-adapter-encoder a/b", 1, "Expected --ip-adapter beside --ip-adapter-encoder"),
        ("nosuch --profile unett", 1, "Did you mean 'unet'?"),
    ],
    "capture": [
        (f"{CAPTURE} --manifest header.csv", 1, "no rows. Mend these rows"),
        (f"{CAPTURE} --out notes.txt", 1, "Expected a folder, got a file on the way, at notes.txt"),
        (f"{CAPTURE} --out notes.txt/x", 1, "Expected a folder, got a file on the way, at notes"),
        (f"{CAPTURE} --out maps.zarr", 1, "Expected a run, got maps at maps.zarr"),
        (f"{CAPTURE} --out run.zarr/first", 1, "Expected a place outside of stores"),
        (f"{CAPTURE} --profile unett", 1, "Did you mean 'unet'?"),
        (f"{CAPTURE} --seed {2**64}", 1, "Expected a seed of 64 bits"),
        (f"{CAPTURE} --text-roads --representation logits", 1, "Expected factors"),
        (f"{CAPTURE} --text-roads --guidance both", 1, "Expected one guidance branch with edges"),
        (f"{CAPTURE} --ip-adapter-scale 1", 1, "Expected an IP-Adapter for scale 1.0"),
        (f"{CAPTURE} --ip-adapter-encoder a/b", 1, "Expected --ip-adapter beside --ip-adapter-enc"),
        (f"{CAPTURE} --argument eta=0 --argument eta=1", 1, "eta=… once, got it twice"),
        (f"{CAPTURE} --guidance neither", 2, "Known: 'conditional', 'both'."),
    ],
    "analyze": [
        (f"{ANALYZE} --samples frist", 1, "Did you mean 'first'?"),
        (f"{ANALYZE} --layers nosuch", 1, "Known: 'one', 'two'."),
        (f"{ANALYZE} --steps 9", 1, "Expected steps from 0, 1, got 9"),
        (f"{ANALYZE} --heads 9", 1, "Expected heads from 0, 1, got 9"),
        (f"{ANALYZE} --guidance both", 1, "Expected a guidance branch that was captured"),
        (f"{ANALYZE} --workers 2", 1, "Expected scheduler or workers, got both"),
        (f"{ANALYZE} --out notes.txt", 1, "Expected a folder, got a file on the way, at notes.txt"),
        (f"{ANALYZE} --out run.zarr", 1, "Expected a maps store to write to, got a run store"),
        (
            f"{ANALYZE} --out maps.zarr --time-groups 2",
            1,
            "this store was written with, got other time_groups",
        ),
        (f"{ANALYZE} --effects run.zarr", 1, "Expected weights='causal' beside effects"),
        (f"{ANALYZE} --weights causal --effects run.zarr", 1, "Expected an effects store"),
        (f"{ANALYZE} --convention official --normalisation density", 1, "Expected normalisation"),
    ],
    "causal": [
        (f"{CAUSAL} --samples frist", 1, "Did you mean 'first'?"),
        (f"{CAUSAL} --out notes.txt", 1, "Expected a folder, got a file on the way, at notes.txt"),
        (f"{CAUSAL} --out maps.zarr", 1, "effects to write to, got maps at maps.zarr"),
        (f"{CAUSAL} --out run.zarr/new.zarr", 1, "Expected a place outside of stores"),
        (f"{CAUSAL} --no-regions --adaptive", 1, "Expected --adaptive or --no-regions, got both"),
        (f"{CAUSAL} --curves tow", 1, "got 'tow', at --curves. Did you mean 'two'?"),
        (f"{CAUSAL} --direct-steps 2", 1, "Expected steps of direct effects from 0 to 1, got [2]"),
        (f"{CAUSAL} --direct-steps 7 --inference-steps 7", 1, "from 0 to 6, got [7]"),
        (f"{CAUSAL} --tolerance=-1", 1, "Expected a tolerance of 0 or more, got -1"),
        (f"{CAUSAL} --profile unett", 1, "Did you mean 'unet'?"),
        (f"{CAUSAL} --manifest header.csv", 1, "no rows. Mend these rows"),
        (f"{CAUSAL} --argument x=1 --argument x=2", 1, "--argument x=… once, got it twice"),
        # The model is looked for at last, and nothing is written when it does not load.
        (CAUSAL, 1, "Expected a model's hub id or directory, got 'nosuch'"),
    ],
    "score": [
        ("maps.zarr --out new.csv --heads-out new.csv", 1, "got new.csv twice"),
        ("maps.zarr --out new.csv --effect-kind direct", 1, "--effects beside --effect-kind, got"),
        ("maps.zarr --out new.csv --effects-out x.csv", 1, "--effects beside --effects-out, got"),
        ("maps.zarr --out new.csv --effects run.zarr", 1, "Expected an effects store, got a run"),
        (
            "maps.zarr --out new.csv --effects --randomized maps.zarr",
            1,
            "Expected a run store, got",
        ),
        ("maps.zarr --out new.csv --cluster nosuch", 1, "got 'nosuch', at cluster"),
        ("maps.zarr --out new.csv --penalty=-1", 1, "Expected a penalty of 0 or more"),
        ("maps.zarr --out new.csv --threshold 1.5", 1, "from 0 to below 1, got 1.5"),
        ("maps.zarr --out mine.csv", 1, "Expected no file, got one, at mine.csv"),
        ("maps.zarr --out new.csv --points header.csv", 1, "header.csv"),
        ("maps.zarr --out new.csv --points-out points.csv", 1, "Expected --points beside"),
    ],
    "average": [
        ("maps.zarr --samples frist", 1, "Did you mean 'first'?"),
        ("maps.zarr --by sede", 1, "got 'sede', at"),
        ("maps.zarr --out notes.txt", 1, "got something else, at notes.txt"),
        ("maps.zarr --out s3://bucket/new.zarr", 1, "Expected a local folder for the averages"),
    ],
    "compare": [
        ("run.zarr run.zarr --out new --samples frist", 1, "Did you mean 'first'?"),
        ("run.zarr run.zarr --out new --cluster nosuch", 1, "got 'nosuch', at cluster"),
        ("run.zarr run.zarr --out notes.txt", 1, "got a file, at notes.txt"),
        ("run.zarr run.zarr --out s3://bucket/new", 2, "expected a local path, got the URL"),
    ],
    "figure": [
        ("run.zarr --out new --samples frist", 1, "at samples. Did you mean 'first'?"),
        ("run.zarr --out new --kinds tlma", 2, "Did you mean 'tlam'?"),
        ("run.zarr --out new --kinds tlam --after run.zarr", 1, "at --after. Draw before-after."),
        ("run.zarr --out new --kinds tlam --at 1,1", 1, "at --at. Draw sram or before-after."),
        ("run.zarr --out new --kinds sram --at 99,1", 1, "Expected a pixel (y, x) within (16, 16)"),
        ("run.zarr --out new --layers nosuch", 1, "Known: 'one', 'two'."),
        ("run.zarr --out new --steps 9", 1, "Expected steps from 0, 1, got 9"),
        ("run.zarr --out new --width 99", 2, "expected inches from 2 to 20, got 99"),
        ("run.zarr --out notes.txt", 1, "got a file, at notes.txt"),
    ],
    "report": [
        ("run.zarr --out new.html --samples frist", 1, "Did you mean 'first'?"),
        ("run.zarr --out new.html --sort imacs_g", 1, "Expected scores to sort by, got none"),
        ("run.zarr --out new.pdf", 2, "expected a file that ends in .html, got 'new.pdf'"),
        (
            "run.zarr --out page.html",
            1,
            "Expected no file, got one, at page.html. Allow overwriting (--overwrite) or",
        ),
    ],
    "view": [
        ("run.zarr --sample frist", 1, "Did you mean 'first'?"),
        ("run.zarr --maps run.zarr", 1, "Expected a maps store, got a run store"),
    ],
    "serve": [
        ("run.zarr --no-open --port 99999", 2, "expected a port from 0 to 65535"),
        ("maps.zarr --no-open --maps run.zarr", 1, "Expected a run beside the maps run.zarr"),
    ],
    "export": [("run.zarr --page new --maps run.zarr", 1, "Expected a maps store, got a run")],
    "info": [("run.zarr/frist", 2, "found none at 'run.zarr/frist'")],
    "validate": [("run.zarr/frist", 2, "found none at 'run.zarr/frist'")],
    "repair": [
        ("run.zarr/first", 1, "got a sample's group, at run.zarr/first. Give its root."),
        ("averages.zarr", 1, "got one of kind 'average', at averages.zarr"),
    ],
}
CASES = [
    pytest.param(call if call.startswith(command) else f"{command} {call}", code, said, id=call)
    for command, own in WRONG.items()
    for call, code, said in own
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_run(folder / "run.zarr", ["first", "second"], LAYERS, steps=2, size_px=(16, 16))
    analyze_run(folder / "run.zarr", folder / "maps.zarr", progress=False)
    names = [layer.name for layer in LAYERS]
    arrays = effect_arrays(size_px=(16, 16), reference_px=(16, 16), layers=names)
    write_effects(folder / "effects.zarr", {"first": arrays})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["average", "maps.zarr", "--out", "averages.zarr"]) == 0
    Image.new("RGB", (8, 8), "white").save(folder / "a.png")
    (folder / "good.csv").write_text("sample,source,mask,reference\na,a.png,a.png,a.png\n")
    (folder / "header.csv").write_text("sample,source,mask,reference\n")
    for name in ("notes.txt", "mine.csv", "page.html"):
        (folder / name).write_text("mine\n")
    return folder


def test_every_command_has_wrong_calls() -> None:
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert WRONG.keys() == commands.choices.keys()


@pytest.mark.parametrize(("call", "code", "said"), CASES)
def test_a_wrong_call_is_told_before_its_work_begins_and_writes_nothing(
    call: str,
    code: int,
    said: str,
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(made)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = _listing(made)
    try:
        came = main(call.split())
    except SystemExit as e:
        came = int(str(e.code))
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if line.startswith("i2am: ")]
    assert came == code, told.err
    assert 1 <= len(lines) <= 2
    assert said in lines[-1]
    assert "Traceback" not in told.err
    assert "no such error" not in told.err
    assert told.out == ""
    assert _listing(made) == before
