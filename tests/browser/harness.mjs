// What the browser tests share: a node and an upstream in processes of their own, a browser, and waits that end.

import { spawn, execFile } from 'node:child_process';
import { createServer } from 'node:http';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { chromium } from 'playwright-core';

/** No wait takes longer: a debug build on a busy machine is slow, a test that needs more is stuck. */
export const DEADLINE_MS = 30_000;

const bin = (name) => join(process.env.TEST_BIN_DIR ?? 'target/debug', name);

/** Asks again and again until `read` gives something true; fails, with what was last seen, at the deadline. */
export async function until(what, read) {
  const deadline = performance.now() + DEADLINE_MS;
  let last;
  while (performance.now() < deadline) {
    last = await read();
    if (last) return last;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${what}: not within ${DEADLINE_MS / 1000} s; last: ${JSON.stringify(last)}`);
}

/** Ends a process and waits until it is gone. */
async function end(child, signal = 'SIGTERM') {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill(signal);
  const timer = setTimeout(() => child.kill('SIGKILL'), DEADLINE_MS);
  await gone;
  clearTimeout(timer);
}

/** A program whose output is kept, so that a test that fails can show it. */
function program(name, args) {
  const child = spawn(bin(name), args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const said = [];
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => said.push(String(text)));
  child.once('error', (error) => said.push(String(error)));
  return { child, said: () => said.join('') };
}

/**
 * A node on free ports of loopback with this configuration (TOML). `http` fixes its HTTP port, so that a second node
 * can take the place of the first.
 */
export async function startNode({ config = '', http = '127.0.0.1:0', dir: given } = {}) {
  const dir = given ?? (await mkdtemp(join(tmpdir(), 'trunkline-browser-')));
  const file = join(dir, 'node.toml');
  const readyFile = join(dir, 'ready.json');
  await rm(readyFile, { force: true });
  await writeFile(file, config);
  const any = '127.0.0.1:0';
  const { child, said } = program('trunkline', ['serve', '--config', file, '--data-dir', join(dir, 'data'), '--ready-file', readyFile,
    '--http', http, '--tcp', any, '--quic', any, '--grpc', any, '--metrics', any]);
  const ready = await until('the node is ready', async () => {
    if (child.exitCode !== null) throw new Error(`the node ended:\n${said()}`);
    return readFile(readyFile, 'utf8').then(JSON.parse, () => null);
  });
  return {
    dir,
    ready,
    said,
    url: `http://${ready.http}/`,
    token: async (user, ...rights) => {
      const args = ['token', '--user', user, '--data-dir', join(dir, 'data'), ...rights.flatMap((right) => ['--right', right])];
      return (await promisify(execFile)(bin('trunkline'), args, { timeout: DEADLINE_MS })).stdout.trim();
    },
    status: async () => (await fetch(`http://${ready.http}/api/status`)).json(),
    /** Ends the process; its data stays, for a node that comes after it. */
    end: (signal) => end(child, signal),
    /** Ends it and removes its data. */
    stop: async () => {
      await end(child);
      await rm(dir, { recursive: true, force: true });
    },
  };
}

/** The example upstream, registered for all zones. */
export async function startUpstream(node) {
  const { child, said } = program('upstream-example', ['--addr', '127.0.0.1:0', '--gateway', node.ready.grpc]);
  await until('the upstream is up', async () => {
    if (child.exitCode !== null) throw new Error(`the upstream ended:\n${said()}`);
    return (await node.status()).upstreams.instances.some(({ state }) => state === 'up' || state === 'unprobed');
  });
  return { said, stop: () => end(child) };
}

/** Chromium. QUIC stays on, for WebTransport; what talks to the world stays off. */
export function startBrowser() {
  const root = process.getuid?.() === 0 ? ['--no-sandbox'] : [];
  const quiet = ['--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: [...root, ...quiet], timeout: DEADLINE_MS });
}

/**
 * A page that collects what went wrong in it: exceptions, and errors and warnings on its console.
 */
export async function openPage(browser, options) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(DEADLINE_MS);
  const page = await context.newPage();
  const problems = [];
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) problems.push(message.text());
  });
  return { page, problems, close: () => context.close() };
}

/** A site of another origin than the node's with an empty page, as an application of a user would be. */
export async function startSite() {
  const server = createServer((_, response) => {
    response.writeHead(200, { 'content-type': 'text/html' });
    response.end('<!doctype html><link rel="icon" href="data:,"><title>test</title>');
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}/`,
    stop: () => new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    }),
  };
}
