// A client's state between connections: its calls and requests without answer, and its place in each channel.
//
// Nothing here sends, waits or connects; `trunkline.js` does. A call's number is given when it is first sent and never
// to another content; whatever has no final answer is sent again after a cut.

/** A number is at most 63 above the oldest without final answer: the gateway remembers 64. */
const CALL_WINDOW = 64;

/**
 * @typedef {{ channel: string, epoch: number, offset: number }} Position A place in a channel's history. Offsets compare
 *   within one epoch only, and need not be dense.
 * @typedef {{ channel: string, epoch: number, offset: number, next?: Position }} Gap What came after (epoch, offset), up
 *   to and including `next`, is lost; without `next` the channel is not delivered any more.
 * @typedef {{ error_code: number, name?: string, error_message?: string, retry_after_ms?: number }} ErrorMessage
 */

/** A failure that the gateway has told, or that ended what was asked. */
export class TrunklineError extends Error {
  /**
   * @param {number} code A number of docs/codes.md; 0 for what was never sent.
   * @param {string} codeName Its name there.
   * @param {string} message For people.
   */
  constructor(code, codeName, message) {
    super(message || codeName);
    this.name = 'TrunklineError';
    this.code = code;
    this.codeName = codeName;
  }

  /** @param {ErrorMessage} [error] */
  static from(error) {
    return new TrunklineError(error?.error_code ?? 0, error?.name ?? '', error?.error_message ?? '');
  }

  /** It may or may not have run. @param {string} message */
  static unknown(message) {
    return new TrunklineError(520, 'RESULT_UNKNOWN', message);
  }

  /** It has not run. @param {string} message */
  static notSent(message) {
    return new TrunklineError(0, 'NOT_SENT', message);
  }
}

/** @typedef {{ resolve: (value: any) => void, reject: (error: Error) => void }} Waiting */

/**
 * @typedef {object} Call
 * @property {object} payload
 * @property {Record<string, string> | undefined} headers
 * @property {Waiting | null} waiting `null`: abandoned; it keeps its place in the window until it is answered.
 * @property {number} seq 0 until it is first sent.
 * @property {number} msgId
 * @property {number} retryAt Refused for load: not before this; 0 while it is under way.
 */

/** The calls of one client. */
export class Calls {
  /** @type {Call[]} */
  #queue = [];
  /** Sent, without final answer, by `msg_id`; in the order of their numbers. @type {Map<number, Call>} */
  #open = new Map();
  lastSent = 0;

  /** @param {object} payload @param {Record<string, string> | undefined} headers @param {Waiting} waiting @returns {Call} */
  add(payload, headers, waiting) {
    const call = { payload, headers, waiting, seq: 0, msgId: 0, retryAt: 0 };
    this.#queue.push(call);
    return call;
  }

  /** Nobody waits any more. If it was sent it may still run. @param {Call} call */
  abandon(call) {
    call.waiting = null;
    this.#queue = this.#queue.filter((queued) => queued !== call);
    // Refused, and not sent again: its number needs no answer.
    if (call.retryAt > 0) this.#open.delete(call.msgId);
  }

  /** Replies up to this number have arrived. */
  replied() {
    const [oldest] = this.#open.values();
    return oldest ? oldest.seq - 1 : this.lastSent;
  }

  /** What the window lets through now. @param {() => number} nextMsgId */
  *take(nextMsgId) {
    while (this.#queue.length > 0 && this.lastSent - this.replied() < CALL_WINDOW) {
      const call = /** @type {Call} */ (this.#queue.shift());
      this.lastSent += 1;
      call.seq = this.lastSent;
      call.msgId = nextMsgId();
      this.#open.set(call.msgId, call);
      yield frameOf(call);
    }
  }

  /** A session began or goes on: everything without final answer, in order. */
  *again() {
    for (const call of this.#open.values()) {
      call.retryAt = 0;
      yield frameOf(call);
    }
  }

  /** What was refused for load and may be sent now. @param {number} now */
  *retries(now) {
    for (const call of this.#open.values()) {
      if (call.retryAt === 0 || call.retryAt > now) continue;
      call.retryAt = 0;
      yield frameOf(call);
    }
  }

  /** When the next of them may be sent; Infinity for none. */
  nextRetry() {
    return Math.min(...[...this.#open.values()].map(({ retryAt }) => retryAt || Infinity));
  }

  /** @param {number} msgId */
  expects(msgId) {
    return this.#open.has(msgId);
  }

  /** @param {number} msgId @param {any} value */
  reply(msgId, value) {
    const call = this.#open.get(msgId);
    this.#open.delete(msgId);
    call?.waiting?.resolve(value);
  }

  /** @param {number} msgId @param {ErrorMessage} error @param {number} now */
  error(msgId, error, now) {
    const call = this.#open.get(msgId);
    if (!call) return;
    if (call.waiting && (error.error_code === 429 || error.error_code === 503)) {
      call.retryAt = now + Math.max(1, error.retry_after_ms ?? 0);
      return;
    }
    this.#open.delete(msgId);
    call.waiting?.reject(TrunklineError.from(error));
  }

  /** The client stays away: what was sent may have run, what was not has not. @param {string} why */
  endAll(why) {
    for (const { waiting, retryAt } of this.#open.values()) {
      waiting?.reject(retryAt > 0 ? TrunklineError.notSent(why) : TrunklineError.unknown(why));
    }
    for (const { waiting } of this.#queue) waiting?.reject(TrunklineError.notSent(why));
    this.#open.clear();
    this.#queue = [];
  }
}

/** @param {Call} call */
function frameOf({ msgId, seq, headers, payload }) {
  return { msg_id: msgId, seq_id: seq, type: 'business', ...(headers && { headers }), payload };
}

/**
 * @typedef {object} Request
 * @property {string} type Of the frame: `subscribe`, `publish` and so on.
 * @property {any} payload
 * @property {Waiting} waiting
 */

/** A client's requests on channels, and refreshes, by `msg_id`. */
export class Requests {
  /** @type {Request[]} */
  #queue = [];
  /** @type {Map<number, Request>} */
  #open = new Map();

  /** @param {Request} request */
  add(request) {
    this.#queue.push(request);
  }

  /** @param {() => number} nextMsgId */
  *take(nextMsgId) {
    for (let request; (request = this.#queue.shift()); ) {
      const msgId = nextMsgId();
      this.#open.set(msgId, request);
      yield { msg_id: msgId, type: request.type, payload: request.payload };
    }
  }

  /** The connection is gone: what was under way is sent again, before what came later. */
  cut() {
    this.#queue.unshift(...this.#open.values());
    this.#open.clear();
  }

  /** Channels that wait to be left: START does not list them. */
  leaving() {
    return new Set(this.#queue.filter(({ type }) => type === 'unsubscribe').map(({ payload }) => payload.channel));
  }

  /** The token of the latest refresh that has no answer, while there is no session. @returns {string | undefined} */
  refreshing() {
    return this.#queue.findLast(({ type }) => type === 'refresh')?.payload.auth_token;
  }

  /** START went with this token of a refresh, and was refused for it. @param {string} token @param {Error} error */
  refuseRefreshes(token, error) {
    this.#queue = this.#queue.filter(({ type, payload, waiting }) => {
      const refused = type === 'refresh' && payload.auth_token === token;
      if (refused) waiting.reject(error);
      return !refused;
    });
  }

  /**
   * START_RESP came: the list of channels went with START, and perhaps the token of a refresh, so some requests are
   * answered.
   * @param {Channels} channels
   * @param {string | undefined} offered
   */
  started(channels, offered) {
    const subscribing = new Set();
    // Earlier ones are overtaken by it; later ones came when START had gone.
    let refreshed = offered !== undefined;
    this.#queue = this.#queue.filter(({ type, payload, waiting }) => {
      const { channel } = payload;
      const position = channels.at(channel);
      const overtaken = type === 'refresh' && refreshed;
      if (overtaken) refreshed = payload.auth_token !== offered;
      const answered =
        overtaken ||
        (type === 'subscribe' && position) ||
        // Not while a subscription before it is still to be made.
        (type === 'unsubscribe' && !position && !subscribing.has(channel));
      if (answered) waiting.resolve(position ?? {});
      else if (type === 'subscribe') subscribing.add(channel);
      return !answered;
    });
  }

  /** @param {number} msgId */
  answered(msgId) {
    const request = this.#open.get(msgId);
    this.#open.delete(msgId);
    return request;
  }

  /** @param {string} why */
  endAll(why) {
    this.cut();
    for (const { waiting } of this.#queue) waiting.reject(TrunklineError.unknown(why));
    this.#queue = [];
  }
}

/** A client's channels: where it is in each, and what of it is to be acked. */
export class Channels {
  /** @type {Map<string, Position>} */
  #positions = new Map();
  /** @type {Set<string>} */
  #moved = new Set();
  /** Publications and gaps since the last ack. */
  unacked = 0;

  /** @param {{ channel: string, epoch?: number, offset?: number }} position */
  put({ channel, epoch = 0, offset = 0 }) {
    this.#positions.set(channel, { channel, epoch, offset });
  }

  /** @param {string} channel */
  remove(channel) {
    this.#positions.delete(channel);
    this.#moved.delete(channel);
  }

  /** @param {string} channel */
  at(channel) {
    return this.#positions.get(channel);
  }

  positions() {
    return [...this.#positions.values()];
  }

  /**
   * START_RESP lists every channel that is live. What is lost is told, by it or because a position has jumped.
   * @param {any} response
   * @param {Set<string>} leaving What START did not list, because it is to be left.
   * @returns {Gap[]}
   */
  started({ positions = [], gaps = [], refused = [] }, leaving) {
    const former = this.#positions;
    const told = new Set(gaps.map((/** @type {Gap} */ { channel }) => channel));
    const lost = [...gaps];
    this.#positions = new Map();
    this.#moved.clear();
    this.unacked = 0;
    for (const { channel, epoch = 0, offset = 0 } of positions) {
      const known = former.get(channel);
      former.delete(channel);
      if (known && known.epoch === epoch && known.offset >= offset) {
        // Where it goes back, what comes again was delivered here before.
        this.put(known);
        continue;
      }
      const next = { channel, epoch, offset };
      if (known && !told.has(channel) && !isBeginOf(next, known)) lost.push({ ...known, next });
      this.put(next);
    }
    for (const { channel } of refused) former.delete(channel);
    for (const known of former.values()) {
      if (!leaving.has(known.channel) && !told.has(known.channel)) lost.push({ ...known });
    }
    return lost;
  }

  /**
   * A publication at this position: whether it is new, and the gap before it that nobody has told.
   * @param {Position} position
   * @returns {{ fresh: boolean, gap?: Gap }}
   */
  publication(position) {
    const known = this.#positions.get(position.channel);
    if (!known || !isAfter(position, known)) return { fresh: false };
    this.#move(position);
    const next = { ...position, offset: 0 };
    // A right server tells a new epoch with a gap before; what lies between is lost either way.
    const whole = position.epoch === known.epoch || isBeginOf(next, known);
    return { fresh: true, gap: whole ? undefined : { ...known, next } };
  }

  /** PUSH_GAP: whether it is new. @param {Gap} gap */
  gap({ channel, next }) {
    const known = this.#positions.get(channel);
    if (!known) return false;
    if (!next) return true;
    const position = { channel, epoch: next.epoch ?? 0, offset: next.offset ?? 0 };
    // The answer to SUBSCRIBE has told it before, or its frame came again.
    if (!isAfter(position, known)) return false;
    this.#move(position);
    return true;
  }

  takeAck() {
    const moved = [...this.#moved].flatMap((channel) => this.#positions.get(channel) ?? []);
    this.#moved.clear();
    this.unacked = 0;
    return moved;
  }

  /** @param {Position} position */
  #move(position) {
    this.put(position);
    this.#moved.add(position.channel);
    this.unacked += 1;
  }
}

/** @param {Position} a @param {Position} b */
function isAfter(a, b) {
  return a.epoch > b.epoch || (a.epoch === b.epoch && a.offset > b.offset);
}

/**
 * (e, 0) means "from the first publication after e": a channel that begins later goes on from there, and nothing lies
 * between.
 * @param {Position} next @param {Position} from
 */
function isBeginOf(next, from) {
  return from.offset === 0 && next.offset === 0 && next.epoch > from.epoch;
}
