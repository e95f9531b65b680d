// What became of each suggestion, from what a stable extension can see: text changes, selections, keys of ours and the
// item's command. The outcomes are the closed list of the project. Pure: the clock and the messages come from outside.

/** Milliseconds a suggestion must stand on the screen to count as shown. */
export const SHOWN_MS = 250;
/** Milliseconds without a key after which a suggestion counts as ignored. */
export const IGNORED_MS = 10_000;
/** Milliseconds that the item's command may lag behind its text. */
export const COMMAND_MS = 1_000;

/** What the Enter key writes, with the new line's indentation: its selection has no kind, like the editor's own. */
const ENTER = /^\r?\n[ \t]*$/;

export type Reason = "rejected" | "ignored" | "typed_over" | "typed_through";

/** One suggestion: `text` starts at offset `start` of the document; `item` is how the server knows it. */
export interface Offer<Item> {
  readonly id: string;
  readonly text: string;
  readonly item: Item;
}

/** The suggestions for one cursor, best first. `before` is the document's text from `start` to the cursor. */
export interface Offers<Item> {
  readonly document: string;
  readonly start: number;
  readonly before: string;
  readonly items: readonly [Offer<Item>, ...Offer<Item>[]];
  /** The completion menu's selected entry: taking that one takes none of ours. */
  readonly selected?: string | undefined;
}

/** As in a content change event: at `offset`, `removed` UTF-16 units gave way to `text`. */
export interface Change {
  readonly offset: number;
  readonly removed: number;
  readonly text: string;
}

/** Where the outcomes go. `acceptedLength` counts the UTF-16 units taken of a suggestion so far. */
export interface Listener<Item> {
  shown(item: Item): void;
  partlyAccepted(item: Item, acceptedLength: number): void;
  dismissed(item: Item, reason: Reason): void;
}

export interface Clock {
  now(): number;
  /** Calls `then` after `ms` milliseconds, unless the returned function is called before. */
  later(ms: number, then: () => void): () => void;
}

/** The suggestion on the screen. */
interface Live<Item> {
  readonly document: string;
  readonly since: number;
  items: readonly [Offer<Item>, ...Offer<Item>[]];
  selected: string | undefined;
  /** The document's text from `start` on, at least up to the cursor. */
  start: number;
  region: string;
  /** How much of `region` stands before the cursor. */
  length: number;
  /** UTF-16 units that were taken with a key for that. */
  taken: number;
  /** When something last happened to it. */
  touched: number;
  shown: boolean;
  /** Dismissed already; only being taken after all may still be told. */
  lapsed: boolean;
  /** A key for a word or a line was pressed. */
  taking: boolean;
  changed: boolean;
  inserted: boolean;
  /** Something replaced the text across `start`. */
  torn: boolean;
  /** Wholly in the document through the editor: whether it was accepted is known by its command. */
  awaiting: Offer<Item> | undefined;
}

/** Follows one suggestion at a time, from its offer to its end. */
export class Outcomes<Item> {
  private live: Live<Item> | undefined;
  private cancelTimer = (): void => {};

  constructor(
    private readonly listener: Listener<Item>,
    private readonly clock: Clock,
  ) {}

  /** Whether a suggestion of ours is on the screen, as far as can be known. */
  get active(): boolean {
    return this.live !== undefined;
  }

  /** The editor was given these, and the document and the cursor are still those of the request. */
  offered(offers: Offers<Item>): void {
    this.settle();
    const live = this.live;
    if (live?.document === offers.document && live.items[0].id === offers.items[0].id) {
      this.offeredAgain(live, offers);
      return;
    }
    this.dismiss("ignored");
    this.live = begin(offers, this.clock.now());
    this.watch(this.live);
  }

  /** The text of a document changed; what that means is known once the cursor is (`moved`). */
  changed(document: string, changes: readonly Change[]): void {
    this.settle();
    if (this.live?.document !== document) {
      return;
    }
    for (const change of changes) {
      apply(this.live, change);
    }
  }

  /** The cursor is at offset `cursor`; `byEditor` unless keys or the mouse put it there. */
  moved(document: string, cursor: number, byEditor: boolean): void {
    const live = this.live;
    if (live?.document !== document || live.awaiting) {
      return;
    }
    const length = cursor - live.start;
    if (!live.changed) {
      if (length !== live.length) {
        this.dismiss("ignored");
      }
      return;
    }
    this.judge(live, length, byEditor);
  }

  /** The item's command ran: it was accepted. The server is told by the command itself. */
  accepted(id: string): void {
    const live = this.live;
    if (!live) {
      return;
    }
    if (live.items[0].id !== id) {
      this.dismiss("ignored");
    }
    this.drop();
  }

  /** The key that takes a word or a line was pressed (true), or has done what it does (false). */
  taking(pressed: boolean): void {
    if (this.live) {
      this.live.taking = pressed;
    }
  }

  /** The key that sends suggestions away was pressed. */
  rejected(): void {
    const live = this.live;
    if (live) {
      this.drop();
      this.listener.dismissed(live.items[0].item, "rejected");
    }
  }

  /** The person went to another editor, or `document` was closed. */
  left(document?: string): void {
    if (document === undefined || this.live?.document === document) {
      this.settle();
      this.dismiss("ignored");
    }
  }

  private offeredAgain(live: Live<Item>, offers: Offers<Item>): void {
    const at = offers.start - live.start;
    const head = live.items[0].text.slice(0, Math.max(at, 0));
    const same = at >= 0 && head + offers.items[0].text === live.items[0].text && live.region.startsWith(head);
    // Alternatives count from the same start; what the person went back over stays known.
    live.items = same ? prefixed(offers.items, head) : offers.items;
    if (!same) {
      Object.assign(live, { start: offers.start, region: offers.before });
    }
    live.length = offers.start + offers.before.length - live.start;
    live.selected = offers.selected;
    live.touched = this.clock.now();
  }

  /** Something was written: by the person, or by the editor for them. */
  private judge(live: Live<Item>, length: number, byEditor: boolean): void {
    const { inserted, torn } = live;
    const written = live.region.slice(0, Math.max(length, 0));
    const taking = live.taking || (byEditor && !ENTER.test(written.slice(live.length)));
    Object.assign(live, { changed: false, inserted: false, taking: false });
    if (torn || length < 0 || length > live.region.length) {
      this.dismiss(inserted ? "typed_over" : "ignored");
    } else if (taking && length > live.length && written !== live.selected) {
      this.take(live, written);
    } else if (live.items[0].text.startsWith(written)) {
      this.advance(live, length);
    } else {
      this.dismiss(inserted ? "typed_over" : "ignored");
    }
  }

  /** The editor wrote `written`: a piece of one of the suggestions, or something else. */
  private take(live: Live<Item>, written: string): void {
    const offer = live.items.find((each) => each.text.startsWith(written));
    if (!offer) {
      this.dismiss("typed_over");
      return;
    }
    if (offer !== live.items[0]) {
      this.dismiss("ignored");
      live.lapsed = false;
      live.items = [offer];
      this.live = live;
    }
    live.taken += written.length - live.length;
    live.length = written.length;
    live.touched = this.clock.now();
    if (written === offer.text) {
      live.awaiting = offer;
      this.wake(COMMAND_MS);
    } else {
      this.listener.partlyAccepted(offer.item, live.taken);
      this.watch(live);
    }
  }

  private advance(live: Live<Item>, length: number): void {
    live.length = length;
    live.touched = this.clock.now();
    if (length === live.items[0].text.length) {
      this.dismiss("typed_through");
    }
  }

  /** No command came for a suggestion that stands wholly in the document: it was taken piece by piece. */
  private settle(): void {
    const live = this.live;
    if (live?.awaiting) {
      this.drop();
      this.listener.partlyAccepted(live.awaiting.item, live.taken);
    }
  }

  private dismiss(reason: Reason): void {
    const live = this.live;
    if (!live) {
      return;
    }
    this.drop();
    if (!live.lapsed) {
      this.listener.dismissed(live.items[0].item, reason);
    }
  }

  private drop(): void {
    this.live = undefined;
    this.cancelTimer();
  }

  private wake(ms: number): void {
    this.cancelTimer();
    this.cancelTimer = this.clock.later(ms, () => this.tick());
  }

  /** Look again when it has been on the screen for long enough, then when it has been left alone for too long. */
  private watch(live: Live<Item>): void {
    const now = this.clock.now();
    this.wake(live.shown ? live.touched + IGNORED_MS - now : live.since + SHOWN_MS - now);
  }

  private tick(): void {
    const live = this.live;
    if (!live) {
      return;
    }
    const now = this.clock.now();
    if (live.awaiting) {
      this.settle();
    } else if (!live.shown && now - live.since >= SHOWN_MS) {
      live.shown = true;
      this.listener.shown(live.items[0].item);
      this.watch(live);
    } else if (now - live.touched < IGNORED_MS) {
      this.watch(live);
    } else if (!live.lapsed) {
      live.lapsed = true;
      this.listener.dismissed(live.items[0].item, "ignored");
    }
  }
}

function begin<Item>(offers: Offers<Item>, now: number): Live<Item> {
  return {
    document: offers.document,
    since: now,
    items: offers.items,
    selected: offers.selected,
    start: offers.start,
    region: offers.before,
    length: offers.before.length,
    taken: 0,
    touched: now,
    shown: false,
    lapsed: false,
    taking: false,
    changed: false,
    inserted: false,
    torn: false,
    awaiting: undefined,
  };
}

function prefixed<Item>(items: Offers<Item>["items"], head: string): Offers<Item>["items"] {
  const longer = (offer: Offer<Item>): Offer<Item> => ({ ...offer, text: head + offer.text });
  const [first, ...rest] = items;
  return [longer(first), ...rest.map(longer)];
}

/** Follow one change of the text; what happens behind the region does not matter. */
function apply<Item>(live: Live<Item>, change: Change): void {
  const from = change.offset - live.start;
  const to = from + change.removed;
  if (to < 0) {
    live.start += change.text.length - change.removed;
    return;
  }
  if (from > live.region.length) {
    return;
  }
  live.changed = true;
  live.inserted ||= change.text !== "";
  live.torn ||= from < 0;
  live.region = live.region.slice(0, Math.max(from, 0)) + change.text + live.region.slice(to);
}
