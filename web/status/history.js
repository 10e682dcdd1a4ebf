// What the page remembers: two minutes of rates, made from the counters of successive answers.

/** A point for each second; the page shows two minutes. */
const POINTS = 120;

/** @typedef {{ now: number, peak: number, points: number[] }} Plot */

export class History {
  /** @type {Record<string, number[]>} */
  #points = {};
  /** @type {{ at: number, uptime: number, counters: Record<string, number> } | null} */
  #last = null;

  /**
   * Takes an answer of the node: rates of these counters, and these values as they are.
   * @param {any} status
   * @param {string[]} counters
   * @param {Record<string, number>} values
   */
  take(status, counters, values) {
    const now = { at: status.timestamp, uptime: status.uptime_seconds, counters: status.gateway.counters };
    const last = this.#last;
    this.#last = now;
    for (const [name, value] of Object.entries(values)) this.#add(name, value);
    // Another process has begun to count anew; a clock that was set gives no rate.
    if (!last || now.uptime < last.uptime || now.at <= last.at) return;
    const seconds = (now.at - last.at) / 1000;
    // While the page was hidden or the node away nothing was seen: the mean stands for each second of it.
    const steps = Math.min(POINTS, Math.max(1, Math.round(seconds)));
    for (const name of counters) {
      const rate = Math.max(0, (now.counters[name] - last.counters[name]) / seconds);
      for (let step = 0; step < steps; step += 1) this.#add(name, rate);
    }
  }

  /**
   * @param {string} name
   * @returns {Plot}
   */
  plot(name) {
    const points = this.#points[name] ?? [];
    return { now: points.at(-1) ?? 0, peak: Math.max(0, ...points), points };
  }

  #add(name, value) {
    const points = (this.#points[name] ??= []);
    points.push(value);
    if (points.length > POINTS) points.shift();
  }
}

/**
 * The paths of a plot in a box of 120 x 40: the curve, and the area below it. The newest point is at the right edge.
 * @param {number[]} points
 */
export function paths(points) {
  // A flat line of a few is drawn low, one of nothing on the ground.
  const top = Math.max(...points, 1e-9) * 1.08;
  const at = (value, index) => `${POINTS - points.length + index + 1},${(40 - (value / top) * 39).toFixed(2)}`;
  if (points.length < 2) return { curve: '', area: '' };
  const curve = `M${points.map(at).join('L')}`;
  return { curve, area: `${curve}L${POINTS},40L${POINTS - points.length + 1},40Z` };
}
