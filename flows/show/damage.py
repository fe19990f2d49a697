"""What `pairloom verify` found, for people."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from pairloom.flows.show.console import out
from pairloom.flows.show.line import Line


def show_damage(states: Sequence[Mapping[str, Any]]) -> None:
    """A line for each pipeline, and below it what is damaged: what is wrong, who needs it, what can be done."""
    for state in states:
        findings = state["findings"]
        verdict = "whole" if state["whole"] else f"{len(findings)} damaged"
        served = "no release" if state["newest"] is None else f"serves release {state['serves'] or 'none'}"
        read = f"{state['files']:,} files, {state['bytes']:,} bytes, {state['unneeded']:,} files that nothing needs"
        out.print(Line.assemble((state["pipeline"], "bold"), f"  {verdict} · {served} · {read}"))
        for path in state["repaired"]:
            out.print(Line(f"  mended: {path}"))
        for kind, some in groupby(findings, key=lambda each: each["kind"]):
            out.print(Line.assemble((f"  {kind}", "bold")))
            for each in some:
                out.print(Line(f"    {each['path']} {each['wrong']}{_needed(each)}"))
                out.print(Line(f"      {'--repair: ' if each['repair'] != 'none' else ''}{each['remedy']}"))


def _needed(finding: Mapping[str, Any]) -> str:
    named = [("release", finding["releases"]), ("snapshot", finding["snapshots"])]
    said = [f"{name} {', '.join(str(number) for number in sorted(numbers))}" for name, numbers in named if numbers]
    return f" ({'; '.join(said)})" if said else " (nothing kept needs it)"
