"""From run directories to rows, tables and files; damaged, partial and mixed folders."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from multimix.reports import notes
from multimix.reports.comparison import as_json
from multimix.reports.headline import headline
from multimix.reports.plan import Plan, Speed, folder_name, read_plan
from multimix.reports.runs import find_runs, read_run
from multimix.reports.summary import summarize
from multimix.reports.tables import per_class_table, results_csv, results_table

MakeRun = Callable[..., Path]


def two_methods(make_run: MakeRun) -> list[Path]:
    last = {"erm": [0.70, 0.72, 0.74], "cutmix": [0.80, 0.84, 0.83]}
    return [
        make_run(f"{method}/seed{seed}", method=method, seed=seed, accuracies=[0.1, 0.9, accuracy])
        for method, accuracies in last.items()
        for seed, accuracy in enumerate(accuracies)
    ]


def test_rows_hold_last_and_best_over_seeds(make_run: MakeRun) -> None:
    summary = summarize(two_methods(make_run))
    erm, cutmix = summary.rows
    assert [erm.label, cutmix.label] == ["erm", "cutmix"]
    assert erm.last_accuracy.mean == pytest.approx(0.72)
    assert erm.last_accuracy.std == pytest.approx(statistics.stdev([0.70, 0.72, 0.74]))
    assert erm.best_accuracy.mean == pytest.approx(0.9)
    assert cutmix.ece.mean == pytest.approx(statistics.mean([0.1, 0.08, 0.085]))
    assert cutmix.nll.mean == pytest.approx(statistics.mean([0.2, 0.16, 0.17]))
    assert erm.accuracy_difference is None
    assert cutmix.accuracy_difference is not None
    assert cutmix.accuracy_difference.mean == pytest.approx(statistics.mean([0.10, 0.12, 0.09]))
    assert cutmix.accuracy_difference.verdict == "higher"
    assert cutmix.ece_difference is not None
    assert cutmix.ece_difference.verdict == "lower"
    assert cutmix.nll_difference is not None
    assert cutmix.nll_difference.mean == pytest.approx(-statistics.mean([0.10, 0.12, 0.09]))
    assert headline(summary)[0].startswith("The highest test accuracy is that of cutmix, 82.33 %.")
    assert "cutmix (+10.33 ± 3.79) is better than ERM in test accuracy" in headline(summary)[0]
    assert "cutmix (−5.17 ± 1.90) is better than ERM in calibration error" in headline(summary)[1]


def test_a_table_shows_means_and_sample_deviations_in_per_cent(make_run: MakeRun) -> None:
    table = results_table(summarize(two_methods(make_run)))
    erm, cutmix = ({c: (x.text, x.spread) for c, x in zip(table.columns, row, strict=True)} for row in table.rows)
    assert erm["accuracy, %\nlast epoch"] == ("72.00", "± 2.00")
    assert erm["accuracy, %\nbest epoch"] == ("90.00", "± 0.00")
    assert erm["calibration\nerror, %"] == ("14.00", "± 1.00")
    assert erm["neg. log-\nlikelihood"] == ("0.280", "± 0.020")
    assert cutmix["over ERM,\npoints"] == ("+10.33", "± 3.79")  # 4.303 * 1.528 / sqrt(3)


def test_csv_has_a_line_for_each_run(make_run: MakeRun) -> None:
    rows = list(csv.DictReader(io.StringIO(results_csv(summarize(two_methods(make_run))))))
    assert len(rows) == 6
    assert [row["seed"] for row in rows] == ["0", "1", "2"] * 2
    assert float(rows[4]["test_accuracy_last"]) == 0.84
    assert float(rows[4]["test_accuracy_best"]) == 0.9
    assert rows[4]["best_epoch"] == "2"
    assert float(rows[4]["seconds"]) == 6.0


def test_one_seed_is_not_called_better(make_run: MakeRun) -> None:
    runs = [make_run("a", accuracies=[0.2]), make_run("b", method="cutmix", accuracies=[0.9])]
    summary = summarize(runs)
    assert headline(summary)[0].startswith("One seed cannot tell")
    assert as_json(summary)["methods"][1]["accuracy_difference"]["half_width_95"] is None


def test_without_erm_the_page_does_not_judge(make_run: MakeRun) -> None:
    summary = summarize([make_run("a", method="cutmix")])
    assert summary.baselines == []
    assert "no finished ERM runs" in headline(summary)[0]
    assert len(results_table(summary).columns) == len(results_table(summary).rows[0])


def test_runs_that_differ_in_a_setting_are_different_rows(make_run: MakeRun) -> None:
    runs = [make_run("a", lr=0.1), make_run("b", lr=0.5), make_run("c", lr=0.5, seed=1)]
    summary = summarize(runs)
    assert [(row.label, list(row.seeds)) for row in summary.rows] == [("erm, lr=0.1", [0]), ("erm, lr=0.5", [0, 1])]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 96), ("model", "smallnet-w8"), ("precision", "bf16-mixed"), ("augment", "none"),
        ("average", "ema"), ("per_class", 5), ("accumulate", 2), ("weight_decay", 0.3), ("clip_norm", 1.0),
    ],
)  # fmt: skip
def test_no_setting_of_the_training_is_averaged_over(make_run: MakeRun, name: str, value: object) -> None:
    summary = summarize([make_run("a"), make_run("b", seed=1, **{name: value})])
    assert [list(row.seeds) for row in summary.rows] == [[0], [1]]
    assert summary.rows[1].label == f"erm, {name}={value}"


def test_a_row_is_compared_with_erm_of_its_own_settings(make_run: MakeRun) -> None:
    # With four epochs ERM is the best, with one the worst.
    lasts = {("erm", 1): [0.2, 0.3], ("cutmix", 1): [0.4, 0.51], ("erm", 4): [0.8, 0.9], ("cutmix", 4): [0.7, 0.81]}
    runs = [
        make_run(f"{epochs}/{method}/{seed}", method=method, seed=seed, accuracies=[0.1] * (epochs - 1) + [last])
        for (method, epochs), of_method in lasts.items()
        for seed, last in enumerate(of_method)
    ]
    runs += [make_run("2/cutmix", method="cutmix", accuracies=[0.1, 0.99])]
    summary = summarize(runs)
    rows = {row.label: row for row in summary.rows}
    assert summary.baselines == ["erm, epochs=1", "erm, epochs=4"]
    assert {label: row.baseline for label, row in rows.items()} == {
        "erm, epochs=1": None,
        "erm, epochs=4": None,
        "cutmix, epochs=1": "erm, epochs=1",
        "cutmix, epochs=4": "erm, epochs=4",
        "cutmix, epochs=2": None,
    }
    found = {label: row.accuracy_difference.mean for label, row in rows.items() if row.accuracy_difference}
    assert found == {"cutmix, epochs=1": pytest.approx(0.205), "cutmix, epochs=4": pytest.approx(-0.095)}
    told = headline(summary)
    assert told[0].startswith("On this data, each against ERM of its settings: ")
    assert told[-1] == "Nothing is said of cutmix, epochs=2: no ERM run with the same settings and seed is here."
    assert "ERM with the same settings" in notes.headline(summary)
    assert notes.title(summary).startswith("Two training methods on ")
    over_erm = {row[0].text: row[3].text for row in results_table(summary).rows}
    assert (over_erm["erm, epochs=4"], over_erm["cutmix, epochs=4"], over_erm["cutmix, epochs=2"]) == (
        "–",
        "−9.50",
        "–",
    )
    assert as_json(summary)["baselines"] == summary.baselines
    apart = summarize([runs[0], runs[-1]])
    assert headline(apart) == [
        "No finished ERM run shares settings and seed with another method, so the page cannot say which helps."
    ]


def test_a_speed_is_that_of_the_comparison_that_the_runs_are_of(make_run: MakeRun, tmp_path: Path) -> None:
    for epochs in (1, 2):
        for method in ("erm", "cutmix"):
            make_run(f"{epochs}/{method}/seed0", method=method, accuracies=[0.5] * epochs)
        speed = {"erm": Speed(1000.0 * epochs, 1.0), "cutmix": Speed(900.0 * epochs, 0.9)}
        folder = tmp_path / str(epochs)
        listed = sorted(speed, reverse=epochs == 1)  # in the order of the first comparison
        Plan(folder, listed, [0], "multimix compare", "2020-01-01T00:00:00", speed, "How.").write()
    alone = make_run("3/cutmix", method="cutmix", accuracies=[0.5] * 3)
    summary = summarize([tmp_path / "1", tmp_path / "2", alone])
    assert "How. Speeds of different comparisons were not measured side by side." in notes.results(summary)
    found = {row.label: row.speed for row in summary.rows}
    assert {label: speed and speed.images_per_second for label, speed in found.items()} == {
        "erm, epochs=1": 1000.0,
        "erm, epochs=2": 2000.0,
        "cutmix, epochs=1": 900.0,
        "cutmix, epochs=2": 1800.0,
        "cutmix, epochs=3": None,
    }
    assert list(found) == ["erm, epochs=1", "erm, epochs=2", "cutmix, epochs=1", "cutmix, epochs=2", "cutmix, epochs=3"]


def test_how_often_it_was_evaluated_makes_no_difference(make_run: MakeRun) -> None:
    make_run("a", seed=0, accuracies=[0.4, 0.5, 0.6, 0.7])
    path = make_run("b", seed=1, accuracies=[None, 0.9, None, 0.5], evaluate_every=2)
    (row,) = summarize([path.parent]).rows
    assert row.label == "erm"
    assert row.seeds == [0, 1]
    assert (row.last_accuracy.mean, row.best_accuracy.mean) == pytest.approx((0.6, 0.8))


def test_where_the_data_lie_makes_no_difference(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("a", data_root=tmp_path / "x"), make_run("b", data_root=tmp_path / "y", seed=1)]
    assert [row.label for row in summarize(runs).rows] == ["erm"]


def test_unfinished_and_unstarted_runs_are_named(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("all/erm/seed0")
    make_run("all/cutmix/seed0", method="cutmix", finished=False, accuracies=[0.5], epochs=7)
    plan = Plan(tmp_path / "all", ["erm", "cutmix"], [0, 1], "multimix compare", "2020-01-01T00:00:00")
    plan.write()
    summary = summarize([tmp_path / "all"])
    assert [row.label for row in summary.rows] == ["erm"]
    assert sorted(summary.missing) == [
        "cutmix, seed 0: 1 of 7 epochs",
        "cutmix, seed 1: not started",
        "erm, seed 1: not started",
    ]


def test_the_plan_orders_the_methods_and_keeps_the_speed(make_run: MakeRun, tmp_path: Path) -> None:
    for method in ("erm", "cutmix", "input-mixup"):
        make_run(f"all/{method}/seed0", method=method)
    speed = {"cutmix": Speed(1234.6, 0.876)}
    methods = ["input-mixup", "erm", "cutmix"]
    plan = Plan(tmp_path / "all", methods, [0], "multimix compare", "2020-01-01T00:00:00", speed, "How.")
    plan.write()
    assert read_plan(tmp_path / "all") == plan
    summary = summarize([tmp_path / "all"])
    assert [row.label for row in summary.rows] == methods
    assert [row.speed for row in summary.rows] == [None, None, speed["cutmix"]]
    shown = [cell.text for cell in results_table(summary).rows[2]]
    assert shown[-2:] == ["1,235", "0.88×"]


def test_the_best_of_a_column_is_marked_with_its_ties(make_run: MakeRun) -> None:
    runs = [make_run(n, method=n, accuracies=[a]) for n, a in (("erm", 0.8), ("cutmix", 0.9), ("input-mixup", 0.9))]
    table = results_table(summarize(runs))
    assert [row[1].top for row in table.rows] == [False, True, True]
    ece = table.columns.index("calibration\nerror, %")
    assert [row[ece].top for row in table.rows] == [False, True, True]
    nll = table.columns.index("neg. log-\nlikelihood")
    assert [row[nll].top for row in table.rows] == [False, True, True]


def test_many_classes_are_cut_to_those_that_differ_most() -> None:
    names = [str(k) for k in range(50)]
    a = {name: [0.5, 0.5] for name in names} | {"7": [0.5, 0.7], "9": [None, None]}
    b = {name: [0.5, 0.5] for name in names} | {"31": [0.2, 0.2], "9": [None, None]}
    table = per_class_table(["a", "b"], {"a": a, "b": b}, limit=2)
    assert [row[0].text for row in table.rows] == ["31", "7"]
    assert [cell.text for cell in table.rows[1]] == ["7", "60.0", "50.0"]
    assert [cell.top for cell in table.rows[1]] == [False, True, False]
    whole = per_class_table(["a", "b"], {"a": a, "b": b})
    assert [cell.text for cell in whole.rows[9]] == ["9", "", ""]


@pytest.mark.parametrize(
    ("method", "folder"),
    [
        ("erm", "erm"),
        ("multimix(alpha=(0.1, 0.2), n=inf)", "multimix-alpha=-0.1-0.2-n=inf"),
        ("a(x='../b')", "a-x=-..-b"),
    ],
)
def test_folder_names_are_single_harmless_components(method: str, folder: str) -> None:
    assert folder_name(method) == folder


class TestErrors:
    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nothing is not a folder: pass run folders"):
            find_runs([tmp_path / "nothing"])

    def test_no_runs(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="holds no run"):
            find_runs([tmp_path])
        with pytest.raises(FileNotFoundError, match="not a run"):
            read_run(tmp_path)

    def test_nothing_finished(self, make_run: MakeRun) -> None:
        with pytest.raises(ValueError, match=r"no run is finished.*erm, seed 0: 2 of 2 epochs"):
            summarize([make_run("a", finished=False)])

    def test_same_run_twice_is_read_once_but_two_equal_runs_are_refused(self, make_run: MakeRun) -> None:
        a = make_run("a")
        assert len(find_runs([a, a.parent])) == 1
        with pytest.raises(ValueError, match="are both erm with seed 0"):
            summarize([a, make_run("b")])

    def test_links_to_runs_are_followed_and_those_that_lead_back_are_not(
        self, make_run: MakeRun, tmp_path: Path
    ) -> None:
        run = make_run("a")
        (tmp_path / "page").mkdir()
        (tmp_path / "page" / "b").symlink_to(run)
        (tmp_path / "page" / "loop").symlink_to(tmp_path / "page")
        (found,) = find_runs([tmp_path / "page"])
        assert found.path == tmp_path / "page" / "b"

    def test_different_data(self, make_run: MakeRun) -> None:
        runs = [make_run("a"), make_run("b", seed=1, classes=["cat", "dog", "cow"])]
        with pytest.raises(ValueError, match="on different data"):
            summarize(runs)

    def test_another_domain_held_out(self, make_run: MakeRun) -> None:
        make_run("a", data="domains", held_out="art")
        path = make_run("b", data="domains", held_out="photo")
        with pytest.raises(ValueError, match="are on different data: make one report for each"):
            summarize([path.parent])

    def test_damaged_files_are_named(self, make_run: MakeRun) -> None:
        path = make_run("a")
        (path / "result.json").write_text("{")
        with pytest.raises(ValueError, match=r"result\.json is not valid JSON .*: delete it, and training"):
            read_run(path)
        (path / "result.json").write_text("[]")
        with pytest.raises(ValueError, match=r"result\.json must hold a JSON object, got a list"):
            read_run(path)
        (path / "config.json").write_text('{"method": "erm"}')
        with pytest.raises(ValueError, match=r"config\.json"):
            read_run(path)

    def test_half_a_last_line_is_a_run_being_written_but_not_in_the_middle(self, make_run: MakeRun) -> None:
        path = make_run("a", finished=False)
        metrics = path / "metrics.jsonl"
        metrics.write_text(metrics.read_text() + '{"epoch": 3, "te')
        assert [epoch["epoch"] for epoch in read_run(path).metrics] == [1, 2]
        metrics.write_text('{"epoch"\n' + metrics.read_text())
        with pytest.raises(ValueError, match="line 1 is not valid JSON"):
            read_run(path)

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            (
                '{"epoch": 1}',
                r"lacks the numbers train_loss, seconds, test_accuracy, test_ece, test_loss: delete it and",
            ),
            ("[1]", "must hold a JSON object, got a list: delete it and result.json, and training with --resume"),
            ('{"epoch": 3, "te', "is not valid JSON: delete it and"),
            (b"\xff\xfe\x00", "is not valid JSON: delete it and"),
        ],
    )
    def test_damaged_metrics_of_a_finished_run_are_named(self, make_run: MakeRun, line: str | bytes, told: str) -> None:
        metrics = make_run("a") / "metrics.jsonl"
        metrics.write_bytes(metrics.read_bytes() + (line if isinstance(line, bytes) else line.encode()))
        with pytest.raises(ValueError, match=rf"metrics\.jsonl, line 3 {told}"):
            summarize([metrics.parent])

    def test_metrics_of_epochs_that_were_not_evaluated(self, make_run: MakeRun) -> None:
        run = make_run("a", accuracies=[None, 0.5])
        assert summarize([run]).rows[0].last_accuracy.mean == 0.5
        (metrics := run / "metrics.jsonl").write_text(metrics.read_text().replace('"seconds": 2.0', '"seconds": "2"'))
        with pytest.raises(ValueError, match="line 1 lacks the numbers seconds"):
            summarize([run])

    @pytest.mark.parametrize("info", [{}, [], None])
    def test_damaged_information_about_the_data_is_named(self, make_run: MakeRun, info: object) -> None:
        config = make_run("a") / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"data_info": info}))
        with pytest.raises(ValueError, match=r"config\.json does not say num_classes, class_names, .*restore the file"):
            summarize([config.parent])

    def test_finished_without_metrics(self, make_run: MakeRun) -> None:
        path = make_run("a")
        (path / "metrics.jsonl").unlink()
        with pytest.raises(ValueError, match="missing or empty although the run has finished"):
            read_run(path)

    def test_damaged_plan(self, tmp_path: Path) -> None:
        (tmp_path / "compare.json").write_text('{"methods": []}')
        with pytest.raises(ValueError, match=r"compare\.json is not what .*multimix compare.* write .*delete it"):
            read_plan(tmp_path)
