"""`unclip schema`: the JSON schema of recipes, for editors and for people."""

from __future__ import annotations

import json

import click


@click.command()
def schema() -> None:
    """Print the JSON schema of recipes, every step kind's settings included.

    \b
    unclip schema > recipe.schema.json
    """
    from workflows.schema import recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=1))
