"""The blocks of metrics.json on the terminal."""

from rich.console import Console
from rich.table import Table


def show(result: dict) -> None:
    """Print the metric block."""
    console = Console()
    console.print(_localisation(result["localisation"], result.get("intervals", {})))
    matched = result["matching"]
    if matched:
        console.print(f"regions: AP50 {_number(matched['hungarian']['ap50'])} (Hungarian), "
                      f"{_number(matched['coco']['ap50'])} (COCO); mAP "
                      f"{_number(matched['hungarian']['map'])}, {_number(matched['coco']['map'])}; "
                      f"recall {_number(matched['recall50'])} of {matched['num_true']} at IoU 0.5")
    found = result["detection"]
    if found:
        console.print(f"verdict: accuracy {_number(found['accuracy'])}, balanced "
                      f"{_number(found['balanced_accuracy'])}, AUC {_number(found['auc'])}, macro "
                      f"F1 {_number(found['macro_f1'])}, calibration error "
                      f"{_number(found['ece'])}, {found['num']} photos")
    for name, column in result["groups"].items():
        left_out = f", without {', '.join(column['missing'])}" if column["missing"] else ""
        console.print(f"  {name}: accuracy {100 * column['accuracy']:.2f}{left_out}")
    text = result["text"]
    css = "" if text["css"] is None else (
        f", CSS {text['css']:.3f} by {result['settings']['css_model']}")
    console.print(f"explanation: ROUGE-L {_number(text['rouge_l'])}{css}; words agree with the "
                  f"verdict in {_number(result['words']['agreement'])}")
    console.print(f"{result['num_unfinished']} answers cut at the length limit, "
                  f"{result['num_no_mask']} photos with artifacts without a mask, "
                  f"{result['num_failed']} photos not readable")
    for failure in result["failures"]:
        console.print(f"  {failure['id']}: {failure['reason']}", markup=False)
    if result.get("robustness"):
        console.print(_robustness(result["robustness"]))


def _localisation(places: dict, intervals: dict) -> Table:
    table = Table("localisation", "fg IoU", "bg IoU", "mIoU", "F1", "photos")
    for name, count in (("mean", "num_images"), ("mean_with_artifacts", "num_with_artifacts"),
                        ("pooled", "num_images")):
        table.add_row(name.removeprefix("mean_").replace("_", " "), *(
            _number(places[name][k]) + _interval(intervals.get(f"localisation.{name}.{k}"))
            for k in ("fg_iou", "bg_iou", "miou", "f1")), str(places[count]))
    return table


def _robustness(curves: list[dict]) -> Table:
    table = Table("damage", "level", "mIoU", "F1", "accuracy", "ROUGE-L")
    for point in curves:
        mean = point["localisation"]["mean"]
        table.add_row(point["name"], f"{point['level']:g}", _number(mean["miou"]),
                      _number(mean["f1"]), _number(point["detection"].get("accuracy")),
                      _number(point["text"]["rouge_l"]))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(values: list[float] | None) -> str:
    return "" if values is None else f"\n{values[0]:.2f}-{values[1]:.2f}"
