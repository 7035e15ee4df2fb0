"""What messages to the user are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["VolumeError", "fault_of_user", "listed", "listed_under", "root_cause", "times"]


class VolumeError(ValueError):
    """A volume cannot be read, or only with a wrong geometry; the text names the file, the cause and a remedy."""


def listed(faults: Sequence[str], where: str) -> str:
    """Many faults as one message, one on each line.

    Args:
        faults: the faults, in words.
        where: what they are in.

    Example:
        >>> print(listed(["a is missing.", "b is empty."], "list.json"))
        2 faults in list.json:
          - a is missing.
          - b is empty.
    """
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return listed_under(f"{count} in {where}", faults)


def listed_under(heading: str, faults: Sequence[str]) -> str:
    """Faults under a heading of their own, one on each line."""
    return "\n".join([f"{heading}:", *(f"  - {fault}" for fault in faults)])


def times(numbers: Iterable[float], form: str = "g") -> str:
    """Numbers as one product.

    Args:
        numbers: a size, a spacing, ...
        form: format of each.

    Example:
        >>> times((224, 96, 64)), times((0.4, 0.4, 0.51), ".1f")
        ('224 x 96 x 64', '0.4 x 0.4 x 0.5')
    """
    return " x ".join(format(number, form) for number in numbers)


def fault_of_user(error: BaseException) -> str | None:
    """What was wrong with a file, an argument or the machine's memory, in words; None if the program is at fault.

    Example:
        >>> fault_of_user(ValueError("a.nii: torn.")), fault_of_user(ZeroDivisionError())
        ('a.nii: torn.', None)
    """
    cause = root_cause(error)
    # torch has errors of its own where memory does not suffice
    is_full = type(cause).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(cause)
    if not is_full and not isinstance(cause, ValueError | TypeError | OSError | MemoryError):
        return None
    return str(cause) or type(cause).__name__


def root_cause(error: BaseException) -> BaseException:
    """What went wrong, from under the ``RuntimeError`` in which MONAI wraps every error of a transform or component."""
    while type(error) is RuntimeError and error.__cause__ is not None:
        error = error.__cause__
    return error
