"""Errors that a user of schedlab can cause or must react to, with their process exit codes."""

from __future__ import annotations


class SchedlabError(Exception):
    """Root of schedlab's own errors. `exit_code` is what the command line returns."""

    exit_code = 1


class SchedlabWarning(UserWarning):
    """Something that schedlab mended by itself and a user should know."""


class InputError(SchedlabError, ValueError):
    """Something the user gave is wrong.

    The message is one line: the invariant, the value seen, what to do.
    """

    exit_code = 2


class PartialError(SchedlabError):
    """Some evaluations failed; what finished is kept."""

    exit_code = 3


class BudgetError(SchedlabError):
    """The job would cost more than the stated budget; nothing was run."""

    exit_code = 4
