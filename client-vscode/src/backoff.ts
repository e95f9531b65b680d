// How long to wait before a server that ended is started again, and when to give up; pure.

const FIRST_MS = 1_000;
const MOST_TRIES = 5;
/** A server that ran for so long counts as healthy: what happened before is forgotten. */
const HEALTHY_MS = 180_000;

export class Backoff {
  private tries = 0;

  constructor(private readonly firstMs = FIRST_MS) {}

  /** Milliseconds to wait after a server that ran for `ranMs`; undefined to give up. */
  next(ranMs: number): number | undefined {
    if (ranMs >= HEALTHY_MS) {
      this.tries = 0;
    }
    this.tries += 1;
    return this.tries > MOST_TRIES ? undefined : this.firstMs * 2 ** (this.tries - 1);
  }

  forget(): void {
    this.tries = 0;
  }
}
