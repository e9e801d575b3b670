"""Tests of the JUnit report and the pytest plugin, on an intact bundle and a damaged one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from lame_runtime.__main__ import main
from lame_runtime.bundle.certificate import Result, read_certificate
from lame_runtime.bundle.manifest import canonical_hash, sha256_file
from lame_runtime.parity.junit import write_junit
from lame_runtime.parity.verify import VerifiedRow


@pytest.fixture
def wrong(exported: Path, tmp_path: Path) -> Path:
    """Makes a bundle with one golden embedding negated and all hashes updated."""
    bundle = Path(shutil.copytree(exported, tmp_path / "wrong"))
    path = bundle / "golden/embeddings.npy"
    embeddings = np.load(path)
    embeddings[0] *= -1
    np.save(path, embeddings)
    certificate = json.loads((bundle / "parity.json").read_text())
    certificate["hashes"]["golden/embeddings.npy"] = sha256_file(path)
    (bundle / "parity.json").write_text(json.dumps(certificate))
    manifest = json.loads((bundle / "manifest.json").read_text())
    for name in ("golden/embeddings.npy", "parity.json"):
        manifest["files"][name] = sha256_file(bundle / name)
    manifest["sha256"] = canonical_hash(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest in an empty folder, so that all tests come from the plugin."""
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider"]
    if "lame" not in _registered():
        command += ["-p", "lame_runtime.integrations.pytest_plugin"]
    return subprocess.run(
        [*command, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def _registered() -> set[str]:
    from importlib.metadata import entry_points

    return {entry.name for entry in entry_points(group="pytest11")}


def test_every_row_of_the_certificate_is_a_test(exported: Path, tmp_path: Path) -> None:
    """Rows that need PyTorch or have no gate are skipped with their figure; the others run."""
    outcome = run_pytest(tmp_path, "--lame-bundle", str(exported), "--lame-graph", "fp32")
    rows = [row for row in read_certificate(exported).rows if row.graph in ("", "fp32")]
    assert outcome.returncode == 0, outcome.stdout
    reported = [
        line
        for line in outcome.stdout.splitlines()
        if line.startswith(("PASSED", "FAILED", "SKIPPED"))
    ]
    repeated = [
        row
        for row in rows
        if row.passed is not None
        and row.comparison
        in ("contract vs golden", "graph vs PyTorch", "alone vs in a batch", "finite")
    ]
    assert sum(line.startswith("PASSED") for line in reported) == len(repeated)
    assert f"{len(repeated)} passed, {len(rows) - len(repeated)} skipped" in outcome.stdout


def test_a_row_that_fails_is_a_test_that_fails(wrong: Path, tmp_path: Path) -> None:
    """A failed row shows its figure and bound without a traceback."""
    outcome = run_pytest(tmp_path, "--lame-bundle", str(wrong), "--lame-graph", "fp32")
    assert outcome.returncode == 1
    assert "min_cosine -1 (>= 0.99999)" in outcome.stdout
    assert "Traceback" not in outcome.stdout + outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lame-bundle", "nowhere"], "nowhere: no such folder"),
        (["--lame-graph", "fp8"], "`graph` is 'fp8'"),
    ],
)
def test_a_wrong_call_of_the_plugin_is_one_line(
    arguments: list[str], message: str, exported: Path, tmp_path: Path
) -> None:
    """A wrong call exits with pytest's own code for usage errors."""
    bundle = [] if "--lame-bundle" in arguments else ["--lame-bundle", str(exported)]
    outcome = run_pytest(tmp_path, *bundle, *arguments)
    assert outcome.returncode == 4
    assert message in outcome.stderr


def test_verify_writes_a_junit_report(exported: Path, wrong: Path, tmp_path: Path) -> None:
    """The report has one test case per row, and a failed row is a failure with its figure."""
    for bundle, code in ((exported, 0), (wrong, 1)):
        path = tmp_path / "report.xml"
        arguments = ["verify", str(bundle), "--graph", "fp32", "--junit", str(path)]
        assert main(arguments) == code
        (suite,) = ElementTree.parse(path).getroot()
        cases = suite.findall("testcase")
        assert int(suite.attrib["tests"]) == len(cases) > 5
        failures = suite.findall("testcase/failure")
        assert int(suite.attrib["failures"]) == len(failures)
        assert bool(failures) == bool(code)
        assert all("min_cosine" in failure.attrib["message"] for failure in failures)


def test_a_report_survives_what_xml_cannot_hold(tmp_path: Path) -> None:
    """Control characters in a name are replaced; those in a reason are escaped."""
    row = Result("a\x00b\x1b[31m", "fp32", "text", 0, None, {}, None, "c\x1b[31m")
    write_junit([VerifiedRow(row, None)], "bundle", tmp_path / "report.xml")
    text = (tmp_path / "report.xml").read_text()
    assert "a�b�[31m" in text
    assert "c\\x1b[31m" in text
    ElementTree.parse(tmp_path / "report.xml")
