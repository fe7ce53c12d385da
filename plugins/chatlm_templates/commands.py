"""The commands `chatlm templates …`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatlm import UsageError, dump_json, escape_controls, one_line, write_atomically
from chatlm.plugin_kit.options import complete_names, json_option
from chatlm_templates import PLUGIN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chatlm import OfferedTemplate, RenderedTemplate
    from chatlm_templates.template import Template, Variable
    from chatlm_templates.template_file import TemplateFileError


STARTER_FILE = Path(__file__).with_name("starter.yaml")
"""The contents of a new template."""


def _template_names() -> list[str]:
    return list(_offered_templates())


_complete_template = complete_names(_template_names)
_name_argument = click.argument("name", shell_complete=_complete_template)


@click.group()
def templates() -> None:
    """List, show, create, check and render prompt templates.

    Example: chatlm templates show translate
    """


@templates.command("list")
@json_option
def list_templates(as_json: bool) -> None:
    """List the templates: your own, those of plugins, and those that come with chatlm.

    Of two with the same name, the first in this order is used.

    Example: chatlm templates list
    """
    from chatlm_templates import library

    loaded, offered = library.load_library(), _offered_templates()
    rows = {
        name: _template_dict(loaded.templates[name], each)
        if _is_file(each)
        else _plugin_template_dict(each)
        for name, each in sorted(offered.items())
        if not _is_file(each) or name in loaded.templates  # the others are invalid files
    }
    if as_json:
        click.echo(dump_json(list(rows.values())))
    else:
        width = max(map(len, rows), default=0)
        for name, row in rows.items():
            origin = f"  ({note})" if (note := _describe_origin(row)) else ""
            description = one_line(row["description"], 90)
            click.echo(f"{one_line(name, 80):<{width}}  {description}{origin}".rstrip())
    for error in loaded.errors:
        _print_error(error)


@templates.command()
@_name_argument
@json_option
def show(name: str, as_json: bool) -> None:
    """Show a template: its purpose, origin, variables and file.

    Example: chatlm templates show insurance-claim
    """
    from chatlm_templates import library

    offered = _offered_templates()
    if name in offered and not _is_file(offered[name]):
        _show_plugin_template(offered[name], as_json)
        return
    template = library.load_template(name)
    row = _template_dict(template, offered[name])
    if as_json:
        click.echo(dump_json(row))
        return
    path = library.template_path(name)
    click.echo(f"{name}: {one_line(template.description, 200)}")
    if origin := _describe_origin(row):
        click.echo(origin[0].upper() + origin[1:])
    for variable in template.variables.values():
        click.echo(f"  -v {_describe_variable(variable, template)}")
    if sampling := template.sampling.to_dict():
        click.echo("Sampling: " + ", ".join(f"{key} {value}" for key, value in sampling.items()))
    if template.tools:
        click.echo(f"Tools: {', '.join(template.tools)}")
    for hint in ("model", "adapter", "index"):
        if value := getattr(template, hint):
            click.echo(f"Written for {hint} {one_line(value, 80)}")
    click.echo(escape_controls(f"{path}\n\n{path.read_text(encoding='utf-8')}").rstrip())


@templates.command()
@click.argument("name")
@click.option(
    "--from",
    "other",
    metavar="TEMPLATE",
    shell_complete=_complete_template,
    help="Start with a copy of this one.",
)
def new(name: str, other: str | None) -> None:
    """Create a template of your own and print its path.

    Example: chatlm templates new my-review --from explain
    """
    from chatlm_templates import library, template_file

    if not template_file.is_valid_name(name):
        raise UsageError(
            f"Invalid template name: {name!r}",
            hint=f"{template_file.NAME_RULE.capitalize()}.",
        )
    path = library.own_folder() / f"{name}.yaml"
    if path.exists():
        raise UsageError(f"{path} already exists.", hint=f"Edit it: chatlm templates edit {name}")
    _copy_template(_template_file(other) if other else STARTER_FILE, path)
    click.echo(escape_controls(str(path)))


@templates.command()
@_name_argument
def edit(name: str) -> None:
    """Open a template in your editor ($VISUAL or $EDITOR), and check it afterwards.

    A template that comes with chatlm is copied first; the copy overrides it.

    Example: chatlm templates edit translate
    """
    from chatlm_templates import library
    from chatlm_templates.template_file import read_template

    path = _template_file(name)
    if not library.is_own(path):
        path, original = library.own_folder() / path.name, path
        _copy_template(original, path)
    click.edit(filename=str(path))
    read_template(path)


@templates.command()
@_name_argument
@click.argument("words", nargs=-1, metavar="[TEXT]")
@click.option(
    "-v", "--variable", "pairs", multiple=True, metavar="NAME=TEXT", help="Set a variable."
)
@json_option
def render(name: str, words: tuple[str, ...], pairs: tuple[str, ...], as_json: bool) -> None:
    """Print a filled-in template as the model would read it.

    Example: chatlm templates render translate -v language=French "Good morning"
    """
    from chatlm import load_config, side_chats

    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"-v {pair!r} has no =.", hint="Example: -v NAME=TEXT")
        values[key.strip()] = value
    with side_chats(load_config(), lambda _: None) as chats:
        rendered = chats.render_template(name, values, " ".join(words))
    if as_json:
        click.echo(dump_json(_message_dicts(rendered)))
        return
    for message in _message_dicts(rendered):
        click.echo(f"[{message['role']}]\n{escape_controls(message['content'])}\n")


@templates.command()
@click.argument(
    "names_or_paths", nargs=-1, metavar="[NAME|FILE]...", shell_complete=_complete_template
)
@json_option
def check(names_or_paths: tuple[str, ...], as_json: bool) -> None:
    """Check all or some templates; the exit code is 1 if one is invalid.

    Example: chatlm templates check my-review
    """
    from chatlm_templates import library
    from chatlm_templates.template_file import TemplateFileError, read_template

    paths = [_resolve_path(text) for text in names_or_paths]
    paths = paths or list(library.template_files().values())
    errors = []
    for path in paths:
        try:
            read_template(path)
        except TemplateFileError as error:
            errors.append(error)
    if as_json:
        click.echo(dump_json([_check_result(path, errors) for path in paths]))
    else:
        for invalid in errors:
            _print_error(invalid)
        click.echo(f"{len(paths) - len(errors)} of {len(paths)} templates are valid.")
    if errors:
        raise click.exceptions.Exit(1)


def _resolve_path(name_or_path: str) -> Path:
    from chatlm_templates import library

    return (
        Path(name_or_path)
        if name_or_path.endswith(".yaml")
        else library.template_path(name_or_path)
    )


def _copy_template(original: Path, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, [original.read_text(encoding="utf-8")])
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}.",
            hint="Check the folder's permissions, or set CHATLM_HOME.",
        ) from error


def _describe_variable(variable: Variable, template: Template) -> str:
    kind = "|".join(variable.choices) or variable.type
    notes = [] if variable.required else [f"default {variable.default}"]
    if variable.default is None and not variable.required:
        notes = ["optional"]
    if variable.name == template.input:
        notes.append("takes the typed or piped text")
    end = f" ({'; '.join(notes)})" if notes else ""
    return one_line(f"{variable.name}=<{kind}>  {variable.description}{end}", 200)


def _offered_templates() -> dict[str, OfferedTemplate]:
    """Return the templates of all plugins by name, those in files included."""
    from chatlm import load_config, side_chats

    with side_chats(load_config(), lambda _: None) as chats:
        return chats.available_templates()


def _is_file(offered: OfferedTemplate) -> bool:
    """Return whether a template is a file, of the user or of chatlm, rather than a plugin's."""
    return offered.plugin == PLUGIN


def _template_file(name: str) -> Path:
    """Return the file of a template.

    Raises:
        UsageError: there is none; the message says so of a plugin's template.
    """
    from chatlm_templates import library

    if name not in library.template_files():
        offered = _offered_templates().get(name)
        if offered is not None:
            raise UsageError(
                f"The template {name} comes from the plugin {offered.plugin} and has no file.",
                hint=f"Write your own in its place: chatlm templates new {name}",
            )
    return library.template_path(name)


def _template_dict(template: Template, offered: OfferedTemplate) -> dict[str, Any]:
    from chatlm_templates import library

    path = library.template_path(template.name)
    return template.to_dict() | {
        "own": library.is_own(path),
        "path": str(path),
        "plugin": None,
        "replaces": list(offered.overridden),
    }


def _plugin_template_dict(offered: OfferedTemplate) -> dict[str, Any]:
    return {
        "name": offered.name,
        "description": offered.description,
        "own": False,
        "path": None,
        "plugin": offered.plugin,
        "replaces": list(offered.overridden),
    }


def _describe_origin(row: Mapping[str, Any]) -> str:
    """Describe whose template it is, and which it replaces; empty for one of chatlm's."""
    origin = "yours" if row["own"] else f"from {row['plugin']}" if row["plugin"] else ""
    replaced = ["chatlm" if name == PLUGIN else name for name in row["replaces"]]
    return f"{origin}, replaces that of {', '.join(replaced)}" if replaced else origin


def _show_plugin_template(offered: OfferedTemplate, as_json: bool) -> None:
    row = _plugin_template_dict(offered)
    if as_json:
        click.echo(dump_json(row))
        return
    click.echo(f"{one_line(offered.name, 80)}: {one_line(offered.description, 200)}".rstrip())
    origin = _describe_origin(row)
    click.echo(origin[0].upper() + origin[1:])
    click.echo(f"Try it: chatlm templates render {one_line(offered.name, 80)} TEXT")


def _message_dicts(rendered: RenderedTemplate) -> list[dict[str, str]]:
    messages = (("system", rendered.system), ("user", rendered.user))
    return [{"role": role, "content": content} for role, content in messages if content]


def _check_result(path: Path, errors: list[TemplateFileError]) -> dict[str, Any]:
    error = next((error for error in errors if error.path == path), None)
    return {
        "name": path.stem,
        "path": str(path),
        "line": error.line or None if error else None,
        "error": error.problem if error else None,
    }


def _print_error(error: TemplateFileError) -> None:
    click.echo(escape_controls(error.message), err=True)
