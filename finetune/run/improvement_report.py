"""The report of an improvement: the verdict and its reasons, WERs before and after, averaging, and forgetting.

`improvement_report.html` is its template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.evaluation.intervals import Interval
from finetune.evaluation.scores import percent
from finetune.resources.templates import render_html
from finetune.run.candidate import GOLDEN

if TYPE_CHECKING:
    from finetune.run.gate import WerChange
    from finetune.run.improvement import Improvement

_WIDTH, _HEIGHT = 400, 120


@dataclass(frozen=True)
class Version:
    """A version of the model by its name, with its WER (a fraction, None if unknown) in each domain."""

    name: str
    wers: dict[str, float | None]


@dataclass(frozen=True)
class Curve:
    """A domain's WERs over the versions, as points of an SVG, each (x, y, label)."""

    domain: str
    points: tuple[tuple[float, float, str], ...]

    @property
    def lines(self) -> list[tuple[tuple[float, float, str], tuple[float, float, str]]]:
        """Neighbouring points."""
        return list(zip(self.points, self.points[1:], strict=False))


def build_improvement_report(title: str, improvement: Improvement, history: Sequence[Version] = ()) -> str:
    """The report as HTML; `history` are versions before the champion, measured on the test sets of their time."""
    changes = (improvement.golden, *improvement.domains)
    versions = [
        *history,
        Version("champion", {each.name: each.before for each in changes}),
        Version("candidate", {each.name: each.after for each in changes}),
    ]
    domains = list(dict.fromkeys([GOLDEN, *sorted(name for version in versions for name in version.wers)]))
    highest = max((wer for version in versions for wer in version.wers.values() if wer is not None), default=0.0)
    return render_html(
        "run/improvement_report.html",
        f"{title}: {'passed' if improvement.passed else 'refused'}",
        improvement=improvement,
        replay=percent(improvement.replay_share),
        changes=[_format_change(change) for change in (*changes, improvement.corrections)],
        averaging=[
            (f"{each.share:g}", percent(each.old_wer), percent(each.old_rise), percent(each.snapshot_wer))
            for each in improvement.averaging
        ],
        domains=domains,
        versions=[(each.name, [percent(each.wers.get(domain)) for domain in domains]) for each in versions],
        curves=[_draw_curve(domain, versions, highest) for domain in domains],
        highest=percent(highest),
        width=_WIDTH,
        height=_HEIGHT,
    )


def _format_change(change: WerChange) -> dict[str, Any]:
    return {
        "name": change.name,
        "utterances": change.utterances,
        "before": _format_rate(change.before, change.before_interval),
        "after": _format_rate(change.after, change.after_interval),
        "difference": "" if change.difference is None else _format_points(change.difference, change.interval),
    }


def _format_rate(rate: float | None, interval: Interval | None) -> str:
    between = "" if interval is None else f" ({100 * interval.low:.1f} to {100 * interval.high:.1f})"
    return percent(rate) + between


def _format_points(difference: float, interval: Interval | None) -> str:
    between = "" if interval is None else f" ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"
    return f"{100 * difference:+.1f}{between}"


def _draw_curve(domain: str, versions: Sequence[Version], highest: float) -> Curve:
    points = []
    for place, version in enumerate(versions):
        wer = version.wers.get(domain)
        if wer is not None:
            x = _WIDTH * place / (len(versions) - 1)
            y = _HEIGHT * (1 - wer / highest) if highest else float(_HEIGHT)
            points.append((round(x, 1), round(y, 1), f"{version.name}: {percent(wer)}"))
    return Curve(domain, tuple(points))
