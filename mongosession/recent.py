"""What was worked out of late, so that it need not be again. Nothing but economy depends on this memory. Pure."""

from typing import Generic, TypeVar

_Value = TypeVar("_Value")


class Recent(Generic[_Value]):
    """Values by the texts that they were worked out of; so many that their sizes come to no more than the room, and the
    oldest are forgotten first.

    There are two halves. When the newer one is full it becomes the older one, and that is dropped: one step, however
    many there are, and no harm where several threads take it.

    Args:
        room: what the sizes may come to.
    """

    __slots__ = ("_half", "_held", "_newer", "_older")

    def __init__(self, room: int) -> None:
        self._half = room // 2
        self._held = 0  # by the newer half
        self._newer: dict[str, _Value] = {}
        self._older: dict[str, _Value] = {}

    def __len__(self) -> int:
        """How many are remembered."""
        return len({**self._newer, **self._older})

    def get(self, text: str) -> _Value | None:
        """The value of a text, or None where it is not remembered."""
        found = self._newer.get(text)
        return self._older.get(text) if found is None else found

    def add(self, text: str, value: _Value, size: int = 1) -> None:
        """Remember a value; one that is larger than half of the room is not."""
        if size > self._half:
            return
        held = self._held + size
        if held > self._half:
            self._older, self._newer, held = self._newer, {}, size
        self._newer[text] = value
        self._held = held
