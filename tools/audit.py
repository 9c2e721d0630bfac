"""Check the locked packages for known vulnerabilities with pip-audit; the exit code is 1 if there are any.

Usage: python tools/audit.py [LOCK]

tools/audit-ignored.json lists accepted vulnerabilities with the reason for each. If the vulnerability service cannot be
reached (no network, or an index without it), the script says so and does not fail. The lock file itself is always
checked: every package must be pinned with hashes, and none may be forbidden.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IGNORED = ROOT / "tools" / "audit-ignored.json"

FORBIDDEN = {"lightning": "2.6.2 and 2.6.3 stole credentials", "torchtune": "no longer maintained"}
"""Packages that must not be used, and why."""


def main() -> None:
    """Check the lock file, query the vulnerability service, print the problems and exit."""
    lock = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "requirements-dev.lock"
    problems = check_lock(lock.read_text())
    command = [sys.executable, "-m", "pip_audit", "-r", str(lock), "--require-hashes", "--disable-pip", "-f", "json"]
    asked = subprocess.run([*command, "--progress-spinner", "off"], capture_output=True, text=True)
    try:
        report = json.loads(asked.stdout)
    except ValueError:
        lines = asked.stderr.strip().splitlines() or ["no answer"]
        if not is_about_the_network(asked.stderr):
            sys.exit(f"pip-audit failed: {lines[-1][:500]}")
        print(f"The vulnerability service could not be reached: {lines[-1][:200]}")
        report = {"dependencies": []}
    found, unknown = judge(report, json.loads(IGNORED.read_text()))
    if unknown:
        print(
            f"The vulnerability service knows nothing of {len(unknown)} of {len(report['dependencies'])} packages here."
        )
    for problem in [*problems, *found]:
        print(problem)
    print(f"{len(problems) + len(found)} problems in {lock.name}.")
    sys.exit(1 if problems or found else 0)


def is_about_the_network(said: str) -> bool:
    """Return True if pip-audit failed because the vulnerability service could not be reached."""
    return re.search(r"Connection|Timeout|timed out|HTTPError|Client Error|ServiceError|Max retries", said) is not None


def check_lock(text: str) -> list[str]:
    """Return the problems of a lock file, one line each."""
    problems = []
    for entry in re.split(r"\n(?=[^\s#])", text):
        name = re.match(r"([A-Za-z0-9._-]+)==", entry)
        if name is None:
            if entry.strip() and not entry.lstrip().startswith("#"):
                problems.append(f"{entry.split()[0]}: not pinned to one version")
            continue
        package = name[1].lower().replace("_", "-")
        if "--hash=sha256:" not in entry:
            problems.append(f"{package}: no hash")
        if package in FORBIDDEN:
            problems.append(f"{package}: {FORBIDDEN[package]}")
    return problems


def judge(report: Mapping[str, Any], ignored: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the vulnerabilities that are not accepted, and the packages that the service does not know.

    Args:
        report: JSON report of pip-audit.
        ignored: reasons for accepted vulnerabilities, by id.
    """
    found, unknown = [], []
    for package in report["dependencies"]:
        if "skip_reason" in package:
            unknown.append(package["name"])
        for vulnerability in package.get("vulns", ()):
            names = {vulnerability["id"], *vulnerability.get("aliases", ())}
            if not names & ignored.keys():
                fixed = ", ".join(vulnerability.get("fix_versions", ())) or "no version yet"
                found.append(f"{package['name']} {package['version']}: {vulnerability['id']} (fixed in {fixed})")
    return found, unknown


if __name__ == "__main__":
    main()
