// What the pages of the token balance service share: the browser's language, the API, tables. The page's own script says
// the words (`words`), which API is asked (`API`), and where the token is kept (`KEY`).
'use strict';

// ---- words ---------------------------------------------------------------------------------------

// Words in the first of the browser's languages that is here; numbers and times as the browser writes them.
const locales = navigator.languages?.length ? navigator.languages : [navigator.language || 'en'];
const languageOf = (spoken) => locales.map((locale) => locale.toLowerCase().split('-')[0]).find((name) => name in spoken) ?? 'en';

const whole = new Intl.NumberFormat(locales, { maximumFractionDigits: 0 });
const signed = new Intl.NumberFormat(locales, { maximumFractionDigits: 0, signDisplay: 'exceptZero' });
const short = new Intl.NumberFormat(locales, { notation: 'compact', maximumFractionDigits: 1 });
const percent = new Intl.NumberFormat(locales, { style: 'percent', maximumFractionDigits: 0 });
const moment = new Intl.DateTimeFormat(locales, { dateStyle: 'medium', timeStyle: 'short' });
const clock = new Intl.DateTimeFormat(locales, { timeStyle: 'medium' });
// Days come as dates without a zone.
const dayShort = new Intl.DateTimeFormat(locales, { month: 'short', day: 'numeric', timeZone: 'UTC' });
const dayLong = new Intl.DateTimeFormat(locales, { dateStyle: 'medium', timeZone: 'UTC' });
const dateOf = (day) => new Date(`${day}T00:00:00Z`);

// ---- the document --------------------------------------------------------------------------------

const $ = (id) => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';

// Text goes in as text and never as markup: a model's name is anybody's.
function element(name, { text, ...attributes } = {}, ...children) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function shape(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function translate() {
  document.documentElement.lang = words.lang;
  document.title = words.title;
  for (const node of document.querySelectorAll('[data-text]')) node.textContent = words[node.dataset.text];
}

// ---- the API -------------------------------------------------------------------------------------

class Refusal extends Error {
  constructor(status, code, message) {
    super(message ?? `${status} ${code}`);
    this.status = status;
    this.code = code;
  }
}

let token = null;

async function ask(path, options = {}) {
  const headers = { Authorization: `Bearer ${token}`, ...options.headers };
  const response = await fetch(API + path, { cache: 'no-store', ...options, headers });
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Refusal(response.status, body?.error?.code, body?.error?.message);
}

// Whole numbers past 2^53 keep their digits where the browser shows us the source.
const exact = (key, value, context) =>
  typeof value === 'number' && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? '')
    ? BigInt(context.source) : value;
const figures = async (path) => JSON.parse(await (await ask(path)).text(), exact);

function problem(text) {
  $('problem').hidden = !text;
  $('problem').textContent = text ?? '';
}

// ---- tables --------------------------------------------------------------------------------------

// Cells are {text, class, note}, or have a node in place of text, under the words of the table's head. The roles are for
// narrow windows, where the style makes a block of a row and browsers then forget that it is one.
function showRows(body, columns, rows, none = words.none) {
  body.replaceChildren(...rows.map((cells) => element('tr', { role: 'row' }, ...cells.map((cell, at) => {
    const content = element('span', { text: cell.text });
    if (cell.node) content.replaceChildren(cell.node);
    if (cell.note) content.append(element('span', { class: 'note', text: cell.note }));
    const name = `${columns[at]} ${cell.class ?? ''}`;
    return element('td', { role: 'cell', class: name, 'data-label': words[columns[at]] }, content);
  }))));
  if (!rows.length) body.append(element('tr', {}, element('td', { class: 'empty', colspan: columns.length, text: none })));
}

const time = (text) => ({ text: text === null ? '–' : moment.format(new Date(text)) });
const known = (value) => (value === null ? '–' : whole.format(value));
const number = (value, format = whole, name = '') => ({ class: `number ${name}`, text: value === null ? '–' : format.format(value) });
const balanceCell = (value) => number(value, whole, value < 0 ? 'below-zero' : '');

// ---- who looks -----------------------------------------------------------------------------------

// The token of a link is after the #, which browsers do not send; it does not stay in the address bar or the history.
function tokenOfLink() {
  const found = new URLSearchParams(location.hash.slice(1)).get('token');
  if (found) history.replaceState(null, '', location.pathname);
  return found;
}
