"""Tables of a report, as rows of cells that its templates draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from criticflow.report.description import describe
from criticflow.report.results import Results

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """What stands in a cell.

    Attributes:
        text: its first line.
        small: a second line, in small print.
        number: it stands on the right.
        arm: whose line is drawn before the text.
    """

    text: str
    small: str = ""
    number: bool = False
    arm: str | None = None


@dataclass(frozen=True)
class Table:
    """Titles of the columns, and rows with a cell for each."""

    head: list[str]
    rows: list[list[Cell]]

    @property
    def dense(self) -> bool:
        """Whether there are so many columns that intervals have to go on a second line."""
        return len(self.head) > 5


def arms(results: Results) -> Table:
    """One row an arm, base models first; what the study is about, then health."""
    metric = results.metric
    others = [name for name in ("greedy.pass@1", "pass@1", "mean_score") if name != metric]
    head = ["arm", "seeds", metric, "IQM", "SD of seeds", "SD of problems", *others]
    head += ["entropy (nats)", "length (tokens)"]
    rows = [_base(row, [metric, *others]) for row in results.summary if row["kind"] == "base"]
    found = {(row["arm"], row["metric"]): row for row in results.arms}
    for arm, run in results.config.runs.items():
        if (arm, metric) not in found:
            continue
        main = found[arm, metric]
        mine = [row for row in results.summary if row["kind"] == "run" and row["name"] == arm]
        rows.append(
            [
                Cell(arm, describe(run), arm=arm),
                _number(len(main["seeds"]), "{:d}"),
                estimate(main["mean"]),
                _number(main["iqm"]),
                _number(main["sd_seed"]),
                _number(main["sd_problem"]),
                *(_number(found[arm, name]["mean"]["value"]) for name in others),
                _number(_over(mine, "avg_entropy")),
                _number(_over(mine, "response_length"), "{:.1f}"),
            ]
        )
    return Table(head, rows)


def contrasts(rows: Sequence[Row]) -> Table:
    """One row a contrast, its verdict in words; the share of an oracle's gain if there is one."""
    head = ["contrast", "difference", "improves in", "p", "p (Holm)", "seeds", "verdict"]
    shared = any(row.get("share_of_oracle") for row in rows)
    if shared:
        head.insert(2, "of the oracle's gain")
    return Table(
        head,
        [
            [
                Cell(row["name"], f"{row['kind']}: differs in {row['differs_in']}"),
                estimate(row["difference"], "{:+.3f}"),
                *([estimate(row["share_of_oracle"], "{:.2f}")] if shared else []),
                _share(row["probability_of_improvement"]),
                _number(row["p"], "{:.3g}"),
                _number(row["p_holm"], "{:.3g}"),
                _number(len(row["seeds"]), "{:d}"),
                Cell(row["verdict"]),
            ]
            for row in rows
        ],
    )


MODEL_COLUMNS = {
    "mean_score": "mean score",
    "avg_entropy": "entropy (nats)",
    "format_rate": "format",
    "response_length": "length (tokens)",
    "truncation_rate": "truncated",
}
"""Keys of a row in summary.json that become columns, after pass@k."""
DIALOGUE_COLUMNS = {
    "searches": "searches",
    "gold_retrieved": "gold documents found",
    "turns": "turns",
    "tokens_read": "tokens read",
}
"""The same where models search; without a row that has one there is no column."""


def models(rows: Sequence[Row]) -> Table:
    """Every model and seed, with its difference to the base model under each figure."""
    rows = sorted(rows, key=lambda row: row["kind"] != "base")
    ks = sorted({key for row in rows for key in row if key.startswith("pass@")}, key=_k)
    columns = {key: key for key in ks} | MODEL_COLUMNS
    columns |= {
        key: name for key, name in DIALOGUE_COLUMNS.items() if any(key in row for row in rows)
    }
    head = ["model or run", "greedy pass@1", *columns.values()]
    return Table(
        head,
        [
            [
                Cell(row["name"], f"{_seed_and_step(row.get('seed'), None)}, {row['task']}"),
                _with_difference(
                    (row.get("greedy") or {}).get("pass@1"),
                    ((row.get("difference") or {}).get("greedy") or {}).get("pass@1"),
                ),
                *(
                    _with_difference(row.get(key), (row.get("difference") or {}).get(key))
                    for key in columns
                ),
            ]
            for row in rows
        ],
    )


def evaluations(rows: Sequence[Row]) -> Table:
    """Every critic on held-out responses: over all tokens, and AUC at both ends."""
    head = ["run", "seed", "mean return", "mean value", "explained variance", "Brier", "ECE"]
    head += ["AUC at the prompt", "AUC at the end", "r: V(prompt), pass rate"]
    return Table(
        head,
        [
            [
                Cell(row["name"], arm=row["name"]),
                _number(row["seed"], "{:d}"),
                _number(row["tokens"]["mean_return"]),
                _number(row["tokens"]["mean_value"]),
                estimate(row["tokens"]["explained_variance"]),
                estimate(row["tokens"]["brier"]),
                estimate(row["tokens"]["ece"]),
                estimate(row["positions"][0]["auc"]),
                estimate(row["positions"][-1]["auc"]),
                estimate(row["prompt_value"]["correlation"]),
            ]
            for row in rows
        ],
    )


def critics(rows: Sequence[Row]) -> Table:
    """Every critic and reference against the truth of every actor."""
    head = ["critic", "actor", "share explained", "share, centred", "bias", "Spearman"]
    head += ["worth in rollouts", "the constant's"]
    ranked = any(row.get("ranking") for row in rows)
    if ranked:
        head += ["regret of its next piece, chance = 1", "best piece chosen", "by chance"]
    return Table(
        head,
        [
            [
                Cell(f"{row['critic']}", _of_kind(row)),
                Cell(row["actor"], _seed_and_step(row["actor_seed"], row["actor_step"])),
                *(
                    estimate(row[name])
                    for name in ("share_explained", "share_centred", "bias", "spearman")
                ),
                estimate(row["worth_in_rollouts"], "{:.2f}"),
                _number((row["constant_worth"] or {}).get("value"), "{:.2f}"),
                *(_ranking(row.get("ranking")) if ranked else []),
            ]
            for row in rows
        ],
    )


def advantages(rows: Sequence[Row]) -> Table:
    """Advantages of critics and references against the true ones, at two lambdas; and the policy
    gradients with them, where these were measured."""
    head = ["critic", "actor", "lambda", "correlation", "signs that agree", "mse"]
    head += ["variance", "of the true ones"]
    stepped = any("gradient" in found for row in rows for found in row.get("advantages") or [])
    if stepped:
        head += ["cosine of the policy gradients", "its variance, true = 1"]
    return Table(
        head,
        [
            [
                Cell(f"{row['critic']}", _of_kind(row)),
                Cell(row["actor"], _seed_and_step(row["actor_seed"], row["actor_step"])),
                _number(found["lambda"], "{:g}"),
                estimate(found["correlation"], "{:.2f}"),
                estimate(found["sign_agreement"], "{:.2f}"),
                *(estimate(found[name], "{:.4f}") for name in ("mse", "variance", "true_variance")),
                *(_gradient(found.get("gradient")) if stepped else []),
            ]
            for row in rows
            for found in row.get("advantages") or []
        ],
    )


def _gradient(found: Row | None) -> list[Cell]:
    """Cosine to the true policy gradient, and variance over batches; empty if not measured."""
    if not found:
        return [Cell("–", number=True)] * 2
    return [estimate(found[name], "{:.2f}") for name in ("cosine", "variance_ratio")]


def _ranking(found: Row | None) -> list[Cell]:
    """Share of chance's regret, top-1 and chance's; empty where it was not measured."""
    if not found:
        return [Cell("–", number=True)] * 3
    return [
        estimate(found["regret_share"], "{:.2f}"),
        _share(found["top1"]),
        _share(found["top1_chance"]),
    ]


def tempered(rows: Sequence[Row]) -> Table:
    """One row an arm: what it does better than the base model with the same entropy."""
    head = ["arm", "seeds", "entropy (nats)", "base model at", "its pass@1", "pass@1 beyond it"]
    head += ["greedy pass@1 beyond the base model's"]
    return Table(
        head,
        [
            [
                Cell(row["arm"], arm=row["arm"]),
                _number(len(row["seeds"]), "{:d}"),
                _number(row["actor_entropy"]),
                _number(row["temperature"], "T = {:.2f}"),
                _number(row["base"]),
                estimate(row["sampled"], "{:+.3f}"),
                estimate(row["greedy"], "{:+.3f}"),
            ]
            for row in rows
        ],
    )


UNITS = {
    "steps": ("steps", 1, "{:,.0f}"),
    "tokens": ("tokens", 1, "{:,.0f}"),
    "generated_tokens": ("generated tokens", 1, "{:,.0f}"),
    "seconds": ("seconds", 1, "{:,.1f}"),
    "flops": ("TFLOP (estimated)", 1e12, "{:,.3g}"),
    "memory_bytes": ("peak memory of a worker (MiB)", 2**20, "{:,.0f}"),
    "optimizer_bytes": ("critic's optimizer state (MiB)", 2**20, "{:,.2f}"),
}
"""Words, divisor and form of what a training costs."""


def savings(rows: Sequence[Row]) -> Table:
    """What a run saves by reusing a critic; below it what the critic cost, and when that pays."""
    units = [unit for unit in UNITS if any(_entry(row, unit) for row in rows)]
    return Table(
        ["a run of", *(UNITS[unit][0] for unit in units)],
        [
            [
                Cell(row["arm"], f"instead of {row['against']}", arm=row["arm"]),
                *(_saved(_entry(row, unit)) for unit in units),
            ]
            for row in rows
        ],
    )


SPEED_UNITS = ("steps", "generated_tokens", "seconds", "flops")
"""What a threshold costs."""


def speed(found: Row) -> Table:
    """Area under the validation curve, and what the threshold cost each arm, if there is one."""
    units = [unit for unit in SPEED_UNITS if any(unit in row["units"] for row in found["arms"])]
    head = ["arm", "seeds", "area under the curve"]
    head += [*(["reached it"] if units else []), *(UNITS[unit][0] for unit in units)]
    return Table(
        head,
        [
            [
                Cell(row["arm"], arm=row["arm"]),
                _number(len(row["seeds"]), "{:d}"),
                estimate(row["area"]),
                *([_reached(row)] if units else []),
                *(_cost(row["units"].get(unit), *UNITS[unit][1:]) for unit in units),
            ]
            for row in found["arms"]
        ],
    )


def speed_contrasts(found: Row) -> Table:
    """Differences in area, paired by seeds; the log-rank test of what the threshold costs."""
    units = [unit for unit in SPEED_UNITS if any(unit in row["p"] for row in found["contrasts"])]
    head = ["contrast", "seeds", "difference in area", "p"]
    head += [f"log-rank p, {UNITS[unit][0]}" for unit in units]
    return Table(
        head,
        [
            [
                Cell(row["name"], f"{row['a']} minus {row['b']}"),
                _number(len(row["area"]["seeds"]), "{:d}"),
                estimate(row["area"]["difference"], "{:+.3f}"),
                _number(row["area"]["p"], "{:.3g}"),
                *(_number(row["p"].get(unit), "{:.3g}") for unit in units),
            ]
            for row in found["contrasts"]
        ],
    )


def _reached(row: Row) -> Cell:
    runs = next(iter(row["units"].values()), None)
    if runs is None:
        return Cell("–", number=True)
    return Cell(f"{runs['reached']} of {len(runs['by_seed'])}", number=True)


def _cost(found: Row | None, divisor: float, form: str) -> Cell:
    """The median over an arm's runs, and the runs one by one: those that never arrived as more than
    all they spent."""
    if found is None:
        return Cell("–", number=True)
    runs = [
        ("" if run["reached"] else "> ") + form.format(run["cost"] / divisor)
        for run in found["by_seed"]
    ]
    median = found["median"]["value"]
    text = "not reached" if median is None else form.format(median / divisor)
    return Cell(text, ", ".join(runs) if len(runs) <= 3 else "", number=True)


def _entry(row: Row, unit: str) -> Row | None:
    return next((entry for entry in row["ledger"] if entry["unit"] == unit), None)


def _saved(entry: Row | None) -> Cell:
    if entry is None or entry["saving"]["value"] is None:
        return Cell("–", number=True)
    _, divisor, form = UNITS[entry["unit"]]
    scaled = {key: None if one is None else one / divisor for key, one in entry["saving"].items()}
    saving = estimate(scaled, form)
    if not entry["charge"]:
        return saving
    after = entry["pays_after"]["value"]
    pays = "never pays" if after is None else f"pays after {after} reuses"
    cost = f"critic: {form.format(entry['charge'] / divisor)}\n{pays}"
    return Cell(saving.text, f"{saving.small}\n{cost}".strip(), number=True)


def estimate(figure: Row | None, form: str = "{:.3f}") -> Cell:
    """A figure, its interval below; n/a where it is not defined."""
    if figure is None or figure["value"] is None:
        return Cell("n/a", number=True)
    small = ""
    if figure["low"] is not None and figure["high"] is not None:
        # A space that does not break: an interval stands on one line.
        small = f"[{form.format(figure['low'])},\u00a0{form.format(figure['high'])}]"
    return Cell(form.format(figure["value"]), small, number=True)


def _number(value: float | None, form: str = "{:.3f}") -> Cell:
    return Cell("–" if value is None else form.format(value), number=True)


def _share(figure: Row) -> Cell:
    """A probability, in whole percents."""
    if figure["value"] is None:
        return Cell("–", number=True)
    bounds = "" if figure["low"] is None else f"[{figure['low']:.0%}, {figure['high']:.0%}]"
    return Cell(f"{figure['value']:.0%}", bounds, number=True)


def _base(row: Row, metrics: Sequence[str]) -> list[Cell]:
    """A base model's row: it has no seeds."""
    figures = [_of_summary(row, name) for name in metrics]
    return [
        Cell(row["name"], f"base model on {row['task']}"),
        Cell("–", number=True),
        figures[0],
        *[Cell("–", number=True)] * 3,
        *figures[1:],
        _number(row.get("avg_entropy")),
        _number(row.get("response_length"), "{:.1f}"),
    ]


def _of_summary(row: Row, metric: str) -> Cell:
    greedy, _, name = metric.rpartition(".")
    return _number((row.get("greedy") or {}).get(name) if greedy else row.get(name))


def _with_difference(value: float | None, difference: Row | None) -> Cell:
    found = _number(value)
    if value is None or difference is None:
        return found
    told = estimate(difference, "{:+.3f}")
    return Cell(found.text, f"{told.text}\n{told.small}".strip(), number=True)


def _over(rows: Sequence[Row], key: str) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    return mean(values) if values else None


def _of_kind(row: Row) -> str:
    kind = row["kind"].replace("_", " ")
    if row["critic_seed"] is None:
        return kind
    return f"{kind}, {_seed_and_step(row['critic_seed'], row['critic_step'])}"


def _seed_and_step(seed: int | None, step: int | None) -> str:
    if seed is None:
        return "base model"
    return f"seed {seed}" if step is None else f"seed {seed}, step {step}"


def _k(name: str) -> int:
    return int(name.partition("@")[2])
