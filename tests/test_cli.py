"""The command line, called wrongly in every way we know, and rightly once."""

from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from PIL import Image

from i2am.analysis import Score, ScoredMap, register_score, unregister_score
from i2am.cli import build_parser, main
from i2am.schemas.errors import StoreError
from tests.support.synthetic_run import SyntheticLayer, write_run

LAYERS = (
    SyntheticLayer("one", (4, 4), (2, 2), channels=3),
    SyntheticLayer("two", (2, 2), (2, 2), representation="logits"),
)
MANIFEST = "sample,source,mask,reference\na,a.png,a.png,a.png\n"
STORE_COMMANDS = ("analyze", "score", "average", "figure", "report", "view", "info", "validate")
COMMANDS = ("demo", "tokens", "capture", "compare", *STORE_COMMANDS)


@pytest.fixture(autouse=True)
def _leave_libraries_as_they_are(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # The command line quiets other packages for its own process; here others live on in it.
    level = logging.getLogger().level
    for name in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "error" if "VERBOSITY" in name else "1")
    yield
    logging.getLogger().setLevel(level)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run, its maps, and much that is neither."""
    folder = tmp_path_factory.mktemp("made")
    write_run(folder / "run.zarr", ["first", "second"], LAYERS, steps=2, size_px=(16, 16))
    assert main(["analyze", str(folder / "run.zarr")]) == 0
    write_run(folder / "empty_run.zarr", [])
    write_run(folder / "other_run.zarr", ["third"], LAYERS, steps=2, size_px=(16, 16))
    write_run(folder / "broken.zarr", ["first"], LAYERS, steps=2, size_px=(16, 16))
    del zarr.open_group(folder / "broken.zarr", mode="r+")["first/layers/one/key"]
    foreign = zarr.create_group(folder / "foreign.zarr", attributes={"multiscales": []})
    foreign.create_array("array", shape=(1,), dtype="u1")
    newer = {"i2am": {"kind": "run", "schema": 2}}
    zarr.create_group(folder / "newer.zarr", attributes=newer)
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("notes\n")
    (folder / "scores.csv").write_text("name,number\na,1\n")
    for name in ("report.html", "scores_of_mine.csv", "comparison.csv"):
        (folder / name).write_text("mine\n")
    for name in ("demo/figures", "figures"):
        (folder / name).mkdir(parents=True)
    (folder / "figures" / "first-overview.png").write_bytes(b"mine")
    Image.new("RGB", (8, 8), "white").save(folder / "a.png")  # It is a mask as well.
    (folder / "good.csv").write_text(MANIFEST)
    (folder / "faulty.csv").write_text(MANIFEST + "a,a.png,b.png,a.png\n")
    (folder / "other.json").write_text("[]")
    (folder / "header.csv").write_text(MANIFEST.splitlines()[0])
    (folder / "bytes.csv").write_bytes(b"\x80")
    for name in ("nothing.csv", "nothing.jsonl", "fake.parquet"):
        (folder / name).touch()
    zarr.create_group(
        folder / "averages.zarr", attributes={"i2am": {"kind": "average", "schema": 1}}
    )
    return folder


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (0, 0)
        if path.is_dir()
        else (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


def _call(*arguments: str) -> int:
    """Return the exit code, whichever way it comes."""
    try:
        return main(arguments)
    except SystemExit as e:
        return int(str(e.code))


def _wrong(code: int, call: str, message: str) -> Any:
    return pytest.param(call.split(), code, message, id=call or "nothing")


CAPTURE = "capture --model i2am-tiny --out new.zarr --manifest"
CAUSAL = "causal --model i2am-tiny --out new.zarr"
WRONG = [
    # What is no call at all.
    _wrong(2, "", "expected a command, such as 'i2am demo', got none. See 'i2am --help'."),
    _wrong(2, "info run.zarr maps.zarr", "no further argument of 'i2am info', got maps.zarr. See"),
    _wrong(2, "figure run.zarr --sampels first", "got --sampels first. Did you mean '--samples'?"),
    _wrong(2, "analyse run.zarr", "expected a command, got 'analyse'. Did you mean 'analyze'?"),
    _wrong(2, "--debug info run.zarr", "expected options after their command, got --debug"),
    *(
        _wrong(2, f"{c} run.zarr --colour", f"expected an option of 'i2am {c}', got --colour")
        for c in STORE_COMMANDS
    ),
    *(_wrong(2, c, "are required: ") for c in COMMANDS if c != "demo"),
    _wrong(2, "demo --colour", "expected an option of 'i2am demo', got --colour. See 'i2am demo"),
    # What is no store, or the other kind.
    *(_wrong(2, f"{c} missing.zarr", "found none at 'missing.zarr'") for c in STORE_COMMANDS),
    *(_wrong(1, f"{c} notes.txt", "got a file, at notes.txt") for c in STORE_COMMANDS),
    *(_wrong(1, f"{c} empty", "got an empty folder, at empty") for c in STORE_COMMANDS),
    *(_wrong(1, f"{c} foreign.zarr", "the attributes multiscales") for c in STORE_COMMANDS),
    *(_wrong(1, f"{c} foreign.zarr/array", "got a Zarr array") for c in STORE_COMMANDS),
    *(
        _wrong(1, f"{c} run.zarr/first", "got a sample's group")
        for c in STORE_COMMANDS
        if c not in {"info", "validate"}
    ),
    *(_wrong(1, f"{c} newer.zarr", "Upgrade i2am") for c in STORE_COMMANDS),
    *(
        _wrong(1, f"{c} maps.zarr", "Expected a run store, got a maps store at maps.zarr")
        for c in ("analyze", "figure", "report")
    ),
    _wrong(1, "score run.zarr", "Expected a maps store, got a run store at run.zarr"),
    _wrong(1, "average run.zarr", "Expected a maps store, got a run store at run.zarr"),
    *(
        _wrong(1, f"{c} run.zarr --maps run.zarr", "Expected a maps store, got a run store")
        for c in ("figure", "report", "view")
    ),
    *(
        _wrong(2, f"{c} run.zarr --maps missing.zarr", "found none at 'missing.zarr'")
        for c in ("figure", "report", "view")
    ),
    # Samples that are not there.
    *(
        _wrong(1, f"{call} frist", "Did you mean 'first'?")
        for call in (
            "analyze run.zarr --out new.zarr --samples",
            "figure run.zarr --out new --samples",
            "view run.zarr --sample",
            "average maps.zarr --samples",
        )
    ),
    *(
        _wrong(1, f"{c} empty_run.zarr", "at empty_run.zarr")
        for c in ("analyze", "view", "figure", "report --out new.html")
    ),
    *(
        _wrong(1, f"{c} averages.zarr", "got one of kind 'average', at averages.zarr. Give one of")
        for c in STORE_COMMANDS
        if c not in {"info", "validate"}
    ),
    *(_wrong(1, f"{c} .", "a folder without Zarr metadata, at .") for c in STORE_COMMANDS),
    *(
        _wrong(1, f"{c} foo://bar", "'Protocol not known: foo', at foo://bar")
        for c in STORE_COMMANDS
    ),
    # Options.
    *(
        _wrong(2, f"analyze run.zarr --out new.zarr --grid={value}", "expected a grid N or HxW")
        for value in ("64x", "0", "0x8", "-1x8", "8x8x8", "axb")
    ),
    *(
        _wrong(2, f"analyze run.zarr --out new.zarr --time-groups {value}", "expected a whole")
        for value in ("0", "-1", "2.5", "two")
    ),
    _wrong(2, "analyze run.zarr --out new.zarr --workers 0", "expected a whole number from 1 on"),
    _wrong(2, "analyze run.zarr --convention paper", "expected a known value, got 'paper'. "),
    _wrong(1, "analyze run.zarr --out new.zarr --layers up*", "got 'up*', at first"),
    _wrong(1, "analyze run.zarr --out new.zarr --steps 0,7", "Expected steps from"),
    _wrong(1, "analyze run.zarr --out new.zarr --heads 9", "Expected heads from"),
    _wrong(2, "analyze run.zarr --out new.zarr --steps 3:1", "expected numbers as a list"),
    _wrong(1, "analyze run.zarr --out new.zarr --guidance both", "Expected a guidance branch"),
    _wrong(
        1,
        "analyze run.zarr --out new.zarr --convention official --normalisation density",
        "Expected normalisation 'mass' with convention 'official'",
    ),
    _wrong(
        1,
        "analyze run.zarr --out new.zarr --workers 1 --scheduler tcp://localhost:1",
        "Expected scheduler or workers, got both",
    ),
    _wrong(2, "score maps.zarr --penalty much", "expected a number, got 'much'"),
    _wrong(2, "score maps.zarr --threshold inf", "expected a number, got 'inf'"),
    _wrong(2, "score maps.zarr --polarity reversed", "expected a known value, got 'reversed'. "),
    _wrong(2, "score maps.zarr --run missing.zarr", "found none at 'missing.zarr'"),
    _wrong(1, "score maps.zarr --run maps.zarr", "Expected a run store, got a maps store"),
    _wrong(1, "score maps.zarr --run empty_run.zarr", "named 'first', at empty_run.zarr"),
    _wrong(1, "score maps.zarr --out scores.txt", "Expected a .csv or .parquet file"),
    _wrong(1, "score maps.zarr --heads heads.txt", "Expected a .csv or .parquet file"),
    _wrong(1, "score maps.zarr --out new.csv --heads scores_of_mine.csv", "scores_of_mine.csv"),
    _wrong(1, "score maps.zarr --out new.csv --samples frist", "Did you mean 'first'?"),
    *(
        _wrong(2, f"{call} --confidence={value}", "expected a number between 0 and 1")
        for call in ("score maps.zarr", "compare run.zarr run.zarr --out new")
        for value in ("0", "1", "95", "nan", "much")
    ),
    _wrong(2, "average maps.zarr --levels ulma", "expected a known value, got 'ulma'. "),
    _wrong(2, "average maps.zarr --run missing.zarr", "found none at 'missing.zarr'"),
    _wrong(1, "average maps.zarr --by sede", "got 'sede', at "),
    _wrong(1, "average maps.zarr --out run.zarr --overwrite", "got something else, at run.zarr"),
    _wrong(1, "average maps.zarr --out notes.txt", "got something else, at notes.txt"),
    _wrong(2, "figure run.zarr --kinds overview tlma", "expected a known value, got 'tlma'. "),
    _wrong(2, "figure run.zarr --kinds", "expected one of overview, tlam, "),
    _wrong(2, "figure --kinds", "expected one of overview, tlam, "),
    _wrong(2, "figure run.zarr --within", "expected one of image, mask, got none"),
    _wrong(2, "report run.zarr --out new.html --scores missing.csv", "found none at 'missing.csv'"),
    _wrong(1, "report run.zarr --out new.html --scores scores.csv", "at scores.csv"),
    # Two runs.
    _wrong(2, "compare run.zarr", "the following arguments are required: RUN_B"),
    _wrong(2, "compare run.zarr missing.zarr", "found none at 'missing.zarr'"),
    _wrong(2, "compare run.zarr run.zarr --maps-b missing.zarr", "found none at 'missing.zarr'"),
    _wrong(1, "compare run.zarr notes.txt", "got a file, at notes.txt"),
    _wrong(1, "compare maps.zarr run.zarr", "Expected a run store, got a maps store at maps.zarr"),
    _wrong(1, "compare run.zarr run.zarr --maps-a run.zarr", "Expected a maps store, got a run"),
    _wrong(1, "compare run.zarr run.zarr --samples frist", "Did you mean 'first'?"),
    _wrong(
        1,
        "compare run.zarr other_run.zarr --out new",
        "got 'first', 'second' at run.zarr and 'third' at other_run.zarr",
    ),
    _wrong(
        1, "compare empty_run.zarr run.zarr", "got none at empty_run.zarr and 'first', 'second'"
    ),
    _wrong(1, "compare run.zarr broken.zarr", "Run 'i2am validate broken.zarr'"),
    _wrong(1, "compare run.zarr run.zarr --out notes.txt", "got a file, at notes.txt"),
    _wrong(1, "compare run.zarr run.zarr --out .", "got comparison.csv, at ."),
    # What is there already.
    _wrong(1, "analyze run.zarr --time-groups 2", "got other time_groups, at maps.zarr"),
    _wrong(1, "analyze run.zarr --out run.zarr", "got a run store, at run.zarr"),
    _wrong(1, "analyze run.zarr --out notes.txt", "at notes.txt"),
    _wrong(1, "analyze run.zarr --out demo --overwrite", "at demo"),
    _wrong(1, "score maps.zarr --out scores_of_mine.csv", "at scores_of_mine.csv"),
    _wrong(1, "figure run.zarr", "first-overview.png"),
    _wrong(1, "figure run.zarr --out notes.txt", "notes.txt"),
    _wrong(
        1, "figure run.zarr --out a.png/x", "Expected a folder for first-overview.png, got a file"
    ),
    _wrong(
        1, "report run.zarr --out empty --overwrite", "Expected a file, got a folder, at empty."
    ),
    _wrong(
        1, "report run.zarr --out a.png/x.html", "Expected a folder for x.html, got a file, at a."
    ),
    _wrong(
        1, "score maps.zarr --out a.png/x.csv", "Expected a folder for x.csv, got a file, at a.png"
    ),
    _wrong(
        1, "analyze run.zarr --out a.png/x", "Expected a folder, got a file on the way, at a.png/x"
    ),
    _wrong(1, "demo --out a.png/x", "Not a directory, at a.png/x"),
    _wrong(1, "report run.zarr", "at report.html"),
    _wrong(1, "demo --out demo", "Expected no earlier demo in demo, got figures"),
    _wrong(1, "demo --out notes.txt", "Expected a folder, got a file, at notes.txt"),
    # A store that breaks the contract: its first fault is the error.
    *(
        _wrong(1, f"{c} broken.zarr --out new", "at broken.zarr. Run 'i2am validate broken.zarr'")
        for c in ("analyze", "report")
    ),
    # Effects.
    _wrong(2, "causal run.zarr", "the following arguments are required: --model"),
    _wrong(2, f"{CAUSAL} missing.zarr", "found none at 'missing.zarr'"),
    _wrong(1, f"{CAUSAL} notes.txt", "got a file, at notes.txt"),
    _wrong(1, f"{CAUSAL} maps.zarr", "Expected a run, got maps at maps.zarr"),
    _wrong(1, f"{CAUSAL} empty_run.zarr", "Expected a run with complete samples, got none"),
    _wrong(1, f"{CAUSAL} run.zarr --samples frist", "Did you mean 'first'?"),
    _wrong(2, f"{CAUSAL} run.zarr --grid 0", "expected a grid N or HxW"),
    _wrong(2, f"{CAUSAL} run.zarr --grid 4x", "expected a grid N or HxW"),
    _wrong(
        2, f"{CAUSAL} run.zarr --edges image->text", "expected a known value, got 'image->text'. "
    ),
    _wrong(
        1, f"{CAUSAL} run.zarr --samples first --out maps.zarr", "effects to write to, got maps"
    ),
    # Capture.
    _wrong(2, f"{CAPTURE} missing.csv", "found none at 'missing.csv'"),
    _wrong(1, f"{CAPTURE} notes.txt", "Expected a .csv, .jsonl or .parquet manifest"),
    _wrong(
        1,
        f"{CAPTURE} faulty.csv",
        "row 3, column 'mask': no file at {made}/b.png; "
        "row 3: sample 'a' stands in row 2 already. Mend these rows.",
    ),
    *(
        _wrong(2, f"{CAPTURE} good.csv --shard={value}", "expected I/N with I from 0 to N - 1")
        for value in ("2/2", "3/2", "2", "1/", "a/b", "-1/2", "0/0")
    ),
    *(
        _wrong(2, f"{CAPTURE} good.csv --keep-steps={value}", "expected every N-th step as N, a")
        for value in ("0", "-1", "2.5", "all", "5:5", "9:3", "0:9:0", "1:2:3:4", "1,,2", ",", "")
    ),
    *(
        _wrong(2, f"{CAPTURE} good.csv --keep-heads={value}", "expected numbers as a list A,B,… or")
        for value in ("-1", "1.5", "all", "3:3", "2:", ":", "0:4:0", "1,,2", "")
    ),
    *(
        _wrong(2, f"{CAPTURE} good.csv --memory={value}", "expected an amount of memory such as")
        for value in ("0", "-1GiB", "2apples", "GiB", "0.1", "nan", "1e9", "")
    ),
    *(
        _wrong(2, f"{CAPTURE} good.csv --argument={value}", "expected NAME=VALUE")
        for value in ("strength", "=1", "a-b=1", "")
    ),
    *(
        _wrong(2, f"{CAPTURE} good.csv --batch-size={value}", "expected a whole number from 1 on")
        for value in ("0", "-1", "2.5")
    ),
    _wrong(2, f"{CAPTURE} good.csv --representation=map", "expected a known value, got 'map'. "),
    _wrong(
        2, f"{CAPTURE} good.csv --model-dtype=float64", "expected a known value, got 'float64'. "
    ),
    _wrong(2, f"{CAPTURE} good.csv --ip-adapter-scale=inf", "expected a number, got 'inf'"),
    _wrong(1, f"{CAPTURE} good.csv --ip-adapter-scale=1", "Expected an IP-Adapter for scale 1.0"),
    _wrong(
        1, f"{CAPTURE} good.csv --ip-adapter=empty", "takes an IP-Adapter, got ReferenceInpaint"
    ),
    _wrong(1, f"{CAPTURE} good.csv --argument=etta=1", "got 'etta'. Did you mean 'eta'?"),
    _wrong(1, f"{CAPTURE} good.csv --argument=image=None", "got 'image', which is filled. Omit"),
    _wrong(
        1,
        f"{CAPTURE} good.csv --argument=eta=much",
        "Expected a number for 'eta' of ReferenceInpaint",
    ),
    _wrong(1, f"{CAPTURE} good.csv --argument=eta=0 --argument=eta=1", "eta=… once, got it twice"),
    _wrong(
        1,
        f"{CAPTURE} good.csv --argument=num_images_per_prompt=2",
        "got num_images_per_prompt=2: 1 row × 2 = 2 images of 1 name. Give each image a row",
    ),
    _wrong(1, f"{CAPTURE} good.csv --layers=upp*", "layers that match 'upp*'"),
    _wrong(1, f"{CAPTURE} good.csv --argument=eta=much", "Expected a number for 'eta' of"),
    _wrong(1, f"{CAPTURE} good.csv --argument=num_images_per_prompt=2", "one image for each row"),
    _wrong(1, f"{CAPTURE} good.csv --keep-heads=0,9", "the layers have, got [9]. Give others"),
    _wrong(1, f"{CAPTURE} good.csv --steps 5 --keep-steps=0,7", "which the call runs, got [7]"),
    _wrong(1, f"{CAPTURE} good.csv --steps 5 --keep-steps=5:", "from 0 to 4, which the call runs"),
    _wrong(
        1,
        f"{CAPTURE} good.csv --guidance both --guidance-scale 1",
        "got guidance_scale 1, which has one branch. Give a scale above 1, or leave out --guid",
    ),
    _wrong(1, f"{CAPTURE} good.csv --seed={2**64}", "Expected a seed of 64 bits"),
    _wrong(2, f"{CAPTURE} good.csv --steps 0", "expected a whole number from 1 on"),
    _wrong(2, f"{CAPTURE} good.csv --dtype int8", "expected a known value, got 'int8'. "),
    _wrong(2, f"{CAPTURE} good.csv --guidance-scale nan", "expected a number, got 'nan'"),
    _wrong(2, f"{CAPTURE} good.csv --seed x", "expected a whole number, got 'x'"),
    _wrong(1, f"{CAPTURE} good.csv --out notes.txt", "at notes.txt"),
    *(
        _wrong(1, f"{CAPTURE} good.csv --out {store}", message)
        for store, message in {
            "maps.zarr": "Expected a run, got maps at maps.zarr",
            "averages.zarr": "Expected a run, got average at averages.zarr",
            "foreign.zarr": "Expected a run, got another Zarr group at foreign.zarr",
            "run.zarr/first": "got one inside the store {made}/run.zarr, at run.zarr/first",
            "newer.zarr": "Expected a run of schema 1, got 2, at newer.zarr. Name a new store",
            "foo://bar": "at foo://bar",
        }.items()
    ),
    *(
        _wrong(1, f"{CAPTURE} {name}", f"got faults in {name}: no rows. Mend these rows.")
        for name in ("nothing.csv", "nothing.jsonl", "header.csv")
    ),
    _wrong(1, f"{CAPTURE} bytes.csv", "Expected UTF-8 text, got something else at bytes.csv"),
    _wrong(1, f"{CAPTURE} fake.parquet", "Expected a Parquet file, got something else at fake"),
    _wrong(2, f"{CAPTURE} empty", "expected a file, found none at 'empty'"),
    _wrong(1, f"{CAPTURE} good.csv --profile unett", "Did you mean 'unet'?"),
    _wrong(1, f"{CAPTURE} good.csv --profile zzz", "Expected a known profile, got 'zzz'. Known: "),
    _wrong(
        1,
        f"{CAPTURE} good.csv --profile flux",
        "layers that profile 'flux' reads, got none in UNet2D",
    ),
    _wrong(1, f"{CAPTURE} good.csv --layers=", "layers that match ''"),
    _wrong(1, "tokens i2am-tyni", "Did you mean 'i2am-tiny'?"),
    _wrong(1, "tokens i2am-tiny --profile unett", "Did you mean 'unet'?"),
    _wrong(1, "tokens i2am-tiny --manifest header.csv", "got faults in header.csv: no rows."),
    _wrong(2, "tokens i2am-tiny --manifest empty", "expected a file, found none at 'empty'"),
    _wrong(1, "tokens i2am-tiny --argument=eta=much", "Expected a number for 'eta' of"),
    _wrong(
        1,
        "capture --model i2am-tyni --out new.zarr --manifest good.csv",
        "Did you mean 'i2am-tiny'?",
    ),
    _wrong(
        1,
        "capture --model empty --out new.zarr --manifest good.csv",
        "Expected a diffusers directory with model_index.json, got none in empty",
    ),
]


@pytest.mark.parametrize(("call", "code", "message"), WRONG)
def test_a_wrong_call_is_one_line_and_leaves_nothing(
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    call: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(made)
    before = _listing(made)
    assert _call(*call) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("i2am: ")
    assert told.err.endswith("\n")
    assert told.err.count("\n") == 1
    assert message.format(made=made) in told.err
    assert "Expected no such error" not in told.err
    assert _listing(made) == before


@pytest.mark.parametrize(
    ("option", "key", "value"),
    [
        ("--keep-steps=5", "keep_steps", 5),
        ("--keep-steps=0,10,49", "keep_steps", [0, 10, 49]),
        ("--keep-steps=7,", "keep_steps", [7]),
        ("--keep-steps=10:", "keep_steps", slice(10, None)),
        ("--keep-steps=:20:4", "keep_steps", slice(None, 20, 4)),
        ("--keep-heads=3", "keep_heads", [3]),
        ("--keep-heads=0,2", "keep_heads", [0, 2]),
        ("--keep-heads=1:8:3", "keep_heads", [1, 4, 7]),
        ("--memory=2GiB", "memory", 2 * 2**30),
        ("--memory=1.5gb", "memory", 1_500_000_000),
        ("--memory=4096", "memory", 4096),
        ("--argument=strength=0.8", "argument", [("strength", 0.8)]),
        ("--argument=prompt=1", "argument", [("prompt", "1")]),
        ("--argument=prompt=", "argument", [("prompt", "")]),
        ("--argument=negative_prompt_2=7", "argument", [("negative_prompt_2", "7")]),
        ("--argument=num_images_per_prompt=2", "argument", [("num_images_per_prompt", 2)]),
        ("--argument=guess_mode=True", "argument", [("guess_mode", True)]),
        ("--argument=guess_mode=false", "argument", [("guess_mode", False)]),
        ("--argument=height=None", "argument", [("height", None)]),
        ("--argument=height=null", "argument", [("height", None)]),
        ("--argument=original_size=(64, 48)", "argument", [("original_size", (64, 48))]),
        ("--argument=sigmas=[1, 0.5]", "argument", [("sigmas", [1, 0.5])]),
        ("--argument=kind='7'", "argument", [("kind", "7")]),
        ('--argument=kind="7"', "argument", [("kind", "7")]),
        ("--argument=kind=NaN", "argument", [("kind", "NaN")]),
        ("--argument=kind=it's", "argument", [("kind", "it's")]),
        ("--argument=kind=a=b", "argument", [("kind", "a=b")]),
        ("--shard=0/2", "shard", (0, 2)),
    ],
)
def test_an_option_of_capture_means_what_it_says(
    made: Path, option: str, key: str, value: object
) -> None:
    call = ["capture", "--model=m", "--out=o", f"--manifest={made / 'good.csv'}", option]
    assert vars(build_parser().parse_args(call))[key] == value


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _call(command, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: i2am {command} ")


def test_a_failing_process_prints_one_line_and_no_traceback(made: Path) -> None:
    call = [sys.executable, "-m", "i2am", "info", "notes.txt"]
    answer = subprocess.run(call, cwd=made, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == (
        "i2am: Expected a store, got a file, at notes.txt. Give the folder of a Zarr store.\n"
    )


def test_debug_lets_the_error_out_for_its_traceback(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    with pytest.raises(StoreError, match="Expected a store, got a file"):
        main(["info", "notes.txt", "--debug"])


def test_an_error_that_nobody_foresaw_is_one_line_with_its_kind(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def divide(_scored: ScoredMap) -> Iterator[tuple[str, float]]:
        yield "r2g_share", 1 / 0

    register_score(Score("share", "A score of a user's own, with a fault.", divide))
    monkeypatch.chdir(made)
    try:
        assert _call("score", "maps.zarr", "--out", "divided.csv") == 1
        assert not (made / "divided.csv").exists()
    finally:
        unregister_score("share")
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "got ZeroDivisionError: division by zero. Run it again with --debug" in told


def test_a_file_without_permission_is_one_line(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if os.geteuid() == 0:
        out = "/proc/new/report.html"  # Where not even root may write.
        if not Path("/proc").is_dir():
            pytest.skip("root may write everywhere here")
    else:
        tmp_path.chmod(0o500)
        out = str(tmp_path / "new" / "report.html")
    assert _call("report", str(made / "run.zarr"), "--out", out) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert out.removesuffix("/report.html") in told


# --- The road, rightly.


class _Pictures(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.sources.append(dict(attrs)["src"] or "")


def test_the_road_from_a_run_to_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run.zarr", ["first", "second"], LAYERS, steps=2, size_px=(16, 16))

    def said(*call: str) -> str:
        assert _call(*call) == 0
        return capsys.readouterr().out

    options = ["--grid", "8x6", "--time-groups", "2", "--layers", "one", "--samples", "second"]
    assert said("analyze", "run.zarr", "--out", "m.zarr", *options) == "Maps: m.zarr\n"
    maps = zarr.open_group(tmp_path / "m.zarr", mode="r")
    assert list(maps.group_keys()) == ["second"]
    tlam = maps["second/r2g/tlam"]
    assert isinstance(tlam, zarr.Array)
    assert tlam.shape == (2, 8, 6)
    layers = maps["second/r2g/layer"]
    assert isinstance(layers, zarr.Array)
    assert np.asarray(layers[:]).tolist() == ["one"]
    said("analyze", "run.zarr", "--out", "some.zarr", "--steps", "1", "--heads", "0:1")
    volume = zarr.open_group(tmp_path / "some.zarr", mode="r")["first/r2g/volume"]
    assert isinstance(volume, zarr.Array)
    assert volume.shape[1:3] == (1, 1)

    assert said("analyze", "run.zarr") == "Maps: maps.zarr\n"
    assert "imacs_g" in said("score", "maps.zarr", "--out", "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["sample"], row["score"]) for row in rows} >= {
        (sample, score)
        for sample in ("first", "second")
        for score in ("imacs_g", "imacs_r", "detection_iou")
    }
    mean = np.mean([float(row["value"]) for row in rows if row["score"] == "imacs_g"])
    summary = said("score", "maps.zarr", "--out", "scores.csv", "--overwrite")
    (line,) = [line for line in summary.splitlines() if line.startswith("imacs_g")]
    assert line.split()[1:3] == ["2", f"{mean:.4f}"]

    said("figure", "run.zarr", "--kinds", "overview", "--samples", "second", "--out", "drawn")
    (figure,) = (tmp_path / "drawn").iterdir()
    assert "second" in figure.name
    with Image.open(figure) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 100

    said("report", "run.zarr", "--scores", "scores.csv", "--out", "page/report.html")
    page = (tmp_path / "page/report.html").read_text(encoding="utf-8")
    assert all(sample in page for sample in ("first", "second"))
    sources = _Pictures(page).sources
    assert sources
    assert all(source.startswith("data:image/") for source in sources)

    told = said("info", "maps.zarr")
    assert "2 complete: first, second" in told
    assert said("info", "run.zarr").startswith("kind:          run\n")
    for store in ("run.zarr", "maps.zarr", "m.zarr"):
        assert said("validate", store).endswith(f"{store} keeps the contract\n")


def test_validate_prints_one_line_for_each_fault_and_fails(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _call("validate", str(made / "broken.zarr")) == 1
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out == (
        "first: without checksums, as older versions wrote it\n"
        "first/layers/one/key: expected an array, as representation is 'factors', got none\n"
    )


def test_overwriting_replaces_what_was_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run.zarr", ["first"], LAYERS[:1], steps=2, size_px=(16, 16))
    assert _call("analyze", str(run)) == 0
    assert _call("analyze", str(run), "--convention", "official", "--overwrite") == 0
    root = json.loads((tmp_path / "maps.zarr" / "zarr.json").read_text())
    assert root["attributes"]["i2am"]["convention"] == "official"
    page = tmp_path / "report.html"
    page.write_text("mine")
    assert _call("report", str(run), "--out", str(page), "--overwrite") == 0
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert capsys.readouterr().out == (
        f"Maps: {tmp_path}/maps.zarr\nMaps: {tmp_path}/maps.zarr\nReport: {page}\n"
    )


def test_averages_by_label_are_written_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "run.zarr", ["a", "b", "c"], LAYERS, steps=2, size_px=(16, 16))
    root = zarr.open_group(run, mode="r+")
    for name, category in {"a": "shirt", "b": "skirt", "c": "shirt"}.items():
        own: Any = root[name].attrs["i2am"]
        root[name].update_attributes({"i2am": {**own, "labels": {"category": category}}})
    assert _call("analyze", "run.zarr") == 0
    capsys.readouterr()
    assert _call("average", "maps.zarr", "--by", "category", "--levels", "ulam", "volume") == 0
    told = capsys.readouterr().out
    assert told == "shirt  2 samples\nskirt  1 sample\nAverages: maps.average.zarr\n"
    written: Any = zarr.open_group("maps.average.zarr", mode="r")
    assert {"ulam", "ulam_variance", "volume"} < set(written["skirt/r2g"].array_keys())
    assert "tlam" not in written["skirt/r2g"]
    maps: Any = zarr.open_group("maps.zarr", mode="r")
    wanted = (maps["a/r2g/ulam"][:].astype(float) + maps["c/r2g/ulam"][:]) / 2
    np.testing.assert_allclose(written["shirt/r2g/ulam"][:], wanted, rtol=1e-6)
    assert _call("average", "maps.zarr") == 1
    assert "Overwrite it, or name another output" in capsys.readouterr().err
    assert _call("info", "maps.average.zarr") == 0
    told = capsys.readouterr().out
    assert told.startswith("kind:          average\n")
    assert "by:            category\ngroups:        shirt: 2 samples\n" in told


def test_scores_come_as_parquet_too(made: Path, tmp_path: Path) -> None:
    out, heads = tmp_path / "scores.parquet", tmp_path / "heads.parquet"
    call = ["score", str(made / "maps.zarr"), "--out", str(out), "--heads", str(heads)]
    assert _call(*call, "--samples", "second") == 0
    assert list(pd.read_parquet(out).columns) == ["sample", "score", "value"]
    for path in (out, heads):
        assert pd.read_parquet(path)["sample"].unique().tolist() == ["second"]


def test_the_options_of_score_change_the_scores(made: Path, tmp_path: Path) -> None:
    def scores(*options: str) -> pd.Series[float]:
        out = str(tmp_path / "scores.csv")
        assert _call("score", str(made / "maps.zarr"), "--out", out, "--overwrite", *options) == 0
        table = pd.read_csv(out)
        return table[table["sample"] == "first"].set_index("score")["value"]

    plain = scores()
    for option, changed in (
        ("--premask", {"imacs_r"}),
        ("--penalty=1", {"imacs_g", "imacs_r"}),
        ("--threshold=0.9", {"imacs_g", "imacs_r"}),
        ("--polarity=inverted", {"imacs_g", "detection_iou"}),
    ):
        differing = plain.index[scores(option) != plain]
        assert set(differing) <= changed
        assert len(differing)


def test_heads_are_written_and_ranked_and_intervals_are_as_sure_as_asked_for(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps, heads = str(made / "maps.zarr"), tmp_path / "heads.csv"
    assert _call("score", maps, "--heads", str(heads)) == 0
    told = capsys.readouterr().out
    table = pd.read_csv(heads)
    # Two samples, directions, layers, steps and heads.
    assert len(table) == 2**5
    means = table.groupby(["direction", "layer", "head"])["concentration"].mean()
    for direction in ("r2g", "g2r"):
        most = told.split(f"{direction}: the most concentrated heads")[1].splitlines()[2].split()
        assert tuple(most[:2]) == tuple(map(str, means[direction].idxmax()))
        assert float(most[3]) == pytest.approx(means[direction].max(), abs=1e-4)
    assert told.endswith(f"Heads: {heads}\n")

    def width() -> float:
        lines = capsys.readouterr().out.splitlines()
        (line,) = [line for line in lines if line.startswith("random_box_iou")]
        low, high = map(float, line.split()[4:6])
        return high - low

    assert _call("score", maps) == 0
    wide = width()
    assert _call("score", maps, "--confidence", "0.4") == 0
    assert width() < wide


def test_two_runs_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, samples, parts in (
        ("guided", ["first", "second"], LAYERS),
        ("free", ["second", "first", "third"], LAYERS),
        ("fewer", ["first"], LAYERS[:1]),
        ("other", ["first"], [SyntheticLayer("three")]),
    ):
        write_run(tmp_path / f"{name}.zarr", samples, parts, steps=2, size_px=(16, 16))
    assert _call("compare", "guided.zarr", "free.zarr", "--out", "new") == 0
    told = capsys.readouterr().out
    assert told.startswith(
        "A: guided.zarr\nB: free.zarr\n2 pairs of samples; left out: 0 of A alone, 1 of B alone\n"
    )
    assert told.endswith("Comparison: new\n")
    summary = pd.read_csv("new/summary.csv")
    inside = summary.query("direction == 'r2g' and level == 'ulam' and measure == 'inside'").iloc[0]
    (line,) = [x for x in told.splitlines() if x.split()[:2] == ["r2g", "inside"]]
    wanted = [f"{inside[name]:.4f}" for name in ("mean_a", "mean_b", "mean_difference")]
    assert line.split()[2:6] == ["2", *wanted]
    # The layers that differ most come first.
    layers = summary.query("level == 'layer' and mean_a.notna()")["mean_difference"].abs()
    table = told.split("The layers that differ most")[1].splitlines()
    assert abs(float(table[2].split()[6])) == pytest.approx(layers.max(), abs=1e-4)
    assert _call("compare", "guided.zarr", "fewer.zarr") == 0
    told = capsys.readouterr().out
    assert "Not all layers are the same in both: heads are not compared." in told
    assert "The layers that differ most" in told
    assert _call("compare", "guided.zarr", "other.zarr", "--samples", "first") == 0
    told = capsys.readouterr().out
    assert "No layer has the same name in both: compared at sample level alone." in told
    assert "differ most" not in told
