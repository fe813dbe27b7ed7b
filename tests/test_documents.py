"""Every Python snippet of the documents runs, in order, as a reader would run them; links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
names = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_python_snippets_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "snippet"}
    for match in re.finditer(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
        line = path.read_text()[: match.start()].count("\n") + 1
        # Padding with newlines makes a traceback point at the line of the document.
        exec(compile("\n" * line + match.group(1), str(path), "exec"), namespace)


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_local_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]*)(#[^)]*)?\)", path.read_text()):
        file, anchor = target
        if file.startswith(("http://", "https://", "mailto:")):
            continue
        destination = (path.parent / file) if file else path
        assert destination.exists(), f"{path.name} links to {file}, which does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", destination.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor[1:] in slugs, f"{path.name} links to {anchor} of {destination.name}, not in {sorted(slugs)}"
