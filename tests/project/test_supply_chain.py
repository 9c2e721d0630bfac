"""What is installed is what was locked and looked at; what is bundled or fetched is what it says."""

import json
import subprocess
import sys

import pytest
from paths import ROOT

from cocoop import load_backbone
from cocoop.backbones import load as loading
from cocoop.errors import BackboneError

LOCK = ROOT / "requirements-dev.lock"

sys.path.insert(0, str(ROOT / "tools"))

from audit import check_lock, judge  # noqa: E402
from licences import direct, page  # noqa: E402


def test_locked_packages_are_pinned_with_hashes():
    text = LOCK.read_text()
    assert check_lock(text) == []
    locked = {line.split("==")[0].lower().replace("_", "-") for line in text.splitlines() if line[:1].isalnum()}
    wanted = {name.replace("_", "-") for names in direct().values() for name in names}
    assert wanted - locked == set()
    # Nobody else's index is asked.
    assert "://" not in text


def test_faults_of_the_lock_are_listed():
    good = "rich==13.7 \\\n    --hash=sha256:00\n    # via cocoop\n"
    assert check_lock(good) == []
    unreadable = f"{good}torch>=2\nlightning==2.6.2 \\\n    --hash=sha256:00\nnumpy==1.24\n"
    assert check_lock(unreadable) == [
        "torch>=2: not pinned to one version",
        "lightning: 2.6.2 and 2.6.3 stole credentials",
        "numpy: no hash",
    ]


REPORT = {
    "dependencies": [
        {"name": "rich", "version": "13.7", "vulns": []},
        {"name": "odd", "skip_reason": "Dependency not found on PyPI and could not be audited: odd (1.0)"},
        {
            "name": "pillow",
            "version": "10.0",
            "vulns": [
                {"id": "PYSEC-1", "aliases": ["CVE-2023-4863"], "fix_versions": ["10.0.1"], "description": "..."}
            ],
        },
    ],
    "fixes": [],
}
"""As pip-audit writes it."""


def test_unreviewed_vulnerabilities_fail_the_audit():
    found, unknown = judge(REPORT, {})
    assert found == ["pillow 10.0: PYSEC-1 (fixed in 10.0.1)"]
    assert unknown == ["odd"]
    for name in ("PYSEC-1", "CVE-2023-4863"):
        assert judge(REPORT, {name: "only WebP of strangers"})[0] == []
    for reason in json.loads((ROOT / "tools" / "audit-ignored.json").read_text()).values():
        assert len(reason) > 20


def test_the_audit_passes_with_a_note_if_the_service_is_unreachable(tmp_path):
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "PATH": "/usr/bin:/bin"}
    lock = tmp_path / "small.lock"
    lock.write_text("rich==13.7.0 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    command = [sys.executable, ROOT / "tools" / "audit.py", lock]
    done = subprocess.run(command, env=nowhere, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "could not be reached" in done.stdout or "knows nothing of" in done.stdout
    assert "0 problems in small.lock." in done.stdout


def test_the_licences_page_is_up_to_date():
    def rows(text):
        return [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in text.splitlines() if line[:1] == "|"]

    written, now = rows((ROOT / "docs" / "licences.md").read_text()), rows(page())
    assert {row[:2] for row in written if len(row) == 3} == {row[:2] for row in now if len(row) == 3}
    said = {row[0]: row[-1] for row in now}
    # What another system or Python brings along is another list; the licences are the same.
    both = [row for row in written if row[0] in said]
    assert len(both) > 150
    assert [row[-1] for row in both] == [said[row[0]] for row in both]


def test_the_bundled_weights_have_the_recorded_hash(tmp_path, monkeypatch):
    for file in loading.LITE.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(loading, "LITE", tmp_path)
    assert load_backbone("lite").name == "lite"
    weights = tmp_path / "open_clip_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BackboneError, match=r"safetensors' is damaged; install cocoop again"):
        load_backbone("lite")
