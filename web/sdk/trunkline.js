// The client of a page: one session over WebTransport or WebSocket, in the JSON dialect.
//
//     import { Client } from 'https://node.example/sdk/trunkline.js';
//     const client = new Client({ user: 'alice', token, endpoints: ['wss://node.example/ws'] });
//     client.on('push', ({ title, content }) => console.log(title, content));
//     await client.connect();
//     const reply = await client.call('echo', { data: { any: 'JSON' } });
//
// It reconnects and resumes by itself, sends again what has no answer, and delivers every publication once and in its
// channel's order, or tells a gap. It stores nothing: a page that is loaded anew begins a new session, and gives its
// `positions` to learn what it has missed. There is no build step and no dependency.

import { openLink } from './links.js';
import { Calls, Channels, Requests, TrunklineError } from './session.js';

export { TrunklineError };

/** Longer than the gateway's own limit of 30 s, so that its answer wins, and long enough for one reconnection. */
const CALL_TIMEOUT_MS = 45_000;
/** START_RESP comes within this time. */
const START_TIMEOUT_MS = 10_000;
/** The longest first wait after a lost connection, and the longest of all. */
const FIRST_BACKOFF_MS = 250;
const LONGEST_BACKOFF_MS = 30_000;
/** A connection that lived so long was a good one: the next wait is a first one again. */
const GOOD_CONNECTION_MS = 5_000;
/** An ack leaves after so many publications or replies, or so long after the first of them. */
const ACK_EVERY = 32;
const ACK_AFTER_MS = 1_000;
/** Nothing heard for so many heartbeats: the connection is dead. */
const SILENT_HEARTBEATS = 2.5;
/** Calls and requests that wait; the next is refused. */
const QUEUE = 1024;
/** Until START_RESP says it. */
const MAX_FRAME = 1 << 20;

const SILENT = 4002;
const UNAUTHENTICATED = 4302;

/**
 * @typedef {import('./session.js').Position} Position
 * @typedef {import('./session.js').Gap} Gap
 * @typedef {import('./links.js').Endpoint} Endpoint
 *
 * @typedef {object} Options
 * @property {string} user Must be the token's.
 * @property {string} [token]
 * @property {(string | Endpoint)[]} endpoints Tried in this order.
 * @property {string} [device] Stays the same for a device; a new session of the same device replaces the old one.
 * @property {string} [name] `name/version`, for people.
 * @property {Position[]} [positions] Where a former page was: what it has missed is told or delivered.
 *
 * @typedef {object} Reply
 * @property {number} code The service's own: 200 is good.
 * @property {string} message
 * @property {any} data A JSON value, or a `Uint8Array` for bytes that are none.
 * @property {Record<string, string>} headers
 *
 * @typedef {object} Push
 * @property {string} msgType
 * @property {string} title
 * @property {string} content
 * @property {any} data As in {@link Reply}.
 * @property {Record<string, string>} metadata
 * @property {Position} [position] Missing where it came with a call's reply.
 *
 * @typedef {object} Publication
 * @property {Position} position
 * @property {any} data As in {@link Reply}.
 * @property {number} timestamp Unix milliseconds.
 * @property {string} sender
 *
 * @typedef {object} Events
 * @property {{ verdict: 'fresh' | 'resumed' | 'gap', session: string, node: string, transport: string }} started
 * @property {Push} push
 * @property {Publication} publication
 * @property {Gap} gap
 * @property {Position} joined A service has put the session on a channel.
 * @property {{ channel: string, error: TrunklineError }} left A right was withdrawn, or a channel refused.
 * @property {{ code: number | null, reason: string, retryInMs: number }} lost It reconnects by itself.
 * @property {{ code: number | null, reason: string }} closed The end: stopped, or told to stay away. Nothing follows.
 */

/** What a close code's range says: reconnect and resume, reconnect afresh, or stay away. @param {number | null} code */
export function advice(code) {
  if (code !== null && code >= 4100 && code <= 4199) return 'fresh';
  if (code !== null && code >= 4300 && code <= 4399) return 'stay-away';
  if (code !== null && code >= 4400 && code <= 4499) return 'fix-request';
  return 'resume';
}

export class Client {
  /** @type {Options} */
  #options;
  /** @type {Map<string, Set<(event: any) => void>>} */
  #listeners = new Map();
  #calls = new Calls();
  #requests = new Requests();
  #channels = new Channels();
  /** @type {'new' | 'apart' | 'starting' | 'live' | 'closed'} */
  #phase = 'new';
  /** @type {import('./links.js').Link | null} */
  #link = null;
  /** Counts connections, so that what comes late from an older one is known. */
  #generation = 0;
  #instance = randomNumber();
  #attempt = 0;
  #failures = 0;
  #liveSince = 0;
  #msgId = 0;
  #waiting = 0;
  #keys = 0;
  #resumeToken = '';
  #maxFrame = MAX_FRAME;
  #heartbeatMs = 25_000;
  #heardAt = 0;
  #beatAt = 0;
  #ackAt = Infinity;
  #repliedTold = 0;
  #refusal = '';
  /** The token of a refresh without answer, where the last START went with it. @type {string | undefined} */
  #offered;
  /** @type {string | null} */
  #redirect = null;
  #timer = 0;
  #reconnectTimer = 0;
  /** @type {Promise<void>} */
  #first;
  /** @type {import('./session.js').Waiting} */
  #firstWaiting = { resolve() {}, reject() {} };

  /** @param {Options} options */
  constructor(options) {
    this.#options = options;
    for (const position of options.positions ?? []) this.#channels.put(position);
    this.#first = new Promise((resolve, reject) => (this.#firstWaiting = { resolve, reject }));
    // Who does not wait for it hears `closed`.
    this.#first.catch(() => {});
    globalThis.addEventListener?.('online', () => {
      if (this.#phase === 'apart') this.#reconnectAfter(0);
    });
  }

  /**
   * Calls `listener` for each event of this name. Returns what takes it off again.
   * @template {keyof Events} Name
   * @param {Name} name
   * @param {(event: Events[Name]) => void} listener
   */
  on(name, listener) {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  /** Resolves with the first session; rejects where the client is told to stay away. */
  connect() {
    if (this.#phase === 'new') {
      this.#phase = 'apart';
      this.#reconnectAfter(0);
    }
    return this.#first;
  }

  /**
   * Calls an action of a service. It runs once, also where the connection is lost meanwhile, or fails as RESULT_UNKNOWN.
   * @param {string} action
   * @param {{ params?: Record<string, string>, data?: any, headers?: Record<string, string>, timeoutMs?: number }} [options]
   *   `data` is any JSON value, or bytes.
   * @returns {Promise<Reply>}
   */
  call(action, { params, data, headers, timeoutMs = CALL_TIMEOUT_MS } = {}) {
    const payload = { action, ...(params && { params }), ...encodeData(data) };
    return this.#wait(payload, (waiting) => {
      const call = this.#calls.add(payload, headers, waiting);
      const timer = setTimeout(() => {
        const error = call.seq > 0 ? TrunklineError.unknown('no reply in time') : TrunklineError.notSent('no connection in time');
        this.#calls.abandon(call);
        waiting.reject(error);
      }, timeoutMs);
      return () => clearTimeout(timer);
    });
  }

  /** Is on a channel from now on, or from `since`; over lost connections, until `unsubscribe`. @param {string} channel @param {Position} [since] @returns {Promise<Position & { recovered?: boolean }>} */
  subscribe(channel, since) {
    return this.#request('subscribe', { channel, ...(since && { since }) });
  }

  /** @param {string} channel */
  unsubscribe(channel) {
    return this.#request('unsubscribe', { channel });
  }

  /**
   * Publishes once, also where the connection is lost meanwhile. Resolves with the publication's position.
   * @param {string} channel
   * @param {any} data Any JSON value, or bytes.
   * @returns {Promise<Position>}
   */
  publish(channel, data) {
    this.#keys += 1;
    const idempotency_key = `${this.#instance.toString(16)}-${this.#keys}`;
    return this.#request('publish', { channel, ...encodeData(data), idempotency_key });
  }

  /** @param {string} channel @param {{ since?: Position, limit?: number, reverse?: boolean }} [options] */
  async history(channel, options = {}) {
    const { epoch = 0, offset = 0, publications = [] } = await this.#request('history', { channel, ...options });
    const list = publications.map((/** @type {any} */ one) => publicationOf({ channel, epoch, offset: one.offset ?? 0 }, one));
    return { position: { channel, epoch, offset }, publications: /** @type {Publication[]} */ (list) };
  }

  /** @param {string} channel @returns {Promise<{ user: string, session_id: string }[]>} */
  async presence(channel) {
    return (await this.#request('presence', { channel })).members ?? [];
  }

  /** Uses this token from now on, if it is good; a refused one changes nothing. @param {string} token */
  refresh(token) {
    return this.#request('refresh', { auth_token: token });
  }

  /** Where the client is in each of its channels: for the `positions` of a later page. */
  positions() {
    return this.#channels.positions();
  }

  /** Gives up the connection and resumes on a new one: for a page that knows of a better way. */
  reconnect() {
    if (this.#link) this.#lost(null, 'asked to reconnect', 1000);
  }

  /** Ends the session. What has no answer fails. */
  stop() {
    if (this.#phase === 'live') this.#send({ type: 'stop', payload: { reason: 'user_logout' } });
    const link = this.#link;
    this.#link = null;
    // The gateway closes within a second of STOP; closed at once, the frame might not have left.
    if (link) setTimeout(() => link.close(), 1000);
    this.#end(null, 'the client has stopped');
  }

  /** @param {string} type @param {any} payload @returns {Promise<any>} */
  #request(type, payload) {
    return this.#wait(payload, (waiting) => this.#requests.add({ type, payload, waiting }));
  }

  /** @param {object} payload @param {(waiting: import('./session.js').Waiting) => (() => void) | void} add @returns {Promise<any>} */
  async #wait(payload, add) {
    if (this.#phase === 'closed') throw TrunklineError.notSent('the client is closed');
    if (this.#waiting >= QUEUE) throw TrunklineError.notSent('too many calls and requests wait');
    // A frame over the limit would cost the session; the frame around the payload takes less than 1 KiB without headers.
    const size = new TextEncoder().encode(JSON.stringify(payload)).length;
    if (size > this.#maxFrame - 1024) throw new TrunklineError(413, 'TOO_LARGE', `${size} bytes are over the frame limit`);
    this.#waiting += 1;
    let done = /** @type {(() => void) | void} */ (undefined);
    try {
      return await new Promise((resolve, reject) => {
        done = add({ resolve, reject });
        this.#flush();
      });
    } finally {
      this.#waiting -= 1;
      if (done) done();
    }
  }

  /** @param {keyof Events} name @param {any} event */
  #tell(name, event) {
    for (const listener of this.#listeners.get(name) ?? []) {
      try {
        listener(event);
      } catch (error) {
        // A listener's bug is the page's to see, and does not stop the session.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }

  #nextMsgId = () => {
    this.#msgId = this.#msgId >= 0xffff_ffff ? 1 : this.#msgId + 1;
    return this.#msgId;
  };

  /** @param {object} frame */
  #send(frame) {
    this.#link?.send(frame);
  }

  /** @param {number} ms */
  #reconnectAfter(ms) {
    clearTimeout(this.#reconnectTimer);
    this.#reconnectTimer = setTimeout(() => this.#reconnect(), ms);
  }

  async #reconnect() {
    const generation = (this.#generation += 1);
    const current = () => generation === this.#generation && this.#phase !== 'closed';
    const own = this.#options.endpoints.map((endpoint) => (typeof endpoint === 'string' ? { url: endpoint } : endpoint));
    const endpoints = this.#redirect ? [{ url: this.#redirect }, ...own] : own;
    this.#redirect = null;
    let reason = 'no endpoint was given';
    for (const endpoint of endpoints) {
      try {
        const link = await openLink(endpoint, {
          frame: (frame) => current() && this.#frame(frame),
          end: (code, why) => current() && this.#lost(code, why),
        });
        if (!current()) return link.close();
        this.#link = link;
        return this.#start();
      } catch (error) {
        reason = String(error instanceof Error ? error.message : error);
      }
      if (!current()) return;
    }
    this.#lost(null, reason);
  }

  #start() {
    this.#phase = 'starting';
    this.#refusal = '';
    this.#attempt += 1;
    this.#heardAt = performance.now();
    const { user, device, name = 'trunkline-js/0.0' } = this.#options;
    // A new token is the page's wish, and the old one may have expired. Whether it is good the answer says.
    this.#offered = this.#requests.refreshing();
    const token = this.#offered ?? this.#options.token;
    const leaving = this.#requests.leaving();
    const positions = this.#channels.positions().filter(({ channel }) => !leaving.has(channel));
    this.#send({
      msg_id: this.#nextMsgId(),
      type: 'start',
      payload: {
        openid: user,
        ...(token && { auth_token: token }),
        ...(this.#resumeToken && { resume_token: this.#resumeToken }),
        ...(positions.length > 0 && { positions }),
        ...(device && { device_id: device }),
        client: name,
        protocol: 1,
        last_sent_client_seq: this.#calls.lastSent,
        platform: 'web',
        instance: this.#instance,
        attempt: this.#attempt,
      },
    });
    this.#arm();
  }

  /** @param {any} frame */
  #frame(frame) {
    // What is no frame is no answer to anything; the gateway's own silence would end the connection.
    if (typeof frame !== 'object' || frame === null) return;
    this.#heardAt = performance.now();
    const { type, payload = {} } = frame;
    if (type === 'close') {
      const { code = null, reason = '', reconnect_after_ms = 0, redirect = '' } = payload;
      if (/^(wss?|https):/.test(redirect)) this.#redirect = redirect;
      this.#lost(code, reason || this.#refusal, undefined, reconnect_after_ms);
    } else if (this.#phase === 'starting') {
      if (type === 'start_resp' && frame.msg_id === this.#msgId) this.#started(payload);
    } else {
      this.#live(frame);
      this.#flush();
    }
  }

  /** @param {any} response */
  #started(response) {
    if (!response.success) {
      // The close follows, and says what to do.
      this.#refusal = response.error?.error_message ?? '';
      return;
    }
    this.#phase = 'live';
    this.#liveSince = this.#beatAt = this.#heardAt;
    this.#heartbeatMs = Math.max(1, response.heartbeat_interval ?? 0) * 1000;
    this.#maxFrame = response.max_frame_size ?? MAX_FRAME;
    this.#resumeToken = response.resume_token ?? '';
    const gaps = this.#channels.started(response, this.#requests.leaving());
    this.#requests.started(this.#channels, this.#offered);
    if (this.#offered !== undefined) this.#useToken(this.#offered);
    this.#offered = undefined;
    // The proof goes first: until it arrives the old resume token must stay good.
    this.#ack(response.fence);
    for (const frame of this.#calls.again()) this.#send(frame);
    this.#tell('started', {
      verdict: response.verdict,
      session: response.session_id ?? '',
      node: response.node ?? '',
      transport: this.#link?.transport ?? '',
    });
    for (const gap of gaps) this.#tell('gap', gap);
    for (const { channel, error } of response.refused ?? []) this.#tell('left', { channel, error: TrunklineError.from(error) });
    this.#firstWaiting.resolve(undefined);
    this.#flush();
  }

  /** A frame of a session that lives. @param {any} frame */
  #live(frame) {
    const { msg_id = 0, type, payload = {}, channel, epoch = 0, offset = 0 } = frame;
    if (channel !== undefined) return this.#publication({ channel, epoch, offset }, type, payload);
    switch (type) {
      case 'business_data':
        if (msg_id === 0) this.#tell('push', pushOf(payload));
        else this.#calls.reply(msg_id, replyOf(frame));
        break;
      case 'group':
        this.#group(msg_id, payload.frames ?? []);
        break;
      case 'error':
        this.#error(msg_id, payload);
        break;
      case 'channel_resp':
        this.#channelResponse(msg_id, payload);
        break;
      case 'gap':
        if (this.#channels.gap(payload)) this.#tell('gap', payload);
        break;
      case 'start_resp':
        this.#refreshed(msg_id, payload);
        break;
      default:
      // heartbeat_resp has been heard; a type that is not known means nothing to this version.
    }
  }

  /** @param {Position} position @param {string} type @param {any} payload */
  #publication(position, type, payload) {
    const { fresh, gap } = this.#channels.publication(position);
    if (gap) this.#tell('gap', gap);
    if (!fresh) return;
    if (type === 'business_data') this.#tell('push', pushOf(payload, position));
    else if (type === 'publication') this.#tell('publication', publicationOf(position, payload));
  }

  /** All or none: where the reply answers nothing that is open, its pushes were delivered before. @param {number} msgId @param {any[]} frames */
  #group(msgId, frames) {
    const reply = frames.find((/** @type {any} */ { msg_id }) => msg_id)?.msg_id ?? msgId;
    if (!this.#calls.expects(reply)) return;
    const after = frames.findIndex((/** @type {any} */ { msg_id }) => msg_id) + 1;
    for (const frame of frames.slice(0, after)) this.#live(frame);
    // Who awaits the reply goes on in a microtask, and sees these come after it.
    if (after < frames.length) setTimeout(() => frames.slice(after).forEach((frame) => this.#live(frame)));
  }

  /** @param {number} msgId @param {any} error */
  #error(msgId, error) {
    const request = this.#requests.answered(msgId);
    if (request) request.waiting.reject(TrunklineError.from(error));
    else this.#calls.error(msgId, error, performance.now());
  }

  /** @param {number} msgId @param {any} response */
  #channelResponse(msgId, response) {
    const { channel, epoch = 0, offset = 0, error } = response;
    const position = { channel, epoch, offset };
    if (msgId === 0) {
      // Not asked for: a service joined the session to a channel, or it was taken off.
      if (error) {
        this.#channels.remove(channel);
        this.#tell('left', { channel, error: TrunklineError.from(error) });
      } else {
        this.#channels.put(position);
        this.#tell('joined', position);
      }
      return;
    }
    const request = this.#requests.answered(msgId);
    if (!request) return;
    if (error) return request.waiting.reject(TrunklineError.from(error));
    request.waiting.resolve({ ...response, ...position });
    if (request.type === 'unsubscribe') this.#channels.remove(request.payload.channel);
    if (request.type !== 'subscribe') return;
    this.#channels.put(position);
    // What `since` has lost is told now: the gap behind the answer may be cut off.
    const { since } = request.payload;
    if (since && (since.epoch !== epoch || since.offset !== offset)) this.#tell('gap', { ...since, channel, next: position });
  }

  /** @param {number} msgId @param {any} response */
  #refreshed(msgId, { success, error }) {
    const request = this.#requests.answered(msgId);
    if (!request) return;
    if (!success) return request.waiting.reject(TrunklineError.from(error));
    // Not before: with a refused one the next START would be the last.
    this.#useToken(request.payload.auth_token);
    request.waiting.resolve({});
  }

  /** @param {string} token */
  #useToken(token) {
    this.#options = { ...this.#options, token };
  }

  /** Sends what may be sent now. */
  #flush() {
    if (this.#phase !== 'live') return;
    const now = performance.now();
    for (const frame of this.#requests.take(this.#nextMsgId)) this.#send(frame);
    for (const frame of this.#calls.take(this.#nextMsgId)) this.#send(frame);
    for (const frame of this.#calls.retries(now)) this.#send(frame);
    const { unacked } = this.#channels;
    if (unacked > 0 || this.#calls.replied() > this.#repliedTold) this.#ackAt = Math.min(this.#ackAt, now + ACK_AFTER_MS);
    const many = unacked >= ACK_EVERY || this.#calls.replied() - this.#repliedTold >= ACK_EVERY;
    if (many || now >= this.#ackAt) this.#ack();
    this.#arm();
  }

  /** @param {number} [fence] */
  #ack(fence) {
    this.#repliedTold = this.#calls.replied();
    this.#ackAt = Infinity;
    const positions = this.#channels.takeAck();
    this.#send({
      type: 'ack',
      payload: {
        ...(positions.length > 0 && { positions }),
        ...(this.#repliedTold > 0 && { replied_client_seq: this.#repliedTold }),
        ...(fence && { start_fence: fence }),
      },
    });
  }

  /** One timer for everything that is due: heartbeat, silence, acks, retries. */
  #arm() {
    clearTimeout(this.#timer);
    const live = this.#phase === 'live';
    if (!live && this.#phase !== 'starting') return;
    const silent = this.#heardAt + (live ? this.#heartbeatMs * SILENT_HEARTBEATS : START_TIMEOUT_MS);
    const due = live ? Math.min(silent, this.#beatAt + this.#heartbeatMs, this.#ackAt, this.#calls.nextRetry()) : silent;
    this.#timer = setTimeout(() => {
      const now = performance.now();
      if (now >= silent) return this.#lost(SILENT, 'the gateway is silent', SILENT);
      if (live && now >= this.#beatAt + this.#heartbeatMs) {
        this.#beatAt = now;
        this.#send({ msg_id: this.#nextMsgId(), type: 'heartbeat', payload: { client_timestamp: Date.now() } });
      }
      if (live) this.#flush();
      else this.#arm();
    }, Math.max(0, due - performance.now()));
  }

  /**
   * The connection is gone, or is given up with `closeWith`.
   * @param {number | null} code
   * @param {string} reason
   * @param {number} [closeWith]
   * @param {number} [notBeforeMs]
   */
  #lost(code, reason, closeWith, notBeforeMs = 0) {
    this.#generation += 1;
    clearTimeout(this.#timer);
    const link = this.#link;
    this.#link = null;
    link?.close(closeWith);
    this.#requests.cut();
    const why = reason || this.#refusal;
    let what = advice(code);
    if (code === UNAUTHENTICATED && this.#offered !== undefined) {
      // The token of the refresh is refused, not the client: it comes back with the one that it had.
      this.#requests.refuseRefreshes(this.#offered, new TrunklineError(401, 'UNAUTHENTICATED', why));
      this.#offered = undefined;
      what = 'resume';
    }
    if (what === 'stay-away' || what === 'fix-request') return this.#end(code, why);
    // The positions stay: what they have lost is told by the fresh session.
    if (what === 'fresh') this.#resumeToken = '';
    if (this.#phase === 'live' && performance.now() - this.#liveSince >= GOOD_CONNECTION_MS) this.#failures = 0;
    this.#phase = 'apart';
    const longest = Math.min(LONGEST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** this.#failures);
    this.#failures += 1;
    // Spread, so that the clients of a node that went away do not come back together.
    const retryInMs = Math.max(notBeforeMs, Math.random() * longest);
    this.#tell('lost', { code, reason: why, retryInMs });
    if (this.#phase === 'apart') this.#reconnectAfter(retryInMs);
  }

  /** @param {number | null} code @param {string} reason */
  #end(code, reason) {
    if (this.#phase === 'closed') return;
    this.#phase = 'closed';
    this.#generation += 1;
    clearTimeout(this.#timer);
    clearTimeout(this.#reconnectTimer);
    this.#calls.endAll(reason);
    this.#requests.endAll(reason);
    this.#firstWaiting.reject(new TrunklineError(code ?? 0, 'CLOSED', reason));
    this.#tell('closed', { code, reason });
  }
}

/** Random, not 0, and exact as a JSON number: names this client object. */
function randomNumber() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return (high & 0x1f_ffff) * 2 ** 32 + ((low | 1) >>> 0);
}

/** @param {any} data */
function encodeData(data) {
  if (data === undefined) return {};
  const bytes = data instanceof ArrayBuffer ? new Uint8Array(data) : data;
  if (!(bytes instanceof Uint8Array)) return { data };
  let binary = '';
  // In parts: a call takes only so many arguments.
  for (let at = 0; at < bytes.length; at += 0x8000) binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return { data_base64: btoa(binary) };
}

/** @param {any} payload */
function decodeData({ data, data_base64 }) {
  if (data_base64 === undefined) return data;
  return Uint8Array.from(atob(data_base64), (character) => character.charCodeAt(0));
}

/** @param {any} frame @returns {Reply} */
function replyOf({ payload = {}, headers = {} }) {
  return { code: payload.code ?? 0, message: payload.message ?? '', data: decodeData(payload), headers };
}

/** @param {any} payload @param {Position} [position] @returns {Push} */
function pushOf(payload, position) {
  const { msg_type = '', title = '', content = '', metadata = {} } = payload;
  return { msgType: msg_type, title, content, data: decodeData(payload), metadata, ...(position && { position }) };
}

/** @param {Position} position @param {any} payload @returns {Publication} */
function publicationOf(position, payload) {
  return { position, data: decodeData(payload), timestamp: payload.timestamp ?? 0, sender: payload.sender ?? '' };
}
