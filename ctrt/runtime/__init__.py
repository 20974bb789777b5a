"""From a configuration to a process: the plan of a start, and the one executor of plans.

`planner` computes a `plan.Plan`, a list of steps that are plain data; `executor` carries it
out; `launcher` does that in a small process of its own, so that a notebook kernel never forks.
"""
