// The same client in a session of mode observe, while others keep the service busy: node vscode_observe.js PORT
// SOURCE LINE LATER. LINE has the order, LATER its price. Says READY when breakpoints are set, OK at the end.
"use strict";
const assert = require("assert");
const { DebugClient } = require("@vscode/debugadapter-testsupport");

const [port, path, line, later] = process.argv.slice(2);
const client = new DebugClient("none", "none", "go");
client.defaultTimeout = 20000;

async function value(expression, frameId) {
  return (await client.evaluateRequest({ expression, frameId, context: "hover" })).body.result;
}

async function main() {
  await client.start(Number(port));
  const can = (await client.initializeRequest()).body;
  assert(can.supportsConditionalBreakpoints && can.supportsLogPoints, JSON.stringify(can));
  assert(!can.supportsSetVariable && !can.supportTerminateDebuggee, JSON.stringify(can));
  await Promise.all([
    client.waitForEvent("initialized"),
    client.attachRequest({ request: "attach", mode: "remote", stopOnEntry: false }),
  ]);
  const messages = [];
  client.on("output", (event) => messages.push(event.body.output));
  const set = await client.setBreakpointsRequest({
    source: { path },
    breakpoints: [
      { line: Number(line), condition: "o.ID == 3 && len(o.Items) > 2" },
      { line: Number(later), logMessage: "an order costs {total}" },
    ],
  });
  assert(set.body.breakpoints.every((one) => one.verified), JSON.stringify(set.body));
  await client.setExceptionBreakpointsRequest({ filters: [] });
  let stopped = client.waitForEvent("stopped");
  await client.configurationDoneRequest();
  console.log("READY");

  for (let hit = 0; hit < 4; hit++) {
    const { body } = await stopped;
    assert.strictEqual(body.reason, "breakpoint");
    assert.deepStrictEqual(body.hitBreakpointIds, [set.body.breakpoints[0].id]);
    const threadId = body.threadId;
    // Longer than any image may stop the service: who uses it would see if it stood as the IDE does.
    if (hit === 0) await new Promise((resolve) => setTimeout(resolve, 3000));
    const threads = await client.threadsRequest();
    assert(threads.body.threads.some((thread) => thread.id === threadId));
    const stack = await client.stackTraceRequest({ threadId, startFrame: 0, levels: 20 });
    const frame = stack.body.stackFrames[0];
    assert.strictEqual(frame.line, Number(line));
    assert.strictEqual(frame.source.path, path);
    const scopes = await client.scopesRequest({ frameId: frame.id });
    const variables = await client.variablesRequest({
      variablesReference: scopes.body.scopes[0].variablesReference,
    });
    const order = variables.body.variables.find((variable) => variable.name === "o");
    const fields = await client.variablesRequest({ variablesReference: order.variablesReference });
    const items = fields.body.variables.find((variable) => variable.name === "Items");
    const first = await client.variablesRequest({ variablesReference: items.variablesReference });
    const tea = await client.variablesRequest({
      variablesReference: first.body.variables[0].variablesReference,
    });
    assert.strictEqual(tea.body.variables.find((one) => one.name === "Name").value, '"tea"');
    assert.strictEqual(await value("o.ID", frame.id), "3");
    assert.strictEqual(await value('o.Tags["channel"]', frame.id), '"web"');
    stopped = client.waitForEvent("stopped");
    await client.continueRequest({ threadId });
  }
  await stopped;
  const logged = () => messages.some((message) => /> \[Go \d+\]: an order costs \d+/.test(message));
  for (let tries = 0; tries < 20 && !logged(); tries++) {
    stopped = client.waitForEvent("stopped");
    await client.continueRequest({ threadId: 1 });
    await stopped;
  }
  assert(logged(), messages.join(""));
  assert(messages.some((message) => message.includes("the service stood still for")), messages.join(""));
  await client.disconnectRequest({ terminateDebuggee: true });
  console.log("OK");
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
