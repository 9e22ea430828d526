from __future__ import annotations

import csv
import decimal
import json
from collections.abc import Callable, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from i2am.schemas import (
    InputWarning,
    ManifestRow,
    SchemaError,
    check_sample_name,
    read_manifest,
)

PICTURES = ("source.png", "mask.png", "reference.png", "object.png")
PLAIN = {"source": "source.png", "mask": "mask.png", "reference": "reference.png"}
ROWS: list[dict[str, Any]] = [
    {"sample": "shirt-001", **PLAIN, "box": "1 2 3.5 4", "seed": 7, "garment": "shirt"},
    {"sample": "hat_2", **PLAIN, "reference_mask": "object.png", "prompt": "a hat, red"},
]

Write = Callable[[Path, Sequence[dict[str, Any]]], None]


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(k for row in rows for k in row)))
        writer.writeheader()
        writer.writerows(rows)


def _write_json(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")


def _write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    keys = dict.fromkeys(k for row in rows for k in row)
    pq.write_table(pa.table({k: [row.get(k) for row in rows] for k in keys}), path)


FORMATS: list[tuple[str, Write]] = [
    ("rows.csv", _write_csv),
    ("rows.jsonl", _write_json),
    ("ROWS.NDJSON", _write_json),
    ("rows.parquet", _write_parquet),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # Parquet readers take "a=b" for a partition unless told otherwise.
    folder = tmp_path / "split=train"
    folder.mkdir()
    for name in PICTURES:
        (folder / name).touch()
    return folder


def _faults(path: Path) -> list[str]:
    """Return what reading complains of, with the folder's name left out."""
    with pytest.raises(SchemaError) as caught:
        read_manifest(path)
    message = str(caught.value).replace(str(path.parent), "DIR")
    before, after = (
        f"Expected a valid manifest, got faults in DIR/{path.name}: ",
        "Mend these rows.",
    )
    assert message.startswith(before)
    assert message.endswith(f". {after}")
    return message.removeprefix(before).removesuffix(f". {after}").split("; ")


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_every_format_gives_the_same_rows(folder: Path, name: str, write: Write) -> None:
    write(folder / name, ROWS)
    paths = {column: folder / file for column, file in PLAIN.items()}
    assert [row.model_dump() for row in read_manifest(folder / name)] == [
        {
            "sample": "shirt-001",
            **paths,
            "reference_mask": None,
            "box": (1.0, 2.0, 3.5, 4.0),
            "prompt": None,
            "seed": 7,
            "garment": "shirt",
        },
        {
            "sample": "hat_2",
            **paths,
            "reference_mask": folder / "object.png",
            "box": None,
            "prompt": "a hat, red",
            "seed": None,
        },
    ]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "sample,source,mask,reference\nü1,source.png,mask.png,reference.png\n"),
        ("a.jsonl", json.dumps({"sample": "ü1", **PLAIN}) + "\n\n"),
    ],
)
def test_utf8_is_read_with_and_without_a_mark(
    folder: Path, name: str, text: str, mark: bytes
) -> None:
    (folder / name).write_bytes(mark + text.encode())
    assert [row.sample for row in read_manifest(folder / name)] == ["ü1"]


def test_relative_paths_start_at_the_manifest_wherever_the_call_is_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_csv(folder / "rows.csv", [{"sample": "a", **PLAIN, "source": folder / "object.png"}])
    monkeypatch.chdir(folder.parent)
    (row,) = read_manifest("split=train/rows.csv")
    assert row.mask == folder / "mask.png"
    assert row.source == folder / "object.png"


def test_columns_beyond_the_contract_are_labels(folder: Path) -> None:
    _write_json(folder / "a.jsonl", [{"sample": "a", **PLAIN, "garment": "hat", "worn": True}])
    (row,) = read_manifest(folder / "a.jsonl")
    assert row.labels() == {"garment": "hat", "worn": True}


# --- Columns and delimiters.


@pytest.mark.parametrize("delimiter", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_a_csv_may_have_any_of_the_common_delimiters(
    folder: Path, delimiter: str, mark: bytes
) -> None:
    header = ["sample", "reference", "source", "mask", "prompt", "box"]
    row = ["a", "reference.png", "source.png", "mask.png", '"a hat, red; or blue"', '"1,2,3,4"']
    text = "\n".join([delimiter.join(header), delimiter.join(row)])
    (folder / "a.csv").write_bytes(mark + text.encode())
    (found,) = read_manifest(folder / "a.csv")
    assert (found.sample, found.prompt) == ("a", "a hat, red; or blue")
    assert found.box == (1.0, 2.0, 3.0, 4.0)
    assert found.labels() == {}


def test_source_and_mask_may_be_left_out(folder: Path) -> None:
    (folder / "a.csv").write_text("sample,reference\na,reference.png\n")
    (row,) = read_manifest(folder / "a.csv")
    assert (row.source, row.mask) == (None, None)


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        ("Seed", "seed"),
        ("refrence_mask", "reference_mask"),
        (" prompt", "prompt"),
        ("reference-mask", "reference_mask"),
        ("Source", "source"),
        ("masks", "mask"),
        ("bbox", "box"),
        ("prompts", "prompt"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_name_that_is_nearly_a_columns_is_told_and_stays_a_label(
    folder: Path, name: str, column: str, meant: str
) -> None:
    write = {"a.csv": _write_csv, "a.jsonl": _write_json, "a.parquet": _write_parquet}[name]
    write(folder / name, [{"sample": "a", "reference": "reference.png", column: "7"}])
    with pytest.warns(InputWarning) as caught:
        (row,) = read_manifest(folder / name)
    assert [str(warning.message) for warning in caught] == [
        f"Column {column!r} is taken for a label, at {folder / name}. Did you mean {meant!r}? "
        f"The columns are 'sample', 'reference', {column!r}."
    ]
    assert row.labels() == {column: "7"}


@pytest.mark.parametrize("column", ["kind", "garment", "source_id", "mask_id", "task", "category"])
def test_a_label_that_is_near_no_column_is_no_matter(folder: Path, column: str) -> None:
    _write_csv(folder / "a.csv", [{"sample": "a", "reference": "reference.png", column: "7"}])
    (row,) = read_manifest(folder / "a.csv")
    assert row.labels() == {column: "7"}


def test_further_references_are_files_in_their_order(folder: Path) -> None:
    rows = [{"sample": "a", **PLAIN, "reference_2": "mask.png", "reference_1": "object.png"}]
    _write_csv(folder / "a.csv", rows)
    (row,) = read_manifest(folder / "a.csv")
    assert list(row.other_references().items()) == [
        ("reference_1", folder / "object.png"),
        ("reference_2", folder / "mask.png"),
    ]
    assert row.labels() == {}


@pytest.mark.parametrize(
    ("further", "fault"),
    [
        ({"reference_1": "no.png"}, "row 1, column 'reference_1': no file at DIR/no.png"),
        ({"reference_1": 7}, "row 1, column 'reference_1': expected a path, got 7"),
        (
            {"reference_2": "mask.png"},
            "row 1: expected reference_1, reference_2 … without a gap",
        ),
    ],
)
def test_a_further_reference_that_is_no_file_or_not_the_next_is_a_fault(
    folder: Path, further: dict[str, Any], fault: str
) -> None:
    _write_json(folder / "a.jsonl", [{"sample": "a", **PLAIN, **further}])
    assert _faults(folder / "a.jsonl") == [fault]


def test_a_header_without_a_needed_column_is_shown_once(folder: Path) -> None:
    rows = "".join(f"s{number},reference.png\n" for number in range(3))
    (folder / "a.csv").write_text("Sample,refrence\n" + rows)
    assert _faults(folder / "a.csv") == [
        "no column 'sample' in the header 'Sample', 'refrence' (is 'Sample' meant?)",
        "no column 'reference' in the header 'Sample', 'refrence' (is 'refrence' meant?)",
    ]


def test_a_json_row_that_names_a_column_wrongly_is_asked_about_it(folder: Path) -> None:
    _write_json(folder / "a.jsonl", [{"sample": "a", "Reference": "reference.png"}])
    assert _faults(folder / "a.jsonl") == [
        "row 1, column 'reference': field required, got 'Reference': is that meant?"
    ]


def test_a_column_that_stands_twice_is_a_fault(folder: Path) -> None:
    (folder / "a.csv").write_text("sample,reference,seed,seed\na,reference.png,1,2\n")
    assert _faults(folder / "a.csv") == ["column 'seed' stands more than once in the header"]


# --- Values.


@pytest.mark.parametrize(
    "box", ["1,2,3,4", "1 2 3 4", "(1, 2, 3, 4)", "[1.0; 2; 3; 4]", [1, 2, 3, 4], (1.0, 2, 3, 4)]
)
def test_a_box_has_several_forms(box: Any) -> None:
    assert ManifestRow(sample="a", **PLAIN, box=box).box == (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    "box", ["1,2,3", "1,2,3,4,5", "1,2,a,b", "1,2,0,4", "1,2,3,-4", "1,2,3,nan", 5, ["a"] * 4]
)
def test_a_bad_box_is_one_fault_with_what_came(folder: Path, box: Any) -> None:
    _write_json(folder / "a.jsonl", [{"sample": "a", **PLAIN, "box": box}])
    assert _faults(folder / "a.jsonl") == [
        f"row 1, column 'box': expected x, y, width and height in pixels, got {box!r}"
    ]


FAULTY = [
    pytest.param({"reference": None}, "column 'reference': field required", id="required"),
    pytest.param({"mask": "no.png"}, "column 'mask': no file at DIR/no.png", id="no picture"),
    pytest.param({"mask": "."}, "column 'mask': no file at DIR", id="a folder"),
    pytest.param(
        {"reference_mask": "no.png"},
        "column 'reference_mask': no file at DIR/no.png",
        id="no optional picture",
    ),
    pytest.param(
        {"seed": "x"},
        "column 'seed': input should be a valid integer, unable to parse string as an integer, "
        "got 'x'",
        id="seed",
    ),
    pytest.param(
        {"sample": "a/b"},
        "column 'sample': expected a sample name of letters, digits and . _ + @ = - that starts "
        "with a letter or digit, got 'a/b'. Rename the sample",
        id="name",
    ),
]


@pytest.mark.parametrize(("name", "write"), FORMATS)
@pytest.mark.parametrize(("change", "fault"), FAULTY)
def test_a_fault_has_its_row_and_column(
    folder: Path, name: str, write: Write, change: dict[str, Any], fault: str
) -> None:
    write(folder / name, [ROWS[1], {"sample": "b", **PLAIN} | change])
    number = 3 if name.endswith("csv") else 2
    assert _faults(folder / name) == [f"row {number}, {fault}"]


def test_all_faults_come_at_once(folder: Path) -> None:
    (folder / "a.csv").write_text(
        "sample,source,mask,reference,seed\n"
        "a,source.png,mask.png,reference.png,\n"
        "a,source.png,mask.png,reference.png,1\n"
        "b,no.png,,,x\n"
        "\n"
        "c,source.png,mask.png,reference.png,1,extra\n"
        "d,source.png\n"
    )
    assert _faults(folder / "a.csv") == [
        "row 3: sample 'a' stands in row 2 already",
        "row 4, column 'reference': field required",
        "row 4, column 'seed': input should be a valid integer, unable to parse string as an "
        "integer, got 'x'",
        "row 6: more fields than columns",
        "row 7, column 'reference': field required",
    ]


def test_after_ten_faults_the_rest_is_counted(folder: Path) -> None:
    _write_csv(folder / "a.csv", [{"sample": f"s{n}", **PLAIN, "mask": "x"} for n in range(12)])
    faults = _faults(folder / "a.csv")
    assert len(faults) == 11
    assert faults[-1] == "and 2 more"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"sample": ', "expected a JSON object, got '{\"sample\":' (Expecting value)"),
        ("[1, 2]", "expected a JSON object, got '[1, 2]'"),
    ],
)
def test_a_line_that_is_no_object_does_not_hide_the_next_fault(
    folder: Path, line: str, fault: str
) -> None:
    (folder / "a.jsonl").write_text(f'{line}\n{{"sample": "a"}}\n')
    assert _faults(folder / "a.jsonl")[:2] == [
        f"row 1: {fault}",
        "row 2, column 'reference': field required",
    ]


@pytest.mark.parametrize(("name", "write"), FORMATS[1:])
def test_a_number_is_no_sample_name(folder: Path, name: str, write: Write) -> None:
    # "001" and 1 would be two names of one sample, so nothing is guessed.
    write(folder / name, [{"sample": 1, **PLAIN}])
    assert _faults(folder / name) == [
        "row 1, column 'sample': input should be a valid string, got 1"
    ]


def test_digits_in_a_csv_are_a_name_as_they_stand(folder: Path) -> None:
    _write_csv(folder / "a.csv", [{"sample": "001", **PLAIN}])
    assert [row.sample for row in read_manifest(folder / "a.csv")] == ["001"]


def test_dates_of_a_parquet_file_are_texts(folder: Path) -> None:
    day, moment = date(2026, 1, 2), datetime(2026, 1, 2, 3, 4)
    _write_parquet(folder / "rows.parquet", [{**ROWS[0], "day": day, "moment": moment}])
    (row,) = read_manifest(folder / "rows.parquet")
    assert row.labels() == {
        "garment": "shirt",
        "day": "2026-01-02",
        "moment": "2026-01-02T03:04:00",
    }


@pytest.mark.parametrize(
    ("name", "write", "label", "told"),
    [
        ("a.parquet", _write_parquet, b"M", ", column 'size': expected text, .*got bytes"),
        ("a.jsonl", _write_json, float("nan"), ": expected a JSON object, .*NaN is no JSON"),
        ("a.jsonl", _write_json, {"of": {"it": float("inf")}}, ": .*Infinity is no JSON"),
        ("a.jsonl", _write_json, "\ud800", ", column 'size': expected Unicode text"),
        ("a.jsonl", _write_json, 2**70, ", column 'size': got a whole number of 71 bits"),
    ],
)
def test_a_label_that_cannot_be_stored_is_a_fault(
    name: str, write: Write, label: Any, told: str, folder: Path
) -> None:
    write(folder / name, [{**ROWS[0], "size": label}])
    with pytest.raises(SchemaError, match=f"row 1{told}"):
        read_manifest(folder / name)


def test_a_prompt_and_a_columns_name_can_be_shown(folder: Path) -> None:
    _write_json(folder / "a.jsonl", [{**ROWS[0], "prompt": "\ud800", "si\x1bze": "M"}])
    with pytest.raises(SchemaError, match=r"column 'si\\x1bze': .*row 1, column 'prompt': exp"):
        read_manifest(folder / "a.jsonl")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_an_empty_file_has_no_rows(folder: Path, name: str) -> None:
    (folder / name).touch()
    assert _faults(folder / name) == ["no rows"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "sample\ngr\xfcn\n".encode("latin-1"), "Expected UTF-8 text, got something else"),
        ("a.jsonl", b'{"sample": "\xff"}', "Expected UTF-8 text, got something else"),
        ("a.parquet", b"sample,source", "Expected a Parquet file, got something else"),
        ("a.xlsx", b"", r"Expected a \.csv, \.jsonl or \.parquet manifest, got .*a\.xlsx"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SchemaError, match=message) as caught:
        read_manifest(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"Expected a manifest file, found none at .*no\.csv"):
        read_manifest(tmp_path / "no.csv")


@pytest.mark.parametrize("name", ["a", "0", "shirt-001", "a.b_c+d@e=f", "Käfer"])
def test_a_sample_name_can_be(name: str) -> None:
    assert check_sample_name(name) == name


@pytest.mark.parametrize("name", ["", ".a", "_a", "-a", "a/b", "a b", "..", "a\n", "zarr.json"])
def test_a_sample_name_cannot_be(name: str) -> None:
    with pytest.raises(SchemaError, match="Expected a sample name"):
        check_sample_name(name)


@pytest.mark.parametrize("sample", ["NA", "nan", "None", "null", "1e5", "007", "true", "1.0"])
@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_a_name_that_reads_as_something_else_stays_a_name(
    folder: Path, name: str, write: Write, sample: str
) -> None:
    write(folder / name, [{"sample": sample, **PLAIN, "kind": sample}])
    (row,) = read_manifest(folder / name)
    assert (row.sample, row.labels()) == (sample, {"kind": sample})


@pytest.mark.parametrize("seed", [0, 7, -(2**63), 2**64 - 1, "7", "-1", "007", 3.0])
def test_a_seed_of_64_bits_is_a_whole_number(folder: Path, seed: Any) -> None:
    _write_json(folder / "a.jsonl", [{"sample": "a", **PLAIN, "seed": seed}])
    assert [row.seed for row in read_manifest(folder / "a.jsonl")] == [int(seed)]


def test_dates_and_decimal_numbers_of_a_parquet_file_are_labels(folder: Path) -> None:
    labels = {
        "day": date(2026, 11, 28),
        "at": datetime(2026, 11, 28, 18, 5),
        "price": decimal.Decimal("1.50"),
        "sizes": [1, None, 2],
    }
    _write_parquet(folder / "a.parquet", [{"sample": "a", **PLAIN, **labels}])
    (row,) = read_manifest(folder / "a.parquet")
    assert row.labels() == {
        "day": "2026-11-28",
        "at": "2026-11-28T18:05:00",
        "price": "1.50",
        "sizes": [1, None, 2],
    }
