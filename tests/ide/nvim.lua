-- What nvim-dap does in a headless Neovim with dlv through a session's local port:
-- PORT=2345 MODE=step SOURCE=/path/main.go LINE=7 NVIM_DAP=/its/folder nvim --headless -u NONE -l nvim.lua
-- Says READY when the breakpoint is set, OK at the end.
local port, mode = tonumber(os.getenv("PORT")), os.getenv("MODE")
local source, line = os.getenv("SOURCE"), tonumber(os.getenv("LINE"))
vim.opt.runtimepath:append(os.getenv("NVIM_DAP"))
local dap = require("dap")
local ended, failure = false, nil

local function check(good, what)
  if not good then
    error(what)
  end
end

local function refused(error, words)
  local text = error and (error.message or vim.inspect(error)) or "nothing"
  check(text:find("godebug refused this", 1, true) and text:find(words, 1, true), text)
end

-- Each answer is waited for in a coroutine, as nvim-dap's own code does it.
local function at_the_breakpoint(session, stop)
  local function ask(command, arguments)
    local err, answer = session:request(command, arguments)
    return err, answer
  end
  check(stop.reason == "breakpoint", "stopped because of " .. stop.reason)
  local err, stack = ask("stackTrace", { threadId = stop.threadId, startFrame = 0, levels = 20 })
  check(not err and stack.stackFrames[1].line == line, vim.inspect(err or stack.stackFrames[1]))
  local frame = stack.stackFrames[1].id
  local _, scopes = ask("scopes", { frameId = frame })
  local locals = scopes.scopes[1].variablesReference
  local _, variables = ask("variables", { variablesReference = locals })
  local order
  for _, variable in ipairs(variables.variables) do
    order = variable.name == "o" and variable or order
  end
  check(order, "no variable o")
  local function id()
    local error, answer = ask("evaluate", { expression = "o.ID", frameId = frame, context = "repl" })
    return error and error.message or answer.result
  end
  check(id() == "3", "o.ID is " .. id())
  local set = { variablesReference = order.variablesReference, name = "ID", value = "4" }
  err = ask("setVariable", set)
  if mode == "modify" then
    check(not err and id() == "4", "it was not set")
  else
    refused(err, "--mode modify")
    check(id() == "3", "it was set")
  end
  refused(ask("restart", {}), "systemctl")
  check(session.capabilities.supportsSetVariable == (mode == "modify" or nil), "what it may set")
  ask("continue", { threadId = stop.threadId })
  ask("disconnect", { terminateDebuggee = true })
end

dap.adapters.godebug = { type = "server", host = "127.0.0.1", port = port }
dap.listeners.after.configurationDone["godebug"] = function()
  io.stdout:write("READY\n")
  io.stdout:flush()
end
dap.listeners.before.event_stopped["godebug"] = function(session, body)
  coroutine.wrap(function()
    local good, why = pcall(at_the_breakpoint, session, body)
    failure, ended = not good and why or nil, true
  end)()
end
vim.cmd.edit(source)
vim.api.nvim_win_set_cursor(0, { line, 0 })
dap.set_breakpoint()
dap.run({ type = "godebug", request = "attach", mode = "remote", name = "godebug" })
vim.wait(20000, function() return ended end, 20)
if failure or not ended then
  io.stderr:write(tostring(failure or "it never stopped") .. "\n")
  os.exit(1)
end
io.stdout:write("OK\n")
os.exit(0)
