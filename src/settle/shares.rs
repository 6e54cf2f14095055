//! What workflows give back, by account: refunds and corrections find the workflows and give in the same way.

use std::rc::Rc;

use super::rename;
use crate::binding::Bound;
use crate::error::Result;
use crate::ledger::change::{Given, Kind};
use crate::ledger::credit::{Part, Remarks, give};

/// A workflow of one binding.
pub(crate) struct OfBinding {
    pub(crate) bound: Rc<Bound>,
    /// By canonical id.
    pub(crate) workflow: String,
}

impl OfBinding {
    /// Its id, and those that it has had later: it may be asked for by an old one.
    pub(super) fn ids(&self) -> Result<Vec<String>> {
        let mut ids = rename::later_ids(&self.bound, &self.workflow)?;
        ids.insert(0, self.workflow.clone());
        Ok(ids)
    }
}

/// In which order accounts are locked.
pub(super) fn account_order<'a>(bound: &Bound, account: &'a str) -> (u32, &'a str, Option<i16>) {
    let accounts = &bound.book.accounts;
    (accounts.users.oid.to_u32(), account, accounts.id)
}

/// What one account gets back of one workflow.
pub(super) struct Share<'a> {
    pub(super) bound: &'a Bound,
    pub(super) workflow: &'a str,
    pub(super) account: &'a str,
    /// Above 0.
    pub(super) tokens: i64,
}

impl Share<'_> {
    fn order(&self) -> (u32, &str, Option<i16>) {
        account_order(self.bound, self.account)
    }

    fn part(&self) -> Part<'_> {
        Part {
            amount: self.tokens,
            workflow: Some(self.workflow),
            binding: self.bound.binding.spec.ids.map(|ids| ids.binding),
        }
    }
}

/// Give all shares, in the order in which accounts are locked. What an account gets from several bindings is one change of
/// its balance, and one use of the reference.
pub(super) fn give_all(
    kind: Kind,
    mut shares: Vec<Share>,
    remarks: &Remarks,
) -> Result<Vec<Given>> {
    shares.sort_by(|a, b| a.order().cmp(&b.order()));
    let mut given = Vec::with_capacity(shares.len());
    for shares in shares.chunk_by(|a, b| a.order() == b.order()) {
        let parts: Vec<_> = shares.iter().map(Share::part).collect();
        let (book, account) = (&shares[0].bound.book, shares[0].account);
        let in_all = give(book, kind, account, &parts, remarks)?;
        let mut after = in_all.previous_balance;
        given.extend(shares.iter().map(|share| {
            let before = after;
            after += share.tokens;
            Given {
                binding: Some(share.bound.name().to_owned()),
                account: account.to_owned(),
                amount: share.tokens,
                previous_balance: before,
                new_balance: after,
            }
        }));
        // What a trigger of the application made of it.
        if let Some(last) = given.last_mut() {
            last.new_balance = in_all.new_balance;
        }
    }
    Ok(given)
}
