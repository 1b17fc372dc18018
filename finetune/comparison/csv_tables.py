"""The tables of a report as CSV: one row a figure, or a model, with numbers as they are."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune.comparison.tables import MEASURES

Rows = list[dict[str, Any]]


def csv_tables(report: dict[str, Any]) -> dict[str, Rows]:
    """File name without suffix -> rows; a table that a report has nothing for is left out."""
    made = {
        "measures": list(_measures(report)),
        "differences": list(_differences(report)),
        "classes": list(_classes(report)),
        "cost": [
            {"model": row["name"], "start": row["start"], "labels": row["label"], **row["cost"]}
            for row in report["rows"]
        ],
        "operating_points": list(_points(report)),
        "prices": list(_prices(report)),
        "acceptance": list(_acceptance(report)),
        "detection": list(_detection(report)),
        "published": [
            {"method": one["method"], "source": one["source"], **one["measures"]}
            for one in report["published"]["figures"]
        ],
    }
    return {name: rows for name, rows in made.items() if rows}


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _measures(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for row in (*report["rows"], *report["trivial"]):
        for name, found in row["measures"].items():
            yield {
                "model": row["name"],
                "oracle": row.get("oracle", False),
                "level": MEASURES[name].level,
                "measure": name,
                **{key: found.get(key) for key in ("value", "low", "high")},
                "images": "+".join(map(str, found.get("images", []))),
                "reached_by": found.get("reached_by"),
            }


def _differences(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for row in report["rows"]:
        for name, found in row["differences"].items():
            kept = {key: found.get(key) for key in ("value", "low", "high", "p", "p_holm", "verdict")}
            yield {"model": row["name"], "baseline": report["baseline"], "measure": name, **kept}


def _classes(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for row in report["rows"]:
        for known, entry in zip(report["test"]["classes"], row["classes"], strict=True):
            for kind in ("ap50", "found"):
                if found := entry.get(kind):
                    shown = {key: found[key] for key in ("value", "low", "high")}
                    yield {"model": row["name"], **known, "measure": kind, **shown}


def _decided(report: dict[str, Any], kind: str) -> Iterator[tuple[str, Any]]:
    for row in report["rows"]:
        if row["decisions"] and row["decisions"][kind]:
            yield row["name"], row["decisions"][kind]


def _points(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, points in _decided(report, "points"):
        for one in points:
            shares = {key: one.get(key) for key in ("recall", "rejects", "rejects_of_calibration")}
            yield {
                "model": name,
                "point": one["point"],
                "threshold_from": one["from"],
                "images_for_it": one["of"],
                "threshold": " ".join(f"{value:.6g}" for value in one.get("thresholds", [])),
                **_flat(shares),
                "why_none": one.get("why"),
            }


def _prices(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, one in _decided(report, "cost"):
        kept = {key: one.get(key) for key in ("per_1000", "recall", "rejects")}
        yield {"model": name, "threshold": one.get("threshold"), **_flat(kept), "why_none": one.get("why")}


def _acceptance(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, one in _decided(report, "acceptance"):
        yield from ({"model": name, "passes": one["passes"], **each} for each in one.get("requirements", []))


def _detection(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, one in _decided(report, "detection"):
        fitted = {key: one.get(key) for key in ("defects", "found", "a90", "a90_95", "intercept", "slope")}
        yield {"model": name, **fitted, "why_none": one.get("why")}
        for size in one.get("sizes", []):
            shown = {key: size[key] for key in ("from", "to", "count", "of", "value", "low", "high")}
            yield {"model": name, **shown}


def _flat(shares: dict[str, dict[str, Any] | None]) -> dict[str, Any]:
    """``recall`` -> ``recall``, ``recall_low``, ``recall_high``."""
    found: dict[str, Any] = {}
    for name, share in shares.items():
        if share is not None:
            found |= {name: share["value"], f"{name}_low": share["low"], f"{name}_high": share["high"]}
    return found
