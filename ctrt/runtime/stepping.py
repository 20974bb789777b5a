"""A start step by step: before each step of a plan the process that does it stops and asks.

A plan whose steps are interleaved with pauses is a plan like any other: the pauses run where their
steps run, write to the socket of the client that asked for the start, and wait for its answer.
While they wait the half-made container can be looked at from outside.
"""

from __future__ import annotations

import marshal
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctrt.runtime.operations.context import Context
    from ctrt.runtime.plan import Plan

GO = b"g"
"""The answer that lets the step be done; any other, and an end, call the start off."""
CALLED_OFF = 125  # ECANCELED


def stepped(plan: Plan) -> Plan:
    """The plan with a pause before each step."""
    from ctrt.runtime.plan import Plan, Step

    steps = []
    for index, step in enumerate(plan.steps):
        pause = Step(
            "pause",
            step.where,
            [("pause", index)],
            why=f'before the step "{step.name}"',
            source="--step",
        )
        steps += [pause, step]
    return Plan(steps, plan.notes, plan.subject)


def _pause(context: Context, index: int) -> None:
    """Say that the step of that index comes next, and wait for the answer."""
    channel = context.fds["steps"]
    body = marshal.dumps(("pause", index), 2)
    os.write(channel, len(body).to_bytes(4, "little") + body)
    if os.read(channel, 1) != GO:
        raise OSError(CALLED_OFF, "the start was called off")


OPERATIONS = {"pause": _pause}
