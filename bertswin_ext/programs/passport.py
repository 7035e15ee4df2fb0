"""What a program says about itself, as JSON inside its file: the record of its weights and the input that it takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from bertswin_ext.networks.record import AdaptationRecord

__all__ = ["EXPORT_AGAIN", "RECORD_FILE", "Passport"]

RECORD_FILE = "record.json"
"""Name of the entry in the file of a program."""

EXPORT_AGAIN = "Export it again with export_program (bundles/tmj_segmentation/configs/export.json)."


@dataclass(frozen=True)
class Passport:
    """What a program takes and what its weights learnt on.

    Attributes:
        record: what the weights expect of their input.
        in_channels: channels of the input.
        img_size: voxels of the input (i, j, k).

    Example:
        >>> passport = Passport(AdaptationRecord("SegResNet", {}, "RAS", (0.8, 0.8, 0.8)), 1, (32, 32, 32))
        >>> Passport.from_text(passport.to_text(), "model.ts") == passport
        True
    """

    record: AdaptationRecord
    in_channels: int
    img_size: tuple[int, int, int]

    def to_text(self) -> str:
        """JSON; the same for the same values."""
        plain = self.record.to_plain() | {"input": {"channels": self.in_channels, "size": list(self.img_size)}}
        return json.dumps(plain, sort_keys=True)

    @classmethod
    def from_text(cls, text: str | None, source: str | Path) -> Passport:
        """What `to_text` wrote.

        Args:
            text: the JSON; None where the file has none.
            source: the file, for messages.

        Raises:
            ValueError: there is none, it is torn, or an entry is lacking or of another kind.
        """
        if text is None:
            raise ValueError(
                f"{source} has no {RECORD_FILE}: nothing says which voxels it was made for. {EXPORT_AGAIN}"
            )
        try:
            plain = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"The {RECORD_FILE} in {source} is no JSON: {error}. {EXPORT_AGAIN}") from error
        record = AdaptationRecord.from_plain(plain, source)
        channels, *size = _whole_numbers(plain.get("input"))
        if len(size) != 3:
            raise ValueError(
                f"The {RECORD_FILE} in {source} must name the input's channels and three sizes, "
                f"found {plain.get('input')!r}. {EXPORT_AGAIN}"
            )
        return cls(record, channels, (size[0], size[1], size[2]))


def _whole_numbers(plain: object) -> list[int]:
    """Channels and sizes; only a zero where they are not positive whole numbers."""
    if not isinstance(plain, dict) or not isinstance(plain.get("size"), list):
        return [0]
    numbers = [plain.get("channels"), *plain["size"]]
    if not all(isinstance(number, int) and not isinstance(number, bool) and number > 0 for number in numbers):
        return [0]
    return numbers
