"""Commands called in this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from univfd.cli import group


def run(*args: object, code: int = 0) -> Result:
    """Call `univfd`; raises what it raises, and fails on another exit code."""
    result = CliRunner().invoke(group, [str(a) for a in args], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    assert (result.return_value or 0) == code, result.output
    return result
