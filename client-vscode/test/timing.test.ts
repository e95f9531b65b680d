import assert from "node:assert/strict";
import { test } from "node:test";
import { Timing } from "../src/timing";

test("the time that the server takes is left out", async () => {
  let now = 0;
  const timing = new Timing(() => now);
  const key = {};
  await timing.measured(key, async () => {
    now += 2;
    await timing.elsewhere(key, async () => {
      now += 500;
    });
    now += 1;
  });
  assert.equal(timing.quantile(0.95), 3);
});

test("no request, no figure", () => {
  assert.equal(new Timing().quantile(0.5), undefined);
});
