"""A folder of notes in several formats, and questions that its owner asks.

Run it with `python -m benchmarks.notes_folder [--json]`. It writes the folder, indexes it, asks
each question as a chat does and prints the replies: quotes, or that nothing relevant was found. A
reply is *right* if it holds the answer, or if it is a refusal where there is none.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.grounding import reply_of_reader
from benchmarks.grounding_collections import holds, normalize
from benchmarks.retrieval import EMBEDDER, link_models, silent
from chatlm import ensure_model
from chatlm_rag.documents.files import Source
from chatlm_rag.index import builder
from chatlm_rag.index.folder import all_indices, find_index
from chatlm_rag.retrieval import citations

MARKDOWN = {
    "flat.md": """
        # The flat

        ## Lease

        The lease with Mrs. Okafor began on 1 March 2022 and ends on 28 February 2027. The rent is
        940 € a month, plus 120 € for heating; it is due on the third working day. Notice has to be
        given three months before, in writing.

        ## Boiler

        The boiler is a Vaillant ecoTEC from 2016, in the cupboard beside the bathroom. If it shows
        F.22, the water pressure is too low: open the blue tap below it until the gauge says 1.5
        bar. Mr. Lindqvist services it each October.

        ## Pets

        Cats are allowed. For a dog we would need Mrs. Okafor's consent.
        """,
    "garden.md": """
        # Garden

        - **Tomatoes.** Sown on 12 March, planted out in May. Feed them every ten days.
        - **Roses.** Cut back to three buds at the end of February.
        - **Compost.** The left bin rests this year; turn it in May.

        Slugs: we tried beer traps, which attracted more of them. Nematodes in April worked.

        | Bed | 2023 | 2024 | 2025 |
        |---|---|---|---|
        | north | potatoes | beans | cabbage |
        | middle | leek | carrots | onions |
        | south | squash | maize | garlic |
        """,
    "travel/lisbon.md": """
        # Lisbon, May 2024

        We flew with TAP from Hamburg on 9 May and stayed six nights in the Pensão Flor, in Rua da
        Bica. The best meal was grilled sardines at Zé da Mouraria. Tram 28 was so full that we
        walked. Ana lost her umbrella in the Oceanário.

        ## Next time

        Book the palace in Sintra two weeks ahead, and take the 8:10 train from Rossio.
        """,
    "meetings.md": """
        # Choir board

        ## 14 January

        Present: Ana, Tomasz, Yusuf. Tomasz takes over the accounts from Ingrid. The summer concert
        will be on 21 June in St. Michael's Church; the fee of the pianist is 350 €.

        ## 11 February

        Yusuf asked three printers; the offer of Kaya & Sons (0.18 € a page) was the cheapest. New
        members pay nothing for the first three months.
        """,
}

LETTER = (
    "Sparda Insurance, 4 June 2024",
    "Your household policy 77-4501-B",
    "",
    "Dear Ms Brandt, thank you for your report of the water damage on 19 May.",
    "We pay 1,280 euros for the parquet. The excess of 150 euros has been deducted.",
    "Please send the invoice of the joiner by 31 July.",
)

CODE = '''
"""Renames photos after the day on which they were taken."""

from pathlib import Path

MAX_RETRIES = 4


def photo_day(path: Path) -> str:
    """Return the day from EXIF; files without EXIF get the day on which they were changed."""
    ...


class Renamer:
    """Renames the photos of a folder."""

    def undo(self) -> None:
        """Restore the old names from renamed.log."""
        ...
'''


@dataclass(frozen=True)
class Asked:
    """A question to the folder."""

    text: str
    answers: tuple[str, ...]
    """Each is right; none if the folder has no answer."""


QUESTIONS = (
    Asked("When does my lease end?", ("28 February 2027",)),
    Asked("how much is the rent", ("940",)),
    Asked("What do I do when the boiler says F.22?", ("blue tap",)),
    Asked("Who services the boiler?", ("Lindqvist",)),
    Asked("May we get a dog?", ("consent",)),
    Asked("How often do the tomatoes need fertilizer?", ("every ten days",)),
    Asked("What helped against slugs?", ("Nematodes",)),
    Asked("What grew in the south bed in 2024?", ("maize",)),
    Asked("Where did we stay in Lisbon?", ("Pensão Flor",)),
    Asked("Which train should we take to Sintra?", ("8:10", "8 10")),
    Asked("What did Ana lose?", ("umbrella",)),
    Asked("When is the summer concert?", ("21 June",)),
    Asked("Who does the accounts of the choir now?", ("Tomasz",)),
    Asked("How much does the insurance pay for the parquet?", ("1,280", "1 280")),
    Asked("Until when do they want the joiner's invoice?", ("31 July",)),
    Asked("How much sugar goes into the plum cake?", ("120 g",)),
    Asked("What happens to photos without EXIF data?", ("changed",)),
    Asked("What is the wifi password?", ()),
    Asked("When does my passport expire?", ()),
    Asked("How much did the flight to Lisbon cost?", ()),
)


def write_folder(folder: Path) -> None:
    """Write the notes: Markdown, a PDF, a DOCX and code."""
    for name, text in MARKDOWN.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip(), encoding="utf-8")
    (folder / "photos.py").write_text(CODE.lstrip(), encoding="utf-8")
    _write_letter(folder / "insurance.pdf")
    _write_recipe(folder / "plum cake.docx")


def _write_letter(path: Path) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"pdf.fonttype": 42}):  # text that can be extracted
        page = Figure(figsize=(8.3, 11.7))
        for number, line in enumerate(LETTER):
            page.text(0.1, 0.9 - 0.03 * number, line, fontsize=11)
        page.savefig(path, format="pdf")


def _write_recipe(path: Path) -> None:
    from docx import Document

    document = Document()
    document.add_heading("Plum cake", 1)
    document.add_paragraph(
        "From grandmother; for a sheet of 40 by 30 cm. Bake 35 minutes at 190 °C."
    )
    table = document.add_table(0, 2)
    for cells in (("Ingredient", "Amount"), ("Plums", "1.5 kg"), ("Flour", "400 g"),
                  ("Sugar", "120 g"), ("Butter", "80 g")):  # fmt: skip
        row = table.add_row()
        for cell, text in zip(row.cells, cells, strict=True):
            cell.text = text
    document.save(str(path))


def replies(name: str, questions: Sequence[Asked]) -> list[dict[str, Any]]:
    """Return the reply to each question, and what is right about it."""
    rows = []
    for asked in questions:
        text, passages, confidence = reply_of_reader(name, asked.text)
        shown = normalize(text)
        checks = [check for check in citations.check_citations(text, passages) if check.cited]
        rows.append(
            {
                "question": asked.text,
                "reply": text,
                "right": any(holds(shown, answer) for answer in asked.answers)
                if asked.answers
                else not text,
                "cited": bool(checks) and all(check.is_supported for check in checks),
                "sources": [passage.source for passage in passages] if text else [],
                "confidence": confidence,
            }
        )
    return rows


def main() -> None:
    """Ask the questions and print the table of replies, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--cache", type=Path, default=Path(".cache/grounding"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    link_models(options.cache.absolute(), ensure_model(EMBEDDER).folder)
    if "own-notes" in [index.name for index in all_indices()]:
        find_index("own-notes").remove()
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder, "notes")
        notes.mkdir()
        write_folder(notes)
        builder.build("own-notes", (Source(str(notes)),), silent)
    rows = replies("own-notes", QUESTIONS)
    if options.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    print("| question | reply | right | cited | confidence |\n|---|---|---|---|---|")
    for row in rows:
        reply = row["reply"].replace("\n\n> ", " … ").removeprefix("> ").replace("|", "\\|")
        right, cited = ("yes" if row[kind] else "no" for kind in ("right", "cited"))
        print(
            f"| {row['question']} | {reply or '*nothing relevant*'} | {right} "
            f"| {cited if reply else ''} | {row['confidence']:.2f} |"
        )
    print(f"{sum(row['right'] for row in rows)} of {len(rows)} right", file=sys.stderr)


if __name__ == "__main__":
    main()
