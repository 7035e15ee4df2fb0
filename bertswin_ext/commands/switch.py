"""Flags that are on or off."""

from __future__ import annotations

__all__ = ["switch"]

_SAID = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def switch(name: str, value: object) -> bool:
    """A flag as fire gives it: ``True`` for a bare ``--flag`` or ``--flag True``, a text for ``--flag true``.

    Args:
        name: the flag.
        value: what fire gives.

    Raises:
        TypeError: the value is neither on nor off.

    Example:
        >>> switch("overwrite", True), switch("overwrite", "false")
        (True, False)
    """
    said = str(value).lower()
    if said not in _SAID:
        raise TypeError(f"`--{name}` must be true or false, got {value!r}.")
    return _SAID[said]
