"""Every Python snippet of the documents runs, in order, as a reader would run them; links lead somewhere."""

import importlib.util
import re
from pathlib import Path

import pytest

from multimix.methods.names import NAMES

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


def test_the_list_of_public_names_is_that_of_the_docstrings() -> None:
    spec = importlib.util.spec_from_file_location("api", ROOT / "docs" / "api.py")
    assert spec is not None
    assert spec.loader is not None
    api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(api)
    assert (ROOT / "docs" / "api.md").read_text() == api.text(), "run python docs/api.py"


def test_every_method_and_every_guide_is_in_an_index() -> None:
    index = (ROOT / "docs" / "methods.md").read_text()
    for name in NAMES:
        assert re.search(rf"`{name}[`(]", index), f"docs/methods.md does not name {name}"
    for card in (ROOT / "docs" / "methods").glob("*.md"):
        assert f"(methods/{card.name})" in index, f"docs/methods.md does not link to {card.name}"
    readme = (ROOT / "README.md").read_text()
    for guide in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{guide.name})" in readme, f"README.md does not link to docs/{guide.name}"
