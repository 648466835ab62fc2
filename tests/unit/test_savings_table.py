"""The ledger of savings as the report shows it."""

from __future__ import annotations

from criticflow.report import tables


def test_saving_and_charge_are_in_the_same_unit():
    figure = {"value": 2e12, "low": None, "high": None}
    entry = {"unit": "flops", "saving": figure, "charge": 5e12, "pays_after": {"value": 3}}
    row = {"arm": "warm", "against": "cold", "charged": "cold", "ledger": [entry]}
    shown = tables.savings([row])
    assert shown.head == ["a run of", "TFLOP (estimated)"]
    cell = shown.rows[0][1]
    assert (cell.text, cell.small) == ("2", "critic: 5\npays after 3 reuses")
