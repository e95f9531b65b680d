import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { type Clock, type Listener, Outcomes } from "../src/outcomes";

const FILE = "file:///a.py";
const GHOST = "alpha(first, second)";

/** A clock that stands still until it is told to go on. */
class FakeClock implements Clock {
  time = 0;
  private timers: { at: number; then: () => void }[] = [];
  now(): number {
    return this.time;
  }
  later(ms: number, then: () => void): () => void {
    const timer = { at: this.time + ms, then };
    this.timers.push(timer);
    return () => {
      this.timers = this.timers.filter((each) => each !== timer);
    };
  }
  pass(ms: number): void {
    const end = this.time + ms;
    for (;;) {
      const due = this.timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (!due) {
        break;
      }
      this.timers = this.timers.filter((each) => each !== due);
      this.time = due.at;
      due.then();
    }
    this.time = end;
  }
}

/** An editor with one document and a server that goes on with the same suggestion while it is typed through. */
class Editor {
  told: string[] = [];
  cursor: number;
  readonly clock = new FakeClock();
  readonly outcomes: Outcomes<string>;

  constructor(public text = "x = ") {
    this.cursor = text.length;
    const listener: Listener<string> = {
      shown: (item) => this.told.push(`shown ${item}`),
      partlyAccepted: (item, length) => this.told.push(`partly ${item} ${length}`),
      dismissed: (item, reason) => this.told.push(`${reason} ${item}`),
    };
    this.outcomes = new Outcomes(listener, this.clock);
  }

  offer(text: string, id = "A", ...alternatives: string[]): void {
    const others = alternatives.map((each, at) => ({ id: `alt${at}`, text: each, item: `alt${at}` }));
    const items = [{ id, text, item: id }, ...others] as const;
    this.outcomes.offered({ document: FILE, start: this.cursor, before: "", items: [...items] });
  }

  insert(text: string, byEditor: boolean, caret = text.length): void {
    this.outcomes.changed(FILE, [{ offset: this.cursor, removed: 0, text }]);
    this.text = this.text.slice(0, this.cursor) + text + this.text.slice(this.cursor);
    this.cursor += caret;
    this.outcomes.moved(FILE, this.cursor, byEditor);
  }

  erase(): void {
    this.cursor -= 1;
    this.outcomes.changed(FILE, [{ offset: this.cursor, removed: 1, text: "" }]);
    this.text = this.text.slice(0, this.cursor) + this.text.slice(this.cursor + 1);
    this.outcomes.moved(FILE, this.cursor, false);
  }

  /** Type it key by key; the server goes on with what is left of `ghost`. */
  type(text: string, ghost = "", ms = 60): void {
    for (const [at, key] of [...text].entries()) {
      this.insert(key, false);
      this.clock.pass(ms);
      const typed = text.slice(0, at + 1);
      if (ghost.startsWith(typed) && ghost !== typed) {
        this.offer(ghost.slice(typed.length));
      }
    }
  }

  move(by: number): void {
    this.cursor += by;
    this.outcomes.moved(FILE, this.cursor, false);
  }

  tab(rest: string, id = "A"): void {
    this.insert(rest, true);
    this.outcomes.accepted(id);
  }
}

let editor: Editor;
beforeEach(() => {
  editor = new Editor();
  editor.offer(GHOST);
});

function shown(): void {
  editor.clock.pass(300);
}

test("Tab is told by the item's command alone", () => {
  shown();
  editor.tab(GHOST);
  editor.clock.pass(20_000);
  assert.deepEqual(editor.told, ["shown A"]);
});

test("a suggestion counts as shown after 250 ms, not before", () => {
  editor.clock.pass(249);
  assert.deepEqual(editor.told, []);
  editor.clock.pass(1);
  assert.deepEqual(editor.told, ["shown A"]);
});

test("a suggestion that is gone before 250 ms is never told as shown", () => {
  editor.clock.pass(200);
  editor.move(-1);
  editor.clock.pass(20_000);
  assert.deepEqual(editor.told, ["ignored A"]);
});

test("two words and then Tab: lengths add up, the command ends it", () => {
  shown();
  editor.insert("alpha", true);
  editor.offer("(first, second)");
  editor.insert("(", true);
  editor.offer("first, second)");
  editor.tab("first, second)");
  editor.clock.pass(20_000);
  assert.deepEqual(editor.told, ["shown A", "partly A 5", "partly A 6"]);
});

test("a word may be taken although the editor says the keyboard did it", () => {
  shown();
  editor.outcomes.taking(true);
  editor.insert("alpha", false);
  editor.outcomes.taking(false);
  assert.deepEqual(editor.told, ["shown A", "partly A 5"]);
});

test("what was typed between two words does not count as taken", () => {
  shown();
  editor.type("al", GHOST);
  editor.insert("pha", true);
  editor.insert("(", true);
  assert.deepEqual(editor.told, ["shown A", "partly A 3", "partly A 4"]);
});

test("a suggestion taken to its end without a command was taken piece by piece", () => {
  shown();
  editor.insert(GHOST, true);
  editor.clock.pass(2_000);
  assert.deepEqual(editor.told, ["shown A", `partly A ${GHOST.length}`]);
});

test("typing on tells of a suggestion taken without a command", () => {
  shown();
  editor.insert(GHOST, true);
  editor.insert("x", false);
  assert.deepEqual(editor.told, ["shown A", `partly A ${GHOST.length}`]);
});

test("Escape is a reject", () => {
  shown();
  editor.outcomes.rejected();
  editor.clock.pass(20_000);
  assert.deepEqual(editor.told, ["shown A", "rejected A"]);
});

test("Escape over another provider's ghost says nothing", () => {
  editor.outcomes.rejected();
  editor.told = [];
  editor.outcomes.rejected();
  assert.equal(editor.outcomes.active, false);
  assert.deepEqual(editor.told, []);
});

test("typing all of it is typed_through, told once, under one id", () => {
  shown();
  editor.type(GHOST, GHOST);
  assert.deepEqual(editor.told, ["shown A", "typed_through A"]);
});

test("typing through goes on being on the screen", () => {
  editor.type(GHOST, GHOST, 30);
  assert.deepEqual(editor.told, ["shown A", "typed_through A"]);
});

test("typing through needs no answer for each key", () => {
  shown();
  editor.type(GHOST);
  assert.deepEqual(editor.told, ["shown A", "typed_through A"]);
});

test("Enter is typed, although the editor says that it wrote the new line", () => {
  editor.outcomes.left();
  editor.told = [];
  editor.offer("a;\n  }");
  shown();
  editor.type("a;");
  editor.insert("\n", true);
  editor.type("  }");
  assert.deepEqual(editor.told, ["shown A", "typed_through A"]);
});

test("typing something else is typed_over, also after its beginning was typed", () => {
  shown();
  editor.type("alx", GHOST);
  editor.clock.pass(20_000);
  assert.deepEqual(editor.told, ["shown A", "typed_over A"]);
});

test("going back over what was typed through keeps the suggestion", () => {
  shown();
  editor.type("alp", GHOST);
  editor.erase();
  editor.erase();
  editor.type("lpha(first, second)");
  assert.deepEqual(editor.told, ["shown A", "typed_through A"]);
});

test("going back before its place leaves it", () => {
  shown();
  editor.erase();
  assert.deepEqual(editor.told, ["shown A", "ignored A"]);
});

test("brackets that the editor closes do not contradict it", () => {
  shown();
  editor.type("alpha", GHOST);
  editor.insert("()", false, 1);
  editor.type("first");
  editor.outcomes.changed(FILE, [{ offset: editor.cursor, removed: 1, text: ", second)" }]);
  editor.cursor += ", second)".length;
  editor.outcomes.moved(FILE, editor.cursor, true);
  editor.outcomes.accepted("A");
  editor.clock.pass(20_000);
  assert.deepEqual(editor.told, ["shown A"]);
});

test("an arrow away is ignored", () => {
  shown();
  editor.move(-1);
  editor.clock.pass(20_000);
  assert.deepEqual(editor.told, ["shown A", "ignored A"]);
});

test("10 s without a key is ignored, once", () => {
  editor.clock.pass(9_999);
  assert.deepEqual(editor.told, ["shown A"]);
  editor.clock.pass(20_000);
  editor.move(-1);
  assert.deepEqual(editor.told, ["shown A", "ignored A"]);
});

test("10 s count from the last key that was typed through", () => {
  editor.clock.pass(8_000);
  editor.type("al", GHOST);
  editor.clock.pass(8_000);
  assert.deepEqual(editor.told, ["shown A"]);
  editor.clock.pass(2_000);
  assert.deepEqual(editor.told, ["shown A", "ignored A"]);
});

test("a word taken after 10 s is still told", () => {
  editor.clock.pass(12_000);
  editor.insert("alpha", true);
  assert.deepEqual(editor.told, ["shown A", "ignored A", "partly A 5"]);
});

test("another editor, or the end of the document, leaves it", () => {
  shown();
  editor.outcomes.left("file:///other.py");
  assert.equal(editor.outcomes.active, true);
  editor.outcomes.left(FILE);
  assert.deepEqual(editor.told, ["shown A", "ignored A"]);
});

test("what happens in another document is not about it", () => {
  shown();
  editor.outcomes.changed("file:///other.py", [{ offset: 0, removed: 0, text: "zzz" }]);
  editor.outcomes.moved("file:///other.py", 3, false);
  editor.tab(GHOST);
  assert.deepEqual(editor.told, ["shown A"]);
});

test("an edit above it moves it, an edit below it does not matter", () => {
  shown();
  editor.outcomes.changed(FILE, [{ offset: 400, removed: 3, text: "" }, { offset: 0, removed: 0, text: "import os\n" }]);
  editor.cursor += 10;
  editor.outcomes.moved(FILE, editor.cursor, false);
  editor.type(GHOST, GHOST);
  assert.deepEqual(editor.told, ["shown A", "typed_through A"]);
});

test("another provider's text in its place is typed_over", () => {
  shown();
  editor.insert("beta()", true);
  assert.deepEqual(editor.told, ["shown A", "typed_over A"]);
});

test("another suggestion in its place ends it", () => {
  shown();
  editor.offer("other()", "B");
  editor.tab("other()", "B");
  assert.deepEqual(editor.told, ["shown A", "ignored A"]);
});

test("an alternative that is accepted leaves the first one", () => {
  editor.offer(GHOST, "A", "beta(1)");
  shown();
  editor.tab("beta(1)", "alt0");
  assert.deepEqual(editor.told, ["shown A", "ignored A"]);
});

test("a word of an alternative is taken of the alternative", () => {
  editor.offer(GHOST, "A", "beta(1)");
  shown();
  editor.insert("beta", true);
  assert.deepEqual(editor.told, ["shown A", "ignored A", "partly alt0 4"]);
});

test("an entry of the completion menu is not a part that was taken", () => {
  const items = [{ id: "A", text: "print(x)", item: "A" }] as const;
  editor.outcomes.left();
  editor.told = [];
  editor.outcomes.offered({ document: FILE, start: 4, before: "", items: [...items], selected: "print" });
  shown();
  editor.insert("print", true);
  editor.insert("(x", true);
  assert.deepEqual(editor.told, ["shown A", "partly A 2"]);
});

test("lines count with their own line ends", () => {
  editor.outcomes.left();
  editor.told = [];
  editor.offer("a:\r\n    b");
  shown();
  editor.insert("a:\r\n", true);
  assert.deepEqual(editor.told, ["shown A", "partly A 4"]);
});
