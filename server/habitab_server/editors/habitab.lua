-- habitab for Neovim 0.11 or later: suggestions as ghost text while you type.
--
--   mkdir -p ~/.config/nvim/plugin
--   habitab editor nvim > ~/.config/nvim/plugin/habitab.lua
--
-- While a suggestion is shown, in insert mode, Tab accepts it, Ctrl-Right its next word, Ctrl-Down its next line,
-- and Ctrl-] sends it away; at all other times these keys do what they always did. What should be different goes
-- into init.lua, for example:
--
--   vim.g.habitab = {
--     keys = { word = '<M-Right>', line = false },                          -- false: no key
--     settings = { multiline = 'never', languages = { markdown = false } }, -- initializationOptions of the server
--   }
--
-- The highlight group is HabitabGhost.

local api, lsp = vim.api, vim.lsp

local options = vim.tbl_deep_extend('force', {
  command = { 'habitab', 'serve' },
  keys = { accept = '<Tab>', word = '<C-Right>', line = '<C-Down>', dismiss = '<C-]>' },
  settings = vim.empty_dict(),
}, vim.g.habitab or {})

-- A server that died is started again, unless it dies once more within so long.
local CRASH_MS = 10000

local space = api.nvim_create_namespace('habitab')

--- Tell the person. What does not fit into the last line would stop the typing: it waits until that is over.
local function warn(message)
  local function say()
    vim.notify('habitab: ' .. message, vim.log.levels.WARN)
  end
  if #message + 9 > vim.v.echospace and api.nvim_get_mode().mode:find('^i') then
    api.nvim_create_autocmd('InsertLeave', { once = true, callback = vim.schedule_wrap(say) })
  else
    say()
  end
end

local function tell(client, method, item, fields)
  client:notify(method, vim.tbl_extend('error', { item = item }, fields or {}))
end

--- What a key takes from the front of a suggestion: a word or other signs in a row, a line, or all of it.
local function front(text, action)
  if action == 'word' then
    return text:match('^%s*[%w_\128-\255]+') or text:match('^%s*[^%w%s_\128-\255]+') or text
  end
  return action == 'line' and text:match('^\n*[^\n]+') or text
end

local function where()
  local cursor = api.nvim_win_get_cursor(0)
  return api.nvim_get_current_buf(), cursor[1] - 1, cursor[2]
end

--- Write `text` over the bytes from `col` to `stop` of a line, the cursor behind it; one undo takes it back.
local function write(buf, row, col, stop, text)
  local lines = vim.split(text, '\n')
  vim.bo[buf].undolevels = vim.bo[buf].undolevels
  api.nvim_buf_set_text(buf, row, col, row, stop, lines)
  api.nvim_win_set_cursor(0, { row + #lines, (#lines == 1 and col or 0) + #lines[#lines] })
end

--- The last of the closing brackets and quotes right of the cursor that `left` still brings along.
local function still(closers, left)
  local line = left:match('^[^\n]*')
  while not line:find((closers:gsub('.', '.-%%%0'))) do
    closers = closers:sub(2)
  end
  return closers
end

--- Accept the front of `text`, which is the rest of an item and would replace `closers` right of the cursor.
--- Return what is left of both.
local function accept(client, item, text, closers, action)
  local buf, row, col = where()
  local piece = front(text, action)
  local left = text:sub(#piece + 1)
  local kept = still(closers, left)
  write(buf, row, col, col + #closers - #kept, piece)
  if left == '' then
    client:exec_cmd(item.command, { bufnr = buf })
  else
    local whole = item.insertText
    local rest = left:gsub('\n', whole:find('\r\n') and '\r\n' or '\n')
    local length = vim.str_utfindex(whole, 'utf-16') - vim.str_utfindex(rest, 'utf-16')
    tell(client, 'textDocument/didPartiallyAcceptCompletion', item, { acceptedLength = length })
  end
  return left, kept
end

---- Neovim 0.11: our own ghost ----

-- The suggestion on the screen, or nil. `text` would be written at byte `col` of line `row`, over the `closers` there:
-- brackets and quotes that were closed as soon as they were opened. `item` is the server's as it was first shown, of
-- which `text` is the rest; `hidden` are the mappings that ours hide.
local ghost
-- The request that is not answered yet.
local asked
-- The text and the cursor that were looked at last.
local looked

local function unbind(buf, hidden)
  api.nvim_buf_call(buf, function()
    for key, mapping in pairs(hidden) do
      pcall(vim.keymap.del, 'i', key, { buffer = buf })
      if mapping then
        vim.fn.mapset('i', false, mapping)
      end
    end
  end)
end

--- Take the ghost from the screen; the reason is told to the server.
local function hide(reason)
  local gone = ghost
  if not gone then
    return
  end
  ghost = nil
  if api.nvim_buf_is_valid(gone.buf) then
    api.nvim_buf_clear_namespace(gone.buf, space, 0, -1)
    unbind(gone.buf, gone.hidden)
  end
  if reason then
    tell(gone.client, 'habitab/didDismissCompletion', gone.item, { reason = reason })
  end
end

--- Draw the text as it would stand there; what is right of the cursor comes behind its last line.
local function draw()
  local line = api.nvim_buf_get_lines(ghost.buf, ghost.row, ghost.row + 1, true)[1]
  local tail = line:sub(ghost.col + 1)
  local rest = tail:sub(#ghost.closers + 1)
  local tab = (' '):rep(vim.bo[ghost.buf].tabstop)
  local lines = vim.tbl_map(function(text)
    return { { (text:gsub('\t', tab)), 'HabitabGhost' } }
  end, vim.split(ghost.text, '\n'))
  local over = tail ~= '' and (#lines > 1 or tail ~= rest)
  if over then
    local room = vim.fn.strdisplaywidth(tail) - vim.fn.strdisplaywidth(lines[1][1][1])
    table.insert(lines[1], { (' '):rep(#lines > 1 and room or 0), 'Normal' })
    table.insert(lines[#lines], { rest, 'Normal' })
  end
  api.nvim_buf_clear_namespace(ghost.buf, space, 0, -1)
  api.nvim_buf_set_extmark(ghost.buf, space, ghost.row, ghost.col, {
    virt_text = lines[1],
    virt_text_pos = over and 'overlay' or 'inline',
    virt_lines = #lines > 1 and vim.list_slice(lines, 2) or nil,
  })
end

--- Draw the ghost at the cursor.
local function place(text, closers)
  local _, row, col = where()
  ghost.row, ghost.col, ghost.text, ghost.closers = row, col, text, closers
  draw()
end

--- Do what a key means.
local function press(action)
  if action == 'dismiss' then
    return hide('rejected')
  end
  local left, closers = accept(ghost.client, ghost.item, ghost.text, ghost.closers, action)
  if left == '' then
    hide()
  else
    place(left, closers)
  end
end

--- Map the keys for as long as there is a ghost, so that they are anybody's when there is none.
local function bind(buf)
  local hidden = {}
  for action, key in pairs(options.keys) do
    if key then
      local mapping = vim.fn.maparg(key, 'i', false, true)
      hidden[key] = mapping.buffer == 1 and mapping
      vim.keymap.set('i', key, function()
        press(action)
      end, { buffer = buf, desc = 'habitab: ' .. action })
    end
  end
  return hidden
end

--- Show the server's answer at the cursor, which may be the rest of what is shown.
local function show(client, buf, item)
  local known = ghost and vim.deep_equal(ghost.item.command, item.command)
  if not known then
    hide('ignored')
    ghost = { client = client, buf = buf, item = item, hidden = bind(buf) }
    tell(client, 'textDocument/didShowCompletion', item)
  end
  local line, col = api.nvim_get_current_line(), api.nvim_win_get_cursor(0)[2]
  local stop = vim.str_byteindex(line, client.offset_encoding, item.range['end'].character, false)
  place((item.insertText:gsub('\r\n', '\n')), line:sub(col + 1, stop))
end

local function state()
  local buf, row, col = where()
  return table.concat({ buf, api.nvim_buf_get_changedtick(buf), row, col, api.nvim_get_mode().mode }, ' ')
end

local function withdraw()
  if asked then
    asked.client:cancel_request(asked.id)
    asked = nil
  end
end

--- Ask for a suggestion at the cursor.
local function ask()
  local buf = api.nvim_get_current_buf()
  local client = lsp.get_clients({ bufnr = buf, name = 'habitab' })[1]
  withdraw()
  if not client or api.nvim_get_mode().mode ~= 'i' then
    return
  end
  local params = lsp.util.make_position_params(0, client.offset_encoding)
  params.context = { triggerKind = 2 }
  local now = state()
  local _, id = client:request('textDocument/inlineCompletion', params, function(_, items)
    if state() ~= now then
      return
    end
    asked = nil
    if items and items[1] then
      show(client, buf, items[1])
    else
      hide('ignored')
    end
  end, buf)
  asked = id and { client = client, id = id }
end

--- Shorten the ghost by what was typed since, or take it away if that is something else.
local function follow()
  local buf, row, col = where()
  if not ghost then
    return
  end
  if ghost.buf ~= buf or row < ghost.row or (row == ghost.row and col < ghost.col) then
    return hide('ignored')
  end
  local typed = table.concat(api.nvim_buf_get_text(buf, ghost.row, ghost.col, row, col, {}), '\n')
  if typed == '' then
    return
  elseif typed == ghost.text then
    hide('typed_through')
  elseif vim.startswith(ghost.text, typed) then
    place(ghost.text:sub(#typed + 1), ghost.closers)
  else
    hide('typed_over')
  end
end

local function look()
  local now = state()
  if now ~= looked then
    looked = now
    follow()
    ask()
  end
end

local function leave()
  withdraw()
  hide('ignored')
end

local function set_colour()
  local hint = api.nvim_get_hl(0, { name = 'NonText', link = false })
  -- A terminal of few colours has no hint of its own in Neovim's scheme: 8 is its grey.
  api.nvim_set_hl(0, 'HabitabGhost', { fg = hint.fg, ctermfg = hint.ctermfg or 8, default = true })
end

local function use_own_ghost()
  set_colour()
  local group = api.nvim_create_augroup('habitab', {})
  local function on(events, callback)
    api.nvim_create_autocmd(events, { group = group, callback = callback })
  end
  on({ 'TextChangedI', 'CursorMovedI' }, look)
  on('InsertEnter', vim.schedule_wrap(look))
  -- While the completion menu is open, the keys are the menu's.
  on({ 'InsertLeave', 'BufLeave', 'CompleteChanged' }, leave)
  on('ColorScheme', set_colour)
  on('LspDetach', function(event)
    if ghost and ghost.client.id == event.data.client_id then
      hide()
    end
  end)
end

---- Neovim 0.12: the editor's own ghost ----

--- Do what a key means with Neovim's suggestion, less what was typed since it was asked for. Return it if it is not
--- ours, for Neovim to accept.
local function press_native(suggestion, action)
  local client = lsp.get_client_by_id(suggestion.client_id)
  if client.name ~= 'habitab' then
    return suggestion
  end
  local item = { insertText = suggestion.insert_text, command = suggestion.command }
  if action == 'dismiss' then
    return tell(client, 'habitab/didDismissCompletion', item, { reason = 'rejected' })
  end
  local buf, row, col = where()
  local range = suggestion.range:to_lsp('utf-8')
  local from, size = range.start, range['end'].character - range.start.character
  local typed = table.concat(api.nvim_buf_get_text(buf, from.line, from.character, row, col, {}), '\n')
  local text = item.insertText:gsub('\r\n', '\n')
  if vim.startswith(text, typed) then
    accept(client, item, text:sub(#typed + 1), api.nvim_get_current_line():sub(col + 1, col + size), action)
  end
end

local function use_native_ghost()
  api.nvim_create_autocmd('LspAttach', {
    callback = function(event)
      if lsp.get_client_by_id(event.data.client_id).name == 'habitab' then
        lsp.inline_completion.enable(true, { bufnr = event.buf })
      end
    end,
  })
  for action, key in pairs(options.keys) do
    local before = key and vim.fn.maparg(key, 'i', false, true)
    local function pressed()
      local shown = lsp.inline_completion.get({
        on_accept = function(suggestion)
          return press_native(suggestion, action)
        end,
      })
      return shown and '' or before.expr == 1 and before.callback and before.callback() or key
    end
    if key then
      vim.keymap.set('i', key, pressed, { expr = true, desc = 'habitab: ' .. action })
    end
  end
end

---- Both ----

local last_death = -CRASH_MS

local function died()
  if vim.v.exiting ~= vim.NIL then
    return
  end
  local before = last_death
  last_death = vim.uv.now()
  if last_death - before < CRASH_MS then
    return warn('the server keeps ending: see `habitab doctor`.')
  end
  warn('the server ended; it starts again.')
  -- At once: if the person typed while no server is attached, Neovim 0.11 would tell the next one of no change.
  lsp.enable('habitab')
end

--- Run the server. If it dies, Neovim's own message would stop the typing: it hears of a good end.
local function run(dispatchers)
  local on_exit = dispatchers.on_exit
  dispatchers.on_exit = function(code, signal)
    on_exit(0, 0)
    if code ~= 0 or (signal ~= 0 and signal ~= 15) then
      vim.schedule(died)
    end
  end
  return lsp.rpc.start(options.command, dispatchers)
end

local function start()
  lsp.config('habitab', {
    cmd = run,
    root_markers = { '.git' },
    init_options = options.settings,
    capabilities = { textDocument = { inlineCompletion = { dynamicRegistration = false } } },
    handlers = {
      ['habitab/didChangeStatus'] = function(_, status)
        if status.kind == 'Error' then
          warn(status.message)
        end
      end,
    },
  })
  lsp.enable('habitab')
end

if vim.fn.has('nvim-0.11') == 0 then
  warn('it needs Neovim 0.11 or later.')
elseif vim.fn.executable(options.command[1]) == 0 then
  warn(('no command `%s` on PATH, no suggestions.'):format(options.command[1]))
else
  local use_ghost = lsp.inline_completion and use_native_ghost or use_own_ghost
  use_ghost()
  start()
end
