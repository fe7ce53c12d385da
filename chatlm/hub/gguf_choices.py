"""The GGUF files of a repository or a folder: which belong together, and how good each is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from chatlm.errors import ModelError
from chatlm.hub.catalogue import GgufFiles

_QUANTIZATION = re.compile(
    r"(?:^|[-_.])((?:UD-)?(?:I?Q[1-8](?:_[01K])?(?:_(?:XXS|XS|S|M|L|XL|NL))?|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4"
    r"|BF16|FP?16|FP?32))(?=$|[-_.])",
    re.IGNORECASE,
)
_PART = re.compile(r"-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})$")
_OTHER_MODELS = ("mmproj", "imatrix", "draft", "mtp-", "vocab-only")
"""Starts or parts of the names of files that are no language models, such as a reader of images."""

_PREFERRED = ("Q4_K_M", "MXFP4", "UD-Q4_K_XL", "Q4_K_S", "IQ4_XS", "Q4_0", "Q5_K_M", "Q8_0")
"""Taken where the user names no quantization; four bits lose little and are quick."""

_QUALITY = (
    (r"F32|BF16|F16|FP16|FP32", "as the original"),
    (r"Q8_0", "almost as the original"),
    (r"Q6_K.*", "very good"),
    (r"Q5.*", "good"),
    (r"MXFP4.*|NVFP4", "as the makers released it"),
    (r"I?Q4.*", "good"),
    (r"I?Q3.*", "noticeably worse"),
    (r".*", "poor"),
)


def quantization_of(path: str) -> str:
    """Return the quantization that a file's path names, such as Q4_K_M; empty for none."""
    pure = PurePosixPath(path)
    for part in (_PART.sub("", pure.stem), *reversed(pure.parts[:-1])):
        if found := _QUANTIZATION.findall(part):
            text = str(found[-1]).upper()
            return {"FP16": "F16", "FP32": "F32"}.get(text, text)
    return ""


def normalize_quantization(text: str) -> str:
    """Return a quantization in capitals; another text, such as the stem of a file, as it is."""
    return text.upper() if quantization_of(text).lower() == text.lower() else text


def shorten_stem(repository: str, stem: str) -> str:
    """Return the quantization of a file that is named as its repository is, else the stem itself.

    So the address of ORG/NAME-GGUF's NAME-Q8_0.gguf is the model ORG/NAME-GGUF:Q8_0.
    """
    quantization = quantization_of(stem)
    named = stem.lower() == _usual_stem(repository, quantization)
    return quantization if quantization and named else stem


def _usual_stem(repository: str, quantization: str) -> str:
    name = repository.rpartition("/")[2].lower().removesuffix("-gguf")
    return f"{name}-{quantization.lower()}"


def quality(quantization: str) -> str:
    """Describe in words how much of a model's quality a quantization keeps."""
    name = quantization.upper().removeprefix("UD-")
    return next(words for pattern, words in _QUALITY if re.fullmatch(pattern, name))


def group_files(sizes: Mapping[str, int]) -> list[GgufFiles]:
    """Group GGUF files into models: split ones are one, incomplete ones none.

    Args:
        sizes: bytes by path in the repository; other files are ignored.

    Returns:
        The models, smallest first. Two of the same quantization keep the names of their files.
    """
    groups: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for path in sorted(sizes):
        name = PurePosixPath(path).name.lower()
        if not name.endswith(".gguf") or any(word in name for word in _OTHER_MODELS):
            continue
        stem = path[: -len(".gguf")]
        part = _PART.search(stem)
        key = _PART.sub("", stem)
        groups.setdefault(key, []).append(path)
        counts[key] = int(part["count"]) if part else 1
    found = []
    for key, names in groups.items():
        if len(names) == counts[key]:
            label = quantization_of(names[0]) or PurePosixPath(key).name
            found.append(GgufFiles(label, tuple(names), sum(sizes[name] for name in names)))
    labels = [each.quantization for each in found]
    for number, each in enumerate(found):
        if labels.count(each.quantization) > 1:
            stem = _PART.sub("", PurePosixPath(each.names[0]).stem)
            found[number] = GgufFiles(stem, each.names, each.bytes)
    return sorted(found, key=lambda each: each.bytes)


def choose_files(
    repository: str, choices: Iterable[GgufFiles], wanted: str = "", names: Iterable[str] = ()
) -> GgufFiles:
    """Choose the files of a quantization.

    Args:
        repository: for messages.
        choices: of `group_files`.
        wanted: a quantization or the stem of a file, in any case; empty for the preferred one.
        names: paths that are taken if the repository has them.

    Raises:
        ModelError: there is no such quantization, or there are no files at all.
    """
    found = list(choices)
    if not found:
        raise ModelError(f"{repository} has no complete GGUF model.", "Choose another repository.")
    exact = next((each for each in found if each.names == tuple(names)), None)
    if exact is not None:
        return exact
    if not wanted:
        by_name = {each.quantization: each for each in reversed(found)}
        return next((by_name[name] for name in _PREFERRED if name in by_name), found[0])
    meant = {wanted.lower(), _usual_stem(repository, wanted)}
    for each in found:
        stems = {_PART.sub("", PurePosixPath(name).stem).lower() for name in each.names}
        if wanted.lower() == each.quantization.lower() or meant & stems:
            return each
    listed = ", ".join(each.quantization for each in found)
    other = choose_files(repository, found).quantization
    raise ModelError(
        f"{repository} has no {wanted}.",
        f"It has {listed}. Take one: chatlm pull {repository}:{other}",
    )
