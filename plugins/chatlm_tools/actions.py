"""What `/memory` does with an argument."""

from __future__ import annotations

from chatlm import UsageError
from chatlm_tools.memory import user_memory


def change_memory(argument: str) -> str:
    """Add, edit or delete a fact; return what was done.

    Args:
        argument: such as `add My sister is called Ada.` or `delete 3`.

    Raises:
        UsageError: it cannot be understood, or there is no such fact.
    """
    verb, _, rest = argument.strip().partition(" ")
    number, _, text = rest.strip().partition(" ")
    memory = user_memory()
    if verb == "add" and rest.strip():
        return f"Fact {memory.add(rest).id} is remembered."
    if verb == "edit" and number.isdecimal() and text.strip():
        return f"Fact {memory.edit(int(number), text).id} is changed."
    if verb == "delete" and number.isdecimal() and not text:
        memory.delete(int(number))
        return f"Fact {number} is deleted."
    raise UsageError(
        "This is not understood.",
        hint="/memory add TEXT, /memory edit NUMBER TEXT or /memory delete NUMBER",
    )
