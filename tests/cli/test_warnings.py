"""What a warning looks like on the terminal."""

import warnings

import pytest

from multimix.cli import main


def test_a_warning_is_one_line_and_comes_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # to have it put back
    main(["recipes", "--help"])
    lines = [warnings.formatwarning(text, UserWarning, "a.py", n) for n, text in enumerate(["a\n  b", "c", "a b", "c"])]
    assert lines == ["multimix: warning: a b\n", "multimix: warning: c\n", "", ""]
    main(["recipes", "--help"])
    assert warnings.formatwarning("c", UserWarning, "a.py", 1), "another command says it again"
