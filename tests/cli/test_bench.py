"""`multimix bench`."""

import functools
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from multimix.benchmarking import floor, loss, record, sampler, steps
from multimix.benchmarking import methods as benchmark
from multimix.benchmarking.measure import Ratio
from multimix.cli import main


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multimix.benchmarking.loss.SIZES", ((16, 5, 2),))
    setting = steps.Setting(model="smallnet-w4", image_size=8, classes=3, b=4, d=16, positions=1)
    monkeypatch.setattr("multimix.benchmarking.steps.CPU", (setting,))
    few = functools.partial(sampler.run, r=1, alphas=(0.5, (0.5, 2.0)))
    monkeypatch.setattr("multimix.benchmarking.sampler.run", few)
    monkeypatch.setattr("multimix.cli.bench.cpu_rates", lambda: floor.Rates(1e9, 1e9, 1e9, 1e6, one_unit=True))


def test_bench_prints_and_writes(small: None, tmp_path: Path, capsys) -> None:
    out = tmp_path / "new" / "bench.json"
    main(["bench", "--n", "20", "--b", "8", "--rounds", "3", "--device", "cpu", "--no-compile", "--json", str(out)])
    found = json.loads(out.read_text())
    assert found["machine"]["torch"]
    assert found["setting"]["n"] == 20
    assert found["rates"]["float32"]["gammas"] == 1e6
    assert [row["variant"] for row in found["loss"]] == ["direct", "ours"]
    assert found["loss"][1]["faster_than_direct"].keys() == {"median", "low", "high"}
    methods = [row["method"] for row in found["steps"]]
    assert methods[0] == "erm"
    assert {"dense-multimix-alone(n=20)", "multimix-alone(n=200)", "dense-multimix-alone(n=inf)"} < set(methods)
    assert [row["alpha"] for row in found["sampler"]] == [0.5, [0.5, 2.0]]
    printed = capsys.readouterr().out
    assert "over floor" in printed
    assert "0.5-2.0" in printed
    assert "smallnet-w4, 8x8" in printed


def test_what_was_measured_is_kept_when_the_rest_is_interrupted(small: None, tmp_path: Path, monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("multimix.benchmarking.steps.run", interrupted)
    out = tmp_path / "bench.json"
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--n", "5", "--b", "4", "--rounds", "3", "--device", "cpu", "--no-compile", "--json", str(out)])
    assert stop.value.code == 130
    assert len(json.loads(out.read_text())["loss"]) == 2


# The memory of whole steps takes two seconds to measure.
QUICK = ["bench", "--n", "5", "--b", "4", "--rounds", "3", "--device", "cpu", "--no-compile"]
QUICK += ["--tables", "loss", "sampler", "--json"]


@pytest.mark.parametrize("by", ["Ctrl-C", "SIGTERM"])
def test_an_earlier_file_stays_until_the_new_one_is_whole(
    small: None, tmp_path: Path, monkeypatch, capsys, request, by
) -> None:
    out = tmp_path / "bench.json"
    main([*QUICK, str(out)])
    before = out.read_bytes()

    def interrupted(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT if by == "Ctrl-C" else signal.SIGTERM)

    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, usual))
    with monkeypatch.context() as patch:
        patch.setattr("multimix.benchmarking.sampler.run", interrupted)
        with pytest.raises(SystemExit) as stop:
            main([*QUICK, str(out)])
    assert stop.value.code == 130
    assert out.read_bytes() == before
    (partial,) = (path for path in tmp_path.iterdir() if path != out)
    assert f"what was measured is in {partial}" in capsys.readouterr().err
    assert len(json.loads(partial.read_text())["loss"]) == 2
    main([*QUICK, str(out)])
    assert out.read_bytes() != before


def test_a_link_stays_one(small: None, tmp_path: Path) -> None:
    out, link = tmp_path / "elsewhere.json", tmp_path / "bench.json"
    link.symlink_to(out)
    for _ in range(2):
        main([*QUICK, str(link)])
        assert link.is_symlink()
        assert json.loads(out.read_text())["loss"]
        out.write_text("")


def test_what_cannot_be_written_is_refused_before_anything_is_measured(small, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("multimix.benchmarking.loss.run", lambda **_: pytest.fail("measured"))
    (tmp_path / "config.json").write_text('{"data": "digits"}')
    (tmp_path / "photo.json").write_bytes(b"\xff\xd8")
    os.mkfifo(tmp_path / "pipe")  # a device would be replaced just as well, /dev/null for one
    for name, message in (
        ("pipe", "it is not a file that could be replaced"),
        ("", "it is not a file that could be replaced"),
        ("config.json/x.json", "(File exists): name another file"),
        ("config.json", "is there already, and is not what a benchmark wrote: name another file"),
        ("photo.json", "is there already, and is not what a benchmark wrote"),
        ("a" * 300, "File name too long"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*QUICK, str(tmp_path / name)])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "photo.json", "pipe"]
    assert (tmp_path / "config.json").read_text() == '{"data": "digits"}'


def test_a_disk_that_becomes_full_stops_no_measurement(small: None, tmp_path: Path, monkeypatch, capsys) -> None:
    written, write = [], record.write_json

    def filling(path: Path, value: object) -> None:
        written.append(path)
        if 2 < len(written) < 5:
            raise OSError(28, "No space left on device")
        write(path, value)

    monkeypatch.setattr("multimix.benchmarking.record.write_json", filling)
    with pytest.warns(UserWarning, match="results cannot be saved for now: .*No space left") as told:
        main([*QUICK, str(tmp_path / "bench.json")])
    assert len([one for one in told if "cannot be saved" in str(one.message)]) == 1
    found = json.loads((tmp_path / "bench.json").read_text())
    assert (len(found["loss"]), len(found["sampler"])) == (2, 2)


def test_a_mistake_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "methods", "--model", "smalnet", "--json", str(tmp_path / "methods.json")])
    assert not list(tmp_path.iterdir())


def test_a_gpu_of_unknown_rates_has_a_footnote(monkeypatch, capsys) -> None:
    monkeypatch.setattr("multimix.cli.bench.fastest_device", lambda: "cuda")
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "GeForce GTX 1080")
    row = loss.Row(512, 100, 1, 1000, 128, "bfloat16", "ours", 1.5, Ratio(2.0, 1.9, 2.1), None, 3.0, None)
    monkeypatch.setattr("multimix.benchmarking.loss.run", lambda **_: [row])
    main(["bench", "--tables", "loss"])
    printed = capsys.readouterr().out
    assert "2.00 [1.90, 2.10]" in printed
    assert "– : the rates of GeForce GTX 1080 are unknown" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["method", "--n", "5"], "unknown table 'method': multimix bench takes options alone, multimix bench methods"),
        (["--n", "x"], "--n: expected INT, got 'x'"),
        (["--n", "0"], "--n must be at least 1, got 0"),
        (["--dvice", "cuda"], "did you mean --device?"),
        (["--tables", "los"], "invalid choice 'los'"),
    ],
)
def test_bench_mistakes(options: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", *options])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_no_gpu_is_one_line(capsys) -> None:
    for command in (["bench"], ["bench", "methods"]):
        with pytest.raises(SystemExit):
            main([*command, "--device", "cuda"])
        out, err = capsys.readouterr()
        assert err.startswith("multimix: error: --device cuda: PyTorch finds no CUDA devices here: use --device cpu")
        assert out == ""


def test_bench_methods_prints_and_writes(tmp_path: Path, capsys) -> None:
    out = tmp_path / "new" / "methods.json"
    tiny = ["--model", "smallnet-w4", "--image-size", "8", "--classes", "3", "--batch-size", "4", "--rounds", "1"]
    tiny += ["--seconds", "0.01"]
    main(
        ["bench", "methods", "--methods", "erm,manifold-mixup(layers=9)", "--n", "7", "inf", *tiny, "--json", str(out)]
    )
    found = json.loads(out.read_text())
    assert found["setting"]["model"] == "smallnet-w4"
    names = [row["method"] for row in found["methods"]]
    by_n = [f"{name}(n={n})" for n in (7, "inf") for name in ("multimix-alone", "dense-multimix-alone")]
    assert names == ["erm", "manifold-mixup(layers=9)", *by_n]
    assert found["methods"][0]["relative"] == 1.0
    assert found["methods"][0]["relative_low"] > 0
    printed = capsys.readouterr().out
    assert "not measured: layers must be at most" in printed
    assert "images/s" in printed


def test_all_are_the_methods_that_need_no_options(monkeypatch, capsys) -> None:
    monkeypatch.setattr(
        benchmark, "run", lambda chosen, *_, **__: [benchmark.Row(m, 1, 1, 1, 1, "", 1, 1) for m in chosen]
    )
    main(["bench", "methods", "--methods", "erm,all,cutmix(alpha=0.5)"])
    printed = capsys.readouterr().out
    assert "puzzlemix" in printed
    assert "cutmix(alpha=0.5)" in printed
    assert "either" not in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "cutmixx"], "did you mean cutmix?"),
        (["--methods", ","], "--methods is empty: name some"),
        (["--methods", ""], "--methods is empty: give a value, or leave it out"),
        (["--image-size", "0"], "--image-size must be at least 1, got 0"),
        (["--classes", "1"], "--classes must be at least 2, got 1"),
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--seconds", "0"], "--seconds must be positive, got 0"),
        (["--modle", "x"], "did you mean --model?"),
    ],
)
def test_bench_methods_mistakes(options: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "methods", *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
