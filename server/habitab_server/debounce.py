"""How long a request waits before it reaches the engine; pure, milliseconds on the caller's clock.

- The first request after a pause goes at once: someone who stops to think gets the answer without delay.
- While keys arrive faster than the engine answers, each superseded request adds a step to the wait, up to a
  bound, so that a burst of keys starts the engine a few times and not once a key. An answer ends that.
- Rejects make the pause longer (×1.5), accepts shorter (×0.8), within the person's bounds. The pause delays
  automatic suggestions only once several in a row were rejected; until then nothing waits for it.
"""

from __future__ import annotations

STEP_MS = 20.0
MOST_MS = 60.0
QUIET_MS = 1000.0
REJECTS_IN_A_ROW = 3
_LONGER, _SHORTER = 1.5, 0.8


class Debounce:
    """The state of one front's typing; `min_ms` and `max_ms` bound the pause after rejects."""

    def __init__(self, min_ms: float = 50.0, max_ms: float = 3000.0) -> None:
        self._superseded = 0
        self._rejects = 0
        self._pause_ms = min_ms
        self._last_ms = float("-inf")
        self.set_bounds(min_ms, max_ms)

    def set_bounds(self, min_ms: float, max_ms: float) -> None:
        self._min_ms, self._max_ms = min_ms, max_ms
        self._set_pause(self._pause_ms)

    def delay(self, now_ms: float) -> float:
        """Milliseconds that an automatic request of this moment should wait."""
        if now_ms - self._last_ms > QUIET_MS:
            self._superseded = 0
        self._last_ms = now_ms
        burst = min(self._superseded * STEP_MS, MOST_MS)
        return max(burst, self._pause_ms) if self._rejects >= REJECTS_IN_A_ROW else burst

    def superseded(self) -> None:
        """A request gave way to a newer one before the engine had answered."""
        self._superseded += 1

    def answered(self) -> None:
        """The engine kept up."""
        self._superseded = 0

    def accepted(self) -> None:
        self._rejects = 0
        self._set_pause(self._pause_ms * _SHORTER)

    def rejected(self) -> None:
        self._rejects += 1
        self._set_pause(self._pause_ms * _LONGER)

    def _set_pause(self, pause_ms: float) -> None:
        self._pause_ms = min(max(pause_ms, self._min_ms), self._max_ms)
