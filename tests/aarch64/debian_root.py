"""Makes a folder with Debian's Python for arm64, without privileges and beside the system's apt.

apt gets folders of its own for its state, in which nothing is installed and the architecture is
arm64. So it resolves the dependencies, checks the signatures, and leaves the machine as it was.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

PACKAGES = ("python3", "python3-venv", "libstdc++6")
"""Packages that the root is made of, with what they depend on. ONNX Runtime needs the last."""


def make_root(folder: Path) -> Path:
    """Returns the root in a folder, which is made if it is not there yet.

    Raises:
        SystemExit: a program is missing, or apt failed.
    """
    root = folder / "root"
    if root.is_dir():
        return root
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is missing: the root is made of Debian's packages")
    state = folder / "apt"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    apt = [
        "apt-get",
        *("-o", "APT::Architecture=arm64", "-o", "APT::Architectures::=arm64"),
        *("-o", f"Dir::State={state / 'state'}", "-o", f"Dir::State::status={state / 'status'}"),
        *("-o", f"Dir::Cache={state / 'cache'}"),
        # apt's own account may not be able to write here
        *("-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1", "-qq"),
    ]
    _run([*apt, "update"])
    _run([*apt, "install", "--yes", "--download-only", "--no-install-recommends", *PACKAGES])
    unpacked = folder / "root.part"
    shutil.rmtree(unpacked, ignore_errors=True)
    for package in sorted((state / "cache/archives").glob("*.deb")):
        _run(["dpkg-deb", "--extract", str(package), str(unpacked)])
    # renamed last, so that a root that exists is complete
    unpacked.rename(root)
    return root


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}")
