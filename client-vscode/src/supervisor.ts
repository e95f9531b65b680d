// Keeps a server running: finds it, starts it, starts it again after a while, and gives up in good time.

import { Backoff } from "./backoff";
import type { Session } from "./client";
import type { Found } from "./server";

/** A request that waits longer makes us ask whether the server is still there. */
const PATIENCE_MS = 10_000;

export type Trouble =
  | { readonly kind: "missing"; readonly why: string }
  | { readonly kind: "crashing"; readonly why: string };

export interface Events {
  find(): Promise<Found>;
  open(found: Found & { command: object }): Promise<Session>;
  /** A session is ready, or none is any more. */
  changed(session: Session | undefined): void;
  trouble(trouble: Trouble): void;
  /** A server ended and is started again after a while. */
  waiting(why: string): void;
  log(line: string): void;
  /** Milliseconds that the oldest unanswered request has been waiting. */
  oldestWait(): number;
}

export class Supervisor {
  private session: Session | undefined;
  private turn = 0;
  private wake = (): void => {};
  private done: Promise<void> = Promise.resolve();

  constructor(
    private readonly events: Events,
    private readonly backoff = new Backoff(),
    private readonly patienceMs = PATIENCE_MS,
  ) {}

  /** Starts the server, or starts it anew, with all tries ahead of it. */
  async restart(): Promise<void> {
    const turn = await this.stop();
    if (turn === this.turn) {
      this.backoff.forget();
      this.done = this.run(turn);
    }
  }

  /** Ends the server; the number returned is out of date once something else was asked for meanwhile. */
  async stop(): Promise<number> {
    this.turn += 1;
    const turn = this.turn;
    this.wake();
    await this.session?.stop();
    await this.done;
    return turn;
  }

  private async run(turn: number): Promise<void> {
    while (turn === this.turn) {
      const found = await this.events.find();
      if (turn !== this.turn) {
        return;
      }
      if (!found.command) {
        this.events.trouble({ kind: "missing", why: found.why });
        return;
      }
      const began = Date.now();
      const why = await this.serve(found, turn);
      if (turn !== this.turn) {
        return;
      }
      const delay = this.backoff.next(Date.now() - began);
      this.events.log(`The server is gone. ${why}`);
      if (delay === undefined) {
        this.events.trouble({ kind: "crashing", why });
        return;
      }
      this.events.waiting(why);
      await this.sleep(delay);
    }
  }

  /** One session from its start to its end; returns why it ended. */
  private async serve(found: Found & { command: object }, turn: number): Promise<string> {
    try {
      const session = await this.events.open(found);
      if (turn !== this.turn) {
        await session.stop();
        return "";
      }
      return await this.attend(session);
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  }

  private async attend(session: Session): Promise<string> {
    this.session = session;
    const watch = setInterval(() => void this.look(session), this.patienceMs / 2);
    try {
      this.events.changed(session);
      return await session.ended;
    } finally {
      clearInterval(watch);
      this.session = undefined;
      this.events.changed(undefined);
      this.events.log(session.lastWords);
    }
  }

  /** A server that leaves requests unanswered is asked for a sign of life. */
  private async look(session: Session): Promise<void> {
    if (this.events.oldestWait() >= this.patienceMs && !(await session.answers(this.patienceMs))) {
      session.fail("It hangs.");
    }
  }

  private sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
