// How much time the extension itself adds to a request: from VS Code's call to ours being sent, and from the reply to
// VS Code having it. The server's time lies between and is left out.

const KEPT = 512;

/** The last few hundred additions, in milliseconds. */
export class Timing {
  private readonly added: number[] = [];
  private next = 0;
  private readonly waited = new WeakMap<object, number>();

  constructor(private readonly now: () => number = () => performance.now()) {}

  /** Time `request` as a whole; `key` is the same object that `elsewhere` gets. */
  async measured<T>(key: object, request: () => Promise<T>): Promise<T> {
    const start = this.now();
    try {
      return await request();
    } finally {
      this.add(this.now() - start - (this.waited.get(key) ?? 0));
    }
  }

  /** Leave out the time that `wait` takes. */
  async elsewhere<T>(key: object, wait: () => Promise<T>): Promise<T> {
    const start = this.now();
    try {
      return await wait();
    } finally {
      this.waited.set(key, this.now() - start);
    }
  }

  /** Milliseconds that `share` of the requests stay under; undefined before the first. */
  quantile(share: number): number | undefined {
    const sorted = [...this.added].sort((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
  }

  private add(ms: number): void {
    this.added[this.next] = ms;
    this.next = (this.next + 1) % KEPT;
  }
}
