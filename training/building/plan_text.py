"""The plan of a build, as it is shown before the first stage: what the data holds, and the minutes of each stage."""

from __future__ import annotations

from collections import Counter

from training.building.kept import Kept
from training.studies.recipe import Recipe

MAX_LOCALES = 8


def plan_text(data: Kept, recipe: Recipe) -> str:
    """The plan in lines; minutes are those that the recipe was planned with."""
    train, dev = data.part("train"), data.part("dev")
    intents = {u.intent for u in train if u.intent}
    domains = {u.domain for u in train if u.domain}
    slots = {slot.name for u in train for slot in u.slots}
    counted = [(len(intents), "intent"), (len(domains), "domain"), (len(slots), "kind of slot")]
    kinds = ", ".join(_count(number, name) for number, name in counted if number)
    lines = [
        f"Data: {_count(len(train), 'utterance')} to train on, {len(dev):,} to score on (dev); {kinds or 'no labels'}."
    ]
    locales = Counter(u.locale for u in train)
    shown = [f"{locale} {number:,}" for locale, number in locales.most_common(MAX_LOCALES)]
    more = len(locales) - len(shown)
    lines.append(f"Locales: {', '.join(shown)}{f' and {more} more' if more else ''}.")
    minutes: dict[str, float] = recipe.plan.get("minutes_by_stage", {})
    if not minutes:
        return "\n".join(lines)
    epochs = {f"runs/{name}": run.settings.get("epochs") for name, run in recipe.runs.items()}
    lines.append("Estimated minutes of each stage, by the speed of this machine:")
    width = max(map(len, (*minutes, "together")))
    for stage, value in minutes.items():
        of = f"  {_count(int(str(epochs[stage])), 'epoch')}" if epochs.get(stage) else ""
        lines.append(f"  {stage:<{width}}  {value:6.1f}{of}")
    lines.append(f"  {'together':<{width}}  {sum(minutes.values()):6.1f}  of --minutes {recipe.plan['minutes']:g}")
    if (share := recipe.plan.get("train_share", 1)) < 1:
        lines.append(f"  For an epoch of all training utterances that is too short: {share:.0%} of them are used.")
    return "\n".join(lines)


def _count(number: int, name: str) -> str:
    first, *rest = name.split(" ")
    return f"{number:,} {first}{'' if number == 1 else 's'}{''.join(f' {word}' for word in rest)}"
