"""Where students run: on the event loop, or each in a thread of its own.

A student runs on the event loop if possible: a thread lowers its rate. Beside a faster one, a slow student runs in a
thread (onnxruntime releases the GIL meanwhile), so that it does not delay the other's texts.

The choice is made from the manifests of the loaded students alone, so that it is the same in each worker and after each
start. A measurement would differ between workers that start at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping

from service.student.manifest import Manifest

MAX_SHARED_LOOP_SECONDS = 0.75e-3  # a slower student runs in a thread if a faster one is served beside it
MAX_LOOP_SECONDS = 5e-3  # a slower student always runs in a thread: health checks wait for the loop
TYPICAL_TOKENS = 12
MICROSECONDS = 1e-6
# Estimate without a latency, from the shipped int8 students: 142 µs with 0.4 M parameters, 317 with 3.2 M.
BASE_SECONDS = 120e-6
SECONDS_PER_PARAMETER = 62e-12
FP32_FACTOR = 2.0


def recorded_seconds(manifest: Manifest) -> float:
    """Seconds for a text of typical length, as the export measured them on its machine.

    That is the latency of the shortest measured length which is not below `TYPICAL_TOKENS`, or of the longest one.
    Without a measurement it is estimated from the parameters.
    """
    latencies = manifest.latency.get(manifest.precision)
    if isinstance(latencies, Mapping):
        by_tokens = {int(tokens): float(found) for tokens, found in latencies.items() if str(tokens).isdecimal()}
        if by_tokens:
            tokens = min((each for each in by_tokens if each >= TYPICAL_TOKENS), default=max(by_tokens))
            return by_tokens[tokens] * MICROSECONDS
    estimate = BASE_SECONDS + SECONDS_PER_PARAMETER * manifest.architecture.non_embedding_parameters
    return estimate * (FP32_FACTOR if manifest.precision == "fp32" else 1.0)


def choose_threads(manifests: Mapping[str, Manifest]) -> set[str]:
    """The names of the students that run in threads, among those that one process serves."""
    seconds = {name: recorded_seconds(manifest) for name, manifest in manifests.items()}
    limit = min(MAX_LOOP_SECONDS, max([MAX_SHARED_LOOP_SECONDS, *sorted(seconds.values())[:1]]))
    return {name for name, each in seconds.items() if each > limit}
