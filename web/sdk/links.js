// Connections of a browser: WebSocket (one frame a message) and WebTransport (length and frame on one stream).
//
// A link carries frames as JSON and says when and why it has ended, exactly once. It knows nothing of sessions.

/** How long a connection may take to come up. */
const CONNECT_TIMEOUT_MS = 10_000;

/** The largest frame down that is read: twice the gateway's default, for it says its own limit only later. */
const MAX_FRAME_DOWN = 4 << 20;

/** What is closed by the page itself, without a code of the gateway. */
const NORMAL = 1000;

/**
 * @typedef {object} Endpoint
 * @property {string} url `ws:` or `wss:` for WebSocket, `https:` for WebTransport.
 * @property {string} [certificate] SHA-256 of the certificate in hexadecimal digits, as `/certificate` says it: lets
 *   WebTransport trust a certificate that the node has made itself.
 *
 * @typedef {object} LinkEvents
 * @property {(frame: any) => void} frame A frame came; `undefined` for one that is no JSON.
 * @property {(code: number | null, reason: string) => void} end It has ended, with the gateway's code where one is known.
 *
 * @typedef {object} Link
 * @property {string} transport
 * @property {(frame: object) => void} send
 * @property {(code?: number) => void} close Ends it; no event follows.
 */

/**
 * Connects. Rejects where that fails or takes too long.
 * @param {Endpoint} endpoint
 * @param {LinkEvents} events
 * @returns {Promise<Link>}
 */
export function openLink(endpoint, events) {
  return new URL(endpoint.url).protocol === 'https:' ? openWebTransport(endpoint, events) : openWebSocket(endpoint, events);
}

/** @param {number} code */
const codeOfGateway = (code) => (code >= 4000 && code <= 4999 ? code : null);

/** @param {string} text */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/**
 * @param {Endpoint} endpoint
 * @param {LinkEvents} events
 * @returns {Promise<Link>}
 */
function openWebSocket({ url }, events) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url);
    let ended = false;
    const refuse = (/** @type {string} */ why) => {
      if (ended) return;
      ended = true;
      clearTimeout(timer);
      socket.close();
      reject(new Error(`${url}: ${why}`));
    };
    const timer = setTimeout(() => refuse('no connection in time'), CONNECT_TIMEOUT_MS);
    socket.onclose = () => refuse('cannot be reached');
    socket.onmessage = ({ data }) => {
      if (!ended) events.frame(typeof data === 'string' ? parse(data) : undefined);
    };
    socket.onopen = () => {
      clearTimeout(timer);
      socket.onclose = ({ code, reason }) => {
        if (ended) return;
        ended = true;
        events.end(codeOfGateway(code), reason);
      };
      resolve({
        transport: 'websocket',
        // While it closes nothing arrives any more; `end` follows.
        send: (frame) => {
          if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(frame));
        },
        close: (code = NORMAL) => {
          ended = true;
          socket.close(code);
        },
      });
    };
  });
}

/**
 * @param {Endpoint} endpoint
 * @param {LinkEvents} events
 * @returns {Promise<Link>}
 */
async function openWebTransport({ url, certificate }, events) {
  if (typeof WebTransport === 'undefined') throw new Error(`${url}: this browser has no WebTransport`);
  const options = certificate ? { serverCertificateHashes: [{ algorithm: 'sha-256', value: fromHex(certificate) }] } : {};
  const transport = new WebTransport(url, options);
  // Whoever waits for `ready` is told; without this the same failure would count as unhandled here too.
  transport.closed.catch(() => {});
  const timer = setTimeout(() => transport.close(), CONNECT_TIMEOUT_MS);
  let stream;
  try {
    await transport.ready;
    stream = await transport.createBidirectionalStream();
  } finally {
    clearTimeout(timer);
  }
  const writer = stream.writable.getWriter();
  writer.closed.catch(() => {});
  let ended = false;
  const end = (/** @type {number | null} */ code, /** @type {string} */ reason) => {
    if (ended) return;
    ended = true;
    events.end(code, reason);
  };
  transport.closed.then(
    ({ closeCode = 0, reason = '' }) => end(codeOfGateway(closeCode), reason),
    (error) => end(null, String(error)),
  );
  // Only the session says why it has ended; where the stream ends alone, the session is of no use any more.
  readFrames(stream.readable, (frame) => ended || events.frame(frame)).then(
    () => setTimeout(() => transport.close(), CONNECT_TIMEOUT_MS),
    () => transport.close(),
  );
  return {
    transport: 'webtransport',
    // A write that fails is told by `closed`.
    send: (frame) => void writer.write(withLength(JSON.stringify(frame))).catch(() => {}),
    close: (code = NORMAL) => {
      ended = true;
      transport.close({ closeCode: code, reason: '' });
    },
  };
}

/** @param {string} text */
function withLength(text) {
  const body = new TextEncoder().encode(text);
  const bytes = new Uint8Array(4 + body.length);
  new DataView(bytes.buffer).setUint32(0, body.length);
  bytes.set(body, 4);
  return bytes;
}

/**
 * Reads frames from a stream whose pieces may end anywhere.
 * @param {ReadableStream<Uint8Array>} readable
 * @param {(frame: any) => void} take
 */
export async function readFrames(readable, take) {
  const reader = readable.getReader();
  /** Pieces of the frame that has begun, and how many bytes they have. @type {Uint8Array[]} */
  let pieces = [];
  let have = 0;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    pieces.push(value);
    have += value.length;
    for (;;) {
      const need = have < 4 ? 4 : 4 + frameLength(pieces);
      if (have < need) break;
      // Joined only when whole: a large frame in many pieces is copied once.
      const bytes = join(pieces, have);
      take(parse(new TextDecoder().decode(bytes.subarray(4, need))));
      pieces = have > need ? [bytes.subarray(need)] : [];
      have -= need;
    }
  }
}

/** The length at the head of these pieces, which have four bytes or more. @param {Uint8Array[]} pieces */
function frameLength(pieces) {
  let length = 0;
  let seen = 0;
  for (const piece of pieces) {
    for (let at = 0; at < piece.length && seen < 4; at += 1, seen += 1) length = length * 256 + piece[at];
    if (seen === 4) break;
  }
  if (length > MAX_FRAME_DOWN) throw new Error(`a frame of ${length} bytes is too large`);
  return length;
}

/** @param {Uint8Array[]} pieces @param {number} length */
function join(pieces, length) {
  if (pieces.length === 1) return pieces[0];
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

/** @param {string} text */
function fromHex(text) {
  const digits = text.replace(/[^0-9a-f]/gi, '');
  return Uint8Array.from({ length: digits.length / 2 }, (_, at) => parseInt(digits.slice(at * 2, at * 2 + 2), 16));
}
