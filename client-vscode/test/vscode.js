// As much of VS Code as the extension and the language client need, for tests. Controls are under `stub`; typed in stub.ts.

class Disposable {
  constructor(dispose) {
    this.dispose = dispose;
  }
}

class EventEmitter {
  listeners = new Set();
  event = (listener, self) => {
    const bound = self ? listener.bind(self) : listener;
    this.listeners.add(bound);
    return new Disposable(() => this.listeners.delete(bound));
  };
  fire(value) {
    for (const listener of [...this.listeners]) {
      listener(value);
    }
  }
  dispose() {
    this.listeners.clear();
  }
}

class Position {
  constructor(line, character) {
    Object.assign(this, { line, character });
  }
  isEqual(other) {
    return this.line === other.line && this.character === other.character;
  }
}

class Range {
  constructor(start, end) {
    Object.assign(this, { start, end });
  }
}

class Selection extends Range {
  constructor(anchor, active) {
    super(anchor, active);
    Object.assign(this, { anchor, active });
  }
}

class Uri {
  constructor(scheme, path) {
    Object.assign(this, { scheme, path, fsPath: path });
  }
  toString() {
    return `${this.scheme}://${this.path}`;
  }
  static file(path) {
    return new Uri("file", path);
  }
  static parse(text) {
    const [scheme, path] = text.split("://");
    return new Uri(scheme, path);
  }
}

class InlineCompletionItem {
  constructor(insertText, range, command) {
    Object.assign(this, { insertText, range, command });
  }
}

class CancellationTokenSource {
  emitter = new EventEmitter();
  token = { isCancellationRequested: false, onCancellationRequested: this.emitter.event };
  cancel() {
    this.token.isCancellationRequested = true;
    this.emitter.fire();
  }
  dispose() {}
}

class ThemeColor {
  constructor(id) {
    this.id = id;
  }
}

const EndOfLine = { LF: 1, CRLF: 2 };

/** A document whose text can be edited; each edit is one change event. */
class TextDocument {
  constructor(uri, text, languageId = "python") {
    const eol = text.includes("\r\n") ? EndOfLine.CRLF : EndOfLine.LF;
    Object.assign(this, { uri, text, languageId, eol, version: 1, isClosed: false });
  }
  positionAt(offset) {
    const lines = this.text.slice(0, offset).split("\n");
    return new Position(lines.length - 1, lines.at(-1).length);
  }
  offsetAt({ line, character }) {
    const lines = this.text.split("\n").slice(0, line);
    return lines.reduce((sum, each) => sum + each.length + 1, 0) + character;
  }
  getText(range) {
    return range ? this.text.slice(this.offsetAt(range.start), this.offsetAt(range.end)) : this.text;
  }
  edit(...changes) {
    const contentChanges = changes.map(([offset, removed, text]) => ({
      rangeOffset: offset,
      rangeLength: removed,
      text,
      range: new Range(this.positionAt(offset), this.positionAt(offset + removed)),
    }));
    for (const [offset, removed, text] of changes) {
      this.text = this.text.slice(0, offset) + text + this.text.slice(offset + removed);
    }
    this.version += 1;
    events(workspace, "onDidChangeTextDocument").fire({ document: this, contentChanges });
  }
}

const emitters = new Map();
function events(owner, name) {
  const key = `${owner === workspace ? "workspace" : "window"}.${name}`;
  if (!emitters.has(key)) {
    emitters.set(key, new EventEmitter());
  }
  return emitters.get(key);
}

/** Every `onDid…` and `onWill…` that nobody defined is an event; everything else must be defined here. */
function withEvents(known) {
  return new Proxy(known, {
    get: (target, name, self) => {
      if (name in target || typeof name !== "string") {
        return target[name];
      }
      return /^on(Did|Will)/.test(name) ? events(self, name).event : undefined;
    },
  });
}

const registered = new Map();
const stub = {
  /** Settings as in settings.json; languages' own under `[python]`. */
  settings: {},
  workspaceSettings: {},
  lines: [],
  messages: [],
  /** What the person clicks in the next message, or picks in the next list. */
  answers: [],
  picks: [],
  asked: [],
  executed: [],
  providers: [],
  statusItems: [],
  commands: registered,
  fireWorkspace: (name, value) => events(workspace, name).fire(value),
  fireWindow: (name, value) => events(window, name).fire(value),
  trust() {
    workspace.isTrusted = true;
    events(workspace, "onDidGrantWorkspaceTrust").fire();
  },
  set(name, value) {
    stub.settings[name] = value;
    const affectsConfiguration = (section) => name === section || name.startsWith(`${section}.`);
    events(workspace, "onDidChangeConfiguration").fire({ affectsConfiguration });
  },
  open(path, text, languageId) {
    const document = new TextDocument(Uri.file(path), text, languageId);
    workspace.textDocuments.push(document);
    events(workspace, "onDidOpenTextDocument").fire(document);
    return document;
  },
  /** Makes an editor the active one, with its cursor at an offset. */
  show(document, offset) {
    const at = document.positionAt(offset);
    window.activeTextEditor = { document, selection: new Selection(at, at) };
    events(window, "onDidChangeActiveTextEditor").fire(window.activeTextEditor);
  },
  select(document, offset, kind) {
    const at = document.positionAt(offset);
    const textEditor = window.activeTextEditor;
    const editor = textEditor.document === document ? textEditor : { document };
    editor.selection = new Selection(at, at);
    events(window, "onDidChangeTextEditorSelection").fire({ textEditor: editor, selections: [editor.selection], kind });
  },
};

function lookUp(settings, name, languageId) {
  return (languageId && settings[`[${languageId}]`]?.[name]) ?? settings[name];
}

function getConfiguration(section, scope) {
  const full = (name) => (section ? `${section}.${name}` : name);
  const { settings, workspaceSettings } = stub;
  const own = (name) => workspace.isTrusted && workspaceSettings[name];
  return {
    get: (name, fallback) => own(full(name)) || (lookUp(settings, full(name), scope?.languageId) ?? fallback),
    inspect: (name) => ({
      key: full(name),
      globalValue: settings[full(name)],
      workspaceValue: own(full(name)) || undefined,
      languageIds: Object.keys(settings).flatMap((key) =>
        /^\[.+\]$/.test(key) && full(name) in settings[key] ? [key.slice(1, -1)] : [],
      ),
    }),
    update: async (name, value, _target, perLanguage) => {
      if (perLanguage) {
        const key = `[${scope.languageId}]`;
        settings[key] = { ...settings[key], [full(name)]: value };
      } else {
        settings[full(name)] = value;
      }
      stub.set(full(name), settings[full(name)]);
    },
  };
}

const say = (level) => (line) => stub.lines.push(`${level}: ${line}`);
const outputChannel = {
  logLevel: 3,
  onDidChangeLogLevel: new EventEmitter().event,
  ...Object.fromEntries(["trace", "debug", "info", "warn", "error"].map((level) => [level, say(level)])),
  append: say("text"),
  appendLine: say("text"),
  show: () => stub.executed.push("log.show"),
  dispose() {},
};

async function showMessage(message, ...buttons) {
  stub.messages.push({ message, buttons });
  return buttons.find((button) => stub.answers.includes(button));
}

const workspace = withEvents({
  isTrusted: true,
  textDocuments: [],
  notebookDocuments: [],
  workspaceFolders: undefined,
  getConfiguration,
});

const window = withEvents({
  activeTextEditor: undefined,
  visibleTextEditors: [],
  tabGroups: { all: [], onDidChangeTabs: new EventEmitter().event },
  createOutputChannel: () => outputChannel,
  createStatusBarItem: () => {
    const item = { show() {}, dispose() {} };
    stub.statusItems.push(item);
    return item;
  },
  showErrorMessage: showMessage,
  showWarningMessage: showMessage,
  showInformationMessage: showMessage,
  showInputBox: async (options) => {
    stub.asked.push(options);
    return undefined;
  },
  withProgress: (_options, task) => task({ report() {} }, new CancellationTokenSource().token),
  showQuickPick: async (entries) => {
    stub.picks.push(entries);
    return undefined;
  },
});

const commands = {
  registerCommand(id, handler) {
    if (registered.has(id)) {
      throw new Error(`command '${id}' already exists`);
    }
    registered.set(id, handler);
    return new Disposable(() => registered.delete(id));
  },
  async executeCommand(id, ...args) {
    stub.executed.push(id);
    return registered.get(id)?.(...args);
  },
};

const languages = {
  getLanguages: async () => ["python", "javascript", "plaintext"],
  match: (selector, document) => (selector.some(({ scheme }) => scheme === document.uri.scheme) ? 10 : 0),
  createDiagnosticCollection: () => ({ dispose() {} }),
  registerInlineCompletionItemProvider(selector, provider) {
    stub.providers.push({ selector, provider });
    return new Disposable(() => stub.providers.splice(0));
  },
};

const known = {
  stub,
  version: "1.91.0",
  env: { appName: "stub", language: "en" },
  extensions: { getExtension: () => undefined },
  workspace,
  window,
  commands,
  languages,
  Disposable,
  EventEmitter,
  Position,
  Range,
  Selection,
  Uri,
  InlineCompletionItem,
  CancellationTokenSource,
  ThemeColor,
  EndOfLine,
  LogLevel: { Off: 0, Trace: 1, Debug: 2, Info: 3, Warning: 4, Error: 5 },
  StatusBarAlignment: { Left: 1, Right: 2 },
  ConfigurationTarget: { Global: 1, Workspace: 2, WorkspaceFolder: 3 },
  ProgressLocation: { Notification: 15 },
  InlineCompletionTriggerKind: { Invoke: 0, Automatic: 1 },
};

// The language client extends classes that no test touches.
module.exports = new Proxy(known, { get: (target, name) => (target[name] ??= class {}) });
