"""A plugin whose model `steady:RATE` writes one long reply, RATE tokens a second.

The benchmark installs it for the program it measures, and for nothing else.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.hookspecs import hookimpl
from chatlm.types.engine import EngineOpener

TOKENS = 5000
"""Words of the reply."""

SECTION = """## {number}. How the lamp was kept

The keeper climbed the stairs **every evening** and lit the lamp, and while storms rolled over the
grey water he wrote down what he saw: ships, `lights`, birds, and the colour of the sky. Nothing in
the book says that he was ever late, and nothing says that anybody thanked him for it.

- **Oil**: {number} litres a night in winter, less in summer when the nights are short
- **Wicks**: trimmed every four hours, *never* by the youngest
  - and changed on Sundays
- **Lenses**: polished with a soft cloth, from the middle outwards

1. Open the shutters and look at the sky.
2. Light the lamp, and wait until the flame is still.
3. Write the time into the book.

```python
def oil(nights: int, litres: float = {number}.5) -> float:
    \"\"\"What a winter needs, in litres.\"\"\"
    spare = 0.1  # storms
    return nights * litres * (1 + spare)

print(oil(nights=120))
```

| Month | Nights | Ships | What was seen |
|---|---:|---:|---|
| January | 31 | {number} | a barque under short sail, far out, going north |
| February | 28 | 7 | fog, and the bell of a ship that was not seen |

> Whoever reads this: the third stair is loose.

"""


def reply(tokens: int = TOKENS) -> str:
    """Markdown of all kinds, about so many words."""
    text = ""
    for number in itertools.count(1):
        if len(text.split()) >= tokens:
            return text
        text += SECTION.format(number=number)
    raise AssertionError


@hookimpl
def register_engines(register: Callable[[str, EngineOpener], None]) -> None:
    """Offer `steady:RATE`."""
    register("steady", lambda rate: ScriptedEngine(reply(), delay=1 / float(rate), context=50_000))


def install(folder: Path) -> None:
    """Make `folder`, once it is on PYTHONPATH, hold this module as an installed plugin."""
    facts = folder / "chatlm_steady-1.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: chatlm-steady\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(f"[chatlm]\nsteady = {__name__}\n")
