// Runs in every page of a session test, before anything else: a network that can be cut, and a record of events.

{
  const DEADLINE_MS = 30_000;
  const live = new Set();
  let down = false;

  for (const name of ['WebSocket', 'WebTransport']) {
    const Real = globalThis[name];
    globalThis[name] = class extends Real {
      constructor(...args) {
        if (down) throw new Error('the network is down');
        super(...args);
        live.add(this);
      }
    };
  }

  globalThis.network = {
    /** Closes every connection without STOP; none comes up until `up` is called. */
    cut() {
      down = true;
      for (const connection of live) connection.close();
      live.clear();
    },
    up() {
      down = false;
    },
  };

  /** Keeps every event of a client in `seen`, and waits for some. */
  globalThis.record = (client) => {
    const seen = [];
    const checks = new Set();
    for (const name of ['started', 'push', 'publication', 'gap', 'joined', 'left', 'lost', 'closed']) {
      client.on(name, (event) => {
        seen.push({ name, ...event });
        for (const check of checks) check();
      });
    }
    /** Resolves with the first event that fits, seen already or yet to come. */
    const until = (name, fits = () => true) =>
      new Promise((resolve, reject) => {
        const check = () => {
          const event = seen.find((one) => one.name === name && fits(one));
          if (!event) return;
          clearTimeout(timer);
          checks.delete(check);
          resolve(event);
        };
        const timer = setTimeout(() => reject(new Error(`no ${name} as wanted; seen: ${JSON.stringify(seen)}`)), DEADLINE_MS);
        checks.add(check);
        check();
      });
    /** A note of the test between the events. */
    const note = (text) => seen.push({ name: 'note', text });
    return { seen, until, note };
  };

  /** The error with which a promise is rejected. */
  globalThis.failure = async (promise) => {
    try {
      return { resolved: await promise };
    } catch ({ name, code, codeName, message }) {
      return { name, code, codeName, message };
    }
  };
}
