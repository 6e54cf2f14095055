//! Entries of the ledger and settlements that leave.

use std::collections::{BTreeMap, BTreeSet};

use postgres::Client;
use serde_json::Value;

use super::operations::WORKFLOW_IDS;
use super::oracle::{Books, Key, Left, NEVER_CHARGED, State, Time, of};
use super::schema::{ARCHIVE, LEDGER_ARCHIVE, SETTLEMENT_ARCHIVE};
use super::{Model, same};
use crate::database::Result;

/// The entries that are older than $1, of each account up to its first one that is not; what each has taken and given back.
const OLD_ENTRIES: &str = "
SELECT l.accounts_id, l.user_id, b.name::text, l.workflow_id,
       CASE WHEN l.kind IN ('settlement', 'correction') THEN -l.amount ELSE 0 END,
       CASE WHEN l.kind = 'refund' THEN l.amount ELSE 0 END
FROM token_balance.ledger AS l LEFT JOIN token_balance.binding AS b USING (binding_id)
WHERE l.kind <> 'opening' AND l.entry_id < (
    SELECT coalesce(min(k.entry_id), 9223372036854775807) FROM token_balance.ledger AS k
    WHERE k.accounts_id = l.accounts_id AND k.user_id = l.user_id AND k.created_at >= $1::text::timestamptz)";

/// The settlements that are there.
const SETTLEMENTS: &str = "
SELECT b.name::text, s.workflow_id, s.user_id
FROM token_balance.settlement AS s JOIN token_balance.binding AS b USING (binding_id)";

/// The workflows that entries and references name.
const NAMED: &str = "
SELECT b.name::text, n.workflow_id FROM (
    SELECT binding_id, workflow_id FROM token_balance.ledger
    UNION SELECT binding_id, workflow_id FROM token_balance.reference) AS n
JOIN token_balance.binding AS b USING (binding_id) WHERE n.workflow_id IS NOT NULL";

/// An entry that leaves the ledger.
struct Entry {
    /// The accounts' number, and the account.
    account: (i16, String),
    /// The binding's name, the workflow and the account, if it is of a workflow.
    pair: Option<(String, Key)>,
    charged: i64,
    refunded: i64,
}

/// The number of `w3` or `a3`.
fn number_of(id: &str) -> usize {
    id[1..].parse().unwrap_or(usize::MAX)
}

fn old_entries(client: &mut Client, before: &str) -> Result<Vec<Entry>> {
    let rows = client.query(OLD_ENTRIES, &[&before])?;
    let entry = |row: &postgres::Row| {
        let account: (i16, String) = (row.get(0), row.get(1));
        let names: (Option<String>, Option<String>) = (row.get(2), row.get(3));
        let pair = names.0.zip(names.1);
        Entry {
            pair: pair.map(|(binding, id)| (binding, (number_of(&id), number_of(&account.1)))),
            account,
            charged: row.get(4),
            refunded: row.get(5),
        }
    };
    Ok(rows.iter().map(entry).collect())
}

impl Model {
    /// Old entries go over to the archive. The settlements know what they were.
    pub(super) fn archive_ledger(&mut self, session: usize) -> Result<()> {
        let (_, moment) = self.any_moment(0)?;
        let entries = old_entries(&mut self.sessions[session].client, &moment)?;
        let sql = format!("SELECT token_balance.archive_ledger('{moment}', '{LEDGER_ARCHIVE}')");
        let answer: Value = self.sessions[session].client.query_one(&sql, &[])?.get(0);
        let accounts: BTreeSet<_> = entries.iter().map(|entry| &entry.account).collect();
        let figure = |name: &str| answer[name].as_i64().unwrap_or(-1);
        same(
            "accounts and entries archived",
            Some((figure("accounts"), figure("entries"))),
            Some((accounts.len() as i64, entries.len() as i64)),
        )?;
        let added = self.without_entries(&self.seen(session), &entries);
        self.overlay(session).add(&added);
        Ok(())
    }

    /// Settlements of which nothing is left go over to the archive, or for good.
    pub(super) fn archive_settlements(&mut self, session: usize) -> Result<()> {
        let (before, moment) = self.any_moment(0)?;
        let bindings = match self.rng.u32(..3) {
            0 => 0..self.schema.accounts.len(),
            _ => {
                let binding = self.any_binding();
                binding..binding + 1
            }
        };
        let is_kept = self.rng.bool();
        let most = self.rng.bool().then(|| self.rng.usize(1..4));
        let sql = format!(
            "SELECT token_balance.archive_settlements('{moment}', {}{}{})",
            match is_kept {
                true => format!("'{SETTLEMENT_ARCHIVE}'"),
                false => "NULL".to_owned(),
            },
            match bindings.len() == self.schema.accounts.len() {
                true => String::new(),
                false => self.schema.binding_argument(bindings.start),
            },
            most.map_or(String::new(), |most| format!(", max_workflows => {most}")),
        );
        let answer: Value = self.sessions[session].client.query_one(&sql, &[])?.get(0);
        self.follow_in(session, bindings.clone());
        let seen = self.seen(session);
        let there = self.settlements_there(session)?;
        // Which of those that have ended leave first is open.
        let mut left: Vec<(usize, BTreeSet<Key>)> = Vec::new();
        let mut count = 0;
        for binding in bindings.clone() {
            let ended = seen.ended(binding, before);
            count += ended.len();
            let is_gone = |key: &Key| !there.contains(&(binding, *key));
            let ended = ended.into_iter();
            let gone = ended.filter(|keys| keys.iter().any(is_gone));
            left.extend(gone.map(|keys| (binding, keys)));
        }
        let rows = left.iter().map(|(_, keys)| keys.len()).sum::<usize>();
        let most = most.unwrap_or(usize::MAX);
        let figure = |name: &str| answer[name].as_u64().unwrap_or(u64::MAX) as usize;
        same(
            "workflows and settlements that ended, and whether there are more",
            Some((
                figure("workflows"),
                figure("settlements"),
                answer["more"].as_bool(),
            )),
            Some((count.min(most), rows, Some(count > most))),
        )?;
        same(
            "workflows that ended",
            Some(left.len()),
            Some(count.min(most)),
        )?;
        let named = self.named_workflows(session)?;
        for (binding, keys) in left {
            let added = seen.end(binding, &keys, is_kept, &named[binding]);
            self.overlay(session).add(&added);
            *self.counts.entry("settlements that ended").or_default() += keys.len() as u64;
        }
        // Of another binding, what is renamed follows later.
        let of_these = |all: BTreeSet<(usize, Key)>| -> BTreeSet<_> {
            let all = all.into_iter();
            all.filter(|(binding, _)| bindings.contains(binding))
                .collect()
        };
        same(
            "settlements that stay",
            Some(of_these(there)),
            Some(of_these(self.seen(session).settlements())),
        )
    }

    fn settlements_there(&mut self, session: usize) -> Result<BTreeSet<(usize, Key)>> {
        let rows = self.sessions[session].client.query(SETTLEMENTS, &[])?;
        let there = rows.iter().map(|row| {
            let key = (number_of(row.get(1)), number_of(row.get(2)));
            (self.binding_of(row.get(0)), key)
        });
        Ok(there.collect())
    }

    /// By binding.
    fn named_workflows(&mut self, session: usize) -> Result<Vec<BTreeSet<usize>>> {
        let rows = self.sessions[session].client.query(NAMED, &[])?;
        let mut named = vec![BTreeSet::new(); self.schema.accounts.len()];
        for row in &rows {
            named[self.binding_of(row.get(0))].insert(number_of(row.get(1)));
        }
        Ok(named)
    }

    /// The number of the binding of this name.
    fn binding_of(&self, name: &str) -> usize {
        let mut bindings = self.schema.accounts.iter();
        let found = bindings.position(|accounts| accounts.binding == name);
        found.unwrap_or(usize::MAX)
    }

    /// These entries leave the ledger, as an addition.
    fn without_entries(&self, seen: &State, entries: &[Entry]) -> State {
        let mut added = State::new(self.schema.accounts.len());
        added.entries_left = entries.len() as i64;
        for entry in entries {
            let Some((binding, key)) = &entry.pair else {
                continue;
            };
            let binding = self.binding_of(binding);
            let books = &mut added.books[binding];
            *books.archived_charged.entry(*key).or_default() += entry.charged;
            *books.archived_refunded.entry(*key).or_default() += entry.refunded;
            if !seen.books[binding]
                .settled_of(key.0)
                .any(|(it, _)| it == *key)
            {
                books.settled.insert(*key, Some(NEVER_CHARGED));
            }
        }
        added
    }

    /// All that is old leaves, by the one policy. No session has a transaction open.
    pub(super) fn archive_all(&mut self) -> Result<()> {
        if self.rng.bool() {
            self.settle_all()?;
        }
        let is_kept = [(); 3].map(|()| self.rng.u32(..4) > 0);
        let [usage, ledger, settlements] = is_kept;
        let batch_size = self.rng.usize(1..20);
        let argument = |is_kept: bool, table: &str| match is_kept {
            true => format!("'{table}'"),
            false => "NULL".to_owned(),
        };
        let call = format!(
            "CALL token_balance.archive('1 microsecond', {}, {}, {}, {batch_size})",
            argument(usage, ARCHIVE),
            argument(ledger, LEDGER_ARCHIVE),
            argument(settlements, SETTLEMENT_ARCHIVE),
        );
        let entries = match ledger {
            true => old_entries(&mut self.admin, "infinity")?,
            false => Vec::new(),
        };
        let before = self.now();
        self.execute(&call)?;
        let bindings = self.schema.accounts.len();
        // Usage that several bindings have stays.
        if bindings == 1 {
            let state = &self.committed;
            let mut old = state.old_rows(0, before);
            old.retain(|workflow, _| state.is_settled(0, *workflow));
            let rows: Vec<_> = old.into_values().flatten().collect();
            let added = state.archive(0, &rows, usage);
            self.committed.add(&added);
        }
        let added = self.without_entries(&self.committed, &entries);
        self.committed.add(&added);
        let named = self.named_workflows(0)?;
        for (binding, named) in named.iter().enumerate() {
            for keys in self.committed.ended(binding, before) {
                let added = self.committed.end(binding, &keys, settlements, named);
                self.committed.add(&added);
                *self.counts.entry("settlements that ended").or_default() += keys.len() as u64;
            }
        }
        self.committed.forget_deleted();
        Ok(())
    }
}

impl Books {
    /// For each id of a workflow the first one of those that it has had.
    fn families(&self) -> BTreeMap<usize, usize> {
        let mut families: BTreeMap<_, _> = (0..WORKFLOW_IDS).map(|id| (id, id)).collect();
        for ((old, new), _) in self.renames.iter().filter(|(_, is_known)| **is_known) {
            let (one, other) = (families[old], families[new]);
            for family in families.values_mut().filter(|family| **family == other) {
                *family = one;
            }
        }
        families
    }
}

impl State {
    /// All settlements, by binding.
    fn settlements(&self) -> BTreeSet<(usize, Key)> {
        let books = self.books.iter().enumerate();
        let there = books.flat_map(|(binding, books)| {
            let there = books.settled.iter().filter(|(_, at)| at.is_some());
            there.map(move |(key, _)| (binding, *key))
        });
        there.collect()
    }

    /// The settlements of workflows of which nothing is left, by workflow with all of its ids: all are older than that
    /// moment, no usage is there, what was accounted for is known to be gone, and so are the entries of what was charged and
    /// refunded.
    fn ended(&self, binding: usize, before: Time) -> Vec<BTreeSet<Key>> {
        let books = &self.books[binding];
        let families = books.families();
        let mut settlements: BTreeMap<usize, BTreeSet<Key>> = BTreeMap::new();
        let there = books.settled.iter().filter(|(_, at)| at.is_some());
        for (key, _) in there {
            let family = families[&key.0];
            settlements.entry(family).or_default().insert(*key);
        }
        let used: BTreeSet<_> = self.rows().filter_map(|row| row.workflow).collect();
        let used: BTreeSet<_> = used.iter().map(|workflow| families[workflow]).collect();
        settlements.retain(|family, _| !used.contains(family));
        let has_ended = |keys: &BTreeSet<Key>| {
            let is_old = |key: &Key| match books.settled[key] {
                Some(NEVER_CHARGED) => books.attached < before,
                at => at.is_some_and(|at| at < before),
            };
            let is_recorded = |key: &Key| of(&books.archived, key) == of(&books.accounted, key);
            let sum = |map: &BTreeMap<Key, i64>| keys.iter().map(|key| of(map, key)).sum::<i64>();
            keys.iter().all(|key| is_old(key) && is_recorded(key))
                && sum(&books.charged) == sum(&books.archived_charged)
                && sum(&books.refunded) == sum(&books.archived_refunded)
        };
        settlements.into_values().filter(has_ended).collect()
    }

    /// The settlements of the workflow come back from the archive, as an addition: all of its ids'.
    pub fn bring_back(&self, binding: usize, workflow: usize) -> State {
        let mut added = State::new(self.books.len());
        let known = &self.books[binding];
        let families = known.families();
        let ended = known.ended_at.iter();
        for (key, at) in ended.filter(|(key, _)| families[&key.0] == families[&workflow]) {
            if at.is_none() {
                continue;
            }
            let figures = known.ended[key];
            let books = &mut added.books[binding];
            books.add_figures(*key, &figures, 1);
            let there = known.settled.get(key).copied().flatten();
            books.settled.insert(*key, there.max(*at));
            books.ended.insert(*key, figures.map(|figure| -figure));
            books.ended_at.insert(*key, None);
        }
        added
    }

    /// These settlements of one workflow end, as an addition. If none was ever kept, its ids are forgotten, but where one
    /// of them is `named`.
    fn end(
        &self,
        binding: usize,
        keys: &BTreeSet<Key>,
        is_kept: bool,
        named: &BTreeSet<usize>,
    ) -> State {
        let mut added = State::new(self.books.len());
        let known = &self.books[binding];
        let books = &mut added.books[binding];
        let (rows, tokens) = books.left.entry(Left::Settlement).or_default();
        for key in keys {
            *rows += 1;
            *tokens += of(&known.accounted, key);
        }
        for key in keys {
            let figures = known.figures(key);
            books.add_figures(*key, &figures, -1);
            books.settled.insert(*key, None);
            if is_kept {
                books.ended.insert(*key, figures);
                // One that ended before is added to it.
                let before = known.ended_at.get(key).copied().flatten();
                let at = before.max(known.settled[key]);
                books.ended_at.insert(*key, at);
            }
        }
        let families = known.families();
        let of_workflow: BTreeSet<_> = keys.iter().map(|key| families[&key.0]).collect();
        let ids = families.iter();
        let ids = ids.filter(|(_, family)| of_workflow.contains(family));
        let ids: BTreeSet<_> = ids.map(|(id, _)| *id).collect();
        let is_any_kept = is_kept || !known.ended_at.is_empty();
        if !is_any_kept && ids.is_disjoint(named) {
            books.became.extend(ids.iter().map(|id| (*id, None)));
            let renames = known.renames.keys().filter(|(old, _)| ids.contains(old));
            books.renames.extend(renames.map(|pair| (*pair, false)));
        }
        added
    }
}
