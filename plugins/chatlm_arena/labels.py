"""Matches whose message has a label, such as a mood, as the service `classifier` sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from chatlm import Classifier, UsageError, one_line


def matches_with_label(
    prompts: Mapping[int, str],
    label: str,
    classifier: Classifier,
    progress: Callable[[int, int, str], None],
) -> list[int]:
    """Return the ids of the matches whose first message has the label.

    Args:
        prompts: the first message of each match, by its id.
        label: one of the classifier's labels.
        classifier: labels the messages; each text once.
        progress: called with the number of labelled texts, that of all texts, and what is done.

    Raises:
        UsageError: no message has it; the hint lists the labels that occur.
        ChatlmError: the classifier cannot be loaded.
    """
    texts = list(dict.fromkeys(prompts.values()))
    labels = {}
    for done, text in enumerate(texts):
        progress(done, len(texts), "labelling messages")
        labels[text] = classifier.classify(text).value
    found = [match for match, text in prompts.items() if labels[text] == label]
    if not found:
        counts = Counter(labels[text] for text in prompts.values()).most_common()
        known = ", ".join(f"{one_line(name, 40)} ({count:,})" for name, count in counts)
        raise UsageError(
            f"No match has a message with the label {one_line(label, 40)!r}.",
            hint=f"The labels are: {known}" if known else "There are no matches yet: chatlm arena",
        )
    return found
