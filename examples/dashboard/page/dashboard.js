// The page of the token balance service. Every figure comes from the API, with the user's token; this file asks, draws
// and says it in the browser's language.
'use strict';

// ---- words ---------------------------------------------------------------------------------------

const WORDS = {
  en: {
    lang: 'en', title: 'Token balance', unit: 'tokens', balance: 'Balance', used: 'Used', period: 'Period',
    prompt: 'Prompt', completion: 'Completion', calls: 'Calls', total: 'Total',
    inCredit: 'in credit', overdrawn: 'overdrawn', hintCredit: 'Runs are paid from this balance when they complete.',
    hintOverdrawn: (owed) => `You are ${owed} tokens below zero. Please top up.`,
    lastDays: (days) => `Last ${days} days`, overTime: 'Day by day', chargedADay: 'Tokens charged a day',
    balanceADay: 'Balance at the end of the day', asTable: 'Show as a table', day: 'Day', charged: 'Charged', added: 'Added',
    byModel: 'Usage by model', byStage: 'Usage by stage', unknown: 'unknown',
    statement: 'Statement', newestOf: (shown, all) => `the newest ${shown} of ${all} entries`, entriesOf: (all) => `${all} entries`,
    time: 'Time', kind: 'Kind', what: 'What for', amount: 'Amount',
    records: 'Newest calls', workflow: 'Workflow', model: 'Model', stage: 'Stage',
    kinds: { settlement: 'charge', credit: 'top-up', refund: 'refund', correction: 'correction', adjustment: 'adjustment', opening: 'opening balance' },
    showAll: (all) => `Show all ${all}`, showFewer: 'Show fewer', none: 'Nothing in this period.', updated: (time) => `As of ${time}`,
    live: 'live', polling: 'every 30 seconds', signIn: 'Sign in', signOut: 'Sign out', signInTitle: 'Sign in',
    signInHint: 'Open the link that your platform gave you, or paste your access token.',
    refused: 'Your access token is not valid, or no longer. Open a new link, or paste another token.',
    tokenLabel: 'Access token', noAccount: 'There is no account for this token.',
    unavailable: 'The figures cannot be reached right now; this page keeps trying.',
    chartOfUsage: (total, days) => `Tokens charged in ${days} days: ${total}`,
    chartOfBalance: (first, last) => `Balance, from ${first} to ${last}`,
  },
  zh: {
    lang: 'zh-CN', title: 'Token 余额', unit: 'Token', balance: '余额', used: '用量', period: '统计周期',
    prompt: '输入', completion: '输出', calls: '调用次数', total: '合计',
    inCredit: '余额正常', overdrawn: '欠费', hintCredit: '任务完成时从余额中扣费。',
    hintOverdrawn: (owed) => `您已欠费 ${owed} Token，请尽快充值。`,
    lastDays: (days) => `最近 ${days} 天`, overTime: '每日趋势', chargedADay: '每日扣费（Token）',
    balanceADay: '每日结束时的余额', asTable: '以表格显示', day: '日期', charged: '扣费', added: '入账',
    byModel: '按模型统计', byStage: '按阶段统计', unknown: '未知',
    statement: '账单明细', newestOf: (shown, all) => `共 ${all} 条，显示最新 ${shown} 条`, entriesOf: (all) => `共 ${all} 条`,
    time: '时间', kind: '类型', what: '说明', amount: '金额',
    records: '最近调用', workflow: '工作流', model: '模型', stage: '阶段',
    kinds: { settlement: '扣费', credit: '充值', refund: '退款', correction: '更正', adjustment: '调整', opening: '期初余额' },
    showAll: (all) => `显示全部 ${all} 条`, showFewer: '收起', none: '该周期内没有记录。', updated: (time) => `更新于 ${time}`,
    live: '实时更新', polling: '每 30 秒更新', signIn: '登录', signOut: '退出', signInTitle: '登录',
    signInHint: '请打开平台提供的链接，或粘贴您的访问令牌。',
    refused: '访问令牌无效或已过期。请打开新的链接，或粘贴其他令牌。',
    tokenLabel: '访问令牌', noAccount: '该令牌没有对应的账户。',
    unavailable: '暂时无法获取数据，页面会自动重试。',
    chartOfUsage: (total, days) => `${days} 天内共扣费 ${total} Token`,
    chartOfBalance: (first, last) => `余额由 ${first} 变为 ${last}`,
  },
};

const API = '/api/v1/token-usage/';
// In this tab's memory: it outlives a reload of the page, and nothing else.
const KEY = 'token';
const language = languageOf(WORDS);
const words = WORDS[language];

// ---- the API -------------------------------------------------------------------------------------

// null once the database turned out not to know the browser's zone.
let zone = Intl.DateTimeFormat().resolvedOptions().timeZone ?? null;

async function statementOf(days) {
  try {
    return await figures(`statement?days=${days}${zone ? `&tz=${encodeURIComponent(zone)}` : ''}`);
  } catch (error) {
    if (error.code !== 'unknown_time_zone' || zone === null) throw error;
    zone = null;
    return statementOf(days);
  }
}

// ---- figures -------------------------------------------------------------------------------------

function showBalance(balance, overdrawn) {
  $('balance').textContent = whole.format(balance);
  $('balance-card').classList.toggle('overdrawn', overdrawn);
  $('state').textContent = overdrawn ? words.overdrawn : words.inCredit;
  const hint = overdrawn ? words.hintOverdrawn(whole.format(-balance)) : words.hintCredit;
  // Said aloud only when it changes.
  if ($('balance-hint').textContent !== hint) $('balance-hint').textContent = hint;
  document.title = overdrawn ? `${words.overdrawn} ${whole.format(balance)} · ${words.title}` : words.title;
}

function showUsed(used) {
  $('used').textContent = whole.format(used.total_tokens);
  $('used-prompt').textContent = whole.format(used.total_prompt_tokens);
  $('used-completion').textContent = whole.format(used.total_completion_tokens);
  $('used-calls').textContent = whole.format(used.record_count);
}

function showBars(list, groups, by) {
  const tokens = groups.map((group) => Number(group.total_tokens));
  const largest = Math.max(1, ...tokens);
  const all = Math.max(1, tokens.reduce((sum, value) => sum + value, 0));
  list.replaceChildren(...groups.map((group, at) => {
    const name = group[by] === null || group[by] === 'unknown' ? words.unknown : group[by];
    const fill = element('span', { class: 'fill' });
    fill.style.width = `${Math.max(0, tokens[at] / largest) * 100}%`;
    return element('li', {},
      element('span', { class: 'name', title: name, text: name }),
      element('span', { class: 'value', text: whole.format(group.total_tokens) },
        element('span', { class: 'share', text: percent.format(tokens[at] / all) })),
      element('span', { class: 'track', 'aria-hidden': 'true' }, fill));
  }));
  if (!groups.length) list.append(element('li', { class: 'empty', text: words.none }));
}

// A long list shows its first rows until somebody asks for the others.
const FIRST = 10;

function fold(body) {
  const button = document.querySelector(`[aria-controls=${body.id}]`);
  const folded = button.getAttribute('aria-expanded') !== 'true';
  const rows = body.rows.length;
  button.hidden = rows <= FIRST;
  button.textContent = folded ? words.showAll(whole.format(rows)) : words.showFewer;
  button.setAttribute('aria-expanded', String(!folded));
  for (const [at, row] of [...body.rows].entries()) row.hidden = folded && at >= FIRST;
}

function toggle(event) {
  const button = event.currentTarget;
  button.setAttribute('aria-expanded', String(button.getAttribute('aria-expanded') !== 'true'));
  fold($(button.getAttribute('aria-controls')));
}

function showStatement(statement) {
  const shown = statement.entries.length;
  const all = statement.entry_count;
  $('statement-count').textContent = shown < all ? words.newestOf(whole.format(shown), whole.format(all)) : words.entriesOf(whole.format(all));
  showRows($('entries'), ['time', 'kind', 'what', 'amount', 'balance'], statement.entries.map((entry) => [
    time(entry.created_at),
    { text: words.kinds[entry.kind] ?? entry.kind },
    { text: entry.workflow_id ?? entry.reference ?? '–', note: [entry.workflow_id && entry.reference, entry.note].filter(Boolean).join(' · ') },
    number(entry.amount, signed, entry.amount > 0 ? 'plus' : ''),
    balanceCell(entry.new_balance),
  ]));
  fold($('entries'));
  showRows($('days-rows'), ['day', 'charged', 'added', 'balance'], [...statement.days].reverse().map((day) => [
    { text: dayLong.format(dateOf(day.day)) },
    number(day.charged), number(day.added), balanceCell(day.balance),
  ]));
}

// What a record has besides is the workflow, under the name that its column has.
const RECORD = ['id', 'prompt_tokens', 'completion_tokens', 'total_tokens', 'model', 'stage', 'created_at'];

function showRecords(records) {
  showRows($('records'), ['time', 'workflow', 'model', 'stage', 'prompt', 'completion', 'total'], records.map((record) => [
    time(record.created_at),
    { text: record[Object.keys(record).find((name) => !RECORD.includes(name))] ?? '–' }, { text: record.model ?? words.unknown }, { text: record.stage ?? words.unknown },
    number(record.prompt_tokens), number(record.completion_tokens), number(record.total_tokens),
  ]));
  fold($('records'));
}

// ---- charts --------------------------------------------------------------------------------------

const MARGIN = { top: 10, right: 8, bottom: 22, left: 52 };
let charted = [];

// Round values around the data, 0 among them: two to four lines.
function ticksOf(low, high) {
  const span = high - low || 1;
  const power = 10 ** Math.floor(Math.log10(span / 3));
  const step = [1, 2, 5, 10].map((by) => by * power).find((size) => span / size <= 4);
  const ticks = [];
  for (let tick = Math.floor(low / step); tick <= Math.ceil(high / step); tick += 1) ticks.push(tick * step);
  return ticks;
}

// One line over the days, from the first one that is known: before it the ledger is archived. What is below zero is drawn
// again in the warning colour, cut off at zero.
function drawLine(svg, name, values, label) {
  const first = values.findIndex((value) => value !== null);
  const width = Math.max(svg.parentElement.clientWidth, 240);
  const height = Number(svg.getAttribute('height'));
  const bottom = height - MARGIN.bottom;
  const ticks = ticksOf(Math.min(0, ...values), Math.max(1, ...values));
  const [low, high] = [ticks[0], ticks.at(-1)];
  const x = (at) => MARGIN.left + (at / Math.max(1, values.length - 1)) * (width - MARGIN.left - MARGIN.right);
  const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - MARGIN.top);
  const point = (at, value) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
  const line = first < 0 ? '' : `M${values.map((value, at) => point(at, value)).slice(first).join('L')}`;
  const area = line && `${line}L${point(values.length - 1, 0)}L${point(first, 0)}Z`;
  const part = (side, top, end) => {
    const clip = `${svg.id}-${side}`;
    return shape('g', { class: side },
      shape('clipPath', { id: clip }, shape('rect', { x: 0, width, y: top, height: Math.max(0, end - top) })),
      shape('path', { class: 'area', d: area, 'clip-path': `url(#${clip})` }),
      shape('path', { class: 'curve', d: line, 'clip-path': `url(#${clip})` }));
  };
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.setAttribute('class', name);
  svg.setAttribute('aria-label', label);
  svg.replaceChildren(
    ...ticks.flatMap((tick) => [
      shape('line', { class: tick === 0 ? 'zero' : 'grid', x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }),
      shape('text', { class: 'tick', x: MARGIN.left - 8, y: y(tick) + 4, 'text-anchor': 'end' }, short.format(tick)),
    ]),
    ...dayLabels(width, x, height - 4),
    // A pixel past zero, so that a line along zero is not cut in half.
    part('above', 0, y(0) + 1), part('below', y(0) + 1, height),
    shape('line', { class: 'cursor', y1: MARGIN.top, y2: bottom, visibility: 'hidden' }),
    shape('circle', { class: 'spot', r: 3.5, visibility: 'hidden' }));
  return { svg, x, y, values, width };
}

function dayLabels(width, x, y) {
  const count = charted.length;
  const labels = Math.min(count, Math.max(2, Math.floor(width / 110)));
  return Array.from({ length: labels }, (_, n) => {
    const at = Math.round((n * (count - 1)) / Math.max(1, labels - 1));
    const anchor = n === 0 ? 'start' : n === labels - 1 ? 'end' : 'middle';
    return shape('text', { class: 'tick', x: x(at), y, 'text-anchor': anchor }, dayShort.format(dateOf(charted[at].day)));
  });
}

let lines = [];

function drawCharts() {
  if (!charted.length) return;
  const plain = (value) => (value === null ? null : Number(value));
  const charges = charted.map((day) => plain(day.charged));
  const balances = charted.map((day) => plain(day.balance));
  const total = charges.reduce((sum, value) => sum + value, 0);
  lines = [
    drawLine($('usage-chart'), 'usage', charges, words.chartOfUsage(whole.format(total), charted.length)),
    drawLine($('balance-chart'), 'balance', balances, words.chartOfBalance(known(balances.find((value) => value !== null)), known(balances.at(-1)))),
  ];
  pointAt(null);
}

// The day under the pointer, in both charts.
function pointAt(event) {
  const charts = $('charts');
  const left = event && event.clientX - charts.getBoundingClientRect().left;
  const inside = event && lines.length && left >= MARGIN.left - 10;
  $('tip').hidden = !inside;
  for (const line of lines) {
    for (const mark of line.svg.querySelectorAll('.cursor, .spot')) mark.setAttribute('visibility', inside ? 'visible' : 'hidden');
  }
  if (!inside) return;
  const { width, x } = lines[0];
  const share = (left - MARGIN.left) / (width - MARGIN.left - MARGIN.right);
  const at = Math.round(Math.min(1, Math.max(0, share)) * (charted.length - 1));
  for (const line of lines) {
    for (const end of ['x1', 'x2']) line.svg.querySelector('.cursor').setAttribute(end, x(at));
    if (line.values[at] === null) line.svg.querySelector('.spot').setAttribute('visibility', 'hidden');
    line.svg.querySelector('.spot').setAttribute('cx', x(at));
    line.svg.querySelector('.spot').setAttribute('cy', line.y(line.values[at]));
  }
  const day = charted[at];
  const tip = $('tip');
  tip.textContent = `${dayLong.format(dateOf(day.day))}\n${words.charged} ${known(day.charged)}\n${words.balance} ${known(day.balance)}`;
  tip.style.transform = `translate(${Math.min(x(at) + 12, charts.clientWidth - tip.offsetWidth)}px, 1.6rem)`;
}

// ---- loading, and staying up to date ---------------------------------------------------------------

const EVERY = 30_000;
const LONGEST_WAIT = 30_000;
let turn = 0;
let following = null;

async function load() {
  turn += 1;
  const mine = turn;
  try {
    const days = $('days').value;
    const [summary, statement] = await Promise.all([figures(`summary?days=${days}`), statementOf(days)]);
    // A later question may have been answered before this one, or the user may have left.
    if (mine !== turn || !token) return;
    $('dashboard').hidden = false;
    showBalance(summary.token_balance, summary.is_overdraft);
    showUsed(summary.summary);
    showBars($('by-model'), summary.by_model, 'model');
    showBars($('by-stage'), summary.by_stage, 'stage');
    showStatement(statement);
    showRecords(summary.recent_records);
    charted = statement.days;
    drawCharts();
    $('updated').textContent = words.updated(clock.format(new Date()));
    problem(null);
  } catch (error) {
    if (mine !== turn || !token) return;
    if (error.status === 401) signOut(words.refused);
    else problem(error.status === 404 ? words.noAccount : words.unavailable);
  }
}

function showLive(on) {
  $('live').hidden = false;
  $('live').classList.toggle('on', on);
  const text = on ? words.live : words.polling;
  if ($('live-text').textContent !== text) $('live-text').textContent = text;
}

// The names of server-sent events. EventSource would do this, but cannot send the token in a header.
async function* eventNames(body) {
  const pieces = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const { done, value } = await pieces.read();
    if (done) return;
    const blocks = (text + value).split('\n\n');
    text = blocks.pop();
    for (const block of blocks) {
      const name = block.match(/^event: ?(.*)$/m);
      if (name) yield name[1];
    }
  }
}

// Loads again at each event. A stream that ended (the service restarted, the database did) is opened again, and what it
// may have missed is loaded.
async function follow(signal) {
  let wait = 1000;
  while (!signal.aborted) {
    try {
      const response = await ask('events', { signal });
      showLive(true);
      wait = 1000;
      load();
      for await (const _ of eventNames(response.body)) load();
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 401) return signOut(words.refused);
    }
    if (signal.aborted) return;
    showLive(false);
    load();
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(wait * 2, LONGEST_WAIT);
  }
}

// ---- who looks -----------------------------------------------------------------------------------

function signIn(newToken) {
  token = newToken;
  sessionStorage.setItem(KEY, token);
  // The figures on the page may be another user's.
  for (const id of ['sign-in', 'dashboard']) $(id).hidden = true;
  $('sign-out').hidden = false;
  following?.abort();
  following = new AbortController();
  load();
  follow(following.signal);
}

function signOut(reason) {
  token = null;
  turn += 1;
  sessionStorage.removeItem(KEY);
  following?.abort();
  problem(null);
  document.title = words.title;
  for (const id of ['dashboard', 'live', 'sign-out']) $(id).hidden = true;
  $('sign-in').hidden = false;
  $('sign-in-reason').textContent = reason ?? words.signInHint;
}

function start() {
  translate();
  for (const days of [7, 30, 90, 365]) $('days').append(element('option', { value: days, text: words.lastDays(days) }));
  $('days').value = '30';
  $('days').addEventListener('change', load);
  $('sign-out').addEventListener('click', () => signOut());
  $('sign-in-form').addEventListener('submit', (event) => {
    event.preventDefault();
    signIn($('token').value.trim());
    $('token').value = '';
  });
  for (const button of document.querySelectorAll('.more')) button.addEventListener('click', toggle);
  addEventListener('hashchange', () => {
    const found = tokenOfLink();
    if (found) signIn(found);
  });
  // Only a crossing of zero is notified: other changes are seen by asking now and then, while somebody looks.
  const refresh = () => { if (token && !document.hidden) load(); };
  setInterval(refresh, EVERY);
  document.addEventListener('visibilitychange', refresh);
  $('charts').addEventListener('pointermove', pointAt);
  $('charts').addEventListener('pointerleave', () => pointAt(null));
  new ResizeObserver(drawCharts).observe($('charts'));
  const known = tokenOfLink() ?? sessionStorage.getItem(KEY);
  if (known) signIn(known);
  else signOut();
}

start();
