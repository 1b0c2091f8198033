"""The pages say what is so: examples run, generated pages are fresh, links lead somewhere, fields exist."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
WITH_EXAMPLES = [page for page in PAGES if BLOCK.search(page.read_text("utf-8"))]


def by_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=by_name)
def test_the_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models")
    names = {"__name__": "__example__"}
    for block in BLOCK.finditer(page.read_text("utf-8")):
        line = page.read_text("utf-8")[: block.start(1)].count("\n")
        exec(compile("\n" * line + block[1], str(page), "exec"), names)


def test_the_pages_with_examples_are_found():
    expected = {"README.md", "CONTRIBUTING.md", "docs/python.md", "docs/lossless.md", "docs/surrogates.md"}
    assert expected <= {by_name(page) for page in WITH_EXAMPLES}


def test_the_generated_pages_are_fresh():
    done = subprocess.run(
        [sys.executable, "tools/make_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_the_links_lead_to_files(page):
    links = [link for link in LINK.findall(page.read_text("utf-8")) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_the_report_page_names_the_fields_of_the_schema():
    schema = json.loads((ROOT / "onnx_invert/report/schema.json").read_text("utf-8"))
    text = (ROOT / "docs/report.md").read_text("utf-8")
    named = set(re.findall(r"`([a-z0-9_]+)`", "\n".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE))))
    assert named == set(_fields(schema))


def test_the_portability_page_names_what_is_emitted():
    sources = "".join(
        path.read_text("utf-8") for path in (ROOT / "onnx_invert").rglob("*.py") if "testing" not in path.parts
    )
    emitted = set(re.findall(r'\.ops?\(\s*"([A-Z]\w*)"', sources))
    text = (ROOT / "docs/portability.md").read_text("utf-8")
    named = re.search(r"and no others:\n\n(.*?)\n\n", text, re.DOTALL)[1]
    assert set(re.findall(r"\w+", named)) == emitted


def _fields(schema):
    if isinstance(schema, dict):
        for key, part in schema.items():
            if key == "properties":
                yield from part
            yield from _fields(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _fields(part)
