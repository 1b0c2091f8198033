"""The JSON report. Its schema is `schema.json` beside this file; fields are added, never renamed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnx_invert.graph.atomic import replacing
from onnx_invert.plan.choice import AnyPlan
from onnx_invert.trips import RoundTrip, Trip

Json = dict[str, Any]


def plan_rows(plan: AnyPlan) -> list[Json]:
    """The plan's table; null for what an operation does not have, and for an unbounded condition."""
    return [
        {
            "node": row.node,
            "op": row.op,
            "rule": row.rule,
            "shapes": row.shapes,
            "guarantee": row.guarantee.value,
            "rank": row.rank,
            "condition": number(row.condition),
            "lost": row.lost,
            "note": row.note,
        }
        for row in plan.rows
    ]


def round_trip(measured: RoundTrip) -> Json:
    """The measured round trips."""
    return {
        "samples": measured.samples,
        "source": measured.source,
        "skipped": measured.skipped,
        "x_error": _trip(measured.x),
        "y_error": _trip(measured.y),
        "drawn_y_error": None if measured.drawn is None else _trip(measured.drawn),
        "clamped": measured.clamped,
        "tolerance": number(measured.tolerance),
        "unsolved": measured.unsolved,
        "passed": measured.passed,
    }


def _trip(trip: Trip) -> Json:
    return {
        "median": number(trip.median),
        "max": number(trip.worst),
        "promised": trip.promised,
        "amplification": number(float(np.max(trip.amplification, initial=1.0))),
        "tolerance": number(trip.tolerance),
        "lost": trip.lost,
        "passed": trip.holds,
    }


def number(value: float | None) -> float | None:
    """The value, or null where JSON has no number for it."""
    return value if value is not None and math.isfinite(value) else None


def write(report: Mapping[str, Any], path: Path) -> None:
    """Write the report whole or not at all.

    Raises:
        FileError: the path cannot be written.
    """
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with replacing(path, "report") as file:
        # A file name need not be valid Unicode; \udcff is how JSON writes it then.
        file.write(text.encode("utf-8", errors="backslashreplace"))
