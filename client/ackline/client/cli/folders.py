"""What `upload` and `fetch` of a folder say: a line for what is not there, a sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import asdict

from ackline.client.cli.display import bytes_text
from ackline.client.cli.running import Exit

if TYPE_CHECKING:
    from ackline.client import FileReport, FolderResult
    from ackline.client.cli.running import BaseCommand

__all__ = ["FolderOutput"]


class FolderOutput:
    """Prints what becomes of the files of a folder.

    Args:
        command: whose.
        verb: in the past: "uploaded" or "fetched".
    """

    def __init__(self, command: BaseCommand, verb: str) -> None:
        self._command = command
        self._verb = verb
        self.done = 0

    def file(self, report: FileReport) -> None:
        """Print a line of JSON for each file; for people only what is not there."""
        if report.state in ("transferred", "present"):
            self.done += 1
        if self._command.arguments.json:
            self._command.line(**asdict(report))
        elif report.text:
            self._command.display.note(
                f"{report.path}: {report.state}: {report.text}",
                error=report.state == "failed",
            )

    def sum(self, result: FolderResult, what: str) -> int:
        """Print the sum, and return the exit code."""
        parts = [f"{self._verb} {files(result.transferred)}"]
        parts[0] += f" {what}, {bytes_text(result.bytes)}"
        if result.present:
            parts.append(f"{result.present:,} were there already")
        if result.skipped:
            parts.append(f"{result.skipped:,} left out")
        if result.failed:
            parts.append(f"{len(result.failed):,} failed")
        fields = asdict(result) | {"failed": len(result.failed)}
        self._command.result("; ".join(parts), **fields)
        return Exit.FAILED if result.failed else Exit.DONE


def files(count: int) -> str:
    """Return `1 file` or `1,000 files`."""
    return f"{count:,} file{'' if count == 1 else 's'}"
