"""``moeverify inspect``"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from moeverify.base import forms
from moeverify.cli.app import command
from moeverify.cli.options import (
    Dtype,
    ExpertsPattern,
    RolesFile,
    RoutersPattern,
    Seed,
    SharedExpertsPattern,
    TrustRemoteCode,
)

_PAGE = 140  # columns where the output is no terminal


@command("inspect", needs="moeverify.inspection.inspection")
def inspect_command(
    source: Annotated[str, typer.Argument(help=f"The model: {forms.SOURCES}, or a config.json (no weights needed).")],
    full_size: Annotated[
        bool, typer.Option("--full-size", help="The real size, without weights: zoo:deepseek_v3 is then 671B.")
    ] = False,
    explain: Annotated[
        list[str] | None, typer.Option(metavar="PARAM:DIM:POS", help="Who goes along with a channel, and why.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    svg: Annotated[Path | None, typer.Option(help="Draw the coupling classes of one MoE layer into this file.")] = None,
    layer: Annotated[str | None, typer.Option(help="The MoE layer to draw, by path; the first one.")] = None,
    roles: RolesFile = None,
    experts_pattern: ExpertsPattern = None,
    routers_pattern: RoutersPattern = None,
    shared_experts_pattern: SharedExpertsPattern = None,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    trust_remote_code: TrustRemoteCode = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Every module's boundary, whole chains, warnings.")
    ] = False,
) -> None:
    """Show a model's experts, routers and boundaries, its coupling classes, and what is frozen and why."""
    from moeverify.base.files import write_text
    from moeverify.cli.inspect_view import print_experts, print_explanation, print_inspection
    from moeverify.cli.terminal import make_console
    from moeverify.inspection.inspection import explain_words, inspect_source
    from moeverify.inspection.picture import layer_picture
    from moeverify.models.forward import Example
    from moeverify.models.roles_file import roles_from
    from moeverify.pruning.experts.facts import expert_facts

    rules = roles_from(roles, experts=experts_pattern, routers=routers_pattern, shared_experts=shared_experts_pattern)
    questions = [explain_words(question) for question in explain or ()]
    inspection = inspect_source(
        source,
        roles=rules,
        full_size=full_size,
        seed=seed,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        quiet=not verbose,
    )
    loaded = inspection.loaded
    facts, refused = expert_facts(loaded.model, inspection.roles, Example(loaded.example_inputs))
    answers = [inspection.couplings.explain(*question) for question in questions]
    if svg is not None:
        write_text(svg, layer_picture(inspection, layer))
    if json:
        data: dict[str, Any] = (
            inspection.to_dict() if not answers else {"explanations": [answer.to_dict() for answer in answers]}
        )
        if not answers:
            data["whole_experts"] = {"layers": [one.to_dict() for one in facts], "refused": refused}
        typer.echo(json_module.dumps(data, indent=1))
        return
    console = make_console(highlight=False)
    if not console.is_terminal:
        console = make_console(highlight=False, width=_PAGE)
    if not answers:
        print_inspection(inspection, console, verbose=verbose)
        print_experts(facts, refused, console)
    for answer in answers:
        print_explanation(answer, console, verbose=verbose)
    if svg is not None:
        console.print(f"picture: {svg.resolve()}", markup=False, soft_wrap=True)
