// What Visual Studio Code does with dlv through a session's local port, with its own client for testing debug
// adapters: node vscode.js PORT MODE SOURCE LINE. Says READY when the breakpoint is set, OK at the end.
"use strict";
const assert = require("assert");
const { DebugClient } = require("@vscode/debugadapter-testsupport");

const [port, mode, path, line] = process.argv.slice(2);
const client = new DebugClient("none", "none", "go");
client.defaultTimeout = 20000;

async function refused(request, words) {
  await assert.rejects(request, (error) => {
    assert.match(error.message, /godebug refused this/);
    assert.match(error.message, words);
    return true;
  });
}

async function main() {
  await client.start(Number(port));
  const told = await client.initializeRequest();
  const can = told.body;
  assert.strictEqual(can.supportsConfigurationDoneRequest, true);
  assert.strictEqual(can.supportsSetVariable === true, mode === "modify");
  assert(!can.supportTerminateDebuggee && !can.supportsRestartRequest, JSON.stringify(can));

  await Promise.all([
    client.waitForEvent("initialized"),
    client.attachRequest({ request: "attach", mode: "remote", stopOnEntry: false }),
  ]);
  const set = await client.setBreakpointsRequest({
    source: { path },
    breakpoints: [{ line: Number(line) }],
  });
  assert.strictEqual(set.body.breakpoints[0].verified, true);
  await client.setExceptionBreakpointsRequest({ filters: [] });
  const stopped = client.waitForEvent("stopped");
  await client.configurationDoneRequest();
  console.log("READY");

  const { body } = await stopped;
  assert.strictEqual(body.reason, "breakpoint");
  const threadId = body.threadId;
  await client.threadsRequest();
  const stack = await client.stackTraceRequest({ threadId, startFrame: 0, levels: 20 });
  const frame = stack.body.stackFrames[0];
  assert.strictEqual(frame.line, Number(line));
  assert.strictEqual(frame.source.path, path);
  const scopes = await client.scopesRequest({ frameId: frame.id });
  const locals = scopes.body.scopes[0].variablesReference;
  const variables = await client.variablesRequest({ variablesReference: locals });
  const order = variables.body.variables.find((variable) => variable.name === "o");
  assert(order && order.variablesReference > 0, JSON.stringify(variables.body));
  const id = await client.evaluateRequest({ expression: "o.ID", frameId: frame.id, context: "hover" });
  assert.strictEqual(id.body.result, "3");

  const write = () =>
    client.setVariableRequest({ variablesReference: order.variablesReference, name: "ID", value: "4" });
  const read = async () =>
    (await client.evaluateRequest({ expression: "o.ID", frameId: frame.id, context: "watch" })).body.result;
  if (mode === "modify") {
    await write();
    assert.strictEqual(await read(), "4");
  } else {
    await refused(write(), /--mode modify/);
    assert.strictEqual(await read(), "3");
    const call = { expression: "call main.tiny(1)", frameId: frame.id, context: "repl" };
    await refused(client.evaluateRequest(call), /--mode modify/);
  }
  await refused(client.send("restart", {}), /systemctl/);

  const step = client.waitForEvent("stopped");
  await client.nextRequest({ threadId });
  assert.strictEqual((await step).body.reason, "step");
  await client.continueRequest({ threadId });
  await client.disconnectRequest({ terminateDebuggee: true });
  console.log("OK");
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
