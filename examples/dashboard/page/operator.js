// The page of the operators. Every figure comes from the API; what an operator may do the database says, and this page
// shows no button for the rest.
'use strict';

// ---- words ---------------------------------------------------------------------------------------

const WORDS = {
  en: {
    lang: 'en', title: 'Token operations', unit: 'tokens', refresh: 'Refresh', signIn: 'Sign in', signOut: 'Sign out',
    signInTitle: 'Sign in', signInHint: 'Open the link that your platform gave you, or paste your access token.',
    tokenLabel: 'Access token', refused: 'Your access token is not valid, or no longer. Open a new link, or paste another token.',
    notAnOperator: 'This token is not an operator’s. Sign in with one that is.',
    noRight: 'The database does not let your role see all of this. Ask the administrator of the database.',
    unavailable: 'The figures cannot be reached right now; this page keeps trying.',
    roles: { operator: 'operator', cashier: 'cashier' }, mayNot: 'You may look at everything here and change nothing.',
    updated: (time) => `As of ${time}`, account: 'Account', accountId: 'Id of the account', find: 'Find',
    findHint: 'The whole id, letter by letter.', noAccount: (id) => `There is no account “${id}”.`,
    balance: 'Balance', inCredit: 'in credit', overdrawn: 'overdrawn', statement: 'Statement',
    entriesOf: (all) => `${all} entries`, waitingOf: (count) => `${count} of them wait in the queue`,
    noEntries: 'Nothing has changed this balance yet.', newest: 'Newest entries', older: 'Older entries',
    time: 'Time', kind: 'Kind', what: 'What for', actor: 'By', amount: 'Amount', action: 'Action',
    kinds: { settlement: 'charge', credit: 'credit', refund: 'refund', correction: 'correction', adjustment: 'adjustment',
      opening: 'opening balance' },
    overdrawnAccounts: 'Overdrawn accounts', owed: (count, owed) => `${count}, owing ${owed} tokens`,
    firstOf: (shown, all) => `the first ${shown} of ${all}`, nobodyOwes: 'No account is below zero.', since: 'Since',
    binding: 'Binding', unsettled: 'Usage that waits', nothingWaits: 'All usage is settled: nothing waits.',
    workflow: 'Run', reason: 'Why', oldest: 'Oldest', tokens: 'Tokens', runs: 'Runs', state: 'State',
    states: 'What has become of all usage', noUsage: 'There is no usage yet.',
    stateNames: { charged: 'charged', exempt: 'exempt', waiting: 'waits', unowned: 'nobody’s', archived: 'archived', shrunk: 'charged, and gone since' },
    reasons: {},
    queue: 'Queue', queueNone: 'No charge waits for its account.', depth: 'Charges that wait', accounts: 'Accounts',
    archived: 'Archived', nothingArchived: 'Nothing was archived yet.', lastAt: 'Last', archive: 'To', before: 'Older than',
    rows: 'Rows', goneForGood: 'gone for good',
    archivedKinds: { usage: 'usage', deletion: 'deletions accepted', settlement: 'settlements', ledger: 'ledger' },
    creditAccount: 'Credit…', refundRun: 'Refund a run…', refundThis: 'Refund…', refundOf: (run) => `Refund of run ${run}`,
    creditTitle: 'Credit an account', refundTitle: 'Refund a run', tokensToCredit: 'Tokens to add', tokensToRefund: 'Tokens to give back',
    creditHint: 'A whole number above zero.', refundHint: 'Empty: all that was charged and not given back yet.',
    reference: 'Reference', referenceHint: 'The invoice, the payment or the ticket. A reference is good once.',
    note: 'Note', noteHint: 'The user sees it, and the reference.', cancel: 'Cancel', back: 'Back', review: 'Continue',
    confirmCredit: 'Credit now', confirmRefund: 'Refund now',
    askCredit: (amount, to, reference) => `Add ${amount} tokens to the account “${to}”, under the reference “${reference}”?`,
    askRefund: (amount, to, reference) => `Give back ${amount} tokens of the run “${to}”, under the reference “${reference}”?`,
    askRefundAll: (to, reference) => `Give back all that is left of the run “${to}”, under the reference “${reference}”?`,
    badTo: 'Say which one.', badAmount: 'The amount is a whole number above zero, of at most 19 digits.',
    badReference: 'A credit or refund needs a reference.',
    credited: (amount, to, balance) => `Done: ${amount} tokens were added to “${to}”. The balance is ${balance} now.`,
    refunded: (amount, to) => `Done: ${amount} tokens of the run “${to}” were given back.`,
    replayed: (reference) => `The reference “${reference}” was used for this before: it is done, and nothing was given again.`,
    refusals: {
      may_not: 'Your role may not do that. Nothing was given.', not_an_operator: 'Your role may not do that. Nothing was given.',
      unknown_id: 'There is no such id. Nothing was given.', account_busy: 'Others hold this account. Nothing was given. Try again in a moment.',
      reference_used: 'This reference stands for another credit or refund already. Nothing was given.',
      refused: (why) => `The database refuses it, and nothing was given: ${why}.`,
    },
    unanswered: 'There was no answer, so it may have been done. Try again as it is: one reference gives only once.',
  },
  zh: {
    lang: 'zh-CN', title: 'Token 运营', unit: 'Token', refresh: '刷新', signIn: '登录', signOut: '退出',
    signInTitle: '登录', signInHint: '请打开平台提供的链接，或粘贴您的访问令牌。',
    tokenLabel: '访问令牌', refused: '访问令牌无效或已过期。请打开新的链接，或粘贴其他令牌。',
    notAnOperator: '该令牌不属于运营人员。请使用运营人员的令牌登录。',
    noRight: '数据库不允许您的角色查看全部内容。请联系数据库管理员。',
    unavailable: '暂时无法获取数据，页面会自动重试。',
    roles: { operator: '运营', cashier: '出纳' }, mayNot: '您可以查看全部内容，但不能更改。',
    updated: (time) => `更新于 ${time}`, account: '账户', accountId: '账户 ID', find: '查找',
    findHint: '请输入完整的 ID，逐字匹配。', noAccount: (id) => `没有账户“${id}”。`,
    balance: '余额', inCredit: '余额正常', overdrawn: '欠费', statement: '账单明细',
    entriesOf: (all) => `共 ${all} 条`, waitingOf: (count) => `其中 ${count} 条在队列中等待`,
    noEntries: '该余额尚无变动。', newest: '最新记录', older: '更早的记录',
    time: '时间', kind: '类型', what: '说明', actor: '操作角色', amount: '金额', action: '操作',
    kinds: { settlement: '扣费', credit: '充值', refund: '退款', correction: '更正', adjustment: '调整', opening: '期初余额' },
    overdrawnAccounts: '欠费账户', owed: (count, owed) => `${count} 个，共欠 ${owed} Token`,
    firstOf: (shown, all) => `共 ${all} 条，显示前 ${shown} 条`, nobodyOwes: '没有欠费的账户。', since: '开始时间',
    binding: '绑定', unsettled: '待结算用量', nothingWaits: '所有用量均已结算。',
    workflow: '任务', reason: '原因', oldest: '最早', tokens: 'Token', runs: '任务数', state: '状态',
    states: '全部用量的去向', noUsage: '还没有用量。',
    stateNames: { charged: '已扣费', exempt: '已免除', waiting: '等待中', unowned: '无归属', archived: '已归档', shrunk: '已扣费，用量后来减少' },
    reasons: { 'the run is open': '任务未完成', 'completed and not settled': '已完成但未结算', 'no such workflow': '没有该任务',
      'nobody ever settled it': '从未结算', 'no such account': '没有该账户', 'no account pays': '没有付费账户',
      'out of range': '超出范围', 'account moved': '账户已迁移', 'cannot be counted': '无法计数' },
    queue: '队列', queueNone: '没有等待入账的扣费。', depth: '等待的扣费', accounts: '账户数',
    archived: '归档', nothingArchived: '尚未归档任何内容。', lastAt: '最近一次', archive: '归档到', before: '早于',
    rows: '行数', goneForGood: '已删除',
    archivedKinds: { usage: '用量', deletion: '已接受的删除', settlement: '结算', ledger: '账本' },
    creditAccount: '充值…', refundRun: '任务退款…', refundThis: '退款…', refundOf: (run) => `任务 ${run} 退款`,
    creditTitle: '账户充值', refundTitle: '任务退款', tokensToCredit: '充值 Token 数', tokensToRefund: '退还 Token 数',
    creditHint: '大于零的整数。', refundHint: '留空则退还尚未退还的全部扣费。',
    reference: '凭证号', referenceHint: '发票号、付款号或工单号。一个凭证号只能使用一次。',
    note: '备注', noteHint: '用户可以看到备注和凭证号。', cancel: '取消', back: '返回', review: '继续',
    confirmCredit: '确认充值', confirmRefund: '确认退款',
    askCredit: (amount, to, reference) => `为账户“${to}”充值 ${amount} Token，凭证号“${reference}”？`,
    askRefund: (amount, to, reference) => `退还任务“${to}”的 ${amount} Token，凭证号“${reference}”？`,
    askRefundAll: (to, reference) => `退还任务“${to}”的全部剩余扣费，凭证号“${reference}”？`,
    badTo: '请填写 ID。', badAmount: '金额须为大于零的整数，最多 19 位。', badReference: '充值或退款必须填写凭证号。',
    credited: (amount, to, balance) => `已完成：为“${to}”充值 ${amount} Token，当前余额 ${balance}。`,
    refunded: (amount, to) => `已完成：任务“${to}”已退还 ${amount} Token。`,
    replayed: (reference) => `凭证号“${reference}”此前已用于该操作：操作已完成，没有重复入账。`,
    refusals: {
      may_not: '您的角色无权执行此操作，未入账。', not_an_operator: '您的角色无权执行此操作，未入账。',
      unknown_id: '没有该 ID，未入账。', account_busy: '该账户正被占用，未入账。请稍后重试。',
      reference_used: '该凭证号已用于其他充值或退款，未入账。', refused: (why) => `数据库拒绝了该操作，未入账：${why}。`,
    },
    unanswered: '没有收到答复，操作可能已经完成。请原样重试：同一凭证号只会入账一次。',
  },
};

const API = '/api/v1/operator/';
// In this tab's memory, and not the users' page's: who looks at that in the same tab stays signed in there.
const KEY = 'operator-token';
const words = WORDS[languageOf(WORDS)];
// What the database says and this file has no words for is shown as it is.
const said = (names, value) => (value === null ? '–' : names[value] ?? value);

// ---- reports -------------------------------------------------------------------------------------

// A button that shows an account below.
function accountLink(id) {
  if (id === null) return { text: '–' };
  const button = element('button', { type: 'button', class: 'link', text: id });
  button.addEventListener('click', () => { $('account-id').value = id; find(id); });
  return { node: button };
}

const shownOf = (shown, all) => (shown < all ? words.firstOf(whole.format(shown), whole.format(all)) : '');

function showOverdrawn({ count, owed, accounts }) {
  $('overdrawn-count').textContent = count ? [words.owed(whole.format(count), whole.format(owed)), shownOf(accounts.length, count)].filter(Boolean).join(' · ') : '';
  showRows($('overdrawn'), ['account', 'since', 'binding', 'balance'], accounts.map((account) => [
    accountLink(account.user_id), time(account.since), { text: account.binding }, balanceCell(account.token_balance),
  ]), words.nobodyOwes);
}

function showUsage({ states, unsettled, unsettled_count: count }) {
  showRows($('states'), ['state', 'reason', 'binding', 'oldest', 'runs', 'tokens'], states.map((row) => [
    { text: said(words.stateNames, row.state) }, { text: said(words.reasons, row.reason) }, { text: row.binding },
    time(row.oldest), number(row.workflows), number(row.tokens),
  ]), words.noUsage);
  $('unsettled-count').textContent = shownOf(unsettled.length, count);
  showRows($('unsettled'), ['workflow', 'account', 'reason', 'oldest', 'tokens'], unsettled.map((row) => [
    { text: row.workflow_id ?? '–' }, accountLink(row.user_id), { text: said(words.reasons, row.reason) },
    time(row.oldest), number(row.tokens),
  ]), words.nothingWaits);
}

function showQueue({ depth, accounts, tokens, oldest }) {
  $('queue').hidden = !depth;
  $('queue-none').hidden = Boolean(depth);
  $('queue-depth').textContent = whole.format(depth);
  $('queue-accounts').textContent = whole.format(accounts);
  $('queue-tokens').textContent = whole.format(tokens);
  $('queue-oldest').textContent = time(oldest).text;
}

function showArchived(rows) {
  showRows($('archived'), ['lastAt', 'kind', 'archive', 'before', 'actor', 'rows', 'tokens'], rows.map((row) => [
    time(row.last_at), { text: said(words.archivedKinds, row.kind), note: row.binding }, { text: row.archive ?? words.goneForGood },
    time(row.before), { text: row.actor }, number(row.row_count), number(row.tokens),
  ]), words.nothingArchived);
}

// ---- one account ---------------------------------------------------------------------------------

let account = null;
let search = 0;

const parameter = (name, value) => `${name}=${encodeURIComponent(value)}`;

async function find(id, { quiet = false, before = null } = {}) {
  search += 1;
  const mine = search;
  try {
    const page = before === null ? '' : `&${parameter('before', before)}`;
    const [found, statement] = await Promise.all([
      figures(`account?${parameter('id', id)}`), figures(`statement?${parameter('id', id)}${page}`)]);
    if (mine !== search || !token) return;
    account = { id, before };
    $('account-none').textContent = '';
    $('found').hidden = false;
    showAccount(found);
    showStatement(statement);
    // Who asked for it by hand is taken there; a refresh leaves one where one is.
    if (!quiet) $(before === null ? 'found-id' : 'statement-title').focus();
  } catch (error) {
    if (mine !== search || !token) return;
    if (error.status === 404) {
      account = null;
      $('found').hidden = true;
      $('account-none').textContent = words.noAccount(id);
    } else if (!quiet) failed(error);
    else throw error;
  }
}

function showAccount({ id, token_balance: balance, is_overdraft: overdrawn }) {
  $('found-id').textContent = id;
  $('balance').textContent = whole.format(balance);
  $('balance').parentElement.classList.toggle('bad', overdrawn);
  $('state').classList.toggle('bad', overdrawn);
  $('state').textContent = overdrawn ? words.overdrawn : words.inCredit;
}

function refundButton(entry) {
  if (!may.may_refund || entry.kind !== 'settlement' || entry.workflow_id === null) return { text: '' };
  const button = element('button', { type: 'button', class: 'quiet', text: words.refundThis, 'aria-label': words.refundOf(entry.workflow_id) });
  button.addEventListener('click', () => openGift('refund', entry.workflow_id));
  return { node: button };
}

function showStatement({ entries, entry_count: all, waiting_count: waiting, older_before: older }) {
  const count = [words.entriesOf(whole.format(all)), waiting && words.waitingOf(whole.format(waiting))].filter(Boolean).join(' · ');
  if ($('statement-count').textContent !== count) $('statement-count').textContent = count;
  showRows($('entries'), ['time', 'kind', 'what', 'actor', 'amount', 'balance', 'action'], entries.map((entry) => [
    time(entry.created_at), { text: said(words.kinds, entry.kind) },
    { text: entry.workflow_id ?? entry.reference ?? '–', note: [entry.workflow_id && entry.reference, entry.note].filter(Boolean).join(' · ') },
    { text: entry.actor }, number(entry.amount, signed, entry.amount > 0 ? 'plus' : ''), balanceCell(entry.new_balance),
    refundButton(entry),
  ]), words.noEntries);
  $('newest').hidden = account.before === null;
  $('older').hidden = older === null;
  $('older').value = older ?? '';
}

// ---- credit and refund -----------------------------------------------------------------------------

let may = { may_credit: false, may_refund: false };
// What the dialog is about: its kind, and the body that is sent once it is confirmed.
let gift = null;

function openGift(kind, to) {
  const isCredit = kind === 'credit';
  gift = { kind, body: null };
  $('give-form').reset();
  $('give-title').textContent = isCredit ? words.creditTitle : words.refundTitle;
  $('give-to-label').textContent = isCredit ? words.account : words.workflow;
  $('give-to').value = to ?? '';
  $('give-to').readOnly = to !== null;
  $('give-amount-label').textContent = isCredit ? words.tokensToCredit : words.tokensToRefund;
  $('give-amount-hint').textContent = isCredit ? words.creditHint : words.refundHint;
  $('give-amount').required = isCredit;
  $('give-confirm').textContent = isCredit ? words.confirmCredit : words.confirmRefund;
  for (const field of $('give-form').querySelectorAll('input')) field.removeAttribute('aria-invalid');
  giftProblem(null);
  showReview(false);
  $('give').showModal();
  $(to === null ? 'give-to' : 'give-amount').focus();
}

function showReview(shown) {
  $('give-form').hidden = shown;
  $('give-review').hidden = !shown;
}

function giftProblem(text, field = null) {
  $('give-problem').hidden = !text;
  $('give-problem').textContent = text ?? '';
  for (const input of $('give-form').querySelectorAll('input')) input.toggleAttribute('aria-invalid', false);
  if (field) {
    $(field).setAttribute('aria-invalid', 'true');
    $(field).focus();
  }
}

function review() {
  const isCredit = gift.kind === 'credit';
  const [to, amount, reference, note] = ['to', 'amount', 'reference', 'note'].map((name) => $(`give-${name}`).value.trim());
  // An id is sent as it was found: it may have a space at its end.
  const id = $('give-to').readOnly ? $('give-to').value : to;
  if (!id) return giftProblem(words.badTo, 'give-to');
  if (amount ? !/^[0-9]{1,19}$/.test(amount) || /^0+$/.test(amount) : isCredit) return giftProblem(words.badAmount, 'give-amount');
  if (!reference) return giftProblem(words.badReference, 'give-reference');
  gift.body = { [isCredit ? 'account' : 'workflow']: id, reference, ...(amount && { amount }), ...(note && { note }) };
  const figure = amount && whole.format(BigInt(amount));
  const question = isCredit ? words.askCredit(figure, id, reference)
    : amount ? words.askRefund(figure, id, reference) : words.askRefundAll(id, reference);
  $('give-sentence').textContent = question;
  giftProblem(null);
  showReview(true);
  // Not the button: an Enter that is held down would press it.
  return $('give-sentence').focus();
}

// Sent once at a time. A second click finds the button off; a second request would find the reference used.
async function confirmGift() {
  if ($('give-confirm').disabled) return;
  $('give-confirm').disabled = true;
  const { kind, body } = gift;
  try {
    const answer = JSON.parse(await (await ask(kind, {
      method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) })).text(), exact);
    closeGift();
    $('done').textContent = answer.replayed ? words.replayed(body.reference)
      : kind === 'credit' ? words.credited(whole.format(answer.amount), body.account, whole.format(answer.new_balance))
        : words.refunded(whole.format(answer.amount), body.workflow);
    $('done').scrollIntoView({ block: 'nearest' });
    load();
  } catch (error) {
    if (error.status === 401) {
      closeGift();
      return signOut(words.refused);
    }
    // Without an answer, and where the database went away while it answered, nobody knows.
    const refusal = error.code in words.refusals ? words.refusals[error.code] : null;
    giftProblem(typeof refusal === 'function' ? refusal(error.message) : refusal ?? (error.status === 422 ? error.message : words.unanswered));
  } finally {
    $('give-confirm').disabled = false;
  }
}

function closeGift() {
  $('give').close();
}

// ---- loading ---------------------------------------------------------------------------------------

const EVERY = 30_000;
let turn = 0;

const REPORTS = { overdrawn: showOverdrawn, usage: showUsage, queue: showQueue, archived: showArchived };

async function load() {
  turn += 1;
  const mine = turn;
  try {
    const me = await figures('me');
    if (mine !== turn || !token) return;
    may = me.may;
    $('who').textContent = `${me.name} · ${said(words.roles, me.role)}`;
    $('may-not').hidden = may.may_credit || may.may_refund;
    $('credit').hidden = !may.may_credit;
    $('refund-run').hidden = !may.may_refund;
    for (const id of ['desk', 'who', 'refresh']) $(id).hidden = false;
    const asked = Object.entries(REPORTS).map(async ([name, show]) => {
      const report = await figures(name);
      if (mine === turn && token) show(report);
    });
    if (account) asked.push(find(account.id, { quiet: true, before: account.before }));
    const ends = await Promise.allSettled(asked);
    if (mine !== turn || !token) return;
    const end = ends.find(({ status }) => status === 'rejected');
    if (end) throw end.reason;
    $('updated').textContent = words.updated(clock.format(new Date()));
    problem(null);
  } catch (error) {
    if (mine === turn && token) failed(error);
  }
}

function failed(error) {
  if (error.status === 401) signOut(words.refused);
  else if (error.code === 'not_an_operator') signOut(words.notAnOperator);
  else problem(error.status === 403 ? words.noRight : words.unavailable);
}

// ---- who looks -----------------------------------------------------------------------------------

function signIn(newToken) {
  token = newToken;
  sessionStorage.setItem(KEY, token);
  forget();
  $('sign-in').hidden = true;
  $('sign-out').hidden = false;
  load();
}

// The figures on the page may be another operator's to see.
function forget() {
  turn += 1;
  search += 1;
  account = null;
  may = { may_credit: false, may_refund: false };
  if ($('give').open) closeGift();
  problem(null);
  $('done').textContent = '';
  $('account-none').textContent = '';
  $('account-id').value = '';
  for (const id of ['desk', 'found', 'who', 'refresh', 'sign-out']) $(id).hidden = true;
}

function signOut(reason) {
  token = null;
  sessionStorage.removeItem(KEY);
  forget();
  $('sign-in').hidden = false;
  $('sign-in-reason').textContent = reason ?? words.signInHint;
}

function start() {
  translate();
  $('refresh').addEventListener('click', load);
  $('sign-out').addEventListener('click', () => signOut());
  $('sign-in-form').addEventListener('submit', (event) => {
    event.preventDefault();
    signIn($('token').value.trim());
    $('token').value = '';
  });
  $('search').addEventListener('submit', (event) => {
    event.preventDefault();
    $('done').textContent = '';
    find($('account-id').value);
  });
  $('older').addEventListener('click', () => find(account.id, { before: $('older').value }));
  $('newest').addEventListener('click', () => find(account.id));
  $('credit').addEventListener('click', () => openGift('credit', account.id));
  $('refund-run').addEventListener('click', () => openGift('refund', null));
  $('give-form').addEventListener('submit', (event) => {
    event.preventDefault();
    review();
  });
  $('give-back').addEventListener('click', () => {
    showReview(false);
    $('give-amount').focus();
  });
  $('give-confirm').addEventListener('click', confirmGift);
  // While a request is under way its answer is waited for.
  for (const button of document.querySelectorAll('.cancel')) button.addEventListener('click', () => { if (!$('give-confirm').disabled) closeGift(); });
  $('give').addEventListener('cancel', (event) => { if ($('give-confirm').disabled) event.preventDefault(); });
  addEventListener('hashchange', () => {
    const found = tokenOfLink();
    if (found) signIn(found);
  });
  // Not under the hands of one who fills in the dialog, or is about to press a button in a table.
  const refresh = () => { if (token && !document.hidden && !$('give').open && !document.activeElement.closest('td')) load(); };
  setInterval(refresh, EVERY);
  document.addEventListener('visibilitychange', refresh);
  const known = tokenOfLink() ?? sessionStorage.getItem(KEY);
  if (known) signIn(known);
  else signOut();
}

start();
