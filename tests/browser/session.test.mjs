// A real Chromium page speaks to a node with the SDK, over WebSocket and over WebTransport.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { openPage, startBrowser, startNode, startSite, startUpstream, until } from './harness.mjs';

const CONFIG = `
[namespaces.room]
history_count = 4
`;
const RIGHTS = 'room:*=subscribe,publish,history,presence';
const TRANSPORTS = ['websocket', 'webtransport'];

let node, upstream, site, browser;

before(async () => {
  node = await startNode({ config: CONFIG });
  [upstream, site, browser] = await Promise.all([startUpstream(node), startSite(), startBrowser()]);
});
after(async () => {
  await browser?.close();
  await Promise.all([site?.stop(), upstream?.stop()]);
  await node?.stop();
});

/** Where a page finds a node, as it would learn it: by HTTP from the node itself. */
async function endpoint(transport, { ready, url } = node) {
  if (transport === 'websocket') return { url: `ws://${ready.http}/ws` };
  const certificate = (await (await fetch(`${url}certificate`)).text()).trim();
  return { url: `https://${ready.quic}/`, certificate };
}

/** A page with the SDK, as this user. */
async function openClient(user, transport, { on = node, ...more } = {}) {
  const opened = await openPage(browser, {});
  await opened.page.addInitScript({ path: fileURLToPath(new URL('in_page.js', import.meta.url)) });
  await opened.page.goto(site.url);
  const options = { user, token: await on.token(user, RIGHTS), endpoints: [await endpoint(transport, on)], ...more };
  await opened.page.evaluate(async ([sdk, options]) => {
    const { Client } = await import(sdk);
    globalThis.client = new Client(options);
    globalThis.events = record(client);
  }, [`${on.url}sdk/trunkline.js`, options]);
  return opened;
}

for (const transport of TRANSPORTS) {
  test(`the scenario passes from a page over ${transport}`, async () => {
    const user = `scenario-${transport}`;
    const { page, problems, close } = await openClient(user, transport);
    const other = await openClient(`other-${transport}`, 'websocket');
    const room = `room:${transport}`;
    await other.page.evaluate(() => client.connect());
    const publish = (texts) =>
      other.page.evaluate(async ([room, texts]) => {
        for (const text of texts) await client.publish(room, { text });
      }, [room, texts]);

    // Start.
    const started = await page.evaluate(async () => {
      await client.connect();
      return events.until('started');
    });
    assert.equal(started.verdict, 'fresh');
    assert.equal(started.transport, transport);

    // Call.
    const reply = await page.evaluate(async () => {
      const { code, data } = await client.call('echo', { data: { a: 1 } });
      return { code, text: new TextDecoder().decode(data) };
    });
    assert.deepEqual(reply, { code: 200, text: 'Echo: {"a":1}' });

    // Pushes: at once, before and after the reply.
    const pushed = await page.evaluate(async (user) => {
      await client.call('echo', { data: 'self', params: { demo_unicast_openid: user } });
      return events.until('push', ({ msgType }) => msgType === 'echo');
    }, user);
    assert.equal(pushed.data, 'self');
    assert.equal(pushed.position.channel, `user:${user}`);
    const order = await page.evaluate(async () => {
      const from = events.seen.length;
      for (const action of ['before', 'after']) {
        const { headers } = await client.call(action);
        events.note(`${action} ${headers.notify}`);
        await events.until('push', ({ msgType }) => msgType === `${action}_test`);
      }
      return events.seen.slice(from).map(({ name, msgType, text }) => msgType ?? text ?? name);
    });
    assert.deepEqual(order, ['before_test', 'before bound', 'after bound', 'after_test']);

    // Subscribe, publish.
    const published = await page.evaluate(async (room) => {
      await client.subscribe(room);
      const position = await client.publish(room, { text: 'mine' });
      const publication = await events.until('publication');
      return { position, publication, members: await client.presence(room), history: await client.history(room, { limit: 4 }) };
    }, room);
    assert.deepEqual(published.publication.data, { text: 'mine' });
    assert.equal(published.publication.sender, user);
    assert.equal(published.publication.position.offset, published.position.offset);
    assert.deepEqual(published.members.map((member) => member.user), [user]);
    assert.deepEqual(published.history.publications.map(({ data }) => data), [{ text: 'mine' }]);

    const waiting = async () => (await node.status()).gateway.sessions_waiting;
    const cut = async () => {
      const others = await waiting();
      await page.evaluate(() => network.cut());
      await until('the node has seen the cut', async () => (await waiting()) > others);
    };

    // Cut and resume: what was published meanwhile comes once and in order, a call made meanwhile is answered.
    await cut();
    await page.evaluate(() => {
      globalThis.late = client.call('calculate', { params: { operation: 'add', a: '2', b: '3' } });
    });
    await publish(['one', 'two', 'three']);
    const resumed = await page.evaluate(async () => {
      network.up();
      const started = await events.until('started', ({ verdict }) => verdict !== 'fresh');
      await events.until('publication', ({ data }) => data.text === 'three');
      return { started, late: (await late).headers.result, texts: events.seen.filter(({ name }) => name === 'publication').map(({ data }) => data.text) };
    });
    assert.equal(resumed.started.verdict, 'resumed');
    assert.equal(resumed.started.session, started.session);
    assert.equal(resumed.late, '5');
    assert.deepEqual(resumed.texts, ['mine', 'one', 'two', 'three']);

    // Gap: the history of four is overrun while the client is away.
    await cut();
    const many = Array.from({ length: 300 }, (_, at) => `late ${at}`);
    await publish(many);
    const gapped = await page.evaluate(async (last) => {
      const from = events.seen.length;
      network.up();
      await events.until('publication', ({ data }) => data.text === last);
      return events.seen.slice(from).filter(({ name }) => name !== 'lost');
    }, many.at(-1));
    const [restarted, gap, ...rest] = gapped;
    assert.equal(restarted.verdict, 'gap');
    assert.equal(gap.name, 'gap');
    assert.equal(gap.channel, room);
    assert.ok(gap.next.epoch === gap.epoch && gap.next.offset > gap.offset, JSON.stringify(gap));
    const told = rest.map(({ data }) => data.text);
    assert.deepEqual(told, many.slice(-told.length), 'what comes after the gap is whole and in order');
    assert.ok(told.length >= 4 && told.length < 300, `${told.length} publications came after the gap`);

    // Stop.
    const before = (await node.status()).gateway.counters.sessions_ended;
    const end = await page.evaluate(async () => {
      client.stop();
      return { closed: await events.until('closed'), after: await failure(client.call('echo')) };
    });
    assert.equal(end.after.codeName, 'NOT_SENT');
    await until('the session has ended', async () => (await node.status()).gateway.counters.sessions_ended > before);

    assert.deepEqual(problems, []);
    await Promise.all([close(), other.close()]);
  });

  test(`a page is told by the code's range what to do, over ${transport}`, async () => {
    // Another user's token: stay away.
    const wrong = await openClient('wrong', transport, { token: await node.token('somebody-else') });
    const refused = await wrong.page.evaluate(async () => ({
      connect: await failure(client.connect()),
      closed: await events.until('closed'),
      lost: events.seen.filter(({ name }) => name === 'lost').length,
    }));
    assert.equal(refused.closed.code, 4302);
    assert.equal(refused.connect.codeName, 'CLOSED');
    assert.equal(refused.lost, 0, 'it tried again');
    await wrong.close();

    // The same device starts elsewhere: the first one stays away.
    const first = await openClient('twice', transport, { device: 'desk' });
    await first.page.evaluate(() => client.connect());
    const second = await openClient('twice', transport, { device: 'desk' });
    await second.page.evaluate(() => client.connect());
    const replaced = await first.page.evaluate(() => events.until('closed'));
    assert.equal(replaced.code, 4301);
    await Promise.all([first.close(), second.close()]);
  });

  test(`a page gets bytes, texts and a hundred replies at once, over ${transport}`, async () => {
    const { page, problems, close } = await openClient(`data-${transport}`, transport);
    const got = await page.evaluate(async (room) => {
      await client.connect();
      await client.subscribe(room);
      await client.publish(room, new Uint8Array([0, 1, 254, 255]));
      const { data } = await events.until('publication');
      const sums = await Promise.all(
        Array.from({ length: 100 }, (_, at) => client.call('calculate', { params: { operation: 'add', a: String(at), b: '1' } })),
      );
      // Larger than a packet, a stream's window and a buffer, and of characters of one to four bytes.
      const text = 'aé漢😀'.repeat(20_000);
      const { data: echoed } = await client.call('echo', { data: text });
      return {
        bytes: [...data],
        sums: sums.map(({ headers }) => Number(headers.result)),
        whole: new TextDecoder().decode(echoed) === `Echo: ${JSON.stringify(text)}`,
        large: await failure(client.call('echo', { data: 'x'.repeat(1 << 20) })),
        unknown: (await client.call('no-such-action')).code,
        forbidden: await failure(client.subscribe('secret:1')),
        refreshed: await failure(client.refresh('no token')),
        // The token of before is the one that the next START has.
        alive: (client.reconnect(), (await client.call('echo')).code),
      };
    }, `room:data-${transport}`);
    assert.deepEqual(got.bytes, [0, 1, 254, 255]);
    assert.deepEqual(got.sums, Array.from({ length: 100 }, (_, at) => at + 1));
    assert.ok(got.whole, 'a large reply is damaged');
    assert.equal(got.large.code, 413);
    assert.equal(got.unknown, 404);
    assert.equal(got.forbidden.codeName, 'FORBIDDEN');
    assert.equal(got.refreshed.codeName, 'UNAUTHENTICATED');
    assert.equal(got.alive, 200);
    assert.deepEqual(problems, []);
    await close();
  });
}

test('a page comes back to a node that was killed, and is told what it lost', async () => {
  const first = await startNode({ config: CONFIG });
  const { page, close } = await openClient('patient', 'websocket', { on: first });
  await page.evaluate(async () => {
    await client.connect();
    await client.subscribe('room:gone');
    await client.publish('room:gone', 1);
    await events.until('publication');
  });
  await first.end('SIGKILL');
  await page.evaluate(() => events.until('lost'));
  const second = await startNode({ config: CONFIG, http: first.ready.http, dir: first.dir });
  const back = await page.evaluate(async () => {
    const gap = await events.until('gap', ({ channel }) => channel === 'room:gone');
    const started = events.seen.filter(({ name }) => name === 'started');
    return { gap, verdicts: started.map(({ verdict }) => verdict) };
  });
  assert.deepEqual(back.verdicts, ['fresh', 'fresh']);
  await close();
  await second.stop();
});

test('a page is told that the node drains, and tries again', async () => {
  const draining = await startNode({ config: CONFIG });
  const { page, close } = await openClient('patient', 'webtransport', { on: draining });
  await page.evaluate(() => client.connect());
  await draining.stop();
  const lost = await page.evaluate(() => events.until('lost'));
  assert.equal(lost.code, 4000);
  await close();
});
