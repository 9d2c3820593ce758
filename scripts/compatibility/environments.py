"""Virtual environments, one for each version of OpenVINO."""

from __future__ import annotations

import re
import subprocess
import venv
from pathlib import Path

from export.errors import UserError

NEWEST = "newest"
"""Instead of a version: whatever PyPI has today."""

VERSIONS = ("2025.0", "2025.4", "2026.0", NEWEST)

_VERSION = re.compile(r"\d{4}\.\d+(\.\d+)?", re.ASCII)

_NEEDED = ("numpy", "pydantic", "rich")
"""What the worker imports besides OpenVINO."""


def check_version(version: str) -> None:
    """Refuse what is no version.

    Raises:
        UserError: it is neither ``2025.4``, ``2025.4.1`` nor ``newest``.
    """
    if version != NEWEST and not _VERSION.fullmatch(version):
        raise UserError(f"--version {version}: is no version of OpenVINO; give 2025.4, 2025.4.1 or {NEWEST}")


def environment(version: str, place: Path) -> Path:
    """The interpreter of an environment with this OpenVINO, made below ``place`` where it is missing.

    Raises:
        UserError: pip cannot install it.
    """
    folder = place / version
    builder = venv.EnvBuilder(with_pip=True, symlinks=True)
    python = Path(builder.ensure_directories(folder).env_exe)
    if not python.exists():
        builder.create(folder)
    wanted = "openvino" if version == NEWEST else f"openvino=={version}" + (".*" if version.count(".") == 1 else "")
    upgrade = ["--upgrade"] if version == NEWEST else []
    pip: list[str | Path] = [
        python,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "-q",
        "install",
        *upgrade,
        wanted,
        *_NEEDED,
    ]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)  # noqa: S603  # our own environment
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"{folder}: pip cannot install {wanted} ({reason}); check the connection, or the version")
    return python
