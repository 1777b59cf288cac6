"""Print the reference of the command line, as the program describes itself.

python tools/cli_reference.py > docs/cli.md      (make docs)
"""

import typer
from typer.cli import get_docs_for_click
from typer.core import MARKUP_MODE_KEY

from patchword.cli import app


def reference() -> str:
    """Markdown: every command by one line, then each with its arguments and options."""
    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="patchword")
    context.obj = {MARKUP_MODE_KEY: app.rich_markup_mode}
    commands = [group.get_command(context, name) for name in group.list_commands(context)]
    parts = ["# `patchword`", group.help, "| command | |\n| --- | --- |"]
    for command in commands:
        summary = " ".join(command.help.split("\n\n")[0].split())
        parts[-1] += (
            f"\n| [`{command.name}`](#patchword-{command.name.replace(' ', '-')}) | {summary} |"
        )
    for command in commands:
        page = get_docs_for_click(obj=command, ctx=context, indent=1, call_prefix="patchword")
        parts.append(page.strip())
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(reference())
