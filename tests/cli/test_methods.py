"""`multimix methods` lists every method and explains every option."""

import inspect
import re

import pytest

from multimix.cli import main
from multimix.methods import complete, parse
from multimix.methods.names import NAMES


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(["methods", *arguments])
    return capsys.readouterr().out


def test_the_list_has_a_description_of_every_method(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = shown(capsys).partition("\n\n")[0].splitlines()
    assert all(len(line) <= 80 for line in lines)
    described = [line.split() for line in lines if not line.startswith(" ")]
    assert [words[0] for words in described] == list(NAMES)
    assert all(len(words) > 3 for words in described)


@pytest.mark.parametrize("name", list(NAMES))
def test_every_option_is_shown_with_its_default_and_explained(name, capsys) -> None:
    call, about = shown(capsys, name).split("\n\n", 1)
    explained = about.partition("Args:\n")[2]
    for option, parameter in inspect.signature(NAMES[name]).parameters.items():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
            assert re.search(rf"[(, ]{option}{re.escape(default)}[,)]", call)
            assert re.search(rf"^ +(\w+, )*{option}(, \w+)*:", explained, re.MULTILINE), option
    if name in complete() and "None" not in call:
        assert type(parse(call)) is type(parse(name))  # what is shown can be typed


def test_an_unknown_method_is_refused_with_the_nearest(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["methods", "cutmx"])
    assert capsys.readouterr().err == "multimix: error: unknown method 'cutmx': did you mean cutmix?\n"
