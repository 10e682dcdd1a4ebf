// The status page in a real Chromium: what it shows, in which language, to whom, and when the node is gone.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { words } from '../../web/status/words.js';
import { openPage, startBrowser, startNode, startUpstream, until } from './harness.mjs';

const HOSTILE = '<img src=x onerror=alert(1)>';
const CONFIG = `
[upstreams]
instances = [{ address = "127.0.0.1:9", zone = "*", service = "${HOSTILE}" }]
`;

let node, upstream, browser;

before(async () => {
  node = await startNode({ config: CONFIG });
  [upstream, browser] = await Promise.all([startUpstream(node), startBrowser()]);
});
after(async () => {
  await browser?.close();
  await upstream?.stop();
  await node?.stop();
});

/** The page, once it shows what the node says. */
async function openStatus(options = {}, url = node.url) {
  const opened = await openPage(browser, { locale: 'en-US', ...options });
  await opened.page.goto(url);
  await opened.page.waitForSelector('#state[data-state=ready]');
  return opened;
}

/** Connects to the node from the page, as a client that calls and is pushed to. */
async function connectFrom(page, user) {
  const options = { user, token: await node.token(user), endpoints: [`ws://${node.ready.http}/ws`] };
  await page.evaluate(async (options) => {
    const { Client } = await import('/sdk/trunkline.js');
    globalThis.client = new Client(options);
    await client.connect();
  }, options);
}

const shown = (page, id) => page.evaluate((id) => Object.fromEntries(
  [...document.getElementById(id).querySelectorAll('dt')].map((dt) => [dt.textContent, dt.nextElementSibling.textContent])), id);
const figure = (page, name) => page.textContent(`#plot-${name} output`);

test('both languages have the same words', () => {
  const kinds = (language) => Object.entries(words[language]).map(([key, value]) => `${key}: ${typeof value}`).sort();
  assert.deepEqual(kinds('zh-CN'), kinds('en'));
});

test('the status page shows live what runs', async () => {
  const { page, problems, close } = await openStatus();
  // Nothing is connected: what to do next, as one would type it.
  await page.waitForSelector('#next:not([hidden])');
  const commands = await page.locator('#steps code').allTextContents();
  assert.equal(commands.length, 4);
  assert.ok(commands.some((command) => command.startsWith('target/release/trunkline call')), commands.join('\n'));
  // Where everything is.
  const surfaces = await page.locator('#surfaces tbody tr').evaluateAll((rows) => rows.map((row) => [...row.cells].slice(0, 2).map((cell) => cell.textContent)));
  const { http, tcp, quic, grpc, metrics } = node.ready;
  assert.deepEqual(surfaces, Object.entries({ http, tcp, quic, grpc, metrics }));
  assert.equal(await page.textContent('#certificate'), node.ready.certificate_sha256);

  await connectFrom(page, 'watched');
  await page.waitForSelector('#next', { state: 'hidden' });
  await until('the connection is shown', async () => (await shown(page, 'connections')).WebSocket === '1');
  assert.equal((await shown(page, 'sessions')).connected, '1');
  assert.equal(await page.textContent('#connections-sum'), '1');

  // Calls and pushes until they are seen as rates, and as a curve.
  const work = page.evaluate(async () => {
    globalThis.busy = true;
    while (busy) await client.call('echo', { data: 'x', params: { demo_unicast_openid: 'watched' } });
  });
  for (const name of ['calls', 'pushes', 'deliveries']) {
    await until(`${name} are shown`, async () => Number((await figure(page, name)).replace(',', '')) > 0);
  }
  await page.waitForFunction(() => /^M.*L/.test(document.querySelector('#plot-calls .curve').getAttribute('d')));
  assert.match(await page.getAttribute('#plot-calls svg', 'aria-label'), /^Calls\/s: now [\d.,]+, at most [\d.,]+/);
  assert.match(await figure(page, 'memory'), /^[\d.]+ MiB$/);
  await page.evaluate(() => (busy = false));
  await work;

  // Upstreams: the example, and one that is not there and has a hostile name, which stays a text.
  const rows = await until('the calls of the upstream are shown', async () => {
    const rows = await page.locator('#upstreams tbody tr').evaluateAll((all) => all.map((row) => [...row.cells].map((cell) => cell.textContent)));
    return rows.some((row) => row[2] === 'upstream' && Number(row[5].replace(',', '')) > 0) && rows;
  });
  assert.ok(rows.some((row) => row[2] === HOSTILE), JSON.stringify(rows));
  assert.equal(await page.locator('img').count(), 0);

  await page.evaluate(() => client.stop());
  assert.deepEqual(problems, []);
  await close();
});

test('the status page allows nothing inline', async () => {
  const policy = (await fetch(node.url)).headers.get('content-security-policy');
  assert.match(policy, /default-src 'none'/);
  assert.doesNotMatch(policy, /unsafe|\*/);
  const { page, problems, close } = await openStatus();
  await page.evaluate(() => {
    const script = document.createElement('script');
    script.textContent = 'globalThis.injected = true';
    document.body.append(script);
  });
  assert.equal(await page.evaluate(() => globalThis.injected), undefined);
  assert.ok(problems.some((problem) => problem.includes('Content Security Policy')), problems.join());
  await close();
});

test('the status page speaks the language of the browser, and the other one by keyboard', async () => {
  const { page, problems, close } = await openStatus({ locale: 'zh-CN' });
  const title = () => page.textContent('#connections-title span');
  assert.equal(await page.getAttribute('html', 'lang'), 'zh-CN');
  assert.equal(await title(), '连接');
  assert.equal(await page.textContent('#state'), '服务中');
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'language');
  await page.keyboard.press('Enter');
  assert.equal(await title(), 'Connections');
  assert.equal(await page.getAttribute('html', 'lang'), 'en');
  await page.reload();
  await page.waitForSelector('#state[data-state=ready]');
  assert.equal(await title(), 'Connections', 'the choice is forgotten');
  assert.deepEqual(problems, []);
  await close();
});

for (const locale of ['en-US', 'zh-CN']) {
  for (const colorScheme of ['light', 'dark']) {
    test(`the status page can be read by everybody: ${locale}, ${colorScheme}, 360 px`, async () => {
      const { page, problems, close } = await openStatus({ locale, colorScheme, viewport: { width: 360, height: 740 } });
      await page.waitForSelector('#upstreams tbody tr');
      const found = await page.evaluate(inspect);
      assert.deepEqual(found, []);
      assert.deepEqual(problems, []);
      await close();
    });
  }
}

/** Runs in the page: everything that a person could stumble over. */
function inspect() {
  const found = [];
  // The heads of tables are there for screen readers only.
  const clipped = (element) => element.closest('thead') && getComputedStyle(element.closest('thead')).clipPath !== 'none';
  const visible = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && !clipped(element);
  const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const linear = [r, g, b].map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  // Contrast of every text with what is behind it (WCAG 1.4.3), and no text that is cut off or left in no language.
  for (const element of document.body.querySelectorAll('*')) {
    const text = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.data).join('').trim();
    if (!text || !visible(element) || element.closest('noscript')) continue;
    const [a, b] = [luminance(channels(getComputedStyle(element).color)), luminance(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`contrast ${ratio.toFixed(2)}: ${text}`);
    if (element.getBoundingClientRect().right > innerWidth) found.push(`beyond the edge: ${text}`);
    if (/undefined|null|NaN/.test(text)) found.push(`not a text: ${text}`);
  }
  if (document.documentElement.scrollWidth > innerWidth) found.push(`${document.documentElement.scrollWidth} px wide`);
  // Names of what is operated or seen (WCAG 4.1.2, 1.1.1), and room for a finger (2.5.8).
  for (const element of document.querySelectorAll('button, a, svg[role=img], [role=table]')) {
    if (!visible(element)) continue;
    const labelled = document.getElementById(element.getAttribute('aria-labelledby'))?.textContent;
    if (!(element.getAttribute('aria-label') || labelled || element.textContent).trim()) found.push(`no name: ${element.outerHTML}`);
  }
  for (const button of document.querySelectorAll('button')) {
    const { width, height } = button.getBoundingClientRect();
    if (Math.min(width, height) < 24) found.push(`too small: ${button.outerHTML}`);
  }
  for (const element of document.querySelectorAll('[data-words]')) if (!element.textContent) found.push(`no words: ${element.outerHTML}`);
  // Structure: one h1, sections named by their heading, tables that stay tables, a language, a title.
  if (document.querySelectorAll('h1').length !== 1 || document.querySelectorAll('main').length !== 1) found.push('not one h1 and one main');
  for (const section of document.querySelectorAll('section')) {
    if (!document.getElementById(section.getAttribute('aria-labelledby'))) found.push(`a section without heading: ${section.id}`);
  }
  for (const row of document.querySelectorAll('tbody tr')) {
    if (row.getAttribute('role') !== 'row') found.push('a row without its role');
    if (row.cells.length !== row.closest('table').querySelectorAll('th[role=columnheader][scope=col]').length) found.push('a cell without heading');
  }
  if (!document.documentElement.lang || !document.title) found.push('no language or title');
  const ids = [...document.querySelectorAll('[id]')].map(({ id }) => id);
  if (new Set(ids).size !== ids.length) found.push('an id twice');
  return found;
}

test('the status page says that the node is gone, and goes on when it is back', async () => {
  const first = await startNode();
  const { page, close } = await openStatus({}, first.url);
  await first.end('SIGKILL');
  await page.waitForSelector('#state[data-state=away]');
  assert.match(await page.textContent('#away'), /has not answered/);
  assert.ok(await page.isVisible('#certificate'), 'the last figures are gone');
  const second = await startNode({ http: first.ready.http, dir: first.dir });
  await page.waitForSelector('#state[data-state=ready]');
  assert.ok(await page.isHidden('#away'));
  await close();
  await second.stop();
});
