//! What must be true: the usage, the runs and the accounts, and what each binding has made of them.
//!
//! An id is a number: `w3`, `a3`. A workflow or an account that gets another id is under another number then, and so
//! is all that goes with it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Workflow and account.
pub type Key = (usize, usize);

/// How many bindings there may be.
pub const MAX_BINDINGS: usize = 2;

/// A row of the usage table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    pub workflow: Option<usize>,
    /// By binding: the account that the row names.
    pub accounts: [Option<usize>; MAX_BINDINGS],
    pub tokens: i64,
    pub time: Time,
}

/// What a settlement is made of: usage, charged, refunded, corrected, archived, and what of charged and refunded has left
/// the ledger.
pub type Figures = [i64; 7];

/// A moment: below 0 a day that is long past, from 0 on what the model's clock has said. What is smaller was earlier.
pub type Time = i64;

/// When a settlement was made that has no time, since all of it is exempt.
pub(super) const NEVER_CHARGED: Time = Time::MIN;

/// What one binding knows; or what a transaction adds to it.
#[derive(Clone, Default)]
pub struct Books {
    /// Whether there is a row of the users table.
    pub accounts: BTreeMap<usize, bool>,
    /// Less what each account began with.
    pub balance: BTreeMap<usize, i64>,
    pub accounted: BTreeMap<Key, i64>,
    /// What is not there any more of what was used, and counts as if it were.
    pub archived: BTreeMap<Key, i64>,
    /// The pairs that have a settlement, and when they were charged last; None where there is none any more.
    pub settled: BTreeMap<Key, Option<Time>>,
    /// When the tables were bound: what is exempt was there by then.
    pub attached: Time,
    /// Rows that have left the usage, or pairs of which deletions were accepted, and their tokens.
    pub left: BTreeMap<Left, (i64, i64)>,
    pub charged: BTreeMap<Key, i64>,
    pub refunded: BTreeMap<Key, i64>,
    /// What of both has left the ledger, by the account that had it then.
    pub archived_charged: BTreeMap<Key, i64>,
    pub archived_refunded: BTreeMap<Key, i64>,
    /// What corrections have taken out of what was accounted for.
    pub corrected: BTreeMap<Key, i64>,
    /// Amounts of credits, by account and reference; None where it is forgotten.
    pub references: BTreeMap<(usize, u64), Option<i64>>,
    /// What an id of a workflow has become; None where it is used again.
    pub became: BTreeMap<usize, Option<usize>>,
    /// Two ids of one workflow; false where they are forgotten.
    pub renames: BTreeMap<Key, bool>,
    /// Settlements that have ended and are in the archive: their figures, added up.
    pub ended: BTreeMap<Key, Figures>,
    /// When they were charged last; None where they came back.
    pub ended_at: BTreeMap<Key, Option<Time>>,
}

/// How tokens have become archived, as the table `archived` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Left {
    Usage,
    Deletion,
    Settlement,
}

impl Left {
    pub fn name(self) -> &'static str {
        match self {
            Left::Usage => "usage",
            Left::Deletion => "deletion",
            Left::Settlement => "settlement",
        }
    }
}

/// What is true, or what a transaction adds to it: amounts are additions; rows, runs and accounts are as they are
/// after it.
#[derive(Clone)]
pub struct State {
    /// By the row's id; None where it was deleted.
    pub usage: BTreeMap<i64, Option<Usage>>,
    /// The rows that have left for the archive, as they left.
    pub archive: BTreeMap<i64, Usage>,
    /// Whether the run is completed; None where its row was deleted.
    pub runs: BTreeMap<usize, Option<bool>>,
    /// Workflows whose id a transaction has changed, from old to new, and of which what a binding knows has not followed
    /// yet.
    pub renamed: Vec<(usize, Key)>,
    /// How many entries have left the ledger.
    pub entries_left: i64,
    pub books: Vec<Books>,
}

/// What has become of tokens, as `usage_state()` says it.
pub type Fate = (&'static str, Option<&'static str>);

pub const CHARGED: Fate = ("charged", None);
pub const EXEMPT: Fate = ("exempt", None);
pub const UNOWNED: Fate = ("unowned", None);
pub const ARCHIVED: Fate = ("archived", None);
pub const SHRUNK: Fate = ("shrunk", None);
pub const OPEN: Fate = ("waiting", Some("the run is open"));
pub const NOT_SETTLED: Fate = ("waiting", Some("completed and not settled"));
pub const NO_WORKFLOW: Fate = ("waiting", Some("no such workflow"));
pub const NO_ACCOUNT: Fate = ("waiting", Some("no such account"));

/// A part of the usage with one fate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    pub workflow: Option<usize>,
    pub account: Option<usize>,
    pub fate: Fate,
    pub rows: i64,
    pub tokens: i64,
}

/// What a settlement charges.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct Charged {
    pub workflows: i64,
    pub charges: i64,
    pub tokens: i64,
}

/// What of the usage was accepted as deleted.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct Accepted {
    pub workflows: i64,
    pub pairs: i64,
    pub tokens: i64,
    /// Workflows of which some is missing, and which were charged since.
    pub settled_since: i64,
}

impl Charged {
    pub fn add(&mut self, other: Charged) {
        self.workflows += other.workflows;
        self.charges += other.charges;
        self.tokens += other.tokens;
    }
}

pub(super) fn pairs_of(workflow: usize) -> Range<Key> {
    (workflow, 0)..(workflow + 1, 0)
}

fn add<K: Ord + Copy>(to: &mut BTreeMap<K, i64>, from: &BTreeMap<K, i64>) {
    for (key, amount) in from {
        *to.entry(*key).or_default() += amount;
    }
}

pub fn of<K: Ord>(map: &BTreeMap<K, i64>, key: &K) -> i64 {
    map.get(key).copied().unwrap_or_default()
}

impl Books {
    fn add(&mut self, other: &Books) {
        self.accounts.extend(&other.accounts);
        add(&mut self.balance, &other.balance);
        add(&mut self.accounted, &other.accounted);
        add(&mut self.archived, &other.archived);
        self.settled.extend(&other.settled);
        self.attached = self.attached.max(other.attached);
        for (kind, (rows, tokens)) in &other.left {
            let left = self.left.entry(*kind).or_default();
            *left = (left.0 + rows, left.1 + tokens);
        }
        add(&mut self.charged, &other.charged);
        add(&mut self.refunded, &other.refunded);
        add(&mut self.archived_charged, &other.archived_charged);
        add(&mut self.archived_refunded, &other.archived_refunded);
        add(&mut self.corrected, &other.corrected);
        self.references.extend(&other.references);
        self.became.extend(&other.became);
        self.renames.extend(&other.renames);
        for (key, figures) in &other.ended {
            let ended = self.ended.entry(*key).or_default();
            *ended = std::array::from_fn(|at| ended[at] + figures[at]);
        }
        self.ended_at.extend(&other.ended_at);
    }

    fn maps(&self) -> [&BTreeMap<Key, i64>; 7] {
        [
            &self.accounted,
            &self.charged,
            &self.refunded,
            &self.corrected,
            &self.archived,
            &self.archived_charged,
            &self.archived_refunded,
        ]
    }

    fn maps_mut(&mut self) -> [&mut BTreeMap<Key, i64>; 7] {
        [
            &mut self.accounted,
            &mut self.charged,
            &mut self.refunded,
            &mut self.corrected,
            &mut self.archived,
            &mut self.archived_charged,
            &mut self.archived_refunded,
        ]
    }

    /// What the settlement of the pair says.
    pub fn figures(&self, key: &Key) -> Figures {
        self.maps().map(|map| of(map, key))
    }

    /// Add these, times `factor`.
    pub fn add_figures(&mut self, key: Key, figures: &Figures, factor: i64) {
        for (map, figure) in self.maps_mut().into_iter().zip(figures) {
            *map.entry(key).or_default() += factor * figure;
        }
    }

    pub fn has_account(&self, account: usize) -> bool {
        self.accounts.get(&account) == Some(&true)
    }

    pub fn accounts_there(&self) -> impl Iterator<Item = usize> {
        let there = self.accounts.iter().filter(|(_, is_there)| **is_there);
        there.map(|(account, _)| *account)
    }

    /// The pairs of the workflow that have a settlement.
    pub fn settled_of(&self, workflow: usize) -> impl Iterator<Item = (Key, Time)> {
        let of_workflow = self.settled.range(pairs_of(workflow));
        of_workflow.filter_map(|(key, at)| Some((*key, (*at)?)))
    }

    /// What of `used` tokens is not accounted for; below 0 where some is missing.
    pub fn due(&self, key: &Key, used: i64) -> i64 {
        used + of(&self.archived, key) - of(&self.accounted, key)
    }

    /// Move amounts from the keys that `rename` changes to those that it gives, as additions.
    fn moved(&self, rename: impl Fn(Key) -> Key) -> Books {
        let mut moved = Books::default();
        let maps = self.maps().into_iter().zip(moved.maps_mut());
        for (from, to) in maps {
            for (key, amount) in from.iter().filter(|(key, _)| rename(**key) != **key) {
                *to.entry(*key).or_default() -= amount;
                *to.entry(rename(*key)).or_default() += amount;
            }
        }
        let settled = self.settled.iter();
        for (key, at) in settled.filter(|(key, at)| at.is_some() && rename(**key) != **key) {
            let there = self.settled.get(&rename(*key)).copied().flatten();
            moved.settled.insert(rename(*key), there.max(*at));
            moved.settled.insert(*key, None);
        }
        moved
    }

    /// What is left to be refunded.
    pub fn left(&self, key: &Key) -> i64 {
        of(&self.charged, key) - of(&self.refunded, key)
    }

    /// Under which id a correction finds the workflow: the first of this one and those that it has had later of which
    /// something is accounted for; if nothing is, the first that has a settlement.
    pub fn correctable(&self, workflow: usize) -> Option<usize> {
        self.found_by(&self.accounted, workflow)
    }

    /// Under which id a refund finds it: the first of which something was charged; if nothing was, as a correction.
    pub fn refundable(&self, workflow: usize) -> Option<usize> {
        self.found_by(&self.charged, workflow)
    }

    fn found_by(&self, tokens: &BTreeMap<Key, i64>, workflow: usize) -> Option<usize> {
        let ids = self.ids_since(workflow);
        let has_any = |id: &&usize| tokens.range(pairs_of(**id)).any(|(_, tokens)| *tokens > 0);
        let found = ids.iter().find(has_any);
        found
            .or_else(|| ids.iter().find(|id| self.has_settlement(**id)))
            .copied()
    }

    /// One that was given back as a whole, and whose entries have left, has a settlement of zeros.
    fn has_settlement(&self, workflow: usize) -> bool {
        self.settled_of(workflow).next().is_some()
    }

    /// This id of a workflow, and those that it has had later.
    fn ids_since(&self, workflow: usize) -> Vec<usize> {
        let mut ids = vec![workflow];
        while let Some(Some(next)) = self.became.get(&ids[ids.len() - 1])
            && !ids.contains(next)
        {
            ids.push(*next);
        }
        ids
    }
}

impl State {
    pub fn new(bindings: usize) -> Self {
        State {
            usage: BTreeMap::new(),
            archive: BTreeMap::new(),
            runs: BTreeMap::new(),
            renamed: Vec::new(),
            entries_left: 0,
            books: vec![Books::default(); bindings],
        }
    }

    pub fn add(&mut self, other: &State) {
        self.usage.extend(&other.usage);
        self.archive.extend(&other.archive);
        self.runs.extend(&other.runs);
        self.renamed.extend(&other.renamed);
        self.entries_left += other.entries_left;
        for (books, other) in self.books.iter_mut().zip(&other.books) {
            books.add(other);
        }
    }

    /// Forget rows that were deleted: nobody can have them any more.
    pub fn forget_deleted(&mut self) {
        self.usage.retain(|_, row| row.is_some());
    }

    pub fn has_run(&self, workflow: usize) -> bool {
        self.runs.get(&workflow).is_some_and(|run| run.is_some())
    }

    pub fn is_completed(&self, workflow: usize) -> bool {
        self.runs.get(&workflow).copied().flatten() == Some(true)
    }

    pub fn is_used(&self, workflow: usize) -> bool {
        self.rows().any(|row| row.workflow == Some(workflow))
    }

    /// The rows that differ in `after`, as they are and as they are there.
    pub fn rows_updated(&self, after: &BTreeMap<i64, Option<Usage>>) -> Vec<(Usage, Usage)> {
        let pairs = after
            .iter()
            .filter_map(|(id, now)| Some((self.usage.get(id).copied().flatten()?, (*now)?)));
        pairs.filter(|(before, now)| before != now).collect()
    }

    pub fn rows_with_ids(&self) -> Vec<(i64, Usage)> {
        let rows = self.usage.iter();
        rows.filter_map(|(id, row)| Some((*id, (*row)?))).collect()
    }

    pub fn rows(&self) -> impl Iterator<Item = Usage> {
        self.usage.values().filter_map(|row| *row)
    }

    /// The usage that names both, by pair.
    pub fn used(&self, binding: usize) -> BTreeMap<Key, i64> {
        self.used_before(binding, Time::MAX)
    }

    /// The same of the rows that are older than this.
    fn used_before(&self, binding: usize, before: Time) -> BTreeMap<Key, i64> {
        let mut used = BTreeMap::new();
        for row in self.rows().filter(|row| row.time < before) {
            if let (Some(workflow), Some(account)) = (row.workflow, row.accounts[binding]) {
                *used.entry((workflow, account)).or_default() += row.tokens;
            }
        }
        used
    }

    /// What a settlement of the workflow would charge, if all of its accounts are there.
    fn outstanding(&self, binding: usize, workflow: usize) -> Vec<(Key, i64)> {
        let books = &self.books[binding];
        let archived = books.archived.range(pairs_of(workflow));
        let mut used: BTreeMap<Key, i64> = archived.map(|(key, _)| (*key, 0)).collect();
        for row in self.rows().filter(|row| row.workflow == Some(workflow)) {
            if let Some(account) = row.accounts[binding] {
                *used.entry((workflow, account)).or_default() += row.tokens;
            }
        }
        let rest = used
            .into_iter()
            .map(|(key, used)| (key, books.due(&key, used)));
        rest.filter(|(_, tokens)| *tokens > 0).collect()
    }

    /// Whether some usage of the workflow is of an account that is not there.
    pub fn has_bad_charge(&self, workflow: usize) -> bool {
        (0..self.books.len()).any(|binding| {
            let outstanding = self.outstanding(binding, workflow);
            let books = &self.books[binding];
            outstanding.iter().any(|(key, _)| !books.has_account(key.1))
        })
    }

    /// What a settlement must do at that time, as an addition. Usage of an account that is not there stays.
    pub fn charge(&self, workflow: usize, at: Time) -> (State, Charged) {
        self.charge_in(0..self.books.len(), workflow, at)
    }

    /// The same in some of the bindings.
    pub fn charge_in(&self, bindings: Range<usize>, workflow: usize, at: Time) -> (State, Charged) {
        let mut added = State::new(self.books.len());
        let mut sum = Charged::default();
        for binding in bindings {
            for (key, tokens) in self.outstanding(binding, workflow) {
                if !self.books[binding].has_account(key.1) {
                    continue;
                }
                let books = &mut added.books[binding];
                books.accounted.insert(key, tokens);
                books.settled.insert(key, Some(at));
                books.charged.insert(key, tokens);
                *books.balance.entry(key.1).or_default() -= tokens;
                sum.charges += 1;
                sum.tokens += tokens;
            }
        }
        sum.workflows = i64::from(sum.charges > 0);
        (added, sum)
    }

    /// What a correction of the workflow must do, as an addition, and what it gives to each account: no more is accounted for
    /// and charged than is used, but for what was refunded; what an account that is not there was charged stays.
    pub fn correct(&self, binding: usize, workflow: usize) -> (State, BTreeMap<usize, i64>) {
        let mut added = State::new(self.books.len());
        let mut given = BTreeMap::new();
        let (known, used) = (&self.books[binding], self.used(binding));
        for (key, accounted) in known.accounted.range(pairs_of(workflow)) {
            let charged = of(&known.charged, key);
            let least = match known.has_account(key.1) {
                true => of(&known.refunded, key),
                false => charged,
            };
            let there = of(&used, key) + of(&known.archived, key);
            let left = there.min(*accounted).max(least);
            let back = charged - charged.min(left);
            let books = &mut added.books[binding];
            books.accounted.insert(*key, left - accounted);
            books.corrected.insert(*key, accounted - left);
            books.charged.insert(*key, -back);
            if back > 0 {
                *books.balance.entry(key.1).or_default() += back;
                given.insert(key.1, back);
            }
        }
        (added, given)
    }

    /// What a correction of the pair would take out, if its account is there.
    pub fn missing(&self, binding: usize, key: &Key, shrunk: i64) -> i64 {
        let books = &self.books[binding];
        shrunk.min(of(&books.accounted, key) - of(&books.refunded, key))
    }

    /// Completed runs, which a sweep settles.
    pub fn completed(&self) -> Vec<usize> {
        let completed = self.runs.iter().filter(|(_, run)| **run == Some(true));
        completed.map(|(workflow, _)| *workflow).collect()
    }

    /// The first attach exempts what is there.
    pub fn exempt(&mut self) {
        for binding in 0..self.books.len() {
            let used = self.used(binding).into_iter();
            let used = used.filter(|(_, tokens)| *tokens > 0);
            let books = &mut self.books[binding];
            books.accounted = used.collect();
            let exempt = books.accounted.keys();
            books.settled = exempt.map(|key| (*key, Some(NEVER_CHARGED))).collect();
        }
    }

    /// Whether nothing of the workflow waits, and nothing is missing.
    pub fn is_settled(&self, binding: usize, workflow: usize) -> bool {
        let (books, used) = (&self.books[binding], self.used(binding));
        let of_usage = used.range(pairs_of(workflow)).map(|(key, _)| *key);
        let mut pairs = of_usage.chain(books.settled_of(workflow).map(|(key, _)| key));
        pairs.all(|key| books.due(&key, of(&used, &key)) == 0)
    }

    /// The rows that are older than this and of somebody, by workflow, with their ids.
    pub fn old_rows(&self, binding: usize, before: Time) -> BTreeMap<usize, Vec<(i64, Usage)>> {
        let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (id, row) in &self.usage {
            if let Some(row) = row.filter(|row| row.time < before)
                && let Some(workflow) = row.workflow
                && row.accounts[binding].is_some()
            {
                found.entry(workflow).or_default().push((*id, row));
            }
        }
        found
    }

    /// Rows leave the usage and count as if they were there, as an addition.
    pub fn archive(&self, binding: usize, rows: &[(i64, Usage)], is_kept: bool) -> State {
        let mut added = State::new(self.books.len());
        let books = &mut added.books[binding];
        let (count, tokens) = books.left.entry(Left::Usage).or_default();
        for (id, row) in rows {
            *count += 1;
            if let (Some(workflow), Some(account)) = (row.workflow, row.accounts[binding]) {
                *books.archived.entry((workflow, account)).or_default() += row.tokens;
                *tokens += row.tokens;
            }
            added.usage.insert(*id, None);
            if is_kept {
                added.archive.insert(*id, *row);
            }
        }
        added
    }

    /// What is missing of the usage from before that moment counts as if it were there, as an addition: of workflows of
    /// which nothing was charged since.
    pub fn accept_deletions(&self, binding: usize, before: Time) -> (State, Accepted) {
        let mut added = State::new(self.books.len());
        let mut accepted = Accepted::default();
        let books = &self.books[binding];
        let (used, old) = (self.used(binding), self.used_before(binding, before));
        let workflows: BTreeSet<_> = books.settled.keys().map(|key| key.0).collect();
        for workflow in workflows {
            let missing_of = |used: &BTreeMap<Key, i64>| -> Vec<(Key, i64)> {
                let pairs = books.settled_of(workflow);
                let due = pairs.map(|(key, _)| (key, books.due(&key, of(used, &key))));
                due.filter(|(_, due)| *due < 0).collect()
            };
            let mut times = books.settled_of(workflow).map(|(_, at)| match at {
                NEVER_CHARGED => books.attached,
                at => at,
            });
            if !times.all(|at| at < before) {
                accepted.settled_since += i64::from(!missing_of(&used).is_empty());
                continue;
            }
            let missing = missing_of(&old);
            accepted.workflows += i64::from(!missing.is_empty());
            for (key, due) in missing {
                accepted.pairs += 1;
                accepted.tokens -= due;
                added.books[binding].archived.insert(key, -due);
            }
        }
        let left = (accepted.pairs, accepted.tokens);
        added.books[binding].left.insert(Left::Deletion, left);
        (added, accepted)
    }

    /// A workflow gets another id, and its usage with it, as an addition. What is known of it follows later.
    pub fn rename_workflow(&self, old: usize, new: usize) -> State {
        let mut added = State::new(self.books.len());
        if let Some(run) = self.runs.get(&old) {
            added.runs.extend([(old, None), (new, *run)]);
        }
        let rename = |row: &mut Usage| {
            let is_of_it = row.workflow == Some(old);
            row.workflow = is_of_it.then_some(new);
            is_of_it
        };
        added.usage = self.rows_changed(rename);
        added
    }

    /// A binding's settlements go with a workflow whose usage has followed, as an addition.
    pub fn follow(&self, binding: usize, (old, new): Key) -> State {
        let mut added = State::new(self.books.len());
        let rename = |(workflow, account)| (if workflow == old { new } else { workflow }, account);
        let (known, books) = (&self.books[binding], &mut added.books[binding]);
        if known.has_settlement(old) {
            *books = known.moved(rename);
            books.became.extend([(old, Some(new)), (new, None)]);
            books.renames.insert((old, new), true);
        }
        added
    }

    /// An account gets another id, as an addition: its usage and all that is known of it go with it at once.
    pub fn rename_account(&self, binding: usize, old: usize, new: usize) -> State {
        let mut added = State::new(self.books.len());
        added.usage = self.rows_changed(|row| {
            let account = &mut row.accounts[binding];
            let is_of_it = *account == Some(old);
            *account = is_of_it.then_some(new);
            is_of_it
        });
        let known = &self.books[binding];
        let rename = |(workflow, account)| (workflow, if account == old { new } else { account });
        let mut books = known.moved(rename);
        books.accounts.extend([(old, false), (new, true)]);
        let balance = of(&known.balance, &old);
        books.balance.extend([(old, -balance), (new, balance)]);
        // They take the place of those of the same name that an earlier account has left under the new id.
        for ((_, name), amount) in known
            .references
            .iter()
            .filter(|((account, _), _)| *account == old)
        {
            books.references.insert((old, *name), None);
            if amount.is_some() {
                books.references.insert((new, *name), *amount);
            }
        }
        added.books[binding] = books;
        added
    }

    fn rows_changed(&self, change: impl Fn(&mut Usage) -> bool) -> BTreeMap<i64, Option<Usage>> {
        let mut changed = BTreeMap::new();
        for (id, row) in &self.usage {
            if let Some(mut row) = *row
                && change(&mut row)
            {
                changed.insert(*id, Some(row));
            }
        }
        changed
    }

    /// All of the usage and of what was accounted for: the rows of a pair count for the last of its parts.
    pub fn parts(&self, binding: usize) -> Vec<Part> {
        let books = &self.books[binding];
        let mut pairs: BTreeMap<(Option<usize>, Option<usize>), (i64, i64)> = BTreeMap::new();
        for row in self.rows() {
            let pair = pairs.entry((row.workflow, row.accounts[binding]));
            let (rows, tokens) = pair.or_default();
            *rows += 1;
            *tokens += row.tokens;
        }
        let known = books.accounted.iter().chain(&books.archived);
        for ((workflow, account), _) in known.filter(|(_, tokens)| **tokens != 0) {
            pairs.entry((Some(*workflow), Some(*account))).or_default();
        }
        let pairs = pairs.into_iter();
        pairs
            .flat_map(|((workflow, account), (rows, tokens))| {
                let part = move |(fate, rows, tokens)| Part {
                    workflow,
                    account,
                    fate,
                    rows,
                    tokens,
                };
                let parts = match (workflow, account) {
                    (Some(workflow), Some(account)) => {
                        self.parts_of_pair(binding, (workflow, account), rows, tokens)
                    }
                    _ => vec![(UNOWNED, rows, tokens)],
                };
                parts.into_iter().map(part)
            })
            .collect()
    }

    fn parts_of_pair(
        &self,
        binding: usize,
        key: Key,
        rows: i64,
        tokens: i64,
    ) -> Vec<(Fate, i64, i64)> {
        let books = &self.books[binding];
        let (accounted, charged) = (of(&books.accounted, &key), of(&books.charged, &key));
        let rest = books.due(&key, tokens);
        let mut parts = vec![(CHARGED, 0, charged), (EXEMPT, 0, accounted - charged)];
        if rest > 0 {
            parts.push((self.why_it_waits(binding, key), 0, rest));
        }
        parts.retain(|(_, _, tokens)| *tokens != 0);
        if parts.is_empty() && rows > 0 {
            parts.push((CHARGED, 0, 0));
        }
        if let Some((_, last, _)) = parts.last_mut() {
            *last = rows;
        }
        let archived = of(&books.archived, &key);
        if archived != 0 {
            parts.push((ARCHIVED, 0, archived));
        }
        if rest < 0 {
            parts.push((SHRUNK, 0, -rest));
        }
        parts
    }

    fn why_it_waits(&self, binding: usize, (workflow, account): Key) -> Fate {
        match self.runs.get(&workflow).copied().flatten() {
            None => NO_WORKFLOW,
            Some(false) => OPEN,
            Some(true) if self.books[binding].has_account(account) => NOT_SETTLED,
            Some(true) => NO_ACCOUNT,
        }
    }

    /// What `reconcile()` says of a part of the usage.
    pub fn problem(&self, binding: usize, part: &Part) -> Option<&'static str> {
        let account = part.account?;
        part.workflow?;
        let has_account = self.books[binding].has_account(account);
        match (part.fate, has_account) {
            (SHRUNK, true) => Some("usage shrank"),
            (SHRUNK, false) => Some("usage of an account that is gone"),
            (("waiting", _), false) => Some("usage of an unknown account"),
            (NOT_SETTLED, true) => Some("unsettled usage"),
            _ => None,
        }
    }

    /// Whether usage that was made anew, with all its rows, is taken for the same without a word: no pair has less than
    /// was accounted for and is not archived, and at least half of them have just that.
    pub fn is_known_again(&self, binding: usize) -> bool {
        let used = self.used(binding);
        let books = &self.books[binding];
        let accounted = books.accounted.iter();
        let known = accounted.map(|(key, tokens)| (key, tokens - of(&books.archived, key)));
        let known: Vec<_> = known.filter(|(_, tokens)| *tokens > 0).collect();
        let there = |(key, tokens): &(&Key, i64)| used.get(key).map(|used| used.cmp(tokens));
        let agree = known
            .iter()
            .filter(|one| there(one) == Some(std::cmp::Ordering::Equal));
        let differs = |one: &(&Key, i64)| {
            there(one) == Some(std::cmp::Ordering::Less)
                && used.get(one.0).is_some_and(|used| *used > 0)
        };
        !known.iter().any(differs) && agree.count() * 2 >= known.len()
    }
}
