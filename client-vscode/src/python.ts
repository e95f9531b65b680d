// The Python extension's interpreter for this workspace, if that extension is installed.

import * as vscode from "vscode";

/** As much of the Python extension's API as is used here. */
interface PythonApi {
  readonly environments?: {
    getActiveEnvironmentPath(): { readonly path: string };
    resolveEnvironment(path: { readonly path: string }): Promise<
      { readonly executable: { readonly uri?: vscode.Uri | undefined } } | undefined
    >;
  };
}

/** "" where there is none; what goes wrong in the other extension is no fault here. */
export async function activeInterpreter(log: vscode.LogOutputChannel): Promise<string> {
  const extension = vscode.extensions.getExtension<PythonApi>("ms-python.python");
  try {
    const api = extension && (extension.isActive ? extension.exports : await extension.activate());
    const path = api?.environments?.getActiveEnvironmentPath();
    const environment = path && (await api?.environments?.resolveEnvironment(path));
    return environment?.executable.uri?.fsPath ?? "";
  } catch (error) {
    log.warn(`The Python extension does not say which interpreter is active: ${String(error)}`);
    return "";
  }
}
