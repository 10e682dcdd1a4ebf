// The SDK's codes against docs/codes.md, which a test of trunkline-proto holds to the one table of codes. No browser.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';

import { Requests, TrunklineError } from '../../web/sdk/session.js';
import { advice } from '../../web/sdk/trunkline.js';

const read = (path) => readFile(new URL(`../../${path}`, import.meta.url), 'utf8');

/** Every row `| code | name | …` below a heading, by heading. */
async function tables() {
  const found = new Map();
  let rows = [];
  for (const line of (await read('docs/codes.md')).split('\n')) {
    const heading = /^#+ (.*)/.exec(line)?.[1];
    if (heading) found.set(heading, (rows = []));
    const [, code, name] = /^\| (\d+) \| ([A-Z_]+) \|/.exec(line) ?? [];
    if (code) rows.push({ code: Number(code), name });
  }
  return found;
}

test('the SDK does with each close code what its range says', async () => {
  const ranges = [...(await tables())].flatMap(([heading, rows]) => {
    const [, from, to, what] = /^(\d{4})–(\d{4}): (.*)/.exec(heading) ?? [];
    return from ? [{ from: Number(from), to: Number(to), what, rows }] : [];
  });
  const meanings = [
    [/^reconnect and resume/, 'resume'],
    [/^reconnect with a fresh session/, 'fresh'],
    [/^stay away/, 'stay-away'],
    [/a bug to fix/, 'fix-request'],
  ];
  const byWords = ({ what }) => meanings.find(([words]) => words.test(what))?.[1];
  assert.deepEqual(ranges.map(byWords), ['resume', 'fresh', 'stay-away', 'fix-request']);
  for (const range of ranges) {
    assert.ok(range.rows.length > 0, range.what);
    for (const { code } of range.rows) {
      assert.ok(code >= range.from && code <= range.to, `${code} stands in another range's table`);
      assert.equal(advice(code), byWords(range), `${code}`);
    }
    // A number that a newer gateway has means what its range says.
    for (const code of [range.from, range.to]) assert.equal(advice(code), byWords(range), `${code}`);
  }
  for (const other of [null, 1000, 1006, 4200, 4500]) assert.equal(advice(other), 'resume', `${other}`);
});

test('every code that the SDK names is in the table under that name', async () => {
  const rows = [...(await tables()).values()].flat();
  const known = (code, name) => rows.some((row) => row.code === code && row.name === name);
  let seen = 0;
  for (const path of ['web/sdk/session.js', 'web/sdk/trunkline.js', 'web/sdk/links.js']) {
    const text = await read(path);
    for (const [, name, code] of text.matchAll(/^const ([A-Z_]+) = (4\d{3});/gm)) {
      seen += 1;
      assert.ok(known(Number(code), name), `${path}: ${name} = ${code}`);
    }
    for (const [, code, name] of text.matchAll(/\b(\d{3}), '([A-Z_]+)'/g)) {
      seen += 1;
      assert.ok(known(Number(code), name), `${path}: ${code}, ${name}`);
    }
    for (const [, code] of text.matchAll(/error_code === (\d+)/g)) {
      seen += 1;
      assert.ok(rows.some((row) => row.code === Number(code)), `${path}: ${code}`);
    }
  }
  assert.ok(seen >= 7, `${seen} were found: the SDK is written in another way`);
});

/** Requests with refreshes of these tokens, and how each ended. */
function refreshes(...tokens) {
  const requests = new Requests();
  const ends = [];
  for (const token of tokens) {
    const waiting = { resolve: () => ends.push(`${token} good`), reject: (error) => ends.push(`${token} ${error.codeName}`) };
    requests.add({ type: 'refresh', payload: { auth_token: token }, waiting });
  }
  return { requests, ends };
}

test('START answers the refresh whose token it had, and those before it', () => {
  const { requests, ends } = refreshes('a', 'b');
  assert.equal(requests.refreshing(), 'b');
  const none = { at: () => undefined };
  requests.started(none, undefined);
  assert.deepEqual(ends, [], 'a START without it answers none');
  const later = { type: 'refresh', payload: { auth_token: 'c' }, waiting: { resolve: () => ends.push('c good'), reject() {} } };
  requests.add(later);
  requests.started(none, 'b');
  assert.deepEqual(ends, ['a good', 'b good']);
  assert.deepEqual([...requests.take(() => 7)], [{ msg_id: 7, type: 'refresh', payload: { auth_token: 'c' } }]);
});

test('a START that is refused for the token of a refresh ends that refresh alone', () => {
  const { requests, ends } = refreshes('bad', 'other');
  requests.refuseRefreshes('bad', new TrunklineError(401, 'UNAUTHENTICATED', 'no'));
  assert.deepEqual(ends, ['bad UNAUTHENTICATED']);
  assert.equal(requests.refreshing(), 'other');
});
