"""Print the reference of the command line, made from the help texts.

python tools/cli_reference.py > docs/cli.md      (make docs)
"""

import typer
from typer.cli import get_docs_for_click
from typer.core import MARKUP_MODE_KEY

from patchword.cli import app


def reference() -> str:
    """Markdown: a table of all commands, then each with its arguments and options."""
    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="patchword")
    context.obj = {MARKUP_MODE_KEY: app.rich_markup_mode}
    commands = [group.get_command(context, name) for name in group.list_commands(context)]
    table = "| command | |\n| --- | --- |"
    for command in commands:
        summary = " ".join(command.help.split("\n\n")[0].split())
        anchor = f"#patchword-{command.name.replace(' ', '-')}"
        table += f"\n| [`{command.name}`]({anchor}) | {summary} |"
    parts = ["# `patchword`", group.help, table]
    for command in commands:
        page = get_docs_for_click(obj=command, ctx=context, indent=1, call_prefix="patchword")
        parts.append(page.strip())
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(reference())
