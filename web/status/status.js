// The status page: asks /api/status once a second and shows the answer.
//
// Everything that comes from the node enters the page as text, never as markup, and every style stands in the style
// sheet: the page's Content-Security-Policy allows nothing inline.

import { History, paths } from './history.js';
import { steps, words } from './words.js';

const INTERVAL_MS = 1000;
const RETRY_CAP_MS = 5000;
const ANSWER_TIMEOUT_MS = 5000;

const PLOTS = [
  { name: 'calls', counter: 'calls' },
  { name: 'pushes', counter: 'pushes' },
  { name: 'deliveries', counter: 'deliveries' },
  { name: 'memory', counter: null },
];
const COUNTERS = PLOTS.flatMap(({ counter }) => counter ?? []);
const SESSIONS = [
  ['sessionsLive', (g) => g.sessions_live],
  ['sessionsWaiting', (g) => g.sessions_waiting],
  ['sessionsStarted', (g) => g.counters.sessions_started],
  ['sessionsResumed', (g) => g.counters.sessions_resumed],
  ['sessionsEnded', (g) => g.counters.sessions_ended],
  ['startsRefused', (g) => g.counters.starts_refused],
];
const WORK = [
  ['callsRunning', (g) => g.calls_running],
  ['callsFailed', (g) => g.counters.calls_failed],
  ['callsRefused', (g) => g.counters.calls_refused],
  ['publications', (g) => g.counters.publications],
  ['gaps', (g) => g.counters.gaps_told],
  ['bytesIn', (g) => g.counters.bytes_in, 'bytes'],
  ['bytesOut', (g) => g.counters.bytes_out, 'bytes'],
];
const TRANSPORTS = {
  tcp: 'TCP', tls: 'TLS', websocket: 'WebSocket', 'websocket-tls': 'WebSocket + TLS', quic: 'QUIC', webtransport: 'WebTransport',
};

/** In the order in which people meet them. */
const SURFACES = ['http', 'tcp', 'quic', 'websocket', 'grpc', 'metrics'];

const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
const history = new History();
let language = chosenLanguage();
/** The last answer, and when it came. */
let status = null;
let answeredAt = 0;
let failures = 0;
let timer = 0;
let asking = false;

function chosenLanguage() {
  let chosen = null;
  try {
    chosen = localStorage.getItem('language');
  } catch {
    // Storage may be forbidden; then the browser's language is all there is.
  }
  if (chosen && chosen in words) return chosen;
  return navigator.language.toLowerCase().startsWith('zh') ? 'zh-CN' : 'en';
}

const say = (key) => words[language][key] ?? key;
const count = (n) => new Intl.NumberFormat(language).format(n);

function rate(n) {
  return new Intl.NumberFormat(language, { maximumFractionDigits: n > 0 && n < 10 ? 1 : 0 }).format(n);
}

function bytes(n) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${new Intl.NumberFormat(language, { maximumFractionDigits: unit > 0 && n < 100 ? 1 : 0 }).format(n)} ${units[unit]}`;
}

function duration(seconds) {
  const { d, h, min, s } = say('units');
  const parts = [[Math.floor(seconds / 86400), d], [Math.floor(seconds / 3600) % 24, h], [Math.floor(seconds / 60) % 60, min], [seconds % 60, s]];
  const first = parts.findIndex(([n]) => n > 0);
  // The two largest units say enough.
  return parts.slice(first < 0 ? 3 : first, first < 0 ? 4 : first + 2).map(([n, unit]) => `${n} ${unit}`).join(' ');
}

/** An element with text. */
function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Writes only what has changed, so that a selection, and what a screen reader reads, is left alone. */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A list of named values; its rows are made once. */
function list(id, rows) {
  const dl = byId(id);
  while (dl.children.length > rows.length * 2) dl.lastElementChild?.remove();
  while (dl.children.length < rows.length * 2) dl.append(make('dt', ''), make('dd', ''));
  rows.forEach(([name, value], index) => {
    write(dl.children[index * 2], name);
    write(dl.children[index * 2 + 1], value);
  });
}

/**
 * A table. The roles are given by hand: the style sheet makes cards of the rows on a phone, and with `display` changed
 * browsers forget that it is a table.
 */
function table(id, columns, rows) {
  const signature = JSON.stringify([language, columns, rows]);
  const element = byId(id);
  if (element.dataset.signature === signature) return;
  element.dataset.signature = signature;
  const headings = columns.map(({ name, number }) => make('th', name, { role: 'columnheader', scope: 'col', class: number ? 'number' : '' }));
  const head = make('tr', undefined, { role: 'row' });
  head.append(...headings);
  const thead = make('thead', undefined, { role: 'rowgroup' });
  thead.append(head);
  const tbody = make('tbody', undefined, { role: 'rowgroup' });
  for (const row of rows) {
    const tr = make('tr', undefined, { role: 'row' });
    row.forEach((value, index) => tr.append(cell(value, columns[index])));
    tbody.append(tr);
  }
  element.replaceChildren(thead, tbody);
}

function cell(value, { name, number }) {
  const td = make('td', undefined, { role: 'cell', 'data-name': name, class: number ? 'number' : '' });
  // One child beside the name that the style sheet puts before it.
  const content = make('span');
  if (value.code !== undefined) content.append(make('code', value.code));
  else if (value.state !== undefined) {
    content.append(make('span', say(value.state), { class: 'is', 'data-state': value.state }));
    if (value.why) content.append(make('small', value.why));
  } else content.textContent = value.text;
  td.append(content);
  return td;
}

function showWords() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll('[data-words]')) write(element, say(element.getAttribute('data-words')));
  const button = byId('language');
  write(button, say('other'));
  button.setAttribute('aria-label', say('otherLabel'));
  button.setAttribute('lang', language === 'en' ? 'zh-CN' : 'en');
  write(byId('start-upstream'), steps[0][1]);
  byId('steps').replaceChildren(...steps.map(([key, command]) => {
    const item = make('li', say(key));
    item.append(make('code', command));
    return item;
  }));
}

function makePlots() {
  const svg = (tag, attributes) => {
    const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  for (const { name } of PLOTS) {
    const figure = make('figure', undefined, { id: `plot-${name}` });
    const picture = svg('svg', { viewBox: '0 0 120 40', preserveAspectRatio: 'none', role: 'img' });
    picture.append(svg('path', { class: 'area' }), svg('path', { class: 'curve' }));
    figure.append(make('figcaption'), make('output', '–'), picture, make('small'));
    byId('plots').append(figure);
  }
}

function showPlots() {
  for (const { name, counter } of PLOTS) {
    const { now, peak, points } = history.plot(name);
    const show = counter ? rate : bytes;
    const figure = byId(`plot-${name}`);
    const [caption, output, picture, small] = figure.children;
    const { curve, area } = paths(points);
    write(caption, say(name));
    write(output, status ? show(now) : '–');
    picture.children[0].setAttribute('d', area);
    picture.children[1].setAttribute('d', curve);
    picture.setAttribute('aria-label', say('plot')(say(name), show(now), show(peak)));
    write(small, !status ? '' : counter ? say('total')(count(status.gateway.counters[counter])) : say('peak')(show(peak)));
  }
}

function showState() {
  const away = failures > 0;
  const state = away ? 'away' : status ? status.phase : 'asking';
  const element = byId('state');
  element.dataset.state = state;
  write(element, say(state));
  const notice = byId('away');
  notice.hidden = !away;
  const seconds = Math.round((performance.now() - answeredAt) / 1000);
  if (away) write(notice, status ? say('awaySince')(seconds) : say('never'));
  byId('main').classList.toggle('stale', away && status !== null);
}

function showStatus() {
  const { gateway, upstreams, surfaces } = status;
  write(byId('about'), say('about')(duration(status.uptime_seconds), status.version));

  const transports = Object.entries(TRANSPORTS).map(([key, name]) => [name, gateway.connections[key] ?? 0]);
  const connections = transports.reduce((sum, [, n]) => sum + n, 0);
  write(byId('connections-sum'), count(connections));
  list('connections', transports.map(([name, n]) => [name, count(n)]));
  const named = (rows) => rows.map(([key, read, unit]) => [say(key), (unit ? bytes : count)(read(gateway))]);
  list('sessions', named(SESSIONS));
  list('work', named(WORK));
  byId('next').hidden = connections > 0 || gateway.sessions_waiting > 0;

  byId('no-upstreams').hidden = upstreams.instances.length > 0;
  byId('upstreams').hidden = upstreams.instances.length === 0;
  const number = (key) => ({ name: say(key), number: true });
  table('upstreams',
    [{ name: say('address') }, { name: say('zone') }, { name: say('service') }, { name: say('state') }, number('inFlight'), number('callsBegun'), number('failures')],
    upstreams.instances.map((one) => [
      { code: one.address }, { text: one.zone === '*' ? say('everyZone') : one.zone }, { text: one.service },
      { state: one.state, why: one.why }, { text: count(one.in_flight) }, { text: count(one.calls) }, { text: count(one.failures) },
    ]));
  table('surfaces', [{ name: say('surface') }, { name: say('address') }, { name: say('what') }],
    SURFACES.filter((name) => name in surfaces).map((name) => [{ text: name }, { code: surfaces[name] }, { text: say(name) }]));
  write(byId('certificate'), status.certificate_sha256);
}

function show() {
  showState();
  showPlots();
  if (status) showStatus();
}

async function ask() {
  if (asking) return;
  asking = true;
  clearTimeout(timer);
  try {
    const answer = await fetch('api/status', { cache: 'no-store', signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    status = await answer.json();
    history.take(status, COUNTERS, { memory: status.memory_bytes });
    answeredAt = performance.now();
    failures = 0;
  } catch {
    // The node is gone or does not answer. That is shown; there is nobody else to tell.
    failures += 1;
  }
  asking = false;
  show();
  const wait = Math.min(RETRY_CAP_MS, INTERVAL_MS * 2 ** Math.max(0, failures - 1));
  // A hidden page asks nothing; it asks at once when it is seen again.
  if (!document.hidden) timer = setTimeout(ask, failures > 0 ? wait * (0.8 + 0.4 * Math.random()) : wait);
}

byId('language').addEventListener('click', () => {
  language = language === 'en' ? 'zh-CN' : 'en';
  try {
    localStorage.setItem('language', language);
  } catch {
    // Then the choice lasts as long as the page.
  }
  showWords();
  show();
});
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) ask();
});

makePlots();
showWords();
show();
ask();
