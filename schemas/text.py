"""Text that came from elsewhere, as it may be shown: on a terminal, on a page, in a window.

A name in a store may hold what moves a terminal's cursor, runs its escape sequences, turns round
the direction of what follows, or cannot be seen. All of that is shown as what it is, as Python's
`repr` does, so that two names that differ also look different.
"""

from __future__ import annotations

__all__ = ["safe_text"]


def safe_text(text: object, keep: str = "") -> str:
    r"""Return a text with everything that cannot be printed written as an escape.

    Parameters
    ----------
    text : object
        Anything; its `str` is taken.
    keep : str
        Characters to leave as they are, such as a line break.

    Examples
    --------
    >>> print(safe_text("shirt\x1b[2J\u202egnp.exe"))
    shirt\x1b[2J\u202egnp.exe
    >>> print(safe_text("café – 東京"))
    café – 東京
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in keep or one in _SPACES else _escaped(one) for one in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


# Of other widths than the usual one: not printable for Python, and no danger.
_SPACES = "\u00a0\u2002\u2003\u2007\u2009\u202f\u3000"
