from __future__ import annotations

import pytest

from i2am import schemas
from i2am.schemas import I2AMError, did_you_mean


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("SchemaError", ValueError),
        ("AnalysisError", ValueError),
        ("MissingExtra", ImportError),
        ("StoreError", I2AMError),
        ("CaptureError", I2AMError),
    ],
)
def test_every_error_is_ours_and_what_python_calls_it(name: str, builtin: type[Exception]) -> None:
    assert issubclass(getattr(schemas, name), (I2AMError,))
    assert issubclass(getattr(schemas, name), builtin)


@pytest.mark.parametrize(
    ("name", "known", "sentence"),
    [
        ("loggits", ["query", "key", "logits"], "Did you mean 'logits'?"),
        ("zzz", ["query", "key"], "Known: 'query', 'key'."),
        ("zzz", (n for n in ["query"]), "Known: 'query'."),
        ("zzz", [], "Known: none."),
        ("zzz", ["layer" * 40, "query"], f"Known: {'layer' * 40!r} and 1 more."),
    ],
)
def test_a_hint_names_the_nearest_name_or_all(name: str, known: list[str], sentence: str) -> None:
    assert did_you_mean(name, known) == sentence


def test_a_hint_stays_short_however_many_names_there_are() -> None:
    hint = did_you_mean("zzz", (f"sample-{number}" for number in range(10_000)))
    assert hint.startswith("Known: 'sample-0', 'sample-1', ")
    assert hint.endswith(", 'sample-13', 'sample-14' and 9985 more.")
