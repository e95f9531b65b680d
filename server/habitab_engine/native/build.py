"""Hatchling's hook: compiles `step.c` for the instruction sets of this kind of machine, if it has a C compiler.

Without one, or where the compiler will not, the package is built all the same: the engine then computes with torch.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).parent
COMMON = ("-std=c11", "-D_GNU_SOURCE", "-O3", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread", "-w")
AVX512 = ("-march=skylake-avx512", "-mavx512vnni")
AMX = ("-mamx-tile", "-mamx-int8", "-mamx-bf16")
# The flags of each variant by the kind of machine, the best first; `__init__.py` takes the first that fits the CPU.
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {"amx": (*AVX512, "-mavx512bf16", *AMX), "avx512": AVX512, "avx2": ("-march=haswell",)},
    "aarch64": {"plain": ()},
}
MACHINES = {"AMD64": "x86_64", "arm64": "aarch64"}
SECONDS = 120


class NativeHook(BuildHookInterface):
    """Adds the compiled variants to the wheel, which is then one for this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        for stale in HERE.glob("*.so"):
            stale.unlink()
        if made := compiled():
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
            build_data["artifacts"] += [f"/{path.relative_to(self.root).as_posix()}" for path in made]


def compiled() -> list[Path]:
    """The libraries that could be made beside `step.c`."""
    machine = platform.machine()
    variants = VARIANTS.get(MACHINES.get(machine, machine), {})
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), "cc", "gcc", "clang"))), None)
    if compiler is None or sys.platform == "win32":
        return []
    return [path for name, flags in variants.items() if (path := _compile(compiler, name, flags))]


def _compile(compiler: str, name: str, flags: tuple[str, ...]) -> Path | None:
    path = HERE / f"step-{name}.so"
    command = [compiler, *COMMON, *flags, str(HERE / "step.c"), "-o", str(path), "-lm"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"habitab: {path.name} could not be compiled ({error}); torch computes instead.", file=sys.stderr)
        return None
    return path
