"""Previews of templates and prompts, and the card with two sides that shows them."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content

from chatlm import PluginCard, escape_controls, one_line
from chatlm_templates.rendering import FilledTemplate, format_examples, part_heading
from chatlm_templates.template import PROMPT_PARTS, Template, Variable
from chatlm_templates.template_file import TemplateFileError


class TemplateCard(PluginCard):
    """A card with two sides, next to each other or, if narrow, one above the other."""

    DEFAULT_CSS = """
    TemplateCard {
        & > .card { width: 150; height: 44; }
        & .sides { height: 1fr; layout: horizontal; }
        & .sides > .left { width: 5fr; height: 1fr; }
        & .sides > .right {
            width: 6fr;
            height: 1fr;
            margin: 0 0 0 1;
            padding: 0 0 0 1;
            border-left: vkey $foreground 20%;
        }
        &.-narrow .sides { layout: vertical; }
        &.-narrow .sides > .left { width: 1fr; height: 5fr; }
        &.-narrow .sides > .right {
            width: 1fr;
            height: 6fr;
            margin: 0;
            padding: 0;
            border-left: none;
            border-top: hkey $foreground 20%;
        }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("pageup", "turn_page(-1)", "page up", show=False, priority=True),
        Binding("pagedown", "turn_page(1)", "scroll", priority=True),
    ]

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]

    def action_turn_page(self, pages: int) -> None:
        """Scroll the preview by a page, whatever has the focus."""
        preview = self.query_one("#preview")
        if pages > 0:
            preview.scroll_page_down(animate=False)
        else:
            preview.scroll_page_up(animate=False)


MUTED = "$text-muted"
HEADING_STYLE = "bold $text-accent"
PART_STYLE = "bold $text-primary"


def prompt_content(filled: FilledTemplate) -> Content:
    """Show the system prompt and the message, each part under its heading."""
    blocks = []
    if filled.system:
        blocks.append(
            Content.assemble(("System prompt\n", HEADING_STYLE), escape_controls(filled.system))
        )
    heading = Content.styled("Message", HEADING_STYLE)
    for name, text in filled.parts:
        part = (
            Content.assemble((f"{name}:\n", PART_STYLE), escape_controls(text))
            if name
            else escape_controls(text)
        )
        blocks.append(Content.assemble(heading, "\n", part) if heading else Content.assemble(part))
        heading = Content()
    if not filled.parts:
        blocks.append(Content.assemble(heading, ("\nYour text, as typed.", MUTED)))
    return Content("\n\n").join(blocks)


def template_content(template: Template, *, own: bool) -> Content:
    """Show a template as written, with its variables."""
    facts = [one_line(template.description, 300)] if template.description else []
    facts.append("Yours." if own else "Comes with chatlm.")
    blocks = [Content(" ".join(facts))]
    if template.variables:
        variables = [
            variable_content(variable, template) for variable in template.variables.values()
        ]
        blocks.append(Content("\n").join([Content.styled("Variables", HEADING_STYLE), *variables]))
    settings = [f"{name} {value}" for name, value in template.sampling.to_dict().items()]
    settings += [
        f"written for {hint} {one_line(value, 60)}"
        for hint in ("model", "adapter", "index")
        if (value := getattr(template, hint))
    ]
    if settings:
        blocks.append(
            Content.assemble(("Settings\n", HEADING_STYLE), escape_controls(", ".join(settings)))
        )
    texts = [
        (part_heading(part), getattr(template, part)) for part in PROMPT_PARTS if part != "examples"
    ]
    texts.insert(PROMPT_PARTS.index("examples"), ("Examples", format_examples(template.examples)))
    parts = tuple((name, text) for name, text in [*texts, ("", template.user)] if text)
    blocks.append(prompt_content(FilledTemplate(template.system, parts)))
    return Content("\n\n").join(blocks)


def variable_content(template_variable: Variable, template: Template) -> Content:
    """Show a variable on one line: name, description, and valid values."""
    expected = (
        " or ".join(template_variable.choices)
        if template_variable.choices
        else template_variable.type
    )
    notes = [expected]
    if template_variable.default is not None:
        notes.append(f"default {format_default(template_variable.default)}")
    elif not template_variable.required:
        notes.append("optional")
    if template.takes_input and template_variable.name == template.input:
        notes.append("your text in the chat")
    description = (
        f"  {one_line(template_variable.description, 120)}" if template_variable.description else ""
    )
    return Content.assemble(
        (template_variable.name, "bold"),
        description,
        (f"  ({one_line('; '.join(notes), 160)})", MUTED),
    )


def format_default(value: object) -> str:
    """Format a default value as it would be typed."""
    return str(value).lower() if isinstance(value, bool) else one_line(str(value), 60)


def error_content(error: TemplateFileError) -> Content:
    """Show the error of a template file, and how to fix it."""
    location = f"{error.path}, line {error.line}" if error.line else str(error.path)
    hint = f"Fix it: chatlm templates edit {error.path.stem}"
    return Content.assemble(
        ("This template is invalid\n\n", "bold $text-error"),
        (escape_controls(location), MUTED),
        f"\n{escape_controls(error.problem)}\n\n{escape_controls(hint)}",
    )
