"""The blocks of metrics.json on the terminal."""

from rich.table import Table

from legion_jax.display.console import DataConsole
from legion_jax.display.numbers import score
from legion_jax.evaluate import word_verdicts
from legion_jax.evaluate.settings import dialogue_of


def show(result: dict) -> None:
    """Print the metric block."""
    console = DataConsole()
    if result["localisation"]["num_images"]:
        console.print(_localisation(result["localisation"], result.get("intervals", {})))
    if matched := result["matching"]:
        console.print(f"regions: AP50 {score(matched['hungarian']['ap50'])} (Hungarian), "
                      f"{score(matched['coco']['ap50'])} (COCO); mAP "
                      f"{score(matched['hungarian']['map'])}, {score(matched['coco']['map'])}; "
                      f"recall {score(matched['recall50'])} of {matched['num_true']} at IoU 0.5")
    if detected := result["detection"]:
        console.print(f"verdict: accuracy {score(detected['accuracy'])}, balanced "
                      f"{score(detected['balanced_accuracy'])}, AUC {score(detected['auc'])}, "
                      f"macro F1 {score(detected['macro_f1'])}, calibration error "
                      f"{score(detected['ece'])}, {detected['num']} photos")
        _say_how_judged(console, detected)
        if "classes" in detected:
            _say_classes(console, detected["classes"])
    if forced := result.get("teacher_forced"):
        _say_forced(console, forced)
    for name, column in result["groups"].items():
        left_out = f", without {', '.join(column['missing'])}" if column["missing"] else ""
        console.print(f"  {name}: accuracy {100 * column['accuracy']:.2f}{left_out}")
    text = result["text"]
    css = "" if text["css"] is None else (
        f", CSS {text['css']:.3f} by {result['settings']['css_model']}")
    wordless = f" ({text['num_wordless']} without a word)" if text["num_wordless"] else ""
    agree = "" if detected.get("verdict_by") == word_verdicts.WORDS else (
        f"; words agree with the verdict in {score(result['words']['agreement'])}")
    console.print(f"explanation{wordless}: ROUGE-L {score(text['rouge_l'])}{css}{agree}")
    console.print(f"{result['num_unfinished']} answers cut at the length limit, "
                  f"{result['num_no_mask']} photos with artifacts without a mask, "
                  f"{result['num_failed']} photos not readable")
    if dialogue := dialogue_of(result["settings"]):
        console.print(f"asked in the dialogue {dialogue}", markup=False)
    for failure in result["failures"]:
        console.print(f"  {failure['id']}: {failure['reason']}", markup=False)
    if result.get("robustness"):
        console.print(_robustness(result["robustness"]))


def _say_how_judged(console: DataConsole, detected: dict) -> None:
    """One line where it is not a head that judges, or where answers lack what it reads."""
    if (rule := detected.get("verdict_by")) == word_verdicts.WORDS:
        console.print(f"  judged by the words of the answer; {detected['num_unparsed']} answers "
                      f"say neither real nor fake and count as wrong")
    elif rule == word_verdicts.FAKEVLM:
        console.print(f"  judged by FakeVLM's published rule (--compat=fakevlm); "
                      f"{detected['num_drawn']} verdicts drawn by lot")
    if missing := detected.get("num_no_verdict"):
        console.print(f"  {missing} answers have no verdict and count as wrong")


def _say_classes(console: DataConsole, classes: dict) -> None:
    """Scores of each class, and the photos of each label by the class they were given."""
    console.print(f"classes: accuracy {score(classes['accuracy'])}, macro F1 "
                  f"{score(classes['macro_f1'])}, {classes['num']} photos")
    table = Table("class", "recall", "precision", "F1", "photos")
    for name, values in classes["by_class"].items():
        table.add_row(name, *(score(values[key]) for key in ("recall", "precision", "f1")),
                      str(values["support"]))
    console.print(table)
    table = Table("are / called", *classes["by_class"], "nothing")
    for label, counts in classes["confusion"].items():
        table.add_row(label, *map(str, counts.values()))
    console.print(table)


def _say_forced(console: DataConsole, forced: dict) -> None:
    """The numbers of SIDA's evaluation."""
    left_out = f", {forced['num_left_out']} left out" if forced["num_left_out"] else ""
    console.print(f"given the true answer (--compat=sida): accuracy "
                  f"{score(forced['classes']['accuracy'])}, gIoU {score(forced['giou'])}, cIoU "
                  f"{score(forced['ciou'])}, F1 {score(forced['f1'])}, AUC "
                  f"{score(forced['auc'])}; {forced['num']} photos, {forced['num_masks']} masks"
                  f"{left_out}")


def _localisation(averages: dict, intervals: dict) -> Table:
    table = Table("localisation", "fg IoU", "bg IoU", "mIoU", "F1", "photos")
    for name, count in (("mean", "num_images"), ("mean_with_artifacts", "num_with_artifacts"),
                        ("pooled", "num_images")):
        table.add_row(name.removeprefix("mean_").replace("_", " "), *(
            score(averages[name][k]) + _interval(intervals.get(f"localisation.{name}.{k}"))
            for k in ("fg_iou", "bg_iou", "miou", "f1")), str(averages[count]))
    return table


def _robustness(curves: list[dict]) -> Table:
    table = Table("damage", "level", "mIoU", "F1", "accuracy", "ROUGE-L")
    for point in curves:
        mean = point["localisation"]["mean"]
        table.add_row(point["name"], f"{point['level']:g}", score(mean["miou"]),
                      score(mean["f1"]), score(point["detection"].get("accuracy")),
                      score(point["text"]["rouge_l"]))
    return table


def _interval(values: list[float] | None) -> str:
    return "" if values is None else f"\n{values[0]:.2f}-{values[1]:.2f}"
