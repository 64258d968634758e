"""Compiles the protocol's hot modules with mypyc, where there is a compiler.

The same files are the pure version: what is compiled is chosen here, and nothing else
knows of it. `pip install .` builds a wheel with the compiled modules beside the files
they are made of; where that fails, without them. An editable installation stays pure,
because a compiled module would hide later changes of its file; there
`python hatch_build.py FOLDER` makes a tree that goes first on PYTHONPATH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # run as a program
    BuildHookInterface = object

__all__ = ["CustomBuildHook", "compile_to", "is_compiled"]

ROOT = Path(__file__).parent
PACKAGES = (Path("ackline/proto"), Path("ackline/aio"))

PURE = frozenset(
    {
        "__init__",
        # Structs of msgspec, which is C already.
        *("details", "entries", "errors", "messages", "notices", "values"),
        # Others derive classes from theirs, which a compiled one does not allow.
        *("client_session", "kinds", "server_session"),
        # Used once a stream, once a process, or by readers that are slow anyway.
        *("checksums", "codec", "compiling", "conflation", "limits", "merging"),
        *("policies", "resource"),
    }
)
"""Modules of `ackline.proto` that are not compiled."""

COMPILED_AIO = frozenset({"pump"})
"""Modules of `ackline.aio` that are: a turn of it for each event of a lone stream."""

SETUP = """
from mypyc.build import mypycify
from setuptools import setup

setup(
    name="ackline-compiled",
    packages=[],
    ext_modules=mypycify({arguments!r}, opt_level="3", debug_level="0"),
)
"""

MYPY = """
[mypy]
strict = true
namespace_packages = true
explicit_package_bases = true
"""


def is_compiled(module: str, package: str) -> bool:
    """Tell whether a module of `ackline.proto` or `ackline.aio` is compiled."""
    return module in COMPILED_AIO if package == "aio" else module not in PURE


def compile_to(folder: Path) -> list[Path]:
    """Copy the packages to a folder, compile them there, and return what was made.

    Args:
        folder: is made anew.

    Raises:
        CalledProcessError: it cannot be compiled; the reason is on standard error.
    """
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
    for package in PACKAGES:
        shutil.copytree(ROOT / "proto" / package, folder / package, ignore=ignored)
    with tempfile.TemporaryDirectory() as temporary:
        configuration = Path(temporary, "mypy.ini")
        program = Path(temporary, "setup.py")
        modules = sorted(
            path.relative_to(folder).as_posix()
            for package in PACKAGES
            for path in (folder / package).glob("*.py")
            if is_compiled(path.stem, package.name)
        )
        configuration.write_text(MYPY)
        arguments = [f"--config-file={configuration}", *modules]
        program.write_text(SETUP.format(arguments=arguments))
        subprocess.run(  # noqa: S603 - our own program
            [
                *(sys.executable, program, "-q", "build_ext", "--inplace"),
                *("--build-temp", temporary),
            ],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    shutil.rmtree(folder / "build", ignore_errors=True)
    return sorted(path for path in folder.rglob("*") if path.suffix in (".so", ".pyd"))


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc]
    """Adds the compiled modules to a wheel.

    `ACKLINE_PURE=1` in the environment makes one without them.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, before the files are collected."""
        if version == "editable" or os.environ.get("ACKLINE_PURE"):
            return
        folder = Path(self.directory, "compiled")
        try:
            made = compile_to(folder)
        except (OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(f"without compiled modules: {error}")
            return
        build_data["pure_python"], build_data["infer_tag"] = False, True
        for path in made:
            build_data["force_include"][str(path)] = str(path.relative_to(folder))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python hatch_build.py FOLDER")
    for each in compile_to(Path(sys.argv[1])):
        print(each)  # noqa: T201
