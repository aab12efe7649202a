"""The tables of tools.bench, and its line of JSON."""

from rich.console import Console
from rich.table import Table

from legion_jax.chips import Chip

TITLES = {"train": "train step, {photos} photos",
          "answers": "captions and masks for {photos} photos: {tokens} tokens, {masks} masks",
          "batching": "captions and masks of {photos} photos: a batch (ours), one by one (peer)"}


def show_machine(result: dict, console: Console) -> None:
    """Prints what the cores can do, and how busy they are."""
    speeds = ", ".join(f"{name} {value:.0f}"
                       for name, value in result["product"]["gflops_per_s"].items())
    console.print(f"{result['threads']} cores, load {result['load'][0]:.1f}; a product of "
                  f"matrices: {speeds} GFLOP/s", highlight=False)


def show_work(name: str, result: dict, console: Console) -> None:
    """Prints one piece of work."""
    figures = result[name]
    if "policies" in figures:
        show_policies(figures, console)
        return
    peak = max(result["product"]["gflops_per_s"].values())
    title = TITLES[name].format(**figures)
    table = Table(title=f"{title}; {figures['flops'] / 1e9:.0f} GFLOP", title_justify="left")
    for column in ("", "median s", "fastest", "slowest", "core seconds", "GFLOP/s",
                   "times the peer"):
        table.add_column(column, justify="right" if column else "left")
    for name, seconds in figures["seconds"].items():
        times = f"{figures['ratio']:.2f}" if name == "ours" and "ratio" in figures else ""
        table.add_row(name, f"{seconds:.3f}", f"{figures['fastest'][name]:.3f}",
                      f"{figures['slowest'][name]:.3f}", f"{figures['cpu_seconds'][name]:.3f}",
                      f"{figures['gflops_per_s'][name]:.1f}", times)
    product = result["product"]
    each = max(product["flops"] / seconds for seconds in product["cpu_seconds"].values())
    table.add_row("floor", f"{figures['flops'] / peak / 1e9:.3f}", "", "",
                  f"{figures['flops'] / each:.3f}", f"{peak:.1f}", "")
    console.print(table)
    ratio = (f"; the peer takes {figures['cpu_ratio']:.2f} times our core seconds"
             if "ratio" in figures else "")
    console.print(f"load {result['load'][-1]:.1f}; ours compiled in {figures['compile_s']:.1f} s"
                  f"{ratio}", highlight=False)
    if check := figures.get("check"):
        said = "  ".join(f"{key} {value}" for key, value in check.items() if key != "same")
        console.print(f"{'the same results' if check['same'] else 'DIFFERENT results'}: {said}",
                      highlight=False)


def show_policies(figures: dict, console: Console) -> None:
    """Prints what filling the places by each rule costs."""
    table = Table(title=f"{figures['answers']} answers, {figures['tokens']} tokens, through "
                  f"{figures['places']} places", title_justify="left")
    table.add_column("")
    table.add_column("seconds", justify="right")
    for name, seconds in sorted(figures["policies"].items(), key=lambda item: item[1]):
        table.add_row(name, f"{seconds:.1f}")
    console.print(table)
    for name, costs in (("letting in", figures["admit_s"]), ("a step", figures["step_s"])):
        console.print(f"{name}: " + ", ".join(
            f"{size} photos {1e3 * seconds:.0f} ms" for size, seconds in costs.items()),
            highlight=False)


def show_chip(kind: str, chip: Chip, console: Console) -> None:
    """Prints what a GPU can do."""
    console.print(f"{kind}: {chip.flops / 1e12:.0f} TFLOP/s of bfloat16, "
                  f"{chip.hbm_rate / 1e12:.2f} TB/s by its data sheet", highlight=False)


def show_piece(name: str, found: dict, console: Console) -> None:
    """Prints one piece of work on a GPU."""
    if "missing" in found:
        text = f"MISSING: {found['missing']}"
    elif "mfu" in found:
        text = (f"{found['seconds']:.3f} s per update, {found['tokens_per_s']:.0f} tokens/s, MFU "
                f"{found['mfu']:.1%}")
    elif "of_bound" in found:
        text = (f"{found['ms_per_step']:.2f} ms per decoding step, {found['tokens_per_s']:.0f} "
                f"tokens/s; memory allows {found['bound_ms_per_step']:.2f} ms, "
                f"{found['of_bound']:.0%} of it reached")
    else:
        text = f"{found['passed']} of {found['of']} quantities pass"
    if found.get("peak_bytes"):
        text += f"; {found['peak_bytes'] / 1e9:.1f} GB of memory"
    console.print(f"{name}: {text}", highlight=False)
    for row in found.get("operations", ()):
        console.print(f"  {1e3 * row['seconds']:8.2f} ms  {row['times']:6d} times  {row['name']}",
                      highlight=False, overflow="ellipsis", no_wrap=True)


def rounded(value):
    """A JSON value with numbers of five digits, which is more than the clock is good for."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
